//go:build root

package attack

import (
	"archive/tar"
	"bytes"
	"crypto/sha256"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"

	"stockade/internal/demoimage"
	"stockade/test/harness"
)

// overwriteFound is what overwrite saw and did.
type overwriteFound struct {
	Seen    []string // programs of others
	Written []string // those that could be opened for writing, and were written to
}

// overwrite holds on to the program of every process that it sees and is not of its own file system, and writes to it as
// soon as it can, until the file stop exists or, if a victim is named, until that has run and ended.
func overwrite(stop string, victim ...string) (found overwriteFound) {
	must := func(err error) {
		if err != nil {
			panic(err)
		}
	}
	type id struct{ dev, ino uint64 }
	held := map[id]string{}
	try := func() {
		for key, path := range held {
			if f, err := os.OpenFile(path, os.O_WRONLY, 0); err == nil {
				if _, err := f.WriteString("overwritten"); err == nil {
					found.Written = append(found.Written, path)
				}
				f.Close()
				delete(held, key)
			}
		}
	}
	ended := make(chan error, 1)
	var only unix.Stat_t // with a victim, only that one is attacked
	for _, path := range victim {
		must(unix.Mount("none", "/", "", unix.MS_REC|unix.MS_PRIVATE, ""))
		must(unix.Mount("proc", "/proc", "proc", 0, "")) // of our own pid namespace
		must(unix.Stat(path, &only))
		cmd := exec.Command(path)
		cmd.Args = []string{"busybox", "sleep", "0.2"}
		must(cmd.Start())
		go func() { ended <- cmd.Wait() }()
	}
	for {
		links, err := filepath.Glob("/proc/[0-9]*/exe")
		must(err)
		for _, l := range links {
			fd, err := unix.Open(l, unix.O_PATH|unix.O_CLOEXEC, 0)
			if err != nil {
				continue
			}
			var st, inside unix.Stat_t
			name, _ := os.Readlink(l)
			other := unix.Fstat(fd, &st) == nil && (unix.Stat(name, &inside) != nil || inside.Dev != st.Dev || inside.Ino != st.Ino)
			if len(victim) > 0 {
				other = st.Dev == only.Dev && st.Ino == only.Ino
			}
			if !other || held[id{st.Dev, st.Ino}] != "" {
				unix.Close(fd)
				continue
			}
			held[id{st.Dev, st.Ino}] = fmt.Sprintf("/proc/self/fd/%d", fd)
			if !slices.Contains(found.Seen, name) {
				found.Seen = append(found.Seen, name)
			}
		}
		try()
		if len(victim) > 0 {
			select {
			case err := <-ended:
				must(err)
				try()
				return found
			default:
			}
		} else if _, err := os.Stat(stop); err == nil {
			try()
			return found
		}
	}
}

// programs are the hashes of the server's programs.
func programs(t *testing.T) string {
	t.Helper()
	var b strings.Builder
	entries, err := filepath.Glob(harness.Bin + "/*")
	must(t, err)
	for _, path := range entries {
		if strings.HasSuffix(path, ".log") {
			continue
		}
		data, err := os.ReadFile(path)
		must(t, err)
		fmt.Fprintf(&b, "%s %x\n", path, sha256.Sum256(data))
	}
	return b.String()
}

// T-501: a container that waits for the server's programs to come in, and has them executed as /proc/self/exe, cannot
// write to them (CVE-2019-5736). The control has the same program as root where there is no user namespace.
func TestOverwriteOfPrograms(t *testing.T) {
	s := harness.Get(t)
	withProbe(t, s)
	before := programs(t)
	id := s.Must(t, "run", "-d", "-e", probeEnv+"=overwrite", "--health-cmd", "/proc/self/exe", "--health-interval", "1s", probeImage, "probe", "/stop")
	t.Cleanup(func() { s.Must(t, "rm", "-f", id) })
	for range 15 {
		for _, args := range [][]string{{"/proc/self/exe"}, {"/proc/self/exe", "--help"}, {"true"}, {"/proc/thread-self/exe", "init"}} {
			s.Docker(t, append([]string{"exec", id}, args...)...)
		}
	}
	for _, arg := range []string{"/proc/self/exe", "/proc/thread-self/exe"} {
		if r := s.Docker(t, "run", "--rm", "busybox", arg, "init"); r.Code == 0 {
			t.Errorf("%v", r)
		}
	}
	s.Must(t, "exec", id, "touch", "/stop")
	s.Must(t, "wait", id)
	var found overwriteFound
	must(t, json.Unmarshal([]byte(s.Must(t, "logs", id)), &found))
	if len(found.Written) > 0 {
		t.Errorf("the container wrote to %q", found.Written)
	}
	t.Logf("seen: %q", found.Seen)
	// Not the files' owner alone protects them: where containers are started, their mount is read-only.
	if r := s.Exec(t, harness.Root, nil, "/usr/bin/nsenter", "-m", "-t", strconv.Itoa(s.PID(t, "engine")), "/bin/sh", "-c", ": >>"+harness.Bin+"/stkt-new"); r.Code == 0 || !strings.Contains(r.Stderr, "Read-only") {
		t.Errorf("root writes to the programs where the engine lives: %v", r)
	}
	if after := programs(t); after != before {
		t.Errorf("programs have changed:\n%s\n%s", before, after)
	}
	dir := folder(t)
	busybox, err := os.ReadFile(demoimage.Busybox)
	must(t, err)
	must(t, os.WriteFile(dir+"/victim", busybox, 0o755))
	cmd := s.Command(harness.Context(t), harness.Root, probePath, "", dir+"/victim")
	cmd.Env = append(cmd.Env, probeEnv+"=overwrite")
	cmd.SysProcAttr.Cloneflags = syscall.CLONE_NEWPID | syscall.CLONE_NEWNS
	cmd.SysProcAttr.Credential = nil
	out, err := cmd.CombinedOutput()
	if err != nil {
		t.Fatalf("control: %s %v", out, err)
	}
	data, err := os.ReadFile(dir + "/victim")
	if err != nil || !bytes.HasPrefix(data, []byte("overwritten")) {
		t.Errorf("control: the victim is unharmed: %s %v", out, err)
	}
}

