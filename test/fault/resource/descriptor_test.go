//go:build root

package resource

import (
	"bufio"
	"fmt"
	"net"
	"net/http"
	"strconv"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"stockade/test/harness"
)

// limitFiles changes how many descriptors a running process may have, until the test ends or restore is called.
func limitFiles(t *testing.T, pid int, user string, n int) (restore func()) {
	t.Helper()
	set := func(soft func(old unix.Rlimit) uint64) (old unix.Rlimit, err error) {
		// As the process's own user: root may lack CAP_SYS_RESOURCE.
		err = harness.As(harness.Lookup(t, user), func() error {
			if err := unix.Prlimit(pid, unix.RLIMIT_NOFILE, nil, &old); err != nil {
				return err
			}
			return unix.Prlimit(pid, unix.RLIMIT_NOFILE, &unix.Rlimit{Cur: soft(old), Max: old.Max}, nil)
		})
		return old, err
	}
	old, err := set(func(unix.Rlimit) uint64 { return uint64(n) })
	must(t, err)
	restore = func() { _, _ = set(func(unix.Rlimit) uint64 { return old.Cur }) } // the process may have ended
	t.Cleanup(restore)
	return restore
}

// calm tells that a process does not spin: it has less than half of a processor over a second.
func calm(t *testing.T, pid int) {
	t.Helper()
	before := ticks(t, pid)
	began := time.Now()
	time.Sleep(time.Second) // the time that is measured
	if used, passed := ticks(t, pid)-before, time.Since(began).Milliseconds()/10; 2*used > passed {
		t.Errorf("process %d had %d hundredths of a second of processor time within %d", pid, used, passed)
	}
}

// conns are connections of a test.
type conns []net.Conn

func (c conns) close() {
	for _, conn := range c {
		conn.Close()
	}
}

// dial opens a connection as u and sends text.
func (c *conns) dial(t *testing.T, s *harness.Server, u harness.User, text string) net.Conn {
	t.Helper()
	conn, err := s.Dial(u)
	must(t, err)
	*c = append(*c, conn)
	_, _ = conn.Write([]byte(text)) // refused ones may be closed already
	return conn
}

const ping = "GET /_ping HTTP/1.1\r\nHost: localhost\r\n\r\n"

// answer is the status of a connection's next answer; 0: it was closed, or nothing came within patience.
func answer(conn net.Conn, patience time.Duration) int {
	_ = conn.SetReadDeadline(time.Now().Add(patience))
	resp, err := http.ReadResponse(bufio.NewReader(conn), nil)
	if err != nil {
		return 0
	}
	return resp.StatusCode
}

// T-801: a gate with few descriptors keeps some for everybody; with none it waits, and goes on when it has some again.
func TestFewDescriptorsOfTheGate(t *testing.T) {
	s := harness.Get(t)
	gate := s.PID(t, "gate")
	restore := limitFiles(t, gate, "stockade-gate", 460) // 100 connections, of one user 25
	var flood conns
	defer func() { flood.close() }()
	got := map[int]int{}
	for range 300 {
		got[answer(flood.dial(t, s, s.User, ping), harness.Patience)]++
	}
	if got[200] != 25 || got[503] == 0 || got[200]+got[503]+got[0] != 300 {
		t.Errorf("answers with few descriptors: %v", got)
	}
	served(t, s)
	flood.close()
	restore()
	harness.Poll(t, "the gate to close its ends", func() (string, bool) {
		n := descriptors(t, gate)
		return fmt.Sprint(n), n < 100
	})

	// None at all: the control is that a connection is not even accepted.
	restore = limitFiles(t, gate, "stockade-gate", 3)
	flood = nil
	waiting := flood.dial(t, s, s.User, ping)
	for range 20 {
		flood.dial(t, s, s.User, ping)
	}
	calm(t, gate)
	if status := answer(waiting, time.Millisecond); status != 0 {
		t.Errorf("control: answered with %d without descriptors", status)
	}
	restore()
	if status := answer(waiting, harness.Patience); status != 200 {
		t.Errorf("with descriptors again: %d", status)
	}
	flood.close()
	served(t, s)
	if now := s.PID(t, "gate"); now != gate {
		t.Error("the gate was started again")
	}
}

