//go:build root

package fault

import (
	"fmt"
	"os"
	"strconv"
	"strings"
	"testing"
	"time"

	"stockade/test/harness"
)

// first is the first process of a container.
func first(t *testing.T, s *harness.Server, name string) int {
	t.Helper()
	pid, err := strconv.Atoi(s.Must(t, "inspect", "-f", "{{.State.Pid}}", name))
	if err != nil {
		t.Fatal(err)
	}
	return pid
}

func idMap(t *testing.T, s *harness.Server, name string) string {
	t.Helper()
	data, err := os.ReadFile(fmt.Sprintf("/proc/%d/uid_map", first(t, s, name)))
	if err != nil {
		t.Fatal(err)
	}
	return string(data)
}

// T-503, T-801: kill -9 of the engine with containers that share namespaces. They are found again, can be joined again,
// and whichever of them ends while there is no engine leaves nothing running and gives no ids away.
func TestKillWithJoiners(t *testing.T) {
	s := harness.Get(t)
	before := s.Settled(t)
	target := s.Must(t, "run", "-d", "--ipc=shareable", "--name", "target", "busybox", "sleep", "1000")
	run := func(name string, args ...string) string {
		return s.Must(t, append([]string{"run", "-d", "--name", name}, args...)...)
	}
	network := run("network", "--network=container:target", "busybox", "sleep", "1000")
	processes := run("processes", "--pid=container:target", "busybox", "sleep", "1000")
	rest := run("rest", "--pid=container:target", "busybox", "sh", "-c", "sleep 3333 & exec sleep 1000")
	s.KillAndWait(t, "engine")
	taken := idMap(t, s, target)
	for _, id := range []string{network, processes, rest} {
		if got := idMap(t, s, id); got != taken {
			t.Errorf("ids %s, the target's %s", got, taken)
		}
		s.Must(t, "exec", id, "true")
	}
	out := s.Must(t, "run", "--rm", "--network=container:target", "--pid=container:target", "--ipc=container:target", "busybox", "ps")
	if strings.Count(out, "sleep") != 4 {
		t.Errorf("a container that joined after the kill sees %s", out)
	}

	// One ends whose rest no kernel ends.
	fd, ok := hold(t, first(t, s, rest))
	if !ok {
		t.Fatal("no process")
	}
	s.Kill(t, "engine")
	kill(t, fd)
	if got := s.Must(t, "wait", rest); got != "137" {
		t.Errorf("exit code %s", got)
	}
	if out := s.Must(t, "exec", target, "ps"); strings.Contains(out, "sleep 3333") {
		t.Errorf("left: %s", out)
	}

	// The target ends.
	if fd, ok = hold(t, first(t, s, target)); !ok {
		t.Fatal("no process")
	}
	s.Kill(t, "engine")
	kill(t, fd)
	for _, id := range []string{target, processes} {
		if got := s.Must(t, "wait", id); got != "137" {
			t.Errorf("exit code %s", got)
		}
	}
	if got := s.Must(t, "exec", network, "echo", "well"); got != "well" {
		t.Errorf("the joiner of the network: %q", got)
	}
	for range 6 {
		id := s.Must(t, "run", "-d", "busybox", "sleep", "1000")
		if idMap(t, s, id) == taken {
			t.Errorf("the ids %s have a second owner", taken)
		}
	}
	clear(t, s)
	s.NoLeaks(t, before)
}

// T-801: kill -9 of the engine at random moments of starts that join, and of the helper that finds their processes.
func TestKillWhileJoining(t *testing.T) {
	s := harness.Get(t)
	random := seeded(t)
	before := s.Settled(t)
	for i := range 6 {
		name := fmt.Sprintf("joining-%d", i)
		done := make(chan struct{})
		go func() {
			defer close(done)
			mode := "container:" + name
			_ = docker(s, nil, "run", "-d", "--ipc=shareable", "--name", name, "busybox", "sleep", "1000")
			for j := range 4 {
				_ = docker(s, nil, "run", "-d", "--name", fmt.Sprintf("%s-%d", name, j), "--network="+mode, "--pid="+mode, "--ipc="+mode, "busybox", "sh", "-c", "sleep 1000 & sleep 1000")
			}
			_ = docker(s, nil, "rm", "-f", name)
		}()
		time.Sleep(time.Duration(random.IntN(1500)) * time.Millisecond)
		s.KillAndWait(t, []string{"engine", "engine", "cgroupd"}[i%3])
		<-done
		if got := s.Must(t, "run", "--rm", "busybox", "echo", "well"); got != "well" {
			t.Errorf("got %q", got)
		}
	}
	clear(t, s)
	s.NoLeaks(t, before)
}