// T-501: a working folder that is a descriptor, of any number, leads nowhere (CVE-2024-21626), nor does a program that is
// named by one. The control is a process that has inherited a folder.
func TestDescriptorsAsPaths(t *testing.T) {
	s := harness.Get(t)
	withProbe(t, s)
	id := s.Must(t, "run", "-d", "-e", probeEnv+"=fds", probeImage, "sleep", "1000")
	t.Cleanup(func() { s.Must(t, "rm", "-f", id) })
	start := func(dir string, cmd ...string) (string, int) {
		body := map[string]any{"AttachStdout": true, "AttachStderr": true, "WorkingDir": dir, "Cmd": cmd}
		r := s.API(t, s.User, "POST", "/v1.51/containers/"+id+"/exec", body)
		if r.Status != 201 {
			return r.Body, 1
		}
		exec := field(t, r.Body, "Id")
		r = s.API(t, s.User, "POST", "/v1.51/exec/"+exec+"/start", `{}`)
		var state struct{ ExitCode *int }
		must(t, json.Unmarshal([]byte(s.API(t, s.User, "GET", "/v1.51/exec/"+exec+"/json", nil).Body), &state))
		if state.ExitCode == nil {
			return r.Body, 1
		}
		return r.Body, *state.ExitCode
	}
	for fd := range 65 {
		for _, self := range []string{"self", "thread-self", "1"} {
			if self != "self" && fd > 12 {
				continue
			}
			if out, code := start(fmt.Sprintf("/proc/%s/fd/%d", self, fd), "pwd"); code == 0 {
				t.Errorf("exec in descriptor %d of %s: %s", fd, self, out)
			}
		}
		if fd <= 12 {
			if out, code := start(fmt.Sprintf("/proc/self/fd/%d/../../../../../..", fd), "ls"); code == 0 {
				t.Errorf("exec above descriptor %d: %s", fd, out)
			}
			if out, code := start("/", fmt.Sprintf("/proc/self/fd/%d/bin/sh", fd), "-c", "id"); code == 0 {
				t.Errorf("exec of a program in descriptor %d: %s", fd, out)
			}
		}
		r := s.API(t, s.User, "POST", "/v1.51/containers/create", map[string]any{"Image": "busybox", "Cmd": []string{"pwd"}, "WorkingDir": fmt.Sprintf("/proc/self/fd/%d", fd), "HostConfig": map[string]any{"NetworkMode": "none"}})
		if r.Status != 201 {
			continue
		}
		c := field(t, r.Body, "Id")
		if r := s.API(t, s.User, "POST", "/v1.51/containers/"+c+"/start", nil); r.Status == 204 {
			t.Errorf("run in descriptor %d: %+v", fd, r)
		}
		s.API(t, s.User, "DELETE", "/v1.51/containers/"+c+"?force=1", nil)
	}
	if out, code := start("/proc/1/cwd", "ls", "bin"); code != 0 || !strings.Contains(out, "probe") {
		t.Errorf("control: a folder in /proc that is the container's own: %d %q", code, out)
	}
	cmd := s.Command(harness.Context(t), harness.Root, "/bin/sh", "-c", "cd /proc/self/fd/3 && ls passwd && /proc/self/fd/4/true")
	for _, dir := range []string{"/etc", "/bin"} {
		f, err := os.Open(dir)
		must(t, err)
		defer f.Close()
		cmd.ExtraFiles = append(cmd.ExtraFiles, f)
	}
	if out, err := cmd.CombinedOutput(); err != nil || string(out) != "passwd\n" {
		t.Errorf("control: %s %v", out, err)
	}
}

// naiveUser reads a user as C does: what does not fit is cut off.
func naiveUser(text string) uint32 {
	text, _, _ = strings.Cut(strings.TrimSpace(text), ":")
	end := len(text)
	for i, c := range text {
		if (c < '0' || c > '9') && (i > 0 || (c != '-' && c != '+')) {
			end = i
			break
		}
	}
	n, _ := strconv.ParseInt(text[:end], 10, 64) // nothing, or the largest, with an error
	return uint32(n)
}

