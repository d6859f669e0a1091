// Package httpapi is what the engine's packages share to answer requests that the gate forwards: routing by pattern,
// Docker's error shape, JSON, hijacked streams.
//
// Trust: requests come from the gate alone (its uid owns the socket) in canonical form: no version prefix, names
// escaped into one path segment, queries and bodies re-encoded from typed values.
// Invariants: every request has a scope. Failure: an error becomes {"message": …} with the status of its class.
package httpapi

import (
	"bufio"
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"strconv"

	"github.com/containerd/errdefs"

	"stockade/api/scope"
)

// Handler answers one request. An error returned before anything was written becomes Docker's error shape.
type Handler func(w http.ResponseWriter, r *http.Request, s scope.Scope) error

// Router maps "METHOD /pattern" (net/http.ServeMux patterns) to handlers.
type Router struct {
	mux *http.ServeMux
	log *slog.Logger
}

// NewRouter makes an empty router: every path is 404.
func NewRouter(log *slog.Logger) *Router {
	rt := &Router{mux: http.NewServeMux(), log: log}
	rt.mux.HandleFunc("/", func(w http.ResponseWriter, _ *http.Request) {
		_ = WriteJSON(w, http.StatusNotFound, map[string]string{"message": "page not found"})
	})
	return rt
}

// Handle adds a handler.
func (rt *Router) Handle(pattern string, h Handler) {
	rt.mux.HandleFunc(pattern, func(w http.ResponseWriter, r *http.Request) {
		s, err := scope.From(r.Header)
		if err != nil {
			WriteError(w, NewError(errdefs.ErrInvalidArgument, "%v", err))
			return
		}
		tw := &trackingWriter{ResponseWriter: w}
		if err := h(tw, r, s); err != nil {
			if tw.wrote {
				rt.log.Warn("request failed after its answer began", "method", r.Method, "path", r.URL.Path, "err", err)
				return
			}
			if Status(err) >= 500 {
				rt.log.Error("request failed", "method", r.Method, "path", r.URL.Path, "err", err)
			}
			WriteError(w, err)
		}
	})
}

// ServeHTTP implements http.Handler.
func (rt *Router) ServeHTTP(w http.ResponseWriter, r *http.Request) { rt.mux.ServeHTTP(w, r) }

// Error has a text for the client apart from its class and cause.
type Error struct {
	Class   error // one of containerd/errdefs
	Message string
	Code    int // HTTP status, 0: by class
}

func (e *Error) Error() string { return e.Message }
func (e *Error) Unwrap() error { return e.Class }

// NewError makes an error of a class whose text the client sees as it is.
func NewError(class error, format string, a ...any) error {
	return &Error{Class: class, Message: fmt.Sprintf(format, a...)}
}

// ErrNotModified is answered as 304 without a body.
var ErrNotModified = &Error{Class: errdefs.ErrFailedPrecondition, Message: "not modified", Code: http.StatusNotModified}

// Status returns the HTTP status of an error: the outermost class wins.
func Status(err error) int {
	var e *Error
	if errors.As(err, &e) && e.Code != 0 {
		return e.Code
	}
	for _, row := range []struct {
		class error
		code  int
	}{
		{errdefs.ErrInvalidArgument, http.StatusBadRequest},
		{errdefs.ErrOutOfRange, http.StatusBadRequest},
		{errdefs.ErrUnauthenticated, http.StatusUnauthorized},
		{errdefs.ErrPermissionDenied, http.StatusForbidden},
		{errdefs.ErrNotFound, http.StatusNotFound},
		{errdefs.ErrConflict, http.StatusConflict},
		{errdefs.ErrAlreadyExists, http.StatusConflict},
		{errdefs.ErrFailedPrecondition, http.StatusConflict},
		{errdefs.ErrNotImplemented, http.StatusNotImplemented},
		{errdefs.ErrUnavailable, http.StatusServiceUnavailable},
		{errdefs.ErrResourceExhausted, http.StatusServiceUnavailable},
	} {
		if errors.Is(err, row.class) {
			return row.code
		}
	}
	return http.StatusInternalServerError
}

