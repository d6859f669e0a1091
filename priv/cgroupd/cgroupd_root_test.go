//go:build root

package cgroupd

import (
	"bufio"
	"context"
	"errors"
	"io"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"stockade/api/helper"
	"stockade/api/setting"
)

const (
	engineUID = 54321
	subFirst  = 700000
)

// newV1 makes a parent in each v1 hierarchy of this host.
func newV1(t *testing.T) *Server {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Fatal("needs root")
	}
	const root, parent = "/sys/fs/cgroup", "stkt-cgroupd"
	for _, c := range controllers {
		above := mountOf(root, c)
		dir := filepath.Join(above, parent)
		if err := os.Mkdir(dir, 0o755); errors.Is(err, os.ErrNotExist) {
			continue
		} else if err != nil && !errors.Is(err, os.ErrExist) {
			t.Fatalf("this test needs a writable cgroup v1 tree: %v", err)
		}
		t.Cleanup(func() {
			until(t, "removal of "+dir, func() bool {
				groups, _ := filepath.Glob(dir + "/*/cgroup.procs")
				for _, g := range groups {
					_ = os.Remove(filepath.Dir(g))
				}
				err := os.Remove(dir)
				return err == nil || errors.Is(err, os.ErrNotExist)
			})
		})
		if c == "cpuset" {
			for _, f := range []string{"cpuset.cpus", "cpuset.mems"} {
				text, err := os.ReadFile(filepath.Join(above, f))
				if err == nil {
					err = os.WriteFile(filepath.Join(dir, f), text, 0)
				}
				if err != nil {
					t.Fatal(err)
				}
			}
		}
	}
	s, err := New(setting.Cgroupd{EngineUID: engineUID, Parent: parent, Root: root, Sub: setting.IDRange{First: subFirst, Count: 1 << 20}},
		slog.New(slog.NewTextHandler(io.Discard, nil)))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(s.Close)
	return s
}

func until(t *testing.T, what string, f func() bool) {
	t.Helper()
	for end := time.Now().Add(30 * time.Second); time.Now().Before(end); time.Sleep(5 * time.Millisecond) {
		if f() {
			return
		}
	}
	t.Fatalf("%s did not happen", what)
}

// child starts a shell as uid that waits for a line and then runs the script.
type child struct {
	*exec.Cmd
	in    io.WriteCloser
	out   *bufio.Reader
	pidfd *os.File
}

func start(t *testing.T, uid uint32, script string) *child {
	t.Helper()
	c := &child{Cmd: exec.Command("/bin/sh", "-c", "read a; "+script)}
	c.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: uid, Gid: uid}, Pdeathsig: syscall.SIGKILL}
	c.Dir = "/"
	var err error
	if c.in, err = c.StdinPipe(); err != nil {
		t.Fatal(err)
	}
	out, err := c.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	c.out = bufio.NewReader(out)
	if err := c.Start(); err != nil {
		t.Fatal(err)
	}
	fd, err := unix.PidfdOpen(c.Process.Pid, 0)
	if err != nil {
		t.Fatal(err)
	}
	c.pidfd = os.NewFile(uintptr(fd), "pidfd")
	t.Cleanup(func() { _ = c.Process.Kill(); _ = c.Wait(); c.pidfd.Close() })
	return c
}

func (c *child) run(t *testing.T) string {
	t.Helper()
	if _, err := io.WriteString(c.in, "go\n"); err != nil {
		t.Fatal(err)
	}
	text, _ := io.ReadAll(c.out)
	_ = c.Wait()
	return string(text)
}

func attach(s *Server, id string, c *child) error {
	_, _, err := s.attach(context.Background(), helper.CgroupAttach{ID: id, PID: c.Process.Pid}, []*os.File{c.pidfd})
	return err
}

func create(t *testing.T, s *Server, id string, l helper.Limits) []string {
	t.Helper()
	began := time.Now()
	done, _, err := s.create(context.Background(), helper.CgroupCreate{ID: id, Limits: l}, nil)
	if err != nil {
		t.Fatal(err)
	}
	t.Logf("create: %v", time.Since(began))
	return done.Skipped
}

func TestV1Memory(t *testing.T) {
	s := newV1(t)
	if skipped := create(t, s, "mem", helper.Limits{Memory: 16 << 20, MemorySwap: 16 << 20}); len(skipped) != 0 {
		t.Logf("skipped: %v", skipped)
	}
	c := start(t, subFirst+70000, "head -c 64M /dev/zero | tail -c 64M | wc -c; echo end")
	began := time.Now()
	if err := attach(s, "mem", c); err != nil {
		t.Fatal(err)
	}
	t.Logf("attach: %v", time.Since(began))
	c.run(t)
	began = time.Now()
	st, _, err := s.stat(context.Background(), helper.CgroupID{ID: "mem"}, nil)
	if err != nil {
		t.Fatal(err)
	}
	t.Logf("stat: %v", time.Since(began))
	if st.OOMKills == 0 || st.MemoryLimit != 16<<20 || st.MemoryMax > 16<<20 || st.CPUTotal == 0 {
		t.Errorf("stat: %+v", st)
	}
}