// T-801: an engine without descriptors says so and goes on when it has some again.
func TestFewDescriptorsOfTheEngine(t *testing.T) {
	s := harness.Get(t)
	before := s.Settled(t)
	id := s.Must(t, "run", "-d", "busybox", "sh", "-c", "echo line; sleep 1000")
	engine := s.PID(t, "engine")
	most := descriptors(t, engine) + 40
	restore := limitFiles(t, engine, "stockade-engine", most)
	var flood conns
	defer func() { flood.close() }()
	for range 100 { // each takes a connection and a file
		flood.dial(t, s, s.User, fmt.Sprintf("GET /v1.51/containers/%s/logs?stdout=1&follow=1 HTTP/1.1\r\nHost: localhost\r\n\r\n", id))
	}
	harness.Poll(t, "control: the engine to have no descriptor left", func() (string, bool) {
		n := descriptors(t, engine)
		return fmt.Sprintf("%d of %d", n, most), n >= most-2
	})
	calm(t, engine)
	// Whoever asks gets an answer when there is room for one. What cannot be done is said.
	for _, c := range flood[:40] {
		c.Close()
	}
	failed := 0
	for i := range 10 {
		// Streams that wait for a descriptor take what becomes free.
		r := s.Docker(t, "create", "--name", fmt.Sprintf("few-%d", i), "busybox")
		switch {
		case r.Code == 0:
		case strings.Contains(r.Stderr, "too many open files"), strings.Contains(r.Stderr, "the engine is not available"):
			failed++
		default:
			t.Errorf("create with few descriptors: %v", r)
		}
	}
	t.Logf("%d of 10 creates were refused", failed)
	restore()
	flood.close()
	harness.Poll(t, "the engine to have descriptors again", func() (string, bool) {
		r := s.Docker(t, "ps", "-q")
		return r.String(), r.Code == 0
	})
	served(t, s)
	if got := s.Must(t, "exec", id, "echo", "well"); got != "well" {
		t.Errorf("got %q", got)
	}
	names := strings.Fields(s.Must(t, "ps", "-aq"))
	if len(names) != 1+10-failed {
		t.Errorf("%d containers, %d creates were acknowledged", len(names)-1, 10-failed)
	}
	s.Must(t, append([]string{"rm", "-f"}, names...)...)
	if now := s.PID(t, "engine"); now != engine {
		t.Error("the engine was started again")
	}
	s.NoLeaks(t, before)
	harness.Poll(t, "the engine's descriptors to be closed", func() (string, bool) {
		n := descriptors(t, engine)
		return fmt.Sprint(n), n < most
	})
}

// T-801: a monitor without descriptors keeps its container, and serves again when it has some.
func TestFewDescriptorsOfAMonitor(t *testing.T) {
	s := harness.Get(t)
	before := s.Settled(t)
	id := s.Must(t, "run", "-d", "busybox", "sh", "-c", "while :; do echo line; usleep 10000; done")
	pid, err := strconv.Atoi(s.Must(t, "inspect", "-f", "{{.State.Pid}}", id))
	must(t, err)
	monitor, engine := int(status(t, pid, "PPid")), s.PID(t, "engine")
	restore := limitFiles(t, monitor, "stockade-engine", 3)
	if r := s.Docker(t, "exec", id, "true"); r.Code == 0 || !strings.Contains(r.Stdout+r.Stderr, "too many open files") {
		t.Errorf("control: exec with a monitor without descriptors: %v", r)
	}
	had := descriptors(t, engine)
	var attached conns
	defer func() { attached.close() }()
	conn := attached.dial(t, s, s.User, fmt.Sprintf("POST /v1.51/containers/%s/attach?stream=1&stdout=1 HTTP/1.1\r\nHost: localhost\r\nConnection: Upgrade\r\nUpgrade: tcp\r\nContent-Length: 0\r\n\r\n", id))
	harness.Poll(t, "the engine to ask the monitor", func() (string, bool) {
		n := descriptors(t, engine)
		return fmt.Sprintf("%d descriptors, before %d", n, had), n >= had+2
	})
	calm(t, monitor)
	restore()
	if status := answer(conn, harness.Patience); status != 101 {
		t.Errorf("attach with descriptors again: %d", status)
	}
	harness.Poll(t, "output", func() (string, bool) { return "", unread(t, conn) > 0 })
	if got := s.Must(t, "inspect", "-f", "{{.State.Running}} {{.State.Pid}}", id); got != fmt.Sprintf("true %d", pid) {
		t.Errorf("got %s, want true %d", got, pid)
	}
	attached.close()
	s.Must(t, "rm", "-f", id)
	s.NoLeaks(t, before)
}
