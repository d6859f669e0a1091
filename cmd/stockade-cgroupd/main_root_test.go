//go:build root

package main

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"

	"stockade/api/helper"
	"stockade/api/setting"
	"stockade/internal/boot"
	"stockade/internal/seqpacket"
)

const (
	role       = "STKT_ROLE"
	engineUID  = 54321
	subFirst   = 700000
	socket     = "@stkt-cgroupd"
	cgroupRoot = "/sys/fs/cgroup"
	parent     = "stkt-cgroupd-main"
)

func TestMain(m *testing.M) {
	runtime.LockOSThread()
	if os.Getenv(role) == "cgroupd" {
		main()
		return
	}
	if os.Geteuid() != 0 {
		fmt.Fprintln(os.Stderr, "needs root")
		os.Exit(1)
	}
	os.Exit(m.Run())
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
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

// makeParents makes our parent in some v1 hierarchies, as the supervisor does.
func makeParents(t *testing.T) {
	for _, c := range []string{"pids", "memory", "cpu", "freezer"} {
		dir := filepath.Join(cgroupRoot, c, parent)
		must(t, os.Mkdir(dir, 0o755))
		t.Cleanup(func() {
			until(t, "removal of "+dir, func() bool {
				_ = os.Remove(filepath.Join(dir, "box"))
				err := os.Remove(dir)
				return err == nil || errors.Is(err, os.ErrNotExist)
			})
		})
	}
}

// startCgroupd starts the real main as uid 0 without capabilities.
func startCgroupd(t *testing.T, listener *os.File) *exec.Cmd {
	t.Helper()
	text, err := boot.Encode(setting.Cgroupd{EngineUID: engineUID, Parent: parent, Root: cgroupRoot,
		Sub: setting.IDRange{First: subFirst, Count: 1 << 20}}, []string{"engine"})
	must(t, err)
	r, w, err := os.Pipe()
	must(t, err)
	_, err = w.Write(text)
	must(t, err)
	w.Close()
	defer r.Close()
	cmd := exec.Command("/proc/self/exe")
	cmd.Env, cmd.Stderr, cmd.ExtraFiles = []string{role + "=cgroupd"}, os.Stderr, []*os.File{r, listener}
	cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{}}
	result := make(chan error)
	go func() { // the thread's bounding set is the child's; the thread ends here
		runtime.LockOSThread()
		for c := uintptr(0); c <= unix.CAP_LAST_CAP; c++ {
			_ = unix.Prctl(unix.PR_CAPBSET_DROP, c, 0, 0, 0)
		}
		result <- cmd.Start()
	}()
	must(t, <-result)
	t.Cleanup(func() { _ = cmd.Process.Kill(); _ = cmd.Wait() })
	return cmd
}

func dial(t *testing.T) *seqpacket.Conn {
	t.Helper()
	result := make(chan error)
	var conn *seqpacket.Conn
	go func() {
		runtime.LockOSThread()
		_, _, errno := unix.RawSyscall(unix.SYS_SETRESUID, engineUID, engineUID, engineUID)
		if errno != 0 {
			result <- errno
			return
		}
		var err error
		conn, err = seqpacket.Dial(socket)
		result <- err
	}()
	must(t, <-result)
	must(t, seqpacket.Greet(conn))
	t.Cleanup(func() { conn.Close() })
	return conn
}

func call[A, Q any](t *testing.T, conn *seqpacket.Conn, op string, body Q, fds ...*os.File) helper.Answer[A] {
	t.Helper()
	_ = conn.SetDeadline(time.Now().Add(30 * time.Second))
	began := time.Now()
	must(t, conn.Send(helper.Request[Q]{Op: op, Body: body}, fds...))
	var answer helper.Answer[A]
	_, err := conn.Recv(&answer, 0)
	must(t, err)
	t.Logf("%s: %v", op, time.Since(began))
	return answer
}

