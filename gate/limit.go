package gate

import (
	"log/slog"
	"net"
	"sync"

	"stockade/gate/identity"
)

// limiter bounds connections in all and per uid, hijacked ones included.
//
// SECURITY(T-801): one user cannot take the others' connections.
type limiter struct {
	*net.UnixListener
	max, perUID int
	log         *slog.Logger

	mu    sync.Mutex
	total int
	uids  map[uint32]int
}

func newLimiter(l *net.UnixListener, max, perUID int, log *slog.Logger) *limiter {
	return &limiter{UnixListener: l, max: max, perUID: perUID, log: log, uids: map[uint32]int{}}
}

// limitedConn gives its place back when it is closed.
type limitedConn struct {
	*net.UnixConn
	release func()
}

// Close closes the connection.
func (c *limitedConn) Close() error {
	c.release()
	return c.UnixConn.Close()
}

// Accept waits for a connection that has a place; others are closed at once.
func (l *limiter) Accept() (net.Conn, error) {
	for {
		conn, err := l.AcceptUnix()
		if err != nil {
			return nil, err
		}
		uid, err := identity.UID(conn)
		if err != nil || !l.take(uid) {
			l.log.Warn("connection refused: too many", "uid", uid, "err", err)
			conn.Close()
			continue
		}
		return &limitedConn{UnixConn: conn, release: sync.OnceFunc(func() { l.give(uid) })}, nil
	}
}

func (l *limiter) take(uid uint32) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.total >= l.max || l.uids[uid] >= l.perUID {
		return false
	}
	l.total++
	l.uids[uid]++
	return true
}

func (l *limiter) give(uid uint32) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.total--
	if l.uids[uid]--; l.uids[uid] == 0 {
		delete(l.uids, uid)
	}
}
