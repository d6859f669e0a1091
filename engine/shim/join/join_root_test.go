//go:build root

package join

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// inside starts a process in namespaces of its own and returns its pidfd.
func inside(t *testing.T) (*os.File, int) {
	t.Helper()
	ids := []syscall.SysProcIDMap{{ContainerID: 0, HostID: 100000, Size: 65536}}
	cmd := exec.Command("sh", "-c", "mount --make-rprivate / && mount -t proc proc /proc && hostname inside && echo ready && read x")
	cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: namespaces, UidMappings: ids, GidMappings: ids, GidMappingsEnableSetgroups: true, Credential: &syscall.Credential{}}
	in, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	cmd.Stderr = os.Stderr
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		in.Close()
		_ = cmd.Wait()
	})
	if _, err := io.ReadFull(out, make([]byte, 6)); err != nil {
		t.Fatal(err)
	}
	pid := cmd.Process.Pid
	fd, err := unix.PidfdOpen(pid, 0)
	if err != nil {
		t.Fatal(err)
	}
	f := os.NewFile(uintptr(fd), "pidfd")
	t.Cleanup(func() { f.Close() })
	return f, pid
}

// run executes a process and returns its output and exit status.
func run(t *testing.T, pidfd *os.File, p Process) (string, int, error) {
	t.Helper()
	c, err := Prepare(pidfd, "")
	if err != nil {
		t.Fatal(err)
	}
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	null, err := os.Open("/dev/null")
	if err != nil {
		t.Fatal(err)
	}
	defer null.Close()
	defer func() {
		c.Close()
		wait(t, c.PID)
	}()
	if !c.Alive() {
		t.Error("the child does not wait")
	}
	before, helper, err := c.Start(shell("exit 7"), [3]*os.File{null, null, null}) // another order before
	if err != nil || wait(t, helper) != 127 || wait(t, before) != 7 {
		t.Fatal(before, helper, err)
	}
	pid, helper, err := c.Start(p, [3]*os.File{null, w, w})
	w.Close()
	if helper != 0 {
		wait(t, helper)
	}
	if err != nil {
		if pid != 0 {
			wait(t, pid)
		}
		return "", 0, err
	}
	out, _ := io.ReadAll(r)
	return strings.TrimSpace(string(out)), wait(t, pid), nil
}

func wait(t *testing.T, pid int) int {
	t.Helper()
	var ws unix.WaitStatus
	for {
		_, err := unix.Wait4(pid, &ws, unix.WALL, nil)
		if errors.Is(err, unix.EINTR) {
			continue
		}
		if err != nil {
			t.Fatal(err)
		}
		return ws.ExitStatus()
	}
}

func shell(script string) Process {
	return Process{Args: []string{"sh", "-c", script}, Env: []string{"PATH=/nosuch:/usr/bin:/bin", "A=b c"}, Cwd: "/", Umask: 0o22, Keyring: "_ses.stkt", Bounding: 1 << unix.CAP_CHOWN, NoNewPrivs: true}
}