// WriteError answers with Docker's error shape.
func WriteError(w http.ResponseWriter, err error) {
	code := Status(err)
	if code == http.StatusNotModified {
		w.WriteHeader(code)
		return
	}
	_ = WriteJSON(w, code, map[string]string{"message": err.Error()})
}

// WriteJSON answers with one JSON value. Its length is said, so that the gate passes it on as a whole and not as a stream.
func WriteJSON(w http.ResponseWriter, code int, v any) error {
	var body bytes.Buffer
	if err := json.NewEncoder(&body).Encode(v); err != nil {
		return fmt.Errorf("encode the answer: %w", err)
	}
	return WriteBody(w, code, body.Bytes())
}

// WriteBody answers with JSON that is there already.
func WriteBody(w http.ResponseWriter, code int, body []byte) error {
	w.Header().Set("Content-Type", "application/json")
	w.Header().Set("Content-Length", strconv.Itoa(len(body)))
	w.WriteHeader(code)
	_, err := w.Write(body)
	return err
}

// ReadJSON decodes the request's body, which the gate has already checked.
func ReadJSON(r *http.Request, v any) error {
	if err := json.NewDecoder(r.Body).Decode(v); err != nil && !errors.Is(err, io.EOF) {
		return NewError(errdefs.ErrInvalidArgument, "request body: %v", err)
	}
	return nil
}

// Stream is a hijacked connection: reads come from the client, writes go to it.
type Stream struct {
	net.Conn
	r *bufio.Reader
}

// Read reads what the client sent, also what arrived together with the request.
func (s *Stream) Read(p []byte) (int, error) { return s.r.Read(p) }

// CloseWrite ends the stream towards the client.
func (s *Stream) CloseWrite() error {
	if c, ok := s.Conn.(interface{ CloseWrite() error }); ok {
		return c.CloseWrite()
	}
	return s.Conn.Close()
}

// Hijack takes over the connection and answers 101 (or 200 for clients that did not ask for an upgrade) with the
// content type of a raw or a multiplexed stream.
func Hijack(w http.ResponseWriter, r *http.Request, contentType string) (*Stream, error) {
	conn, buf, err := http.NewResponseController(w).Hijack()
	if err != nil {
		return nil, fmt.Errorf("hijack: %w", err)
	}
	// Without an upgrade the older content type says nothing of the form, as with Docker.
	head := "HTTP/1.1 200 OK\r\nContent-Type: " + RawStream + "\r\n\r\n"
	if r.Header.Get("Upgrade") != "" {
		head = "HTTP/1.1 101 UPGRADED\r\nContent-Type: " + contentType + "\r\nConnection: Upgrade\r\nUpgrade: tcp\r\n\r\n"
	}
	if _, err := io.WriteString(conn, head); err != nil {
		conn.Close()
		return nil, err
	}
	return &Stream{Conn: conn, r: buf.Reader}, nil
}

// Content types of hijacked and log streams.
const (
	RawStream   = "application/vnd.docker.raw-stream"
	MuxedStream = "application/vnd.docker.multiplexed-stream"
)

type trackingWriter struct {
	http.ResponseWriter
	wrote bool
}

func (t *trackingWriter) WriteHeader(code int) {
	t.wrote = true
	t.ResponseWriter.WriteHeader(code)
}

func (t *trackingWriter) Write(p []byte) (int, error) {
	t.wrote = true
	return t.ResponseWriter.Write(p)
}

// Unwrap lets http.ResponseController reach the connection.
func (t *trackingWriter) Unwrap() http.ResponseWriter {
	return t.ResponseWriter
}

// Hijack takes over the connection; from then on an error is no answer any more.
func (t *trackingWriter) Hijack() (net.Conn, *bufio.ReadWriter, error) {
	conn, buf, err := http.NewResponseController(t.ResponseWriter).Hijack()
	if err == nil {
		t.wrote = true
	}
	return conn, buf, err
}

// Flush sends what was written so far.
func (t *trackingWriter) Flush() { _ = http.NewResponseController(t.ResponseWriter).Flush() }
