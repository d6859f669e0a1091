//go:build root

package compat

import (
	"bufio"
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strconv"
)

// request makes the call of the API on one connection, or on several at once.
func (on *target) request(ctx context.Context, s Step) (Answer, error) {
	var open []*exchange
	defer func() {
		for _, x := range open {
			x.conn.Close()
		}
	}()
	for range max(1, s.Times) {
		x, err := on.begin(ctx, s)
		if err != nil {
			return Answer{}, err
		}
		open = append(open, x)
	}
	var all Answer
	for i, x := range open {
		text, err := x.finish(s, i == 0)
		if err != nil {
			return Answer{}, fmt.Errorf("read answer: %w", err)
		}
		if i == 0 {
			all = Answer{Code: x.resp.StatusCode, Type: x.resp.Header.Get("Content-Type"), Body: []byte{}}
		} else {
			all.Body = append(all.Body, "\n-- and\n"...)
		}
		all.Body = append(all.Body, text...)
	}
	return all, nil
}

// exchange is a connection on which an answer has begun.
type exchange struct {
	conn conn
	r    *bufio.Reader
	resp *http.Response
}

// begin sends the request and reads the head of the answer.
func (on *target) begin(ctx context.Context, s Step) (x *exchange, err error) {
	c, err := on.dial()
	if err != nil {
		return nil, err
	}
	defer func() {
		if err != nil {
			c.Close()
		}
	}()
	if deadline, ok := ctx.Deadline(); ok {
		if err := c.SetDeadline(deadline); err != nil {
			return nil, err
		}
	}
	var head bytes.Buffer
	fmt.Fprintf(&head, "%s %s HTTP/1.1\r\nHost: docker\r\n", s.Method, s.Target(on.version))
	body := []byte(s.Body)
	if s.Input != nil && !s.Hijack && !s.WS {
		body = s.Input
	}
	if s.Type != "" {
		head.WriteString("Content-Type: " + s.Type + "\r\n")
	}
	switch {
	case s.Hijack:
		head.WriteString("Connection: Upgrade\r\nUpgrade: tcp\r\n")
	case s.WS:
		head.WriteString("Connection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n")
	}
	if s.Method != "GET" && s.Method != "HEAD" {
		head.WriteString("Content-Length: " + strconv.Itoa(len(body)) + "\r\n")
	}
	head.WriteString("\r\n")
	if _, err := c.Write(append(head.Bytes(), body...)); err != nil {
		return nil, err
	}
	r := bufio.NewReader(c)
	resp, err := http.ReadResponse(r, &http.Request{Method: s.Method})
	return &exchange{c, r, resp}, err
}

// finish sends the step's input, if this is the connection for it, and reads to the end.
func (x *exchange) finish(s Step, first bool) ([]byte, error) {
	if x.resp.StatusCode != http.StatusSwitchingProtocols {
		defer x.resp.Body.Close()
		return io.ReadAll(x.resp.Body)
	}
	if s.WS {
		return x.messages(s.Input)
	}
	if first {
		if _, err := x.conn.Write(s.Input); err != nil {
			return nil, err
		}
		if half, ok := x.conn.(interface{ CloseWrite() error }); ok && s.Times == 0 { // a closed one may end before the others
			if err := half.CloseWrite(); err != nil {
				return nil, err
			}
		}
	}
	return io.ReadAll(x.r)
}

// messages sends one message, if it is not empty, and returns what the server's messages say (RFC 6455, 5.2).
func (x *exchange) messages(input []byte) ([]byte, error) {
	if len(input) > 0 {
		// A client's frame is masked; a mask of zeros leaves the bytes as they are.
		frame := append([]byte{0x82, 0x80 | byte(len(input)), 0, 0, 0, 0}, input...)
		if _, err := x.conn.Write(frame); err != nil {
			return nil, err
		}
	}
	var text []byte
	for {
		var head [2]byte
		if _, err := io.ReadFull(x.r, head[:]); err != nil {
			if errors.Is(err, io.EOF) {
				return text, nil
			}
			return nil, err
		}
		size := uint64(head[1] & 0x7f)
		if wide := map[uint64]int{126: 2, 127: 8}[size]; wide > 0 {
			var b [8]byte
			if _, err := io.ReadFull(x.r, b[8-wide:]); err != nil {
				return nil, err
			}
			size = binary.BigEndian.Uint64(b[:])
		}
		payload := make([]byte, size)
		if _, err := io.ReadFull(x.r, payload); err != nil {
			return nil, err
		}
		switch head[0] & 0x0f {
		case 0, 1, 2:
			text = append(text, payload...)
		case 8:
			return text, nil
		}
	}
}
