//go:build root

package confine

import (
	"bytes"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"os/exec"
	"runtime"
	"strings"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"
)

const childEnv = "STOCKADE_CONFINE_TEST"

func TestMain(m *testing.M) {
	if dir := os.Getenv(childEnv); dir != "" {
		os.Exit(child(dir))
	}
	if os.Getuid() != 0 {
		fmt.Fprintln(os.Stderr, "needs root")
		os.Exit(1)
	}
	os.Exit(m.Run())
}

// child confines itself as mountd would and reports what it still can do, one line each.
func child(dir string) int {
	log := slog.New(slog.NewTextHandler(os.Stderr, nil))
	before, err := os.Open("/proc/self/status")
	if err != nil {
		return 3
	}
	err = Process(Spec{Process: "mountd", Log: log, Calls: Join(UnixServer, ReadFiles, WriteFiles),
		Paths: []Path{{Why: "test", Name: dir, Access: Records | MakeDir}}})
	if err != nil {
		fmt.Println("refused:", err)
		return 0
	}
	var status [8192]byte
	n, _ := before.Read(status[:])
	for _, line := range strings.Split(string(status[:n]), "\n") {
		for _, want := range []string{"Cap", "NoNewPrivs:", "Seccomp:"} {
			if strings.HasPrefix(line, want) {
				fmt.Println(strings.Join(strings.Fields(line), " "))
			}
		}
	}
	report := func(what string, err error) { fmt.Printf("%s: %v\n", what, err) }
	_, err = os.ReadFile("/etc/passwd")
	report("passwd", errors.Unwrap(err))
	report("own", os.WriteFile(dir+"/f", []byte("x"), 0o600))
	report("mount", unix.Mount("none", dir, "tmpfs", 0, ""))
	_, err = unix.Socket(unix.AF_INET, unix.SOCK_STREAM, 0)
	report("socket", err)
	report("exec", syscall.Exec("/bin/true", []string{"true"}, nil))
	report("kill", unix.Kill(os.Getppid(), 0))
	// On many threads, among them new ones.
	errs := make(chan error)
	for range 20 {
		go func() {
			runtime.LockOSThread()
			_, err := os.ReadFile("/etc/passwd")
			if err == nil {
				errs <- errors.New("a thread can read")
				return
			}
			errs <- unix.Mount("none", dir, "tmpfs", 0, "")
		}()
	}
	for range 20 {
		if err := <-errs; !errors.Is(err, unix.EPERM) {
			report("thread", err)
		}
	}
	runtime.GC()
	return 0
}

// start runs the child with the given identity, capabilities and bounding set.
func start(t *testing.T, dir string, cred *syscall.Credential, caps []uintptr, bounding uint64) string {
	t.Helper()
	cmd := exec.Command("/proc/self/exe")
	var out, errOut bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &errOut
	cmd.Env = []string{childEnv + "=" + dir}
	cmd.SysProcAttr = &syscall.SysProcAttr{Credential: cred, AmbientCaps: caps}
	done := make(chan error)
	go func() {
		runtime.LockOSThread() // ends with the goroutine, and its bounding set with it
		for n := uintptr(0); n < 64; n++ {
			if bounding&(1<<n) == 0 {
				_ = unix.Prctl(unix.PR_CAPBSET_DROP, n, 0, 0, 0)
			}
		}
		done <- cmd.Run()
	}()
	if err := <-done; err != nil {
		t.Fatalf("child: %v\n%s%s", err, out.String(), errOut.String())
	}
	return out.String()
}

func TestProcess(t *testing.T) {
	const uid, admin = 64991, 1 << unix.CAP_SYS_ADMIN
	dir, err := os.MkdirTemp("/tmp", "stkt")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	if err := os.Chown(dir, uid, uid); err != nil {
		t.Fatal(err)
	}
	cred := &syscall.Credential{Uid: uid, Gid: uid}
	got := start(t, dir, cred, []uintptr{unix.CAP_SYS_ADMIN}, admin)
	for _, want := range []string{
		"CapInh: 0000000000000000", "CapPrm: 0000000000200000", "CapEff: 0000000000200000", "CapBnd: 0000000000200000", "CapAmb: 0000000000000000",
		"NoNewPrivs: 1", "Seccomp: 2", "passwd: permission denied", "own: <nil>", "mount: operation not permitted",
		"socket: operation not permitted", "exec: operation not permitted", "kill: operation not permitted",
	} {
		if !strings.Contains(got, want+"\n") {
			t.Errorf("no %q in\n%s", want, got)
		}
	}
	if strings.Contains(got, "thread:") {
		t.Errorf("threads differ:\n%s", got)
	}
	refusals := []struct {
		name     string
		cred     *syscall.Credential
		caps     []uintptr
		bounding uint64
		want     string
	}{
		{"as root", &syscall.Credential{}, nil, admin, "may be 0"},
		{"gid 0", &syscall.Credential{Uid: uid}, []uintptr{unix.CAP_SYS_ADMIN}, admin, "may be 0"},
		{"supplementary group", &syscall.Credential{Uid: uid, Gid: uid, Groups: []uint32{4}}, []uintptr{unix.CAP_SYS_ADMIN}, admin, "supplementary group 4"},
		{"without its capability", cred, nil, admin, "permitted capabilities"},
		{"with another one", cred, []uintptr{unix.CAP_SYS_ADMIN, unix.CAP_KILL}, admin | 1<<unix.CAP_KILL, "permitted capabilities"},
		{"wide bounding set", cred, []uintptr{unix.CAP_SYS_ADMIN}, admin | 1<<unix.CAP_KILL, "bounding set"},
	}
	for _, c := range refusals {
		t.Run(c.name, func(t *testing.T) {
			got := start(t, dir, c.cred, c.caps, c.bounding)
			if !strings.HasPrefix(got, "refused: confine:") || !strings.Contains(got, c.want) {
				t.Errorf("got %q, want a refusal with %q", got, c.want)
			}
		})
	}
}
