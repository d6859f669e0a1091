// Package peer is the server's side of the helper protocol: who may connect, the table of requests, framing.
//
// Trust: the other side may be compromised. The kernel's word on its uid is checked at connect; each message is
// bounded, strictly decoded, and must be in the table and in phase, with exactly the number of descriptors that its
// entry names. Anything else ends the connection and is logged.
// Invariants: every received descriptor is closed before the answer is sent. Failure: a panic in a request ends the process.
package peer

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"time"

	"golang.org/x/sys/unix"

	"stockade/api/helper"
	"stockade/internal/failpoint"
	"stockade/internal/seqpacket"
)

// Error is a refusal or failure to tell the peer. Any other error is answered as Internal.
type Error struct {
	Class helper.Class
	Text  string
}

func (e *Error) Error() string { return string(e.Class) + ": " + e.Text }

// Errorf makes an Error.
func Errorf(class helper.Class, format string, a ...any) error {
	return &Error{Class: class, Text: fmt.Sprintf(format, a...)}
}

// Entry is one row of a helper's table.
type Entry struct {
	FDs int // exact number of descriptors in the request
	// Do carries the request out. fds are closed by the caller; the files returned are sent and then closed.
	Do func(ctx context.Context, body json.RawMessage, fds []*os.File) (any, []*os.File, error)
}

// Table is what one peer may ask.
type Table map[string]Entry

// Handle makes an Entry from a typed function; the body is decoded strictly.
func Handle[Q, A any](fds int, do func(context.Context, Q, []*os.File) (A, []*os.File, error)) Entry {
	return Entry{FDs: fds, Do: func(ctx context.Context, body json.RawMessage, files []*os.File) (any, []*os.File, error) {
		var q Q
		if err := seqpacket.Decode(body, &q); err != nil {
			return nil, nil, err
		}
		return do(ctx, q, files)
	}}
}

// Listener is one socket with the only uid that may use it.
type Listener struct {
	File  *os.File // listening SOCK_SEQPACKET socket
	UID   uint32   // host uid of the peer
	Table Table
}

// maxConns bounds the connections of one listener.
const maxConns = 64

// Serve accepts connections until ctx ends.
func (l Listener) Serve(ctx context.Context, log *slog.Logger) error {
	fd, err := unix.FcntlInt(l.File.Fd(), unix.F_DUPFD_CLOEXEC, 0)
	if err != nil {
		return fmt.Errorf("listener: %w", err)
	}
	if err := unix.SetNonblock(fd, true); err != nil {
		unix.Close(fd)
		return fmt.Errorf("listener: %w", err)
	}
	file := os.NewFile(uintptr(fd), "listener") // registers with the poller, as it does not block
	defer file.Close()
	raw, err := file.SyscallConn()
	if err != nil {
		return err
	}
	stop := context.AfterFunc(ctx, func() { _ = file.SetDeadline(time.Now()) })
	defer stop()
	slots := make(chan struct{}, maxConns)
	for {
		fd := -1
		var aerr error
		if err := raw.Read(func(s uintptr) bool {
			fd, _, aerr = unix.Accept4(int(s), unix.SOCK_CLOEXEC)
			return !errors.Is(aerr, unix.EAGAIN) && !errors.Is(aerr, unix.EINTR)
		}); err != nil {
			if ctx.Err() != nil {
				return nil
			}
			return fmt.Errorf("accept: %w", err)
		}
		if aerr != nil {
			log.Warn("accept", "err", aerr)
			time.Sleep(50 * time.Millisecond)
			continue
		}
		conn, err := seqpacket.New(fd)
		if err != nil {
			log.Warn("accept", "err", err)
			continue
		}
		cred, err := conn.PeerCred()
		if err != nil || cred.Uid != l.UID {
			log.Warn("peer refused", "cred", cred, "err", err)
			conn.Close()
			continue
		}
		select {
		case slots <- struct{}{}:
		default:
			log.Warn("too many connections", "pid", cred.Pid)
			conn.Close()
			continue
		}
		go func() {
			defer func() { <-slots }()
			ServeConn(ctx, conn, l.Table, log.With("pid", cred.Pid))
		}()
	}
}

// greetTime is how long a new connection may take to say hello.
const greetTime = 10 * time.Second

// ServeConn serves one connection until it or ctx ends.
func ServeConn(ctx context.Context, conn *seqpacket.Conn, table Table, log *slog.Logger) {
	defer conn.Close()
	stop := context.AfterFunc(ctx, func() { conn.Close() })
	defer stop()
	greeted := false
	_ = conn.SetDeadline(time.Now().Add(greetTime))
	for {
		err := serveOne(ctx, conn, table, &greeted, log)
		switch {
		case err == nil:
		case ctx.Err() != nil || errors.Is(err, io.EOF) || errors.Is(err, unix.ECONNRESET) || errors.Is(err, unix.EPIPE):
			return
		default:
			log.Warn("connection ended", "err", err)
			return
		}
	}
}

func serveOne(ctx context.Context, conn *seqpacket.Conn, table Table, greeted *bool, log *slog.Logger) error {
	data, fds, err := conn.RecvRaw(helper.MaxFDs)
	if err != nil {
		return err
	}
	defer seqpacket.CloseAll(fds)
	var req helper.Request[json.RawMessage]
	if err := seqpacket.Decode(data, &req); err != nil {
		return err
	}
	if !*greeted || req.Op == "hello" {
		if *greeted || req.Op != "hello" || len(fds) != 0 {
			return fmt.Errorf("%w: %q out of phase", seqpacket.ErrProtocol, req.Op)
		}
		var hello helper.Hello
		if err := seqpacket.Decode(req.Body, &hello); err != nil {
			return err
		}
		if hello.Version != helper.Version {
			return fmt.Errorf("%w: version %d, this is %d", seqpacket.ErrProtocol, hello.Version, helper.Version)
		}
		*greeted = true
		_ = conn.SetDeadline(time.Time{})
		return conn.Send(helper.Answer[helper.Hello]{Body: helper.Hello{Version: helper.Version}})
	}
	entry, ok := table[req.Op]
	if !ok {
		return fmt.Errorf("%w: unknown request %q", seqpacket.ErrProtocol, req.Op)
	}
	if len(fds) != entry.FDs {
		return fmt.Errorf("%w: %q with %d descriptors, want %d", seqpacket.ErrProtocol, req.Op, len(fds), entry.FDs)
	}
	failpoint.Hit("helper.request")
	body, out, err := entry.Do(ctx, req.Body, fds)
	seqpacket.CloseAll(fds)
	failpoint.Hit("helper.answer")
	if err != nil {
		if errors.Is(err, seqpacket.ErrProtocol) {
			return err
		}
		answer := helper.Answer[struct{}]{Class: helper.Internal, Text: err.Error()}
		var e *Error
		if errors.As(err, &e) {
			answer.Class, answer.Text = e.Class, e.Text
		}
		log.Warn("request refused", "op", req.Op, "class", answer.Class, "text", answer.Text)
		return conn.Send(answer)
	}
	defer seqpacket.CloseAll(out)
	return conn.Send(helper.Answer[any]{Body: body}, out...)
}
