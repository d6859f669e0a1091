package gate

import (
	"context"
	"fmt"
	"io"
	"log/slog"
	"math"
	"net"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"stockade/gate/identity"
)

// limiter bounds connections in all and per uid, hijacked ones included.
//
// SECURITY(T-801): one user cannot take the others' connections, and several cannot either: the last quarter is for users
// with few. Descriptors are never used up by connections: a process with a low limit has fewer of these.
type limiter struct {
	*net.UnixListener
	max, perUID int
	files       func() int // how many descriptors this process may have
	log         *slog.Logger
	refusing    chan struct{}

	mu       sync.Mutex
	total    int
	uids     map[uint32]int
	refused  int // since the last line about it in the log
	lastWarn time.Time
}

const (
	filesPerConn  = 3   // here the client's and the engine's; in the engine, whose limit is the same, also a file or a stream
	reservedFiles = 160 // logs, idle connections to the engine, connections that are being refused
	politely      = 64  // connections at once that are told why they are refused
	refuseTime    = time.Second
	warnEvery     = 10 * time.Second
)

func newLimiter(l *net.UnixListener, max, perUID int, files func() int, log *slog.Logger) *limiter {
	return &limiter{UnixListener: l, max: max, perUID: perUID, files: files, log: log, refusing: make(chan struct{}, politely), uids: map[uint32]int{}}
}

// openFiles is this process's limit now: an administrator may change it while it runs.
func openFiles() int {
	var l unix.Rlimit
	if err := unix.Prlimit(0, unix.RLIMIT_NOFILE, nil, &l); err != nil { // the call that package gate's filter allows
		return math.MaxInt32
	}
	return int(min(l.Cur, math.MaxInt32))
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

// Accept waits for a connection that has a place; others are refused.
func (l *limiter) Accept() (net.Conn, error) {
	for {
		conn, err := l.AcceptUnix()
		if err != nil {
			return nil, err
		}
		uid, err := identity.UID(conn)
		if err != nil || !l.take(uid) {
			l.warn(uid, err)
			l.refuse(conn)
			continue
		}
		return &limitedConn{UnixConn: conn, release: sync.OnceFunc(func() { l.give(uid) })}, nil
	}
}

func (l *limiter) take(uid uint32) bool {
	most := max(min(l.max, (l.files()-reservedFiles)/filesPerConn), 1)
	share := max(min(l.perUID, most/4), 1)
	few := max(share/32, 1)
	l.mu.Lock()
	defer l.mu.Unlock()
	n := l.uids[uid]
	if l.total >= most || n >= share || l.total >= most-most/4 && n >= few {
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

// warn writes a line about refused connections, not one for each: a flood would fill the log.
func (l *limiter) warn(uid uint32, err error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.refused++
	if now := time.Now(); now.Sub(l.lastWarn) >= warnEvery {
		l.log.Warn("connections refused: too many", "count", l.refused, "uid", uid, "open", l.total, "err", err)
		l.refused, l.lastWarn = 0, now
	}
}

// refuse closes a connection. Some at a time are told why, in answer to what they ask first.
func (l *limiter) refuse(conn *net.UnixConn) {
	select {
	case l.refusing <- struct{}{}:
	default:
		conn.Close()
		return
	}
	go func() {
		defer func() { <-l.refusing }()
		defer conn.Close()
		_ = conn.SetDeadline(time.Now().Add(refuseTime))
		if _, err := conn.Read(make([]byte, 4<<10)); err != nil {
			return
		}
		const text = `{"message":"too many connections; try again"}` + "\n"
		_, err := fmt.Fprintf(conn, "HTTP/1.1 503 Service Unavailable\r\nContent-Type: application/json\r\nContent-Length: %d\r\nConnection: close\r\n\r\n%s", len(text), text)
		if err == nil {
			// What the client still sends must not make it miss the answer.
			_ = conn.CloseWrite()
			_, _ = io.Copy(io.Discard, conn)
		}
	}()
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
