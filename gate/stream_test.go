package gate

import (
	"bufio"
	"context"
	"io"
	"net"
	"net/http"
	"strings"
	"testing"
	"time"
)

// echo answers an upgraded request in one of the two forms, sends back what it reads until the end, then says bye.
func echo(head string) func(net.Conn, *bufio.Reader) {
	return func(conn net.Conn, reader *bufio.Reader) {
		if _, err := io.WriteString(conn, head); err != nil {
			return
		}
		if _, err := io.Copy(conn, reader); err != nil {
			return
		}
		_, _ = io.WriteString(conn, "bye") // the client's end was passed on as an end, and this way is still open
	}
}

// SECURITY(T-205): one connection to the engine per stream, closed with it; both directions end on their own.
func TestStreams(t *testing.T) {
	const raw = "Content-Type: application/vnd.docker.raw-stream\r\n"
	for _, tc := range []struct {
		name, request, head, want string
		status                    int
	}{
		{"attach with upgrade", get("POST /containers/a/attach?stream=1&stdin=1", "Connection: Upgrade", "Upgrade: tcp", "Content-Type: text/plain", "Content-Length: 0"),
			"HTTP/1.1 101 UPGRADED\r\n" + raw + "Connection: Upgrade\r\nUpgrade: tcp\r\n\r\n", "hellobye", 101},
		{"attach without", get("POST /containers/a/attach?stream=1", "Content-Length: 0"), "HTTP/1.1 200 OK\r\n" + raw + "\r\n", "hellobye", 200},
		{"exec", post("POST /exec/a/start", `{"Detach":false,"Tty":false}`, "Connection: Upgrade", "Upgrade: tcp"),
			"HTTP/1.1 101 UPGRADED\r\n" + raw + "Connection: Upgrade\r\nUpgrade: tcp\r\nStockade-Tenant: x\r\n\r\n", "hellobye", 101},
	} {
		t.Run(tc.name, func(t *testing.T) {
			s := start(t)
			s.backend.stream = echo(tc.head)
			conn := s.dial(t)
			// The stream's first bytes come together with the request.
			if _, err := io.WriteString(conn, tc.request+"hel"); err != nil {
				t.Fatal(err)
			}
			reader := bufio.NewReader(conn)
			resp, err := http.ReadResponse(reader, &http.Request{Method: http.MethodPost})
			if err != nil {
				t.Fatal(err)
			}
			if resp.StatusCode != tc.status || resp.Header.Get("Content-Type") != "application/vnd.docker.raw-stream" || resp.Header.Get("Stockade-Tenant") != "" {
				t.Errorf("head %d %v", resp.StatusCode, resp.Header)
			}
			if (tc.status == 101) != (resp.Header.Get("Upgrade") == "tcp") {
				t.Errorf("Upgrade: %q", resp.Header.Get("Upgrade"))
			}
			if _, err := io.WriteString(conn, "lo"); err != nil {
				t.Fatal(err)
			}
			if err := conn.CloseWrite(); err != nil {
				t.Fatal(err)
			}
			got, err := io.ReadAll(reader)
			if err != nil || string(got) != tc.want {
				t.Errorf("stream %q, %v, want %q", got, err, tc.want)
			}
		})
	}
}

// The handshake is answered by the gate itself; the engine gets one that the gate wrote.
func TestWebSocket(t *testing.T) {
	const key = "dGhlIHNhbXBsZSBub25jZQ==" // with its answer, of RFC 6455
	target := "GET /v1.51/containers/a/attach/ws?stream=1&stdin=1"
	good := []string{"Connection: Upgrade", "Upgrade: WebSocket", "Sec-WebSocket-Version: 13", "Sec-WebSocket-Key: " + key, "Sec-WebSocket-Protocol: x"}
	s := start(t)
	s.backend.stream = echo("HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Accept: lie\r\nSec-WebSocket-Protocol: lie\r\n\r\n")
	conn := s.dial(t)
	if _, err := io.WriteString(conn, get(target, good...)+"hello"); err != nil {
		t.Fatal(err)
	}
	reader := bufio.NewReader(conn)
	resp, err := http.ReadResponse(reader, nil)
	if err != nil {
		t.Fatal(err)
	}
	h := resp.Header
	if resp.StatusCode != 101 || h.Get("Upgrade") != "websocket" || h.Get("Sec-WebSocket-Accept") != "s3pPLMBiTxaQ9kYGzzhZRbK+xOo=" || h.Get("Sec-WebSocket-Protocol") != "" {
		t.Errorf("head %d %v", resp.StatusCode, h)
	}
	if err := conn.CloseWrite(); err != nil {
		t.Fatal(err)
	}
	if got, err := io.ReadAll(reader); err != nil || string(got) != "hellobye" {
		t.Errorf("stream %q, %v", got, err)
	}
	if r, _ := s.backend.last(t); r.Header.Get("Sec-WebSocket-Key") != key || r.Header.Get("Sec-WebSocket-Protocol") != "" || r.Header.Get("Upgrade") != "websocket" {
		t.Errorf("the engine got %v", r.Header)
	}
	// SECURITY(T-101)
	for _, tc := range []struct {
		status  int
		request string
	}{
		{403, get(target, append(good, "Origin: http://localhost")...)},
		{403, get("GET /info", good...)},
		{400, get("GET /info", good[:2]...)},
		{400, get(target, "Connection: Upgrade", "Upgrade: tcp")},
		{400, get(target, "Connection: Upgrade", "Upgrade: websocket", "Sec-WebSocket-Version: 8", good[3])},
		{400, get(target, "Connection: Upgrade", "Upgrade: websocket", "Sec-WebSocket-Version: 13", "Sec-WebSocket-Key: short")},
	} {
		if resp, body := start(t).raw(t, tc.request); resp.StatusCode != tc.status {
			t.Errorf("%s: %d %s", tc.request, resp.StatusCode, body)
		}
	}
}

