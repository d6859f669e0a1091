//go:build root

package supervisor_test

import (
	"encoding/json"
	"fmt"
	"net"
	"net/http"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"stockade/cli"
	"stockade/host"
	"stockade/internal/boot"
	"stockade/internal/proctable"
	"stockade/priv/supervisor"
)

// TestMain makes this test binary stand in for all programs: called by the name of one, it is that one.
func TestMain(m *testing.M) {
	switch name := filepath.Base(os.Args[0]); {
	case name == "stockade" || (len(os.Args) > 1 && os.Args[1] == "namespace"):
		if err := cli.New().Execute(); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
	case strings.HasPrefix(name, "stockade-"):
		if err := standIn(strings.TrimPrefix(name, "stockade-")); err != nil {
			fmt.Fprintln(os.Stderr, name, err)
			os.Exit(1)
		}
	default:
		os.Exit(m.Run())
	}
}

// standIn takes its hand-over as the real process does; the engine also starts a "container", and engine and gate answer HTTP.
func standIn(name string) error {
	var settings map[string]any
	files, err := boot.Receive(&settings)
	if err != nil {
		return err
	}
	if name == "engine" {
		c := exec.Command("/bin/sleep", "1000")
		c.SysProcAttr = &syscall.SysProcAttr{
			Cloneflags:                 unix.CLONE_NEWUSER,
			UidMappings:                []syscall.SysProcIDMap{{ContainerID: 0, HostID: 65537, Size: 65536}},
			GidMappings:                []syscall.SysProcIDMap{{ContainerID: 0, HostID: 65537, Size: 65536}},
			GidMappingsEnableSetgroups: true,
			Credential:                 &syscall.Credential{},
			Setsid:                     true,
		}
		if err := c.Start(); err != nil {
			return err
		}
	}
	if api := files["api"]; api != nil {
		l, err := net.FileListener(api)
		if err != nil {
			return err
		}
		go http.Serve(l, http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { fmt.Fprint(w, "OK") }))
	}
	term := make(chan os.Signal, 1)
	signal.Notify(term, unix.SIGTERM)
	<-term
	return nil
}

// server is one server of stand-ins.
type server struct {
	bin, run, data, config string
}

const rangeFirst, rangeCount = 1929379840, 2 * 65536

