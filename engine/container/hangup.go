package container

import (
	"context"
	"errors"
	"net"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// watchHangup calls gone when the client has closed its connection altogether. A client that only ended its input
// (shutdown of one direction) is still there; reading cannot tell the two apart.
func watchHangup(ctx context.Context, conn net.Conn, gone func()) {
	sc, ok := conn.(syscall.Conn)
	if !ok {
		return
	}
	raw, err := sc.SyscallConn()
	if err != nil {
		return
	}
	t := time.NewTicker(2 * time.Second)
	defer t.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-t.C:
		}
		var hup bool
		err := raw.Control(func(fd uintptr) {
			p := []unix.PollFd{{Fd: int32(fd)}}
			_, _ = unix.Poll(p, 0)
			hup = p[0].Revents&(unix.POLLHUP|unix.POLLERR) != 0
		})
		if err != nil || hup {
			gone()
			return
		}
	}
}

// isNetClosed tells whether an error says that the other end of a connection is gone.
func isNetClosed(err error) bool {
	return errors.Is(err, net.ErrClosed) || errors.Is(err, syscall.EPIPE) || errors.Is(err, syscall.ECONNRESET)
}