func sorted(words string) string {
	list := strings.Fields(words)
	slices.Sort(list)
	return strings.Join(list, " ")
}

// T-501: users that have been read as root or as somebody else (CVE-2016-3697, CVE-2024-40635, CVE-2026-46680), and groups
// that were forgotten or left (CVE-2022-36109, CVE-2023-25173, CVE-2022-29162): run and exec decide the same. The control
// reads the same users as C does.
func TestUsersOfRunAndExec(t *testing.T) {
	s := harness.Get(t)
	layer := tarOf(t, entry{Header: tar.Header{Name: "etc/passwd", Mode: 0o644}, body: "root:x:0:0::/:/bin/sh\n1000:x:0:0::/:/bin/sh\nuser:x:1001:100::/:/bin/sh\nwrap:x:4294967296:4294967296::/:/bin/sh\nminus:x:-1:-1::/:/bin/sh\nlarge:x:65536:0::/:/bin/sh\ngroup:x:1002:65536::/:/bin/sh\n"},
		entry{Header: tar.Header{Name: "etc/group", Mode: 0o644}, body: "root:x:0:\nextra:x:77:user\nmore:x:78:user,other\nhuge:x:4294967296:huge\n0x0:x:79:\n"})
	if r := s.Exec(t, s.User, bytes.NewReader(archive(t, "attack/users:1", nil, layer)), s.DockerPath(), "load"); r.Code != 0 {
		t.Fatal(r)
	}
	t.Cleanup(func() { s.Must(t, "rmi", "attack/users:1") })
	id := s.Must(t, "run", "-d", "attack/users:1", "sleep", "1000")
	t.Cleanup(func() { s.Must(t, "rm", "-f", id) })
	const show = "id -u; id -g; id -G; sed -n 's/^Groups:\t//p' /proc/self/status; grep CapInh /proc/self/status | grep -o '0*$'; grep CapAmb /proc/self/status | grep -o '0*$'; grep -o '^CapEff.*' /proc/self/status"
	asRoot := 0
	for _, c := range []struct{ user, want string }{ // uid, gid, groups; "": refused
		{"0", "0 0 0"}, {"root", "0 0 0"}, {"user", "1001 100 100 77 78"}, {"1001", "1001 100 100 77 78"}, {"user:77", "1001 77 77"}, {"1001:5", "1001 5 5"}, {"1000", "1000 0 0"}, {"1000:1000", "1000 1000 1000"}, {"65535:65535", "65535 65535 65535"},
		{"4294967296", ""}, {"4294967297", ""}, {"18446744073709551616", ""}, {"4294967295", ""}, {"2147483648", ""}, {"2147483647", ""}, {"65536", ""}, {"-1", ""}, {"-4294967296", ""}, {"+0", ""}, {" 0", ""}, {"0x0", ""}, {"1e3", ""}, {"0.0", ""}, {"٠", ""},
		{"0:4294967296", ""}, {"1001:4294967296", ""}, {"1001:-1", ""}, {"1001:65536", ""}, {"user:2147483648", ""}, {"nobody-such", ""}, {"user:nobody-such", ""}, {"wrap", ""}, {"minus", ""}, {"large", ""}, {"group", ""},
		{"user:huge", ""}, {"0:0:0", ""},
	} {
		for name, r := range map[string]harness.Result{
			"run":  s.Docker(t, "run", "--rm", "--network=none", "-u", c.user, "attack/users:1", "sh", "-c", show),
			"exec": s.Docker(t, "exec", "-u", c.user, id, "sh", "-c", show),
		} {
			if c.want == "" {
				if r.Code == 0 {
					t.Errorf("%s as %q: %v", name, c.user, r)
				}
				continue
			}
			lines := strings.Split(strings.TrimSpace(r.Stdout), "\n")
			if len(lines) != 7 || strings.Join(lines[:3], " ") != c.want || sorted(lines[3]) != sorted(lines[2]) || strings.Trim(lines[4]+lines[5], "0") != "" || strings.HasSuffix(lines[6], "\t0000000000000000") == (lines[0] == "0") {
				t.Errorf("%s as %q: want %s: %v", name, c.user, c.want, r)
			}
		}
		if c.want == "" && naiveUser(c.user) == 0 {
			asRoot++
		}
	}
	if asRoot < 5 {
		t.Errorf("control: only %d of the users are root to a naive reader", asRoot)
	}
	cmd := s.Command(harness.Context(t), harness.Root, "/bin/sh", "-c", "grep -h -e CapInh -e CapAmb -e Groups /proc/self/status")
	cmd.SysProcAttr.Credential = &syscall.Credential{Uid: 65534, Gid: 65534, Groups: []uint32{0, 65534}}
	cmd.Dir = "/"
	cmd.SysProcAttr.AmbientCaps = []uintptr{unix.CAP_CHOWN}
	if out, err := cmd.CombinedOutput(); err != nil || strings.Count(string(out), "\t0000000000000001") != 2 || !strings.Contains(string(out), "Groups:\t0 65534") {
		t.Errorf("control: rights that a careless start leaves: %s %v", out, err)
	}
}
