// Package forward carries decided requests to the engine and answers back.
//
// Trust: a request handed to it was decided on and encoded anew; it copies no header of a client. The engine may be
// compromised: only a short list of its answer's headers reaches the client.
// Invariants: each upgraded stream has a connection of its own to the engine, which is closed with it; nothing is read
// from it for anybody else. Failure: an engine that cannot be reached is 503.
package forward

import (
	"context"
	"errors"
	"io"
	"log/slog"
	"net"
	"net/http"
	"slices"
	"time"

	"stockade/gate/refusal"
)

// headers of the engine's answers that clients get.
var headers = []string{"Content-Type", "Content-Length", "Location", "Docker-Experimental", "Builder-Version", "Swarm",
	"Cache-Control", "Pragma", "X-Docker-Container-Path-Stat", "Upgrade", "Connection"}

// Request is one request for the engine, wholly made by us.
type Request struct {
	Method string
	Target string // path and query, encoded
	Header http.Header
	Body   io.Reader // nil: none
	Length int64     // of Body; -1: unknown
	// Upgrade is what the connection shall become: "tcp", "websocket", or "" for the older form without a word.
	Upgrade string
	Key     string // of a WebSocket's handshake
}

// restart is how long a request waits for an engine that is not there, as while it is started anew.
const restart = 3 * time.Second

// Engine is the engine's socket.
type Engine struct {
	path      string
	transport *http.Transport
	log       *slog.Logger
}

// ErrNotSent marks a failure before the engine saw the request.
var ErrNotSent = errors.New("the engine was not reached")

// New makes an Engine; nothing is connected yet.
func New(path string, log *slog.Logger) *Engine {
	e := &Engine{path: path, log: log}
	e.transport = &http.Transport{
		DialContext:         func(ctx context.Context, _, _ string) (net.Conn, error) { return e.dial(ctx) },
		DisableCompression:  true,
		MaxIdleConns:        64,
		MaxIdleConnsPerHost: 64,
		IdleConnTimeout:     time.Minute,
	}
	return e
}

func (e *Engine) dial(ctx context.Context) (net.Conn, error) {
	var d net.Dialer
	limit := time.Now().Add(restart)
	for {
		conn, err := d.DialContext(ctx, "unix", e.path)
		if err == nil {
			return conn, nil
		}
		if time.Now().After(limit) {
			return nil, errors.Join(ErrNotSent, err)
		}
		select {
		case <-ctx.Done():
			return nil, errors.Join(ErrNotSent, err)
		case <-time.After(20 * time.Millisecond):
		}
	}
}

// request makes the net/http form.
func (r *Request) request(ctx context.Context) (*http.Request, error) {
	out, err := http.NewRequestWithContext(ctx, r.Method, "http://engine"+r.Target, r.Body)
	if err != nil {
		return nil, err
	}
	out.Header = r.Header
	out.Header.Set("User-Agent", "stockade-gate")
	out.ContentLength = r.Length
	if r.Body == nil {
		out.ContentLength = 0
	}
	return out, nil
}

// Send sends a request and returns the answer, whose body the caller closes.
func (e *Engine) Send(ctx context.Context, r *Request) (*http.Response, error) {
	req, err := r.request(ctx)
	if err != nil {
		return nil, err
	}
	resp, err := e.transport.RoundTrip(req)
	if err != nil {
		return nil, e.unreachable(err)
	}
	return resp, nil
}

// unreachable makes what the client may know of a failure.
func (e *Engine) unreachable(err error) error {
	e.log.Warn("engine", "err", err)
	return errors.Join(refusal.New(http.StatusServiceUnavailable, "engine", "the engine is not available; try again"), err)
}

// Answer copies an answer to the client, each piece as it comes.
func (e *Engine) Answer(w http.ResponseWriter, resp *http.Response) {
	copyHeaders(w.Header(), resp.Header)
	w.Header().Del("Upgrade")
	w.Header().Del("Connection")
	streams := resp.ContentLength < 0
	w.WriteHeader(resp.StatusCode)
	out := http.NewResponseController(w)
	if streams {
		_ = out.Flush() // the client waits for the head of events, logs, stats
	}
	buf := make([]byte, 32<<10)
	for {
		n, err := resp.Body.Read(buf)
		if n > 0 {
			if _, werr := w.Write(buf[:n]); werr != nil {
				return // the client is gone
			}
			if streams {
				_ = out.Flush()
			}
		}
		if err == io.EOF {
			return
		}
		if err != nil {
			// The client must not take a part for the whole.
			panic(http.ErrAbortHandler)
		}
	}
}

func copyHeaders(to, from http.Header) {
	for name, values := range from {
		if slices.Contains(headers, name) {
			to[name] = values
		}
	}
}