func TestConfined(t *testing.T) {
	makeParents(t)
	fd, err := unix.Socket(unix.AF_UNIX, unix.SOCK_SEQPACKET|unix.SOCK_CLOEXEC, 0)
	must(t, err)
	must(t, unix.Bind(fd, &unix.SockaddrUnix{Name: socket}))
	must(t, unix.Listen(fd, 16))
	listener := os.NewFile(uintptr(fd), "listener")
	defer listener.Close()
	cmd := startCgroupd(t, listener)
	conn := dial(t)
	status, err := os.ReadFile(filepath.Join("/proc", fmt.Sprint(cmd.Process.Pid), "status"))
	must(t, err)
	for _, want := range []string{"NoNewPrivs:\t1", "Seccomp:\t2", "CapEff:\t0000000000000000", "CapPrm:\t0000000000000000",
		"CapBnd:\t0000000000000000", "CapInh:\t0000000000000000"} {
		if !slices.Contains(strings.Split(string(status), "\n"), want) {
			t.Errorf("status lacks %q", want)
		}
	}

	box := helper.CgroupCreate{ID: "box", Limits: helper.Limits{Memory: 32 << 20, MemorySwap: 32 << 20, Pids: 20, CPUShares: 512, BlkioWeight: 100}}
	created := call[helper.SetDone](t, conn, "create", box)
	if d := cmp.Diff([]string{"blkioWeight"}, created.Body.Skipped); d != "" || created.Class != "" {
		t.Fatalf("create: %s %s", d, created.Text)
	}
	sleeper := exec.Command("/bin/sleep", "600")
	sleeper.Dir = "/"
	sleeper.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: subFirst + 70000, Gid: subFirst}, Pdeathsig: syscall.SIGKILL}
	must(t, sleeper.Start())
	defer func() { _ = sleeper.Process.Kill(); _ = sleeper.Wait() }()
	pfd, err := unix.PidfdOpen(sleeper.Process.Pid, 0)
	must(t, err)
	pidfd := os.NewFile(uintptr(pfd), "pidfd")
	defer pidfd.Close()
	if a := call[helper.None](t, conn, "attach", helper.CgroupAttach{ID: "box", PID: sleeper.Process.Pid}, pidfd); a.Class != "" {
		t.Fatalf("attach: %s", a.Text)
	}
	if a := call[helper.None](t, conn, "attach", helper.CgroupAttach{ID: "box", PID: os.Getpid()}, pidfd); a.Class != helper.Denied {
		t.Errorf("attach of another process: %+v", a)
	}
	for _, op := range []string{"freeze", "thaw"} {
		if a := call[helper.None](t, conn, op, helper.CgroupID{ID: "box"}); a.Class != "" {
			t.Errorf("%s: %s", op, a.Text)
		}
	}
	st := call[helper.CgroupStat](t, conn, "stat", helper.CgroupID{ID: "box"})
	if st.Class != "" || st.Body.Pids != 1 || st.Body.PidsLimit != 20 || st.Body.MemoryLimit != 32<<20 || st.Body.Frozen {
		t.Errorf("stat: %+v", st)
	}
	pids := call[helper.CgroupPids](t, conn, "pids", helper.CgroupID{ID: "box"})
	if d := cmp.Diff([]int{sleeper.Process.Pid}, pids.Body.Pids); d != "" {
		t.Error(d)
	}
	list := call[helper.CgroupList](t, conn, "list", helper.None{})
	if d := cmp.Diff([]string{"box"}, list.Body.IDs); d != "" || list.Class != "" {
		t.Error(d, list.Text)
	}
	if a := call[helper.None](t, conn, "remove", helper.CgroupID{ID: "box"}); a.Class != helper.Conflict {
		t.Errorf("remove of a group in use: %+v", a)
	}
	_ = sleeper.Process.Kill()
	_ = sleeper.Wait()
	until(t, "remove", func() bool { return call[helper.None](t, conn, "remove", helper.CgroupID{ID: "box"}).Class == "" })
	must(t, cmd.Process.Signal(unix.SIGTERM))
	if err := cmd.Wait(); err != nil {
		t.Errorf("end: %v", err)
	}
}
