// Package seqpacket sends and receives the helpers' messages: JSON values with descriptors attached, one per
// SOCK_SEQPACKET record.
//
// Trust: nothing that arrives is believed: a record that is truncated, whose control data is truncated, that carries
// more descriptors than the receiver allows or that is not exactly one strict JSON value is an error, and every
// descriptor of it is closed. It does not import net, so that helpers need not.
package seqpacket

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"runtime"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"stockade/api/helper"
)

// ErrProtocol marks what a peer did against the protocol; its connection must be closed.
var ErrProtocol = errors.New("protocol violation")

// Conn is one connected socket.
type Conn struct{ f *os.File }

// New takes over a connected SOCK_SEQPACKET socket.
func New(fd int) (*Conn, error) {
	if err := unix.SetNonblock(fd, true); err != nil {
		unix.Close(fd)
		return nil, err
	}
	return &Conn{os.NewFile(uintptr(fd), "seqpacket")}, nil
}

// Dial connects to a listening socket.
func Dial(path string) (*Conn, error) {
	fd, err := unix.Socket(unix.AF_UNIX, unix.SOCK_SEQPACKET|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return nil, err
	}
	if err := unix.Connect(fd, &unix.SockaddrUnix{Name: path}); err != nil {
		unix.Close(fd)
		return nil, fmt.Errorf("connect %s: %w", path, err)
	}
	return New(fd)
}

// Close closes the connection.
func (c *Conn) Close() error { return c.f.Close() }

// SetDeadline limits waiting for the peer in Send and Recv; the zero time means no limit.
func (c *Conn) SetDeadline(t time.Time) error { return c.f.SetDeadline(t) }

// PeerCred returns what the kernel recorded of the peer at connect.
func (c *Conn) PeerCred() (*unix.Ucred, error) {
	raw, err := c.f.SyscallConn()
	if err != nil {
		return nil, err
	}
	var cred *unix.Ucred
	var serr error
	if err := raw.Control(func(fd uintptr) {
		cred, serr = unix.GetsockoptUcred(int(fd), unix.SOL_SOCKET, unix.SO_PEERCRED)
	}); err != nil {
		return nil, err
	}
	return cred, serr
}

// Send writes one message.
func (c *Conn) Send(v any, fds ...*os.File) error {
	data, err := json.Marshal(v)
	if err != nil {
		return err
	}
	if len(data) > helper.MaxMessage {
		return fmt.Errorf("message of %d bytes, limit %d", len(data), helper.MaxMessage)
	}
	if len(fds) > helper.MaxFDs {
		return fmt.Errorf("%d descriptors, limit %d", len(fds), helper.MaxFDs)
	}
	return c.send(data, fds)
}

func (c *Conn) send(data []byte, fds []*os.File) error {
	raw, err := c.f.SyscallConn()
	if err != nil {
		return err
	}
	var oob []byte
	if len(fds) > 0 {
		nums := make([]int, len(fds))
		for i, f := range fds {
			if nums[i], err = number(f); err != nil {
				return err
			}
		}
		oob = unix.UnixRights(nums...)
	}
	var serr error
	if err := raw.Write(func(fd uintptr) bool {
		serr = unix.Sendmsg(int(fd), data, oob, nil, unix.MSG_NOSIGNAL)
		return !errors.Is(serr, unix.EAGAIN)
	}); err != nil {
		return err
	}
	runtime.KeepAlive(fds)
	return serr
}

// Raw writes one record as it is, for tests of the other side.
func (c *Conn) Raw(data []byte) error { return c.send(data, nil) }

// number returns a file's descriptor. Unlike File.Fd it never makes the (shared) open file blocking.
func number(f *os.File) (int, error) {
	raw, err := f.SyscallConn()
	if err != nil {
		return -1, err
	}
	n := -1
	err = raw.Control(func(fd uintptr) { n = int(fd) })
	return n, err
}

// RecvRaw reads one record of at most helper.MaxMessage bytes with at most maxFDs descriptors. io.EOF when the peer is gone.
func (c *Conn) RecvRaw(maxFDs int) ([]byte, []*os.File, error) {
	oob := make([]byte, unix.CmsgSpace(4*helper.MaxFDs))
	var data []byte
	raw, err := c.f.SyscallConn()
	if err != nil {
		return nil, nil, err
	}
	var n, oobn, flags int
	var rerr error
	if err := raw.Read(func(fd uintptr) bool {
		buf := buffers.Get().(*[helper.MaxMessage]byte) // here, so that a connection that waits has none
		defer buffers.Put(buf)
		n, oobn, flags, _, rerr = unix.Recvmsg(int(fd), buf[:], oob, unix.MSG_CMSG_CLOEXEC)
		if rerr == nil {
			data = bytes.Clone(buf[:n])
		}
		return !errors.Is(rerr, unix.EAGAIN) && !errors.Is(rerr, unix.EINTR)
	}); err != nil {
		return nil, nil, err
	}
	if rerr != nil {
		return nil, nil, rerr
	}
	fds, err := rights(oob[:oobn])
	switch {
	case err != nil:
	case flags&(unix.MSG_TRUNC|unix.MSG_CTRUNC) != 0:
		err = fmt.Errorf("%w: truncated message", ErrProtocol)
	case len(fds) > maxFDs:
		err = fmt.Errorf("%w: %d descriptors, at most %d are allowed here", ErrProtocol, len(fds), maxFDs)
	case n == 0:
		err = io.EOF
	}
	if err != nil {
		CloseAll(fds)
		return nil, nil, err
	}
	return data, fds, nil
}

// buffers are as large as any message; most are small.
var buffers = sync.Pool{New: func() any { return new([helper.MaxMessage]byte) }}

// Recv reads one message into v (a pointer), strictly.
func (c *Conn) Recv(v any, maxFDs int) ([]*os.File, error) {
	data, fds, err := c.RecvRaw(maxFDs)
	if err != nil {
		return nil, err
	}
	if err := Decode(data, v); err != nil {
		CloseAll(fds)
		return nil, err
	}
	return fds, nil
}

// Decode decodes exactly one JSON value without unknown fields.
func Decode(data []byte, v any) error {
	d := json.NewDecoder(bytes.NewReader(data))
	d.DisallowUnknownFields()
	if err := d.Decode(v); err != nil {
		return fmt.Errorf("%w: %w", ErrProtocol, err)
	}
	if _, err := d.Token(); !errors.Is(err, io.EOF) {
		return fmt.Errorf("%w: bytes after the message", ErrProtocol)
	}
	return nil
}

// CloseAll closes descriptors that were received.
func CloseAll(fds []*os.File) {
	for _, f := range fds {
		f.Close()
	}
}

func rights(oob []byte) ([]*os.File, error) {
	if len(oob) == 0 {
		return nil, nil
	}
	msgs, err := unix.ParseSocketControlMessage(oob)
	if err != nil {
		return nil, fmt.Errorf("%w: control data: %w", ErrProtocol, err)
	}
	var fds []*os.File
	for _, m := range msgs {
		nums, perr := unix.ParseUnixRights(&m)
		if perr != nil {
			err = fmt.Errorf("%w: unexpected control data", ErrProtocol)
			continue // descriptors may follow; all must be closed
		}
		for _, n := range nums {
			fds = append(fds, os.NewFile(uintptr(n), "received"))
		}
	}
	return fds, err
}