func TestV1MemoryOrder(t *testing.T) {
	s := newV1(t)
	create(t, s, "mem", helper.Limits{})
	set := func(mem, swap int64) error {
		_, _, err := s.setLimits(context.Background(), helper.CgroupSet{ID: "mem", Limits: helper.Limits{Memory: mem, MemorySwap: swap}}, nil)
		return err
	}
	for _, c := range []struct {
		name      string
		mem, swap int64
		want      helper.Class
		limit     uint64
	}{
		{"first", 32 << 20, 64 << 20, "", 32 << 20},
		{"grow both", 128 << 20, 256 << 20, "", 128 << 20},
		{"shrink both", 16 << 20, 16 << 20, "", 16 << 20},
		{"memory above swap", 32 << 20, 0, helper.Invalid, 16 << 20},
		{"no swap limit", 32 << 20, -1, "", 32 << 20},
		{"memory alone", 64 << 20, 0, "", 64 << 20},
		{"swap below memory", 0, 32 << 20, helper.Invalid, 64 << 20},
	} {
		if err := set(c.mem, c.swap); class(err) != c.want {
			t.Errorf("%s: %v", c.name, err)
		}
		st, _, err := s.stat(context.Background(), helper.CgroupID{ID: "mem"}, nil)
		if err != nil || st.MemoryLimit != c.limit {
			t.Errorf("%s: limit %d, %v", c.name, st.MemoryLimit, err)
		}
	}
}

func TestV1PutsBack(t *testing.T) {
	s := newV1(t)
	create(t, s, "back", helper.Limits{Memory: 32 << 20, Pids: 50})
	_, _, err := s.setLimits(context.Background(), helper.CgroupSet{ID: "back", Limits: helper.Limits{Memory: 24 << 20, MemorySwap: -1, CPUShares: 512, CpusetCPUs: "4000"}}, nil)
	if err == nil {
		t.Fatal("CPU 4000 was accepted")
	}
	for file, want := range map[string]string{"memory/memory.limit_in_bytes": strconv.Itoa(32 << 20), "cpu/cpu.shares": "1024"} {
		ctrl, name, _ := strings.Cut(file, "/")
		if got, err := s.tree.by[ctrl].read("back/" + name); err != nil || got != want {
			t.Errorf("%s is %q, want %q (%v)", file, got, want, err)
		}
	}
	if _, _, err := s.create(context.Background(), helper.CgroupCreate{ID: "fresh", Limits: helper.Limits{CpusetCPUs: "4000"}}, nil); err == nil {
		t.Error("CPU 4000 was accepted")
	}
	if ok, _ := s.tree.has("fresh"); ok {
		t.Error("a refused create left its group")
	}
}

func TestV1Pids(t *testing.T) {
	s := newV1(t)
	create(t, s, "pids", helper.Limits{Pids: 5})
	c := start(t, engineUID, "for i in 1 2 3 4 5 6 7 8; do sleep 60 & done; echo all")
	if err := attach(s, "pids", c); err != nil {
		t.Fatal(err)
	}
	got, _, err := s.pids(context.Background(), helper.CgroupID{ID: "pids"}, nil)
	if err != nil || len(got.Pids) != 1 || got.Pids[0] != c.Process.Pid {
		t.Errorf("pids: %v, %v", got, err)
	}
	if _, _, err := s.remove(context.Background(), helper.CgroupID{ID: "pids"}, nil); class(err) != helper.Conflict {
		t.Errorf("remove of a group with a process: %v", err)
	}
	if _, err := io.WriteString(c.in, "go\n"); err != nil {
		t.Fatal(err)
	}
	until(t, "limit", func() bool {
		st, _, err := s.stat(context.Background(), helper.CgroupID{ID: "pids"}, nil)
		if err != nil {
			t.Fatal(err)
		}
		if st.Pids > 5 {
			t.Fatalf("%d processes", st.Pids)
		}
		return st.Pids == 5 && st.PidsLimit == 5
	})
	until(t, "end", func() bool {
		got, _, err := s.pids(context.Background(), helper.CgroupID{ID: "pids"}, nil)
		if err != nil {
			t.Fatal(err)
		}
		for _, pid := range got.Pids {
			_ = unix.Kill(pid, unix.SIGKILL)
		}
		return len(got.Pids) == 0
	})
	_ = c.Wait()
	until(t, "remove", func() bool {
		_, _, err := s.remove(context.Background(), helper.CgroupID{ID: "pids"}, nil)
		return err == nil
	})
}

