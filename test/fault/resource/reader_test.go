//go:build root

package resource

import (
	"fmt"
	"net"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"stockade/test/harness"
)

// lines is what a writer writes: 5 MB, more than all buffers on the way.
const lines = 20000

// writer waits for /go and writes numbered lines.
var writer = []string{"sh", "-c", fmt.Sprintf("until [ -e /go ]; do usleep 10000; done; seq -w 0 %d | sed 's/$/ %s/'", lines-1, strings.Repeat("x", 256))}

// unread is how many bytes have come that nobody has read.
func unread(t *testing.T, conn net.Conn) int {
	t.Helper()
	f, err := conn.(*net.UnixConn).File()
	must(t, err)
	defer f.Close()
	n, err := unix.IoctlGetInt(int(f.Fd()), unix.TIOCINQ)
	must(t, err)
	return n
}

// complete compares a log with what its writer wrote.
func complete(t *testing.T, s *harness.Server, id string) {
	t.Helper()
	got := strings.Split(s.Must(t, "logs", id), "\n")
	if len(got) != lines {
		t.Errorf("%d of %d lines in the log", len(got), lines)
	}
	for i, line := range got {
		if !strings.HasPrefix(line, fmt.Sprintf("%05d ", i)) {
			t.Fatalf("line %d is %.20q", i, line)
		}
	}
}

// ended waits for a container's good end.
func ended(t *testing.T, s *harness.Server, id string) {
	t.Helper()
	harness.Poll(t, "the writer to end", func() (string, bool) {
		got := s.Must(t, "inspect", "-f", "{{.State.Status}} {{.State.ExitCode}}", id)
		return got, got == "exited 0"
	})
}

// T-801: clients that follow, attach, exec, watch events or statistics and never read. Whoever only looks holds nothing
// up; whoever is attached holds up that container alone, and not for longer than they are there. No line is lost.
func TestNeverRead(t *testing.T) {
	s := harness.Get(t)
	before := s.Settled(t)
	followed := s.Must(t, append([]string{"run", "-d", "busybox"}, writer...)...)
	attached := s.Must(t, append([]string{"run", "-d", "busybox"}, writer...)...)
	quiet := s.Must(t, "run", "-d", "busybox", "sleep", "1000")
	gate, engine := s.PID(t, "gate"), s.PID(t, "engine")
	memGate, memEngine := memory(t, gate), memory(t, engine)
	const each = 20
	upgrade := func(path, body string) string {
		return fmt.Sprintf("POST %s HTTP/1.1\r\nHost: localhost\r\nConnection: Upgrade\r\nUpgrade: tcp\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n%s", path, len(body), body)
	}
	get := func(path string) string { return "GET " + path + " HTTP/1.1\r\nHost: localhost\r\n\r\n" }
	var follows, attaches, execs, others conns
	for _, c := range []*conns{&follows, &attaches, &execs, &others} {
		defer func() { c.close() }()
	}
	var execIDs []string
	for range each {
		follows.dial(t, s, s.User, get("/v1.51/containers/"+followed+"/logs?stdout=1&follow=1"))
		attaches.dial(t, s, s.User, upgrade("/v1.51/containers/"+attached+"/attach?stream=1&stdout=1", ""))
		others.dial(t, s, s.User, get("/v1.51/events"))
		others.dial(t, s, s.User, get("/v1.51/containers/"+quiet+"/stats"))
	}
	for range each / 4 {
		r := s.API(t, s.User, "POST", "/v1.51/containers/"+quiet+"/exec", `{"AttachStdout":true,"Cmd":["sh","-c","yes stockade-stockade-stockade | head -n 200000"]}`)
		_, id, _ := strings.Cut(r.Body, `"Id":"`)
		id, _, _ = strings.Cut(id, `"`)
		execIDs = append(execIDs, id)
		execs.dial(t, s, s.User, upgrade("/v1.51/exec/"+id+"/start", `{"Detach":false}`))
	}
	// All streams have begun before anything is written.
	for _, list := range []conns{follows, attaches, others, execs} {
		for _, conn := range list {
			harness.Poll(t, "the head of a stream", func() (string, bool) { return "", unread(t, conn) > 0 })
		}
	}
	for _, id := range []string{followed, attached} {
		s.Must(t, "exec", id, "touch", "/go")
	}
	// Those who follow hold nothing up.
	ended(t, s, followed)
	complete(t, s, followed)
	for kind, list := range map[string]conns{"follows": follows, "attaches": attaches, "execs": execs} {
		for _, conn := range list {
			harness.Poll(t, "control: unread output of "+kind, func() (string, bool) {
				n := unread(t, conn)
				return fmt.Sprint(n), n > 32<<10
			})
		}
	}
	served(t, s)
	if got := s.Must(t, "exec", quiet, "echo", "served"); got != "served" {
		t.Errorf("got %q", got)
	}
	for name, grown := range map[string]int64{"gate": memory(t, gate) - memGate, "engine": memory(t, engine) - memEngine} {
		t.Logf("%s: %d KiB more with %d clients that do not read", name, grown>>10, 4*each+each/4)
		if grown > 64<<20 {
			t.Errorf("the %s grew by %d MiB", name, grown>>20)
		}
	}
	// Control: who is attached does hold the writer up.
	if got := s.Must(t, "inspect", "-f", "{{.State.Status}}", attached); got != "running" {
		t.Errorf("control: the container with clients that do not read is %s", got)
	}
	for _, list := range []conns{follows, attaches, execs, others} {
		list.close()
	}
	ended(t, s, attached)
	complete(t, s, attached)
	for _, id := range execIDs {
		harness.Poll(t, "an exec whose client went to end", func() (string, bool) {
			r := s.API(t, s.User, "GET", "/v1.51/exec/"+id+"/json", nil)
			return r.Body, strings.Contains(r.Body, `"Running":false`)
		})
	}
	if s.PID(t, "gate") != gate || s.PID(t, "engine") != engine {
		t.Error("a process was started again")
	}
	s.Must(t, "rm", "-f", followed, attached, quiet)
	s.NoLeaks(t, before)
	harness.Poll(t, "the gate to close its ends", func() (string, bool) {
		n := descriptors(t, gate)
		return fmt.Sprint(n), n < 100
	})
}
