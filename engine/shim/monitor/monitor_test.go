package monitor

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"stockade/engine/shim"
)

// The test binary is also the monitor and the OCI runtime.
func TestMain(m *testing.M) {
	switch {
	case len(os.Args) == 2 && strings.HasPrefix(os.Args[1], "/"):
		if err := Main(os.Args[1:]); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		os.Exit(0)
	case len(os.Args) > 2 && os.Args[1] == "fake-runtime":
		fakeRuntime(os.Args[2], os.Args[3:])
	}
	os.Exit(m.Run())
}

// fakeRuntime starts a shell as the container's first process, which waits at the fifo as a real one would.
func fakeRuntime(mode string, args []string) {
	fail := func(text string) {
		_ = os.WriteFile("runtime.log", []byte(`{"level":"error","msg":"`+text+`"}`+"\n"), 0o600)
		os.Exit(1)
	}
	script := args[0]
	switch mode {
	case "create":
		_ = unix.Mkfifo("fifo", 0o600)
		script = `printf 0 >fifo; ` + script
	case "exec":
	default:
		fail("exec: \\\"x\\\": executable file not found in $PATH")
	}
	cmd := exec.Command("/bin/sh", "-c", script)
	cmd.Stdin, cmd.Stdout, cmd.Stderr = os.Stdin, os.Stdout, os.Stderr
	if err := cmd.Start(); err != nil {
		fail(err.Error())
	}
	if err := os.WriteFile(args[1], []byte(fmt.Sprint(cmd.Process.Pid)), 0o600); err != nil {
		fail(err.Error())
	}
	os.Exit(0)
}

// start runs a monitor on a new bundle and connects to it.
func start(t *testing.T) (string, *shim.Client) {
	t.Helper()
	bundle := t.TempDir()
	l, err := net.ListenUnix("unix", &net.UnixAddr{Name: filepath.Join(bundle, shim.SocketFile), Net: "unix"})
	if err != nil {
		t.Fatal(err)
	}
	l.SetUnlinkOnClose(false)
	file, err := l.File()
	if err != nil {
		t.Fatal(err)
	}
	l.Close()
	cmd := exec.Command(os.Args[0], bundle)
	cmd.ExtraFiles = []*os.File{file}
	cmd.Stderr = os.Stderr
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	file.Close()
	t.Cleanup(func() {
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
	})
	c, err := shim.Connect(t.Context(), bundle)
	if err != nil {
		t.Fatal(err)
	}
	return bundle, c
}

func create(t *testing.T, bundle string, c *shim.Client, script string, set func(*shim.Create)) error {
	t.Helper()
	order := shim.Create{Fifo: "fifo", Log: shim.Log{Path: filepath.Join(bundle, "log")}}
	order.Run = shim.Run{Argv: []string{os.Args[0], "fake-runtime", "create", script, "pid"}, PIDFile: "pid", LogFile: "runtime.log", UID: os.Getuid(), GID: os.Getgid()}
	if set != nil {
		set(&order)
	}
	_, err := c.Do(t.Context(), shim.Request{Op: shim.OpCreate, Create: &order})
	return err
}

func waitExit(t *testing.T, ch <-chan shim.Exit) shim.Exit {
	t.Helper()
	select {
	case e := <-ch:
		return e
	case <-time.After(30 * time.Second):
		t.Fatal("no exit")
		return shim.Exit{}
	}
}

func TestExitCodeAndLog(t *testing.T) {
	bundle, c := start(t)
	if err := create(t, bundle, c, `echo out; echo err >&2; exit 7`, nil); err != nil {
		t.Fatal(err)
	}
	if _, err := c.Do(t.Context(), shim.Request{Op: shim.OpStart}); err != nil {
		t.Fatal(err)
	}
	if e := waitExit(t, c.Exit()); e.Code != 7 {
		t.Errorf("exit code %d, want 7", e.Code)
	}
	if _, err := os.Stat(filepath.Join(bundle, shim.ExitFile)); err != nil {
		t.Errorf("no exit file: %v", err)
	}
	if n := len(readEntries(t, filepath.Join(bundle, "log"))); n != 2 {
		t.Errorf("%d log entries, want 2", n)
	}
}

func TestSignalledExit(t *testing.T) {
	bundle, c := start(t)
	if err := create(t, bundle, c, `kill -9 $$`, nil); err != nil {
		t.Fatal(err)
	}
	if _, err := c.Do(t.Context(), shim.Request{Op: shim.OpStart}); err != nil {
		t.Fatal(err)
	}
	if e := waitExit(t, c.Exit()); e.Code != 137 {
		t.Errorf("exit code %d, want 137", e.Code)
	}
}

