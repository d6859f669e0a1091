package seqpacket

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"sync"
	"time"

	"stockade/api/helper"
)

// maxIdle is how many connections a client keeps for later calls.
const maxIdle = 8

// Client calls one helper, with as many connections as calls run at once.
type Client struct {
	path string
	mu   sync.Mutex
	idle []*Conn
}

// NewClient makes a client for the helper that listens at path. Nothing is connected yet.
func NewClient(path string) *Client { return &Client{path: path} }

// Error is a helper's refusal or failure.
type Error struct {
	Op    string
	Class helper.Class
	Text  string
}

func (e *Error) Error() string { return e.Op + ": " + e.Text }

// ClassOf returns the class of a helper's error, or Internal for any other.
func ClassOf(err error) helper.Class {
	var e *Error
	if errors.As(err, &e) {
		return e.Class
	}
	return helper.Internal
}

// Call makes one request. Ops are safe to repeat, so a connection that breaks (the helper was restarted) is made again
// until the context ends or ten seconds have passed.
func Call[Q, A any](ctx context.Context, c *Client, op string, body Q, fds ...*os.File) (A, []*os.File, error) {
	var zero A
	limit := time.Now().Add(10 * time.Second)
	for {
		answer, files, err := call[Q, A](ctx, c, op, body, fds)
		var herr *Error
		if err == nil || errors.As(err, &herr) || ctx.Err() != nil || time.Now().After(limit) || errors.Is(err, ErrProtocol) {
			if err != nil && herr == nil {
				err = fmt.Errorf("%s: %w", op, err)
			}
			return answer, files, err
		}
		select {
		case <-ctx.Done():
			return zero, nil, fmt.Errorf("%s: %w", op, err)
		case <-time.After(20 * time.Millisecond):
		}
	}
}

func call[Q, A any](ctx context.Context, c *Client, op string, body Q, fds []*os.File) (A, []*os.File, error) {
	var answer helper.Answer[A]
	conn, err := c.get()
	if err != nil {
		return answer.Body, nil, err
	}
	deadline := time.Now().Add(60 * time.Second)
	if d, ok := ctx.Deadline(); ok && d.Before(deadline) {
		deadline = d
	}
	_ = conn.SetDeadline(deadline)
	if err := conn.Send(helper.Request[Q]{Op: op, Body: body}, fds...); err != nil {
		conn.Close()
		return answer.Body, nil, err
	}
	var raw helper.Answer[json.RawMessage]
	files, err := conn.Recv(&raw, helper.MaxFDs)
	if err != nil {
		conn.Close()
		return answer.Body, nil, err
	}
	c.put(conn)
	if raw.Class != "" {
		CloseAll(files)
		return answer.Body, nil, &Error{Op: op, Class: raw.Class, Text: raw.Text}
	}
	if err := Decode(raw.Body, &answer.Body); err != nil {
		CloseAll(files)
		return answer.Body, nil, err
	}
	return answer.Body, files, nil
}

func (c *Client) get() (*Conn, error) {
	c.mu.Lock()
	if n := len(c.idle); n > 0 {
		conn := c.idle[n-1]
		c.idle = c.idle[:n-1]
		c.mu.Unlock()
		return conn, nil
	}
	c.mu.Unlock()
	conn, err := Dial(c.path)
	if err != nil {
		return nil, err
	}
	if err := Greet(conn); err != nil {
		conn.Close()
		return nil, err
	}
	return conn, nil
}

// Greet is the client's side of the opening of a connection.
func Greet(conn *Conn) error {
	_ = conn.SetDeadline(time.Now().Add(10 * time.Second))
	if err := conn.Send(helper.Request[helper.Hello]{Op: "hello", Body: helper.Hello{Version: helper.Version}}); err != nil {
		return err
	}
	var hello helper.Answer[helper.Hello]
	if _, err := conn.Recv(&hello, 0); err != nil {
		return err
	}
	if hello.Class != "" {
		return &Error{Op: "hello", Class: hello.Class, Text: hello.Text}
	}
	return conn.SetDeadline(time.Time{})
}

func (c *Client) put(conn *Conn) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if len(c.idle) < maxIdle {
		c.idle = append(c.idle, conn)
		return
	}
	conn.Close()
}
