//go:build root

package fault

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"testing"
	"time"

	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"stockade/internal/demoimage"
	"stockade/test/harness"
)

func command(s *harness.Server, args ...string) (*exec.Cmd, context.CancelFunc) {
	ctx, cancel := context.WithTimeout(context.Background(), harness.Patience)
	return s.Command(ctx, s.User, s.DockerPath(), args...), cancel
}

// image is an archive of a small image.
func image(t *testing.T, name string) []byte {
	t.Helper()
	var b bytes.Buffer
	if err := demoimage.Write(&b, []demoimage.Image{{
		Tags: []string{"fault/" + name + ":latest"}, Config: ocispec.ImageConfig{Cmd: []string{"true"}},
		Layers: [][]demoimage.File{{{Name: "file", Mode: 0o644, Body: bytes.Repeat([]byte(name), 1<<16)}}},
	}}); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

// T-702, T-801: kill -9 of each process at a random moment of work. Afterwards the server is well, everything that was
// acknowledged is there, and when all of it is removed nothing is left.
func TestKillDuringWork(t *testing.T) {
	// mountd and grantd are started again together, after longer and longer pauses.
	rounds := map[string]int{"gate": 4, "engine": 4, "mountd": 3, "grantd": 3, "netd": 4, "cgroupd": 4, "supervisor": 4}
	for _, target := range []string{"gate", "engine", "mountd", "grantd", "netd", "cgroupd", "supervisor"} {
		t.Run(target, func(t *testing.T) {
			s := harness.Get(t)
			random := seeded(t)
			before := s.Settled(t)
			for i := range rounds[target] {
				name := fmt.Sprintf("%s-%d", target, i)
				archive := image(t, name)
				done := make(chan ledger, 1)
				go func() { done <- work(t, s, name, archive) }()
				time.Sleep(time.Duration(random.IntN(2000)) * time.Millisecond)
				if target == "supervisor" {
					s.Kill(t, target)
					if err := s.Up(); err != nil {
						t.Fatal(err)
					}
				} else {
					s.KillAndWait(t, target)
				}
				l := <-done
				l.check(t, s)
				// The server works again as if nothing had been.
				if got := s.Must(t, "run", "--rm", "-p", "127.0.0.1::80", "busybox", "echo", "well"); got != "well" {
					t.Errorf("got %q", got)
				}
			}
			clear(t, s)
			s.NoLeaks(t, before)
		})
	}
}

// shims returns a pidfd of every shim, those of prepared slots included.
func shims(t *testing.T, s *harness.Server) []int {
	t.Helper()
	var fds []int
	for _, entry := range s.Census(t)[harness.KindShims] { // "name(pid) uid …"
		name, rest, _ := strings.Cut(entry, "(")
		number, _, _ := strings.Cut(rest, ")")
		pid, err := strconv.Atoi(number)
		if err != nil {
			t.Fatal(err)
		}
		if name == "stockade-shim" {
			if fd, ok := hold(t, pid); ok {
				fds = append(fds, fd)
			}
		}
	}
	return fds
}

// T-801: everything is killed at once, as by a power cut, at a random moment of work; only the disk remains.
func TestKillEverything(t *testing.T) {
	s := harness.Get(t)
	random := seeded(t)
	before := s.Settled(t)
	for i := range 4 {
		name := fmt.Sprintf("everything-%d", i)
		archive := image(t, name)
		done := make(chan ledger, 1)
		go func() { done <- work(t, s, name, archive) }()
		time.Sleep(time.Duration(random.IntN(2000)) * time.Millisecond)
		st, err := s.Status()
		if err != nil {
			t.Fatal(err)
		}
		var fds []int
		for _, p := range st.Processes { // the supervisor is the first: it starts no other one again
			if fd, ok := hold(t, p.PID); ok {
				fds = append(fds, fd)
			}
		}
		for _, fd := range append(fds, shims(t, s)...) {
			kill(t, fd)
		}
		if err := s.Up(); err != nil {
			t.Fatal(err)
		}
		l := <-done
		l.check(t, s)
		if got := s.Must(t, "run", "--rm", "busybox", "echo", "well"); got != "well" {
			t.Errorf("got %q", got)
		}
		if there := objects(t, s); there["container "+name] {
			if got := s.Must(t, "start", name); got != name {
				t.Errorf("start after the cut: %q", got)
			}
		}
	}
	clear(t, s)
	s.NoLeaks(t, before)
}

// T-801: a killed shim takes its container along, which is reported, can be started again and removed.
func TestKillShim(t *testing.T) {
	s := harness.Get(t)
	before := s.Settled(t)
	id := s.Must(t, "run", "-d", "-p", "127.0.0.1::80", "busybox", "sleep", "1000")
	pid, err := strconv.Atoi(s.Must(t, "inspect", "-f", "{{.State.Pid}}", id))
	if err != nil {
		t.Fatal(err)
	}
	for range 2 {
		inside, ok := hold(t, pid)
		if !ok {
			t.Fatal("the container's process has ended")
		}
		shim, ok := hold(t, parent(t, pid))
		if !ok {
			t.Fatal("the shim has ended")
		}
		kill(t, shim)
		harness.Poll(t, "the container to be reported dead", func() (string, bool) {
			got := s.Must(t, "inspect", "-f", "{{.State.Status}} {{.State.Running}} {{.State.ExitCode}} {{.State.Pid}}", id)
			return got, got == "exited false 137 0"
		})
		harness.Poll(t, "the container's process to end", func() (string, bool) {
			state, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
			return string(state), err != nil || strings.Contains(string(state), ") Z ")
		})
		kill(t, inside)
		s.Must(t, "start", id)
		if pid, err = strconv.Atoi(s.Must(t, "inspect", "-f", "{{.State.Pid}}", id)); err != nil {
			t.Fatal(err)
		}
	}
	s.Must(t, "rm", "-f", id)
	// Those of prepared slots, too: the next starts do not depend on them.
	for _, fd := range shims(t, s) {
		kill(t, fd)
	}
	for range 4 {
		if got := s.Must(t, "run", "--rm", "busybox", "echo", "well"); got != "well" {
			t.Errorf("got %q", got)
		}
	}
	s.NoLeaks(t, before)
}

// parent is the parent of a process.
func parent(t *testing.T, pid int) int {
	t.Helper()
	data, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	if err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(string(data)) {
		if rest, ok := strings.CutPrefix(line, "PPid:"); ok {
			n, err := strconv.Atoi(strings.TrimSpace(rest))
			if err != nil {
				t.Fatal(err)
			}
			return n
		}
	}
	t.Fatal("no parent")
	return 0
}

// T-801: no line that a container wrote is lost or twice in its log while gate and engine are killed.
func TestNoLogLineIsLost(t *testing.T) {
	s := harness.Get(t)
	random := seeded(t)
	id := s.Must(t, "run", "-d", "busybox", "sh", "-c", "i=0; while :; do echo $i; i=$((i+1)); usleep 1000; done")
	t.Cleanup(func() { s.Must(t, "rm", "-f", id) })
	for i := range 6 {
		time.Sleep(time.Duration(random.IntN(300)) * time.Millisecond)
		s.KillAndWait(t, []string{"engine", "gate"}[i%2])
	}
	s.Must(t, "stop", "-t", "0", id)
	lines := strings.Fields(s.Must(t, "logs", id))
	if len(lines) < 100 {
		t.Fatalf("control: only %d lines", len(lines))
	}
	for i, line := range lines {
		if line != strconv.Itoa(i) {
			t.Fatalf("line %d of %d is %q", i, len(lines), line)
		}
	}
}

// T-801: an ordered end leaves nothing on the host, and the next start has everything.
func TestDownAndUp(t *testing.T) {
	s := harness.Get(t)
	before := s.Settled(t)
	s.Must(t, "run", "-d", "--name", "always", "--restart", "always", "-v", "kept:/v", "-p", "127.0.0.1::80", "busybox", "sh", "-c", "date >>/v/starts; sleep 1000")
	s.Must(t, "run", "-d", "--name", "once", "busybox", "sleep", "1000")
	s.Must(t, "create", "--name", "never", "busybox", "true")
	there := objects(t, s)
	pid := s.PID(t, "supervisor")
	fd, ok := hold(t, pid)
	if !ok {
		t.Fatal("no supervisor")
	}
	if err := terminate(fd); err != nil {
		t.Fatal(err)
	}
	harness.Poll(t, "the supervisor to end", func() (string, bool) {
		data, _ := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
		return string(data), len(data) == 0 || strings.Contains(string(data), ") Z ")
	})
	for kind, list := range s.Census(t) {
		if kind == harness.KindRun && len(list) == 1 && strings.HasSuffix(list[0], "/supervisor.lock") {
			continue
		}
		if len(list) != 0 {
			t.Errorf("left: %s: %q", kind, list)
		}
	}
	if err := s.Up(); err != nil {
		t.Fatal(err)
	}
	after := objects(t, s)
	for name := range there {
		if !after[name] {
			t.Errorf("%s is lost", name)
		}
	}
	harness.Poll(t, "the container that always runs", func() (string, bool) {
		r := s.Docker(t, "exec", "always", "sh", "-c", "wc -l </v/starts")
		return r.String(), strings.TrimSpace(r.Stdout) == "2"
	})
	if got := s.Must(t, "inspect", "-f", "{{.State.Running}}", "once"); got != "false" {
		t.Errorf("the container without a restart policy runs: %s", got)
	}
	clear(t, s)
	s.NoLeaks(t, before)
}
