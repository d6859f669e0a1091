package gate

import (
	"context"
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

// turns bounds how many decoded bodies each uid has in memory at once; more wait.
//
// SECURITY(T-801): a body of the largest size becomes several times as large when it is decoded.
type turns struct {
	perUID int

	mu   sync.Mutex
	uids map[uint32]chan struct{} // as many as there are users of the socket
}

func newTurns(perUID int) *turns { return &turns{perUID: perUID, uids: map[uint32]chan struct{}{}} }

// wait takes a turn; done gives it back and may be called more than once.
func (t *turns) wait(ctx context.Context, uid uint32) (done func(), err error) {
	t.mu.Lock()
	slots := t.uids[uid]
	if slots == nil {
		slots = make(chan struct{}, t.perUID)
		t.uids[uid] = slots
	}
	t.mu.Unlock()
	select {
	case slots <- struct{}{}:
		return sync.OnceFunc(func() { <-slots }), nil
	case <-ctx.Done():
		return nil, ctx.Err()
	}
}
