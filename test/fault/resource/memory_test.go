//go:build root

package resource

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"stockade/test/harness"
)

// group is a memory control group of the test's own.
type group struct {
	dir    string
	limit  string // file
	events string // file with a line "oom_kill N"
}

// memoryGroup makes a group whose processes may have nothing more than they have.
func memoryGroup(t *testing.T, name string) group {
	t.Helper()
	g := group{"/sys/fs/cgroup/memory/" + harness.Prefix + "-" + name, "memory.limit_in_bytes", "memory.oom_control"}
	if _, err := os.Stat("/sys/fs/cgroup/cgroup.controllers"); err == nil {
		g = group{"/sys/fs/cgroup/" + harness.Prefix + "-" + name, "memory.max", "memory.events"}
	}
	must(t, os.Mkdir(g.dir, 0o755))
	t.Cleanup(func() { g.remove(t) })
	must(t, os.WriteFile(filepath.Join(g.dir, g.limit), []byte("4096"), 0))
	return g
}

func (g group) add(pid int) error {
	return os.WriteFile(filepath.Join(g.dir, "cgroup.procs"), []byte(strconv.Itoa(pid)), 0)
}

// killed is how many processes the kernel has killed in the group.
func (g group) killed(t *testing.T) int {
	t.Helper()
	data, err := os.ReadFile(filepath.Join(g.dir, g.events))
	must(t, err)
	for line := range strings.Lines(string(data)) {
		if f := strings.Fields(line); len(f) == 2 && f[0] == "oom_kill" {
			n, err := strconv.Atoi(f[1])
			must(t, err)
			return n
		}
	}
	t.Fatalf("no oom_kill in %s: %s", g.events, data)
	return 0
}

// release lets what is in the group go: children of a killed process.
func (g group) release(t *testing.T) {
	t.Helper()
	data, err := os.ReadFile(filepath.Join(g.dir, "cgroup.procs"))
	must(t, err)
	for _, pid := range strings.Fields(string(data)) {
		err := os.WriteFile(filepath.Join(filepath.Dir(g.dir), "cgroup.procs"), []byte(pid), 0)
		if err != nil && !errors.Is(err, unix.ESRCH) {
			t.Fatal(err)
		}
	}
}

func (g group) remove(t *testing.T) {
	t.Helper()
	harness.Poll(t, "the group to be empty", func() (string, bool) {
		if _, err := os.Stat(g.dir); os.IsNotExist(err) {
			return "", true
		}
		g.release(t)
		err := os.Remove(g.dir)
		return fmt.Sprint(err), err == nil
	})
}

// T-801: the kernel kills each process for want of memory, in the middle of work. What was acknowledged stays.
func TestNoMemory(t *testing.T) {
	s := harness.Get(t)
	before := s.Settled(t)
	kept := s.Must(t, "run", "-d", "-v", "kept:/v", "busybox", "sh", "-c", "echo kept >/v/file; sleep 1000")
	pid := s.Must(t, "inspect", "-f", "{{.State.Pid}}", kept)
	made := map[string]bool{kept: true}
	for _, target := range []string{"gate", "engine", "mountd", "grantd", "netd", "cgroupd"} {
		t.Run(target, func(t *testing.T) {
			s := harness.Get(t)
			old := s.PID(t, target)
			g := memoryGroup(t, target)
			must(t, g.add(old))
			harness.Poll(t, "the kernel to kill the "+target, func() (string, bool) {
				if r := s.Docker(t, "create", "-v", s.User.Home+":/home", "-p", "127.0.0.1::80", "busybox", "true"); r.Code == 0 {
					id := strings.TrimSpace(r.Stdout)
					made[id] = true
					s.Docker(t, "start", id)
				}
				state, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", old))
				return string(state), err != nil || strings.Contains(string(state), ") Z ")
			})
			if n := g.killed(t); n == 0 {
				t.Error("control: the kernel has killed nothing for want of memory")
			}
			g.remove(t)
			harness.Get(t) // waits until it is healthy
			if got := s.Must(t, "run", "--rm", "-v", s.User.Home+":/home", "-p", "127.0.0.1::80", "busybox", "echo", "well"); got != "well" {
				t.Errorf("got %q", got)
			}
			if got := s.Must(t, "exec", kept, "cat", "/v/file"); got != "kept" {
				t.Errorf("got %q", got)
			}
			if got := s.Must(t, "inspect", "-f", "{{.State.Running}} {{.State.Pid}}", kept); got != "true "+pid {
				t.Errorf("got %s, want true %s", got, pid)
			}
		})
	}
	t.Run("shim", func(t *testing.T) {
		s := harness.Get(t)
		id := s.Must(t, "run", "-d", "busybox", "sh", "-c", "while :; do echo line; done")
		made[id] = true
		inside, err := strconv.Atoi(s.Must(t, "inspect", "-f", "{{.State.Pid}}", id))
		must(t, err)
		g := memoryGroup(t, "shim")
		must(t, g.add(int(status(t, inside, "PPid"))))
		harness.Poll(t, "the container to be reported dead", func() (string, bool) {
			s.Docker(t, "exec", id, "true") // the monitor needs memory for it
			got := s.Must(t, "inspect", "-f", "{{.State.Status}} {{.State.ExitCode}} {{.State.Pid}}", id)
			return got, got == "exited 137 0"
		})
		if n := g.killed(t); n == 0 {
			t.Error("control: the kernel has killed nothing for want of memory")
		}
		s.Must(t, "start", id)
	})
	there := map[string]bool{}
	for _, id := range strings.Fields(s.Must(t, "ps", "-aq", "--no-trunc")) {
		there[id] = true
	}
	var all []string
	for id := range made {
		if !there[id] {
			t.Errorf("container %s was acknowledged and is lost", id)
		}
	}
	for id := range there { // one may have been made whose answer was lost
		all = append(all, id)
	}
	s.Must(t, append([]string{"rm", "-f", "-v"}, all...)...)
	s.Must(t, "volume", "rm", "kept")
	s.NoLeaks(t, before)
}