func TestV1Freeze(t *testing.T) {
	s := newV1(t)
	ctx := context.Background()
	create(t, s, "ice", helper.Limits{})
	c := start(t, engineUID, "echo done")
	if err := attach(s, "ice", c); err != nil {
		t.Fatal(err)
	}
	began := time.Now()
	if _, _, err := s.freeze(ctx, helper.CgroupID{ID: "ice"}, nil); err != nil {
		t.Fatal(err)
	}
	t.Logf("freeze: %v", time.Since(began))
	st, _, err := s.stat(ctx, helper.CgroupID{ID: "ice"}, nil)
	if err != nil || !st.Frozen {
		t.Errorf("not frozen: %v", err)
	}
	if _, _, err := s.freeze(ctx, helper.CgroupID{ID: "ice"}, nil); err != nil {
		t.Errorf("freeze again: %v", err)
	}
	for range 2 {
		if _, _, err := s.thaw(ctx, helper.CgroupID{ID: "ice"}, nil); err != nil {
			t.Error(err)
		}
	}
	if got := c.run(t); got != "done\n" {
		t.Errorf("%q", got)
	}
	if _, _, err := s.kill(ctx, helper.CgroupID{ID: "ice"}, nil); class(err) != helper.Invalid {
		t.Errorf("kill on v1: %v", err)
	}
}

// TestAttackAttach is T-704.
func TestAttackAttach(t *testing.T) {
	s := newV1(t)
	ctx := context.Background()
	create(t, s, "box", helper.Limits{})
	mine, foreign, root := start(t, subFirst+1, ":"), start(t, 4242, ":"), start(t, 0, ":")
	one, err := unix.PidfdOpen(1, 0)
	if err != nil {
		t.Fatal(err)
	}
	init := os.NewFile(uintptr(one), "pidfd")
	defer init.Close()
	dead := start(t, engineUID, ":")
	dead.run(t)
	null, err := os.Open("/dev/null")
	if err != nil {
		t.Fatal(err)
	}
	defer null.Close()
	for _, c := range []struct {
		name string
		q    helper.CgroupAttach
		fd   *os.File
		want helper.Class
	}{
		{"pid 1", helper.CgroupAttach{ID: "box", PID: 1}, init, helper.Denied},
		{"another user's", helper.CgroupAttach{ID: "box", PID: foreign.Process.Pid}, foreign.pidfd, helper.Denied},
		{"root's", helper.CgroupAttach{ID: "box", PID: root.Process.Pid}, root.pidfd, helper.Denied},
		{"our own", helper.CgroupAttach{ID: "box", PID: os.Getpid()}, mine.pidfd, helper.Denied},
		{"pidfd of another process", helper.CgroupAttach{ID: "box", PID: foreign.Process.Pid}, mine.pidfd, helper.Denied},
		{"pid 0", helper.CgroupAttach{ID: "box"}, mine.pidfd, helper.Denied},
		{"no pidfd", helper.CgroupAttach{ID: "box", PID: mine.Process.Pid}, null, helper.Invalid},
		{"ended", helper.CgroupAttach{ID: "box", PID: dead.Process.Pid}, dead.pidfd, helper.NotFound},
		{"unknown group", helper.CgroupAttach{ID: "none", PID: mine.Process.Pid}, mine.pidfd, helper.NotFound},
		{"group above", helper.CgroupAttach{ID: "..", PID: mine.Process.Pid}, mine.pidfd, helper.Invalid},
		{"group elsewhere", helper.CgroupAttach{ID: "../../x", PID: mine.Process.Pid}, mine.pidfd, helper.Invalid},
		{"file as group", helper.CgroupAttach{ID: "tasks", PID: mine.Process.Pid}, mine.pidfd, helper.NotFound},
	} {
		if _, _, err := s.attach(ctx, c.q, []*os.File{c.fd}); class(err) != c.want {
			t.Errorf("%s: %v, want %s", c.name, err, c.want)
		}
	}
	if _, _, err := s.create(ctx, helper.CgroupCreate{ID: "tasks"}, nil); class(err) != helper.Invalid {
		t.Errorf("create of a group named as a file: %v", err)
	}
	got, _, err := s.pids(ctx, helper.CgroupID{ID: "box"}, nil)
	if err != nil || len(got.Pids) != 0 {
		t.Errorf("pids: %v, %v", got, err)
	}
	if err := attach(s, "box", mine); err != nil {
		t.Errorf("control: %v", err)
	}
}