func newServer(t *testing.T) *server {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Fatal("needs root")
	}
	// Not t.TempDir: its parent cannot be entered by other users.
	dir, err := os.MkdirTemp("/var/lib", "stkt-up-")
	if err != nil {
		t.Fatal(err)
	}
	if err := os.Chmod(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	s := &server{bin: dir + "/bin", run: "/run/" + filepath.Base(dir), data: dir + "/data", config: dir + "/stockade.toml"}
	if err := os.Mkdir(s.bin, 0o755); err != nil {
		t.Fatal(err)
	}
	self, err := os.ReadFile("/proc/self/exe")
	if err != nil {
		t.Fatal(err)
	}
	names := []string{"stockade", "stockade-shim", "stockade-unpack", "runc"}
	for _, p := range proctable.Table {
		names = append(names, "stockade-"+p.Name)
	}
	for i, name := range names {
		if i == 0 {
			err = os.WriteFile(filepath.Join(s.bin, name), self, 0o755)
		} else {
			err = os.Link(filepath.Join(s.bin, names[0]), filepath.Join(s.bin, name))
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	s.configure(t, rangeFirst)
	t.Cleanup(func() {
		if out, err := s.stockade("down"); err != nil {
			t.Errorf("down: %v: %s", err, out)
		}
		for _, d := range []string{dir, s.run} {
			if err := os.RemoveAll(d); err != nil {
				t.Error(err)
			}
		}
	})
	return s
}

func (s *server) configure(t *testing.T, first int) {
	t.Helper()
	text := fmt.Sprintf("data=%q\nrun=%q\ncgroup_parent='stkt-up'\nstop_seconds=5\n[ids]\nfirst=%d\ncount=%d\n[network]\nprefix='stktu'\npool='10.232.0.0/16'\n", s.data, s.run, first, rangeCount)
	if err := os.WriteFile(s.config, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
}

func (s *server) command(args ...string) *exec.Cmd {
	return exec.Command(filepath.Join(s.bin, "stockade"), append(args, "--config", s.config)...)
}

func (s *server) stockade(args ...string) (string, error) {
	out, err := s.command(args...).CombinedOutput()
	return string(out), err
}

// up starts a supervisor and waits until it is healthy.
func (s *server) up(t *testing.T) *exec.Cmd {
	t.Helper()
	cmd := s.command("up")
	log, err := os.Create(filepath.Join(filepath.Dir(s.config), "log"))
	if err != nil {
		t.Fatal(err)
	}
	defer log.Close()
	cmd.Stderr = log
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	ended := make(chan struct{})
	go func() {
		cmd.Wait()
		close(ended)
	}()
	wait(t, "a healthy server", func() bool {
		select {
		case <-ended:
			text, _ := os.ReadFile(log.Name())
			t.Fatalf("the supervisor ended: %s", text)
		default:
		}
		st, err := s.status()
		return err == nil && st.Healthy && len(st.Processes) == len(proctable.Table)+1 && st.Processes[0].PID == cmd.Process.Pid
	})
	return cmd
}

func (s *server) status() (cli.Status, error) {
	var st cli.Status
	cmd := s.command("status", "--json")
	out, _ := cmd.Output()
	return st, json.Unmarshal(out, &st)
}

func (s *server) pid(t *testing.T, name string) int {
	t.Helper()
	st, err := s.status()
	if err != nil {
		t.Fatal(err)
	}
	for _, p := range st.Processes {
		if p.Name == name {
			return p.PID
		}
	}
	return 0
}

func wait(t *testing.T, what string, done func() bool) {
	t.Helper()
	for deadline := time.Now().Add(30 * time.Second); !done(); time.Sleep(20 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("waited in vain for %s", what)
		}
	}
}

// containers are the pids of the stand-in containers.
func containers(t *testing.T) map[int]bool {
	t.Helper()
	entries, err := os.ReadDir("/proc")
	if err != nil {
		t.Fatal(err)
	}
	pids := map[int]bool{}
	for _, e := range entries {
		data, _ := os.ReadFile("/proc/" + e.Name() + "/status")
		if strings.Contains(string(data), fmt.Sprintf("\nUid:\t%d\t", rangeFirst+65536)) && !strings.Contains(string(data), "State:\tZ") {
			var pid int
			fmt.Sscan(e.Name(), &pid)
			pids[pid] = true
		}
	}
	return pids
}

// TestPrivileges compares what the kernel says with the table.
func TestPrivileges(t *testing.T) {
	s := newServer(t)
	s.up(t)
	for _, row := range proctable.Table {
		pid := s.pid(t, row.Name)
		data, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
		if err != nil {
			t.Fatal(err)
		}
		layout, err := host.ReadCgroups()
		if err != nil {
			t.Fatal(err)
		}
		user, err := host.LookupUser(row.UserOn(!layout.V2))
		if err != nil {
			t.Fatal(err)
		}
		want := map[string]string{"Uid": strings.Repeat(fmt.Sprintf("%d\t", user.UID), 4), "Gid": strings.Repeat(fmt.Sprintf("%d\t", user.GID), 4), "Groups": ""}
		if !row.InU {
			var caps uint64
			for _, c := range row.Caps {
				caps |= 1 << map[string]int{"CAP_SYS_ADMIN": unix.CAP_SYS_ADMIN, "CAP_SETUID": unix.CAP_SETUID, "CAP_SETGID": unix.CAP_SETGID, "CAP_NET_ADMIN": unix.CAP_NET_ADMIN}[c]
			}
			for _, set := range []string{"CapPrm", "CapEff", "CapBnd"} {
				want[set] = fmt.Sprintf("%016x", caps)
			}
		}
		for line := range strings.Lines(string(data)) {
			key, value, _ := strings.Cut(strings.TrimRight(line, "\n"), ":\t")
			if w, ok := want[key]; ok && strings.TrimSpace(w) != strings.TrimSpace(value) {
				t.Errorf("%s: %s is %q, want %q", row.Name, key, value, w)
			}
		}
		uidMap, err := os.ReadFile(fmt.Sprintf("/proc/%d/uid_map", pid))
		if err != nil {
			t.Fatal(err)
		}
		if got := strings.Join(strings.Fields(string(uidMap)), " "); row.InU && got != fmt.Sprintf("0 %d 1 1 %d %d", user.UID, rangeFirst, rangeCount) {
			t.Errorf("%s: uid_map %q", row.Name, got)
		}
	}
	for path, want := range map[string]string{
		s.run + "/docker.sock":           "root stockade 660",
		s.run + "/engine.sock":           "stockade-gate stockade-gate 600",
		s.run + "/priv/mountd.sock":      "stockade-engine stockade-engine 600",
		s.run + "/priv/grantd-gate.sock": "stockade-gate stockade-gate 600",
		s.data:                           "root root 711",
		s.data + "/engine":               "stockade-engine stockade-engine 700",
		s.data + "/log/audit.jsonl":      "root root 600",
		s.run + "/ns":                    "root root 700",
	} {
		out, err := exec.Command("stat", "-c", "%U %G %a", path).Output()
		if got := strings.TrimSpace(string(out)); err != nil || got != want {
			t.Errorf("%s: %q, want %q (%v)", path, got, want, err)
		}
	}
}

// TestRestart kills each process; another one must come, and mountd and grantd only together.
func TestRestart(t *testing.T) {
	s := newServer(t)
	s.up(t)
	for _, row := range proctable.Table {
		partner := map[string]string{"mountd": "grantd", "grantd": "mountd"}[row.Name]
		old, oldPartner := s.pid(t, row.Name), 0
		if partner != "" {
			oldPartner = s.pid(t, partner)
		}
		if err := unix.Kill(old, unix.SIGKILL); err != nil {
			t.Fatal(err)
		}
		wait(t, "a new "+row.Name, func() bool {
			if partner != "" {
				if p := s.pid(t, partner); p == 0 || p == oldPartner {
					return false
				}
			}
			p := s.pid(t, row.Name)
			return p != 0 && p != old
		})
	}
}

// TestTakeOver kills the supervisor: its containers live on, and the next one takes over U and ends what it left.
func TestTakeOver(t *testing.T) {
	s := newServer(t)
	first := s.up(t)
	before := containers(t)
	if len(before) == 0 {
		t.Fatal("no container runs")
	}
	ns := func() string {
		link, err := os.Readlink(fmt.Sprintf("/proc/%d/ns/user", s.pid(t, "engine")))
		if err != nil {
			t.Fatal(err)
		}
		mnt, err := os.Readlink(fmt.Sprintf("/proc/%d/ns/mnt", s.pid(t, "engine")))
		if err != nil {
			t.Fatal(err)
		}
		return link + mnt
	}
	namespaces, mountd := ns(), s.pid(t, "mountd")
	if err := first.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	s.up(t)
	if got := ns(); got != namespaces {
		t.Errorf("the new engine has namespaces %s, want %s", got, namespaces)
	}
	if err := unix.Kill(mountd, 0); err == nil {
		if data, _ := os.ReadFile(fmt.Sprintf("/proc/%d/stat", mountd)); !strings.Contains(string(data), ") Z ") {
			t.Error("the old mountd still runs")
		}
	}
	after := containers(t)
	for pid := range before {
		if !after[pid] {
			t.Errorf("container %d did not survive", pid)
		}
	}
	// Another range must not be taken while these containers live.
	third := s.pid(t, "supervisor")
	if err := unix.Kill(third, unix.SIGKILL); err != nil {
		t.Fatal(err)
	}
	s.configure(t, rangeFirst+rangeCount)
	wait(t, "the lock", func() bool {
		out, err := s.stockade("up")
		if err == nil {
			t.Fatal("a second range was accepted")
		}
		return strings.Contains(out, "still run with other ids")
	})
	s.configure(t, rangeFirst)
	if out, err := s.stockade("down"); err != nil {
		t.Fatalf("down after a killed supervisor: %v: %s", err, out)
	}
	if left := containers(t); len(left) != 0 {
		t.Errorf("down left containers %v", left)
	}
}

// TestDown leaves nothing outside of the data folder.
func TestDown(t *testing.T) {
	s := newServer(t)
	cmd := s.up(t)
	if out, err := s.stockade("down"); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	if cmd.ProcessState == nil {
		wait(t, "the end of the supervisor", func() bool { return unix.Kill(cmd.Process.Pid, 0) != nil })
	}
	if left := containers(t); len(left) != 0 {
		t.Errorf("containers %v still run", left)
	}
	entries, err := os.ReadDir(s.run)
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range entries {
		if e.Name() != "supervisor.lock" {
			t.Errorf("%s is left in the run folder", e.Name())
		}
	}
	mounts, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil {
		t.Fatal(err)
	}
	if strings.Contains(string(mounts), s.run) {
		t.Error("a mount is left")
	}
	groups, err := filepath.Glob("/sys/fs/cgroup/*/stkt-up")
	if err != nil || len(groups) != 0 {
		t.Errorf("control groups %v are left (%v)", groups, err)
	}
}

// TestRefusals are starts that must fail, each with its reason, and change nothing (THREATS.md T-103).
func TestRefusals(t *testing.T) {
	s := newServer(t)
	if err := os.Mkdir(s.run, 0o755); err != nil {
		t.Fatal(err)
	}
	socket := s.run + "/docker.sock"
	refuse := func(want string) {
		t.Helper()
		out, err := s.stockade("up")
		if err == nil || !strings.Contains(out, want) {
			t.Errorf("got %v: %s; want …%s…", err, out, want)
		}
	}
	victim := filepath.Join(filepath.Dir(s.config), "victim")
	if err := os.WriteFile(victim, []byte("x"), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink(victim, socket); err != nil {
		t.Fatal(err)
	}
	refuse("is no socket")
	if _, err := os.Stat(victim); err != nil {
		t.Error(err)
	}
	if err := os.Remove(socket); err != nil {
		t.Fatal(err)
	}
	l, err := net.Listen("unix", socket)
	if err != nil {
		t.Fatal(err)
	}
	refuse("another server listens")
	l.Close()

	if err := os.Chmod(s.data, 0o777); err != nil {
		t.Fatal(err)
	}
	refuse("belongs to uid 0 with mode 0777")
	if err := os.Chmod(s.data, 0o711); err != nil {
		t.Fatal(err)
	}
	if err := os.Chmod(s.bin+"/stockade-mountd", 0o777); err != nil {
		t.Fatal(err)
	}
	refuse("can be changed by others than root")
	if err := os.Chmod(s.bin+"/stockade-mountd", 0o755); err != nil {
		t.Fatal(err)
	}
	s.up(t)
	refuse("another supervisor runs")
	if st, err := supervisor.ReadState(s.run); err != nil || !st.Supervisor.Alive() {
		t.Errorf("the running supervisor is gone from the state file: %+v, %v", st, err)
	}
}
