package shim

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"path/filepath"
	"sync"
)

// ErrGone is returned when the monitor has ended.
var ErrGone = errors.New("container monitor is gone")

// Client is a control connection to one monitor.
type Client struct {
	conn  net.Conn
	hello Opened

	mu      sync.Mutex
	seq     uint64
	waiting map[uint64]chan Event
	execs   map[string]chan Exit
	gone    bool
	exit    chan Exit     // the container's exit, once
	closed  chan struct{} // the connection has ended
}

// Connect opens the control connection to the monitor of a bundle.
func Connect(ctx context.Context, bundle string) (*Client, error) {
	conn, r, opened, err := open(ctx, bundle, Open{Control: true})
	if err != nil {
		return nil, err
	}
	c := &Client{conn: conn, hello: opened, waiting: map[uint64]chan Event{}, execs: map[string]chan Exit{}, exit: make(chan Exit, 1), closed: make(chan struct{})}
	if opened.Exit != nil {
		c.exit <- *opened.Exit
	}
	go c.read(r)
	return c, nil
}

func open(ctx context.Context, bundle string, o Open) (net.Conn, *bufio.Reader, Opened, error) {
	var d net.Dialer
	conn, err := d.DialContext(ctx, "unix", filepath.Join(bundle, SocketFile))
	if err != nil {
		return nil, nil, Opened{}, err
	}
	stop := context.AfterFunc(ctx, func() { conn.Close() })
	defer stop()
	var opened Opened
	err = json.NewEncoder(conn).Encode(o)
	r := bufio.NewReader(conn)
	if err == nil {
		var line []byte
		if line, err = r.ReadBytes('\n'); err == nil {
			err = json.Unmarshal(line, &opened)
		}
	}
	if err == nil && opened.Err != "" {
		err = errors.New(opened.Err)
	}
	if err != nil {
		conn.Close()
		return nil, nil, Opened{}, err
	}
	return conn, r, opened, nil
}

// Hello is what the monitor said when the connection was opened.
func (c *Client) Hello() Opened { return c.hello }

// Exit yields the container's exit once.
func (c *Client) Exit() <-chan Exit { return c.exit }

// Closed is closed when the monitor is gone.
func (c *Client) Closed() <-chan struct{} { return c.closed }

// Close ends the connection.
func (c *Client) Close() error { return c.conn.Close() }

// ExecExit yields the exit of an exec once; it must be asked for before the exec begins.
func (c *Client) ExecExit(id string) <-chan Exit {
	c.mu.Lock()
	defer c.mu.Unlock()
	ch := make(chan Exit, 1)
	c.execs[id] = ch
	return ch
}

// Do sends an order and waits for its answer.
func (c *Client) Do(ctx context.Context, req Request) (Event, error) {
	ch := make(chan Event, 1)
	c.mu.Lock()
	if c.gone {
		c.mu.Unlock()
		return Event{}, ErrGone
	}
	c.seq++
	req.Seq = c.seq
	c.waiting[req.Seq] = ch
	err := json.NewEncoder(c.conn).Encode(req)
	c.mu.Unlock()
	if err != nil {
		return Event{}, fmt.Errorf("%w: %w", ErrGone, err)
	}
	select {
	case ev, ok := <-ch:
		if !ok {
			return Event{}, ErrGone
		}
		if ev.Err != "" {
			return ev, errors.New(ev.Err)
		}
		return ev, nil
	case <-ctx.Done():
		c.mu.Lock()
		delete(c.waiting, req.Seq)
		c.mu.Unlock()
		return Event{}, ctx.Err()
	}
}

func (c *Client) read(r io.Reader) {
	d := json.NewDecoder(r)
	for {
		var ev Event
		if err := d.Decode(&ev); err != nil {
			break
		}
		c.mu.Lock()
		switch {
		case ev.Exit != nil && ev.Exec != "":
			if ch := c.execs[ev.Exec]; ch != nil {
				ch <- *ev.Exit
				delete(c.execs, ev.Exec)
			}
		case ev.Exit != nil:
			select {
			case c.exit <- *ev.Exit:
			default:
			}
		default:
			if ch := c.waiting[ev.Seq]; ch != nil {
				ch <- ev
				delete(c.waiting, ev.Seq)
			}
		}
		c.mu.Unlock()
	}
	c.conn.Close()
	c.mu.Lock()
	c.gone = true
	for _, ch := range c.waiting {
		close(ch)
	}
	for _, ch := range c.execs {
		close(ch)
	}
	c.waiting, c.execs = nil, nil
	c.mu.Unlock()
	close(c.closed)
}

// Stream is a connection to standard streams. Reading gives output, multiplexed as in the Engine API unless the process
// has a terminal; writing feeds standard input.
type Stream struct {
	net.Conn
	r *bufio.Reader
}

// OpenStream connects to standard streams of the container, or of an exec.
func OpenStream(ctx context.Context, bundle string, o Open) (*Stream, error) {
	o.Control = false
	conn, r, _, err := open(ctx, bundle, o)
	if err != nil {
		return nil, err
	}
	return &Stream{Conn: conn, r: r}, nil
}

// Read reads output.
func (s *Stream) Read(p []byte) (int, error) { return s.r.Read(p) }

// WriteTo copies all output to w.
func (s *Stream) WriteTo(w io.Writer) (int64, error) {
	n, err := io.CopyN(w, s.r, int64(s.r.Buffered()))
	if err != nil {
		return n, err
	}
	m, err := io.Copy(w, s.Conn)
	return n + m, err
}

// CloseWrite ends standard input.
func (s *Stream) CloseWrite() error { return s.Conn.(*net.UnixConn).CloseWrite() }