func TestStart(t *testing.T) {
	pidfd, pid := inside(t)
	for _, c := range []struct {
		name, script, want string
		change             func(*Process)
	}{
		{"uts", "hostname", "inside", nil},
		{"pid", "echo $(cat /proc/1/comm)", "sh", nil},
		{"environment", "echo $A", "b c", nil},
		{"arguments", "echo $0 $1", "x y", func(p *Process) { p.Args = append(p.Args, "x", "y") }},
		{"folder", "pwd", "/usr", func(p *Process) { p.Cwd = "/usr" }},
		{"umask", "umask", "0027", func(p *Process) { p.Umask = 0o27 }},
		{"user", "id -u; id -g; id -G", "1000\n1001\n1001 5 7", func(p *Process) { p.UID, p.GID, p.Groups = 1000, 1001, []uint32{5, 7} }},
		{"descriptors", "exec ls /proc/self/fd", "0\n1\n2\n3", nil}, // 3 is the folder that ls reads
		{"no_new_privs", "grep NoNewPrivs /proc/self/status", "NoNewPrivs:\t1", nil},
		{"capabilities", "grep Cap /proc/self/status", "CapInh:\t0000000000000000\nCapPrm:\t0000000000000001\nCapEff:\t0000000000000001\nCapBnd:\t0000000000000001\nCapAmb:\t0000000000000000", func(p *Process) { p.Permitted, p.Effective = 1, 1 }},
		{"ambient", "grep -e CapEff -e CapAmb /proc/self/status", "CapEff:\t0000000000000001\nCapAmb:\t0000000000000001", func(p *Process) {
			p.UID, p.Permitted, p.Effective, p.Inheritable, p.Ambient = 1000, 1, 1, 1, 1
		}},
		{"limit", "ulimit -n", "77", func(p *Process) { p.Limits = []Limit{{unix.RLIMIT_NOFILE, 77, 99}} }},
		{"session", "ps -o pid=,sid= -p $$ | awk '{print $1-$2}'", "0", nil},
		{"signals", "grep -e SigBlk -e SigIgn /proc/self/status", "SigBlk:\t0000000000000000\nSigIgn:\t0000000000000000", nil},
		{"traceable again", "ls /proc/self/fd >/dev/null && echo yes", "yes", nil},
	} {
		t.Run(c.name, func(t *testing.T) {
			p := shell(c.script)
			if c.change != nil {
				c.change(&p)
			}
			out, code, err := run(t, pidfd, p)
			if err != nil || code != 0 || out != c.want {
				t.Errorf("%q, exit %d, %v; want %q", out, code, err, c.want)
			}
		})
	}
	var names []string
	for _, ns := range []string{"user", "mnt", "pid", "net", "ipc", "uts", "cgroup"} {
		names = append(names, "/proc/self/ns/"+ns)
	}
	out, _, err := run(t, pidfd, shell("readlink "+strings.Join(names, " ")))
	if err != nil {
		t.Fatal(err)
	}
	for i, link := range strings.Fields(out) {
		want, err := os.Readlink(strings.Replace(names[i], "self", fmt.Sprint(pid), 1))
		if err != nil || link != want {
			t.Errorf("%s is %s, want %s, %v", names[i], link, want, err)
		}
	}
}

func TestStartFails(t *testing.T) {
	pidfd, _ := inside(t)
	for _, c := range []struct {
		name, want string
		is         error
		change     func(*Process)
	}{
		{"not in PATH", `exec: "stkt-none": executable file not found in $PATH`, ErrNotFound, func(p *Process) { p.Args[0] = "stkt-none" }},
		{"empty PATH", `exec: "sh": executable file not found in $PATH`, ErrNotFound, func(p *Process) { p.Env = []string{"PATH="} }},
		{"relative PATH", `exec: "sh": executable file not found in $PATH`, ErrNotFound, func(p *Process) { p.Env, p.Cwd = []string{"PATH=.:bin"}, "/usr" }},
		{"no file", `exec: "/stkt/none": stat /stkt/none: no such file or directory`, unix.ENOENT, func(p *Process) { p.Args[0] = "/stkt/none" }},
		{"a folder", `exec: "/etc": is a directory`, unix.EISDIR, func(p *Process) { p.Args[0] = "/etc" }},
		{"not executable", `exec: "/etc/passwd": permission denied`, unix.EACCES, func(p *Process) { p.Args[0] = "/etc/passwd" }},
		{"no folder", `chdir to cwd ("/stkt") set in config.json failed: no such file or directory`, unix.ENOENT, func(p *Process) { p.Cwd = "/stkt" }},
		{"unmapped user", `setuid: invalid argument`, unix.EINVAL, func(p *Process) { p.UID = 70000 }},
		{"zero byte", `zero byte in "a\x00b": invalid argument`, unix.EINVAL, func(p *Process) { p.Args = append(p.Args, "a\x00b") }},
		{"too long", `exec: arguments, environment, PATH or limits: argument list too long`, unix.E2BIG, func(p *Process) { p.Args = append(p.Args, strings.Repeat("x", planSize)) }},
		{"too long for the kernel", `exec /usr/bin/sh: argument list too long`, unix.E2BIG, func(p *Process) { p.Args = append(p.Args, strings.Repeat("x", 1<<20)) }},
	} {
		p := shell("true")
		c.change(&p)
		if _, _, err := run(t, pidfd, p); err == nil || err.Error() != c.want || !errors.Is(err, c.is) {
			t.Errorf("%s: %v, want %s", c.name, err, c.want)
		}
	}
}

