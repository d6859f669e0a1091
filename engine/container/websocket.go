package container

import (
	"context"
	"io"
	"net/http"

	"github.com/coder/websocket"
	"github.com/moby/moby/api/pkg/stdcopy"
	"github.com/moby/moby/api/types/events"

	"stockade/api/scope"
	"stockade/engine/httpapi"
)

// handleAttachWebSocket attaches a client by WebSocket: standard output and error come in one unmarked stream of binary
// messages, as with Docker; messages of the client are standard input.
func (s *Service) handleAttachWebSocket(w http.ResponseWriter, r *http.Request, sc scope.Scope) error {
	q, err := s.attachment(r, sc)
	if err != nil {
		return err
	}
	defer q.over()
	if r.Header.Get("Upgrade") == "" {
		return invalid("a WebSocket handshake is needed (RFC 6455, version 13)")
	}
	if httpapi.VersionLess(sc.Version, "1.42") {
		// These versions did not ask which streams.
		q.stdin, q.streams.Stdout, q.streams.Stderr = q.v.Config.OpenStdin, true, true
	}
	// The gate has refused requests with an Origin (T-101), so there is none to compare.
	conn, err := websocket.Accept(w, r, &websocket.AcceptOptions{InsecureSkipVerify: true, CompressionMode: websocket.CompressionDisabled})
	if err != nil {
		return invalid("%v", err)
	}
	defer conn.CloseNow() //nolint:errcheck // the end of a client that may be gone
	conn.SetReadLimit(-1) // messages are passed on in pieces, whatever their length
	ctx, cancel := context.WithCancel(s.ctx)
	defer cancel()
	s.publish(q.v, events.ActionAttach)
	in, out := &messages{ctx: ctx, conn: conn}, &messages{ctx: ctx, conn: conn}
	a := q.streams
	a.Out = out
	flush := func() {}
	if !q.v.Config.Tty {
		// The runtime marks the streams; a WebSocket carries them unmarked.
		pr, pw := io.Pipe()
		done := make(chan struct{})
		go func() {
			defer close(done)
			_, err := stdcopy.StdCopy(out, out, pr)
			pr.CloseWithError(err)
		}()
		flush = func() {
			pw.Close()
			<-done
		}
		defer flush()
		a.Out = pw
	}
	if q.logs {
		if err := q.replay(ctx, a.Out); err != nil {
			return closed(err)
		}
	}
	end := func() error {
		flush()
		return conn.Close(websocket.StatusNormalClosure, "")
	}
	if !q.live {
		return closed(end())
	}
	if q.stdin {
		a.In = in
	} else {
		go func() {
			// Pings and the client's end are seen by reading only.
			_, _ = io.Copy(io.Discard, in)
			cancel()
		}()
	}
	return s.attach(ctx, q, a, end)
}

// messages is a WebSocket as a stream of bytes.
type messages struct {
	ctx  context.Context //nolint:containedctx // of the one attachment
	conn *websocket.Conn
	now  io.Reader // rest of the message that is being read
}

func (m *messages) Read(p []byte) (int, error) {
	for {
		if m.now == nil {
			_, r, err := m.conn.Reader(m.ctx)
			if websocket.CloseStatus(err) != -1 {
				return 0, io.EOF
			}
			if err != nil {
				return 0, err
			}
			m.now = r
		}
		n, err := m.now.Read(p)
		if err == io.EOF {
			m.now, err = nil, nil
		}
		if n > 0 || err != nil {
			return n, err
		}
	}
}

func (m *messages) Write(p []byte) (int, error) {
	if err := m.conn.Write(m.ctx, websocket.MessageBinary, p); err != nil {
		return 0, err
	}
	return len(p), nil
}