// An exec that is refused or detached is an ordinary answer, and the connection goes on.
func TestStreamThatIsNone(t *testing.T) {
	s := start(t)
	s.backend.status = http.StatusNotFound
	conn := s.dial(t)
	reader := bufio.NewReader(conn)
	for range 2 {
		if _, err := io.WriteString(conn, post("POST /exec/a/start", `{"Detach":true}`)); err != nil {
			t.Fatal(err)
		}
		resp, err := http.ReadResponse(reader, nil)
		if err != nil {
			t.Fatal(err)
		}
		body, err := io.ReadAll(resp.Body)
		if err != nil || resp.StatusCode != http.StatusNotFound || string(body) != "{}" {
			t.Errorf("%d %q %v", resp.StatusCode, body, err)
		}
	}
}

// Opaque bodies go through unread.
func TestUpload(t *testing.T) {
	s := start(t)
	resp, _ := s.raw(t, "PUT /containers/a/archive?path=%2Ftmp&copyUIDGID=true HTTP/1.1\r\nHost: localhost\r\nContent-Type: text/plain\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nabcde\r\n0\r\n\r\n")
	r, body := s.backend.last(t)
	if resp.StatusCode != http.StatusOK || body != "abcde" || r.RequestURI != "/containers/a/archive?copyUIDGID=1&path=%2Ftmp" || r.Header.Get("Content-Type") != "application/x-tar" {
		t.Errorf("%d %q %s %v", resp.StatusCode, body, r.RequestURI, r.Header)
	}
}

func TestEngineGone(t *testing.T) {
	s := start(t)
	s.backend.stream = func(conn net.Conn, _ *bufio.Reader) { conn.Close() }
	resp, body := s.raw(t, get("GET /info"))
	if resp.StatusCode != http.StatusServiceUnavailable || !strings.Contains(body, "message") {
		t.Errorf("%d %q", resp.StatusCode, body)
	}
}

// A client that goes away ends a silent stream.
func TestHangUp(t *testing.T) {
	s := start(t)
	gone := make(chan struct{})
	s.backend.stream = func(conn net.Conn, reader *bufio.Reader) {
		_, _ = io.WriteString(conn, "HTTP/1.1 101 UPGRADED\r\nConnection: Upgrade\r\nUpgrade: tcp\r\n\r\n")
		_, _ = io.Copy(io.Discard, reader) // until the client's end was passed on
		for {
			if _, err := conn.Write(nil); err != nil { // fails when the gate has closed its side
				close(gone)
				return
			}
			time.Sleep(time.Millisecond)
		}
	}
	conn := s.dial(t)
	if _, err := io.WriteString(conn, get("POST /containers/a/attach?stream=1", "Connection: Upgrade", "Upgrade: tcp", "Content-Length: 0")); err != nil {
		t.Fatal(err)
	}
	if _, err := http.ReadResponse(bufio.NewReader(conn), nil); err != nil {
		t.Fatal(err)
	}
	conn.Close()
	select {
	case <-gone:
	case <-time.After(30 * time.Second):
		t.Error("the stream to the engine is still open")
	}
}

func TestTurns(t *testing.T) {
	turns := newTurns(1)
	done, err := turns.wait(t.Context(), 1)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := turns.wait(ctx, 1); err == nil {
		t.Error("two turns at once")
	}
	if _, err := turns.wait(t.Context(), 2); err != nil {
		t.Errorf("another user waits: %v", err)
	}
	done()
	done()
	if _, err := turns.wait(t.Context(), 1); err != nil {
		t.Errorf("after the first: %v", err)
	}
}