// SECURITY(T-501): a descriptor of this process is no way to its folder (CVE-2024-21626).
func TestNoDescriptorLeads(t *testing.T) {
	pidfd, _ := inside(t)
	// An open folder of the host, which is this process's working folder, too.
	dir, err := os.Open(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	defer dir.Close()
	t.Chdir(fmt.Sprintf("/proc/self/fd/%d", dir.Fd())) // control: it leads there for this process
	for fd := range 64 {
		p := shell("pwd")
		p.Cwd = fmt.Sprintf("/proc/self/fd/%d", fd)
		if out, _, err := run(t, pidfd, p); err == nil {
			t.Errorf("working folder %s: %q", p.Cwd, out)
		}
	}
}

// SECURITY(T-501): until it executes a program the child is closed to the container's root.
func TestWaitingChildIsClosed(t *testing.T) {
	pidfd, _ := inside(t)
	c, err := Prepare(pidfd, "")
	if err != nil {
		t.Fatal(err)
	}
	self, err := os.ReadFile(fmt.Sprintf("/proc/%d/comm", c.PID))
	if err != nil || len(bytes.TrimSpace(self)) == 0 {
		t.Errorf("control: the child is not there: %v", err)
	}
	for deadline := time.Now().Add(10 * time.Second); ; {
		open, err := os.ReadDir(fmt.Sprintf("/proc/%d/fd", c.PID))
		if err == nil && len(open) == 2 {
			break
		}
		if err != nil || time.Now().After(deadline) {
			t.Fatalf("%d descriptors in the waiting child, %v", len(open), err)
		}
	}
	c.Close()
	if code := wait(t, c.PID); code != 127 {
		t.Errorf("exit %d", code)
	}
}

func TestExec(t *testing.T) {
	execute := func(args ...string) (string, int, error) {
		c, err := Prepare(nil, "")
		if err != nil {
			t.Fatal(err)
		}
		r, w, err := os.Pipe()
		if err != nil {
			t.Fatal(err)
		}
		defer r.Close()
		null, err := os.Open("/dev/null")
		if err != nil {
			t.Fatal(err)
		}
		defer null.Close()
		err = c.Exec(args, []string{"A=b"}, [3]*os.File{null, w, w})
		w.Close()
		out, _ := io.ReadAll(r)
		return strings.TrimSpace(string(out)), wait(t, c.PID), err
	}
	const script = `echo $A; ls /proc/self/fd | tr '\n' ' '; grep -h -e SigBlk -e SigIgn /proc/self/status; ps -o sid= -p $$ | grep -qw $$ && echo leader; exit 3`
	want := "b\n0 1 2 3 SigBlk:\t0000000000000000\nSigIgn:\t0000000000000000\nleader"
	if out, code, err := execute("/bin/sh", "-c", script); out != want || code != 3 || err != nil {
		t.Errorf("%q, exit %d, %v; want %q", out, code, err, want)
	}
	if _, code, err := execute("/stkt/none"); !errors.Is(err, unix.ENOENT) || code != 127 {
		t.Errorf("no program: exit %d, %v", code, err)
	}
	c, err := Prepare(nil, "")
	if err != nil {
		t.Fatal(err)
	}
	if _, _, err := c.Start(shell("true"), [3]*os.File{}); err == nil {
		t.Error("a child without a container joined one")
	}
	c.Close()
	wait(t, c.PID)
}