func TestRuntimeErrorIsTold(t *testing.T) {
	bundle, c := start(t)
	err := create(t, bundle, c, "true", func(o *shim.Create) { o.Run.Argv[2] = "refuse" })
	if err == nil || !strings.Contains(err.Error(), "executable file not found") {
		t.Errorf("error %v", err)
	}
}

func TestAttachFeedsAndReads(t *testing.T) {
	bundle, c := start(t)
	if err := create(t, bundle, c, `cat`, func(o *shim.Create) { o.Run.Stdin, o.Run.StdinOnce = true, true }); err != nil {
		t.Fatal(err)
	}
	s, err := shim.OpenStream(t.Context(), bundle, shim.Open{Stdin: true, Stdout: true, Stderr: true})
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	if _, err := c.Do(t.Context(), shim.Request{Op: shim.OpStart}); err != nil {
		t.Fatal(err)
	}
	if _, err := io.WriteString(s, "hello"); err != nil {
		t.Fatal(err)
	}
	if err := s.CloseWrite(); err != nil {
		t.Fatal(err)
	}
	var out strings.Builder
	if _, err := s.WriteTo(&out); err != nil {
		t.Fatal(err)
	}
	if want := "\x01\x00\x00\x00\x00\x00\x00\x05hello"; out.String() != want {
		t.Errorf("got %q, want %q", out.String(), want)
	}
	if e := waitExit(t, c.Exit()); e.Code != 0 {
		t.Errorf("exit code %d", e.Code)
	}
}

func TestEngineComesBack(t *testing.T) {
	bundle, c := start(t)
	if err := create(t, bundle, c, `read x; exit 3`, func(o *shim.Create) { o.Run.Stdin = true }); err != nil {
		t.Fatal(err)
	}
	if _, err := c.Do(t.Context(), shim.Request{Op: shim.OpStart}); err != nil {
		t.Fatal(err)
	}
	c.Close()
	again, err := shim.Connect(t.Context(), bundle)
	if err != nil {
		t.Fatal(err)
	}
	if again.Hello().PID == 0 {
		t.Error("the monitor does not say the first process")
	}
	s, err := shim.OpenStream(t.Context(), bundle, shim.Open{Stdin: true})
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	if _, err := io.WriteString(s, "go\n"); err != nil {
		t.Fatal(err)
	}
	if e := waitExit(t, again.Exit()); e.Code != 3 {
		t.Errorf("exit code %d, want 3", e.Code)
	}
}

func TestMonitorWithoutContainerEndsWithEngine(t *testing.T) {
	_, c := start(t)
	pid := c.Hello().StubPID
	c.Close()
	deadline := time.Now().Add(30 * time.Second)
	for unix.Kill(pid, 0) == nil {
		if time.Now().After(deadline) {
			t.Fatal("the stub is still there")
		}
		time.Sleep(5 * time.Millisecond)
	}
}

func TestExec(t *testing.T) {
	bundle, c := start(t)
	if err := create(t, bundle, c, `read x`, func(o *shim.Create) { o.Run.Stdin = true }); err != nil {
		t.Fatal(err)
	}
	if _, err := c.Do(t.Context(), shim.Request{Op: shim.OpStart}); err != nil {
		t.Fatal(err)
	}
	exits := c.ExecExit("one")
	run := shim.Run{Argv: []string{os.Args[0], "fake-runtime", "exec", "echo from exec; exit 5", "execpid"}, PIDFile: "execpid", LogFile: "execlog", UID: os.Getuid(), GID: os.Getgid()}
	if _, err := c.Do(t.Context(), shim.Request{Op: shim.OpExec, Exec: "one", Run: &run}); err != nil {
		t.Fatal(err)
	}
	s, err := shim.OpenStream(t.Context(), bundle, shim.Open{Exec: "one", Stdout: true})
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	if _, err := c.Do(t.Context(), shim.Request{Op: shim.OpExecGo, Exec: "one"}); err != nil {
		t.Fatal(err)
	}
	var out strings.Builder
	_, _ = s.WriteTo(&out)
	if !strings.Contains(out.String(), "from exec\n") {
		t.Errorf("output %q", out.String())
	}
	if e := waitExit(t, exits); e.Code != 5 {
		t.Errorf("exit code %d, want 5", e.Code)
	}
	if _, err := shim.OpenStream(context.Background(), bundle, shim.Open{Exec: "two", Stdout: true}); err == nil || errors.Is(err, io.EOF) {
		t.Errorf("stream of an unknown exec: %v", err)
	}
}
