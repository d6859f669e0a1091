package forward

import (
	"bufio"
	"context"
	"crypto/sha1"
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"time"
)

// lingering is how long a client may go on sending after the engine has said its last word.
const lingering = 30 * time.Second

// hangUpCheck is how often a client that has ended its direction is asked whether it is still there.
const hangUpCheck = time.Second

// webSocket is the protocol's name in Upgrade.
const webSocket = "websocket"

// halfCloser is a connection whose writing side can be closed alone.
type halfCloser interface {
	net.Conn
	CloseWrite() error
}

// Stream sends a request that may turn the connection into a stream, and carries the stream until both sides end. An
// answer that is no stream is copied like any other. Errors are returned only before the client got anything.
//
// SECURITY(T-205): the request is decided on before; the connection to the engine is this stream's alone.
func (e *Engine) Stream(ctx context.Context, w http.ResponseWriter, r *Request) error {
	dialled, err := e.dial(ctx)
	if err != nil {
		return e.unreachable(err)
	}
	backend := dialled.(halfCloser)
	defer backend.Close()
	req, err := r.request(ctx)
	if err != nil {
		return err
	}
	if r.Upgrade != "" {
		req.Header.Set("Connection", "Upgrade")
		req.Header.Set("Upgrade", r.Upgrade)
	}
	if r.Upgrade == webSocket {
		req.Header.Set("Sec-WebSocket-Key", r.Key)
		req.Header.Set("Sec-WebSocket-Version", "13")
	}
	if err := req.Write(backend); err != nil {
		return e.unreachable(err)
	}
	reader := bufio.NewReader(backend)
	resp, err := http.ReadResponse(reader, req)
	if err != nil {
		return e.unreachable(err)
	}
	if !isStream(resp) {
		defer resp.Body.Close()
		e.Answer(w, resp)
		return nil
	}
	hijacked, buffered, err := http.NewResponseController(w).Hijack()
	if err != nil {
		return fmt.Errorf("hijack: %w", err)
	}
	defer hijacked.Close()
	client, ok := hijacked.(halfCloser)
	if !ok {
		return errors.New("hijack: the connection cannot be half closed")
	}
	_ = client.SetDeadline(time.Time{})
	if _, err := client.Write(head(resp, w.Header(), r)); err != nil {
		return nil // the client is gone
	}
	pump(client, buffered.Reader, backend, reader)
	return nil
}

// isStream tells the two forms of an upgraded answer: 101, and the older 200 with a stream's type and no length.
func isStream(resp *http.Response) bool {
	if resp.StatusCode == http.StatusSwitchingProtocols {
		return true
	}
	kind := resp.Header.Get("Content-Type")
	return resp.StatusCode == http.StatusOK && resp.ContentLength < 0 && len(resp.TransferEncoding) == 0 &&
		(kind == "application/vnd.docker.raw-stream" || kind == "application/vnd.docker.multiplexed-stream")
}

// head is the answer's head for the client.
func head(resp *http.Response, own http.Header, r *Request) []byte {
	h := own.Clone()
	copyHeaders(h, resp.Header)
	h.Del("Content-Length")
	var b strings.Builder
	switch {
	case resp.StatusCode == http.StatusSwitchingProtocols && r.Upgrade == webSocket:
		b.WriteString("HTTP/1.1 101 Switching Protocols\r\n")
		h.Del("Content-Type")
		h.Set("Connection", "Upgrade")
		h.Set("Upgrade", webSocket)
		h.Set("Sec-WebSocket-Accept", accept(r.Key))
	case resp.StatusCode == http.StatusSwitchingProtocols:
		b.WriteString("HTTP/1.1 101 UPGRADED\r\n")
		h.Set("Connection", "Upgrade")
		h.Set("Upgrade", "tcp")
	default:
		b.WriteString("HTTP/1.1 200 OK\r\n")
		h.Del("Connection")
		h.Del("Upgrade")
	}
	_ = h.Write(&b) // a Builder does not fail
	b.WriteString("\r\n")
	return []byte(b.String())
}

// accept answers a WebSocket's key (RFC 6455, section 4.2.2).
func accept(key string) string {
	sum := sha1.Sum([]byte(key + "258EAFA5-E914-47DA-95CA-C5AB0DC85B11")) //nolint:gosec // the protocol's, no secret hangs on it
	return base64.StdEncoding.EncodeToString(sum[:])
}

// pump copies both directions; the end of one is passed on while the other goes on.
func pump(client halfCloser, fromClient io.Reader, backend halfCloser, fromBackend io.Reader) {
	done, over := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(done)
		_, err := io.Copy(backend, fromClient)
		if err != nil {
			backend.Close() // the client broke off: the engine must notice
			return
		}
		_ = backend.CloseWrite()
		watch(client, backend, over)
	}()
	_, err := io.Copy(client, fromBackend)
	close(over)
	if err != nil {
		backend.Close()
	}
	_ = client.CloseWrite()
	_ = client.SetReadDeadline(time.Now().Add(lingering))
	<-done
}

// watch closes the engine's side when the client has gone for good, which reading cannot tell from a half close: a
// silent stream would stay for ever (T-801). Writing nothing to a Unix socket fails once its peer is closed.
func watch(client, backend halfCloser, over <-chan struct{}) {
	tick := time.NewTicker(hangUpCheck)
	defer tick.Stop()
	for {
		select {
		case <-over:
			return
		case <-tick.C:
			if _, err := client.Write(nil); err != nil {
				backend.Close()
				return
			}
		}
	}
}
