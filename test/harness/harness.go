// Package harness starts one whole server for a package of tests and gives them what they need to use, attack and break
// it: Docker clients and API connections of several users, a census of everything on the host that a server could
// leak, and the means to kill its processes.
//
// A test package has
//
//	func TestMain(m *testing.M) { harness.Main(m) }
//
// and its tests call harness.Get(t). The server is private: its own data and run folders, control groups, links, id range
// and address pool, all told apart from a production server's by the prefix stkt.
//
// Trust: none is needed; the server is what is tested. Invariants: one server at a time on a machine (a lock), and
// nothing of it is left after Main, nor of an earlier run that was killed.
// Failure: Main prints the end of the server's log and exits with 1.
package harness

import (
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"stockade/api/setting"
	"stockade/cli"
	"stockade/internal/failpoint"
)

// Number tells servers of several runs on one machine apart: STOCKADE_TEST_SERVER, 0 to 9.
var Number = number()

func number() uint32 {
	n, err := strconv.ParseUint(cmp.Or(os.Getenv("STOCKADE_TEST_SERVER"), "0"), 10, 4)
	if err != nil || n > 9 {
		panic("STOCKADE_TEST_SERVER is not a number from 0 to 9")
	}
	return uint32(n)
}

// Where the server's parts are.
var (
	Prefix = name()
	Data   = "/var/lib/" + Prefix
	Run    = "/run/" + Prefix
	Bin    = "/var/lib/" + Prefix + "-bin" // programs, copied to where every user can reach them
	Socket = Run + "/docker.sock"
	Config = Bin + "/stockade.toml"
	Log    = Bin + "/server.log"
	Pool   = fmt.Sprintf("10.%d.0.0/16", 231-Number)
	lock   = "/run/" + Prefix + ".lock"
)

// name is stkt, or stat, stbt and so on: none begins as another does.
func name() string {
	if Number == 0 {
		return "stkt"
	}
	return fmt.Sprintf("st%ct", 'a'+Number-1)
}

// IDs is the range of host ids of the server's containers.
var IDs = setting.IDRange{First: 1912602624 - Number*idCount, Count: idCount}

const idCount = 256 * setting.BlockSize

// Patience is the longest time that waiting for anything takes.
const Patience = 60 * time.Second

// Server is the running server.
type Server struct {
	Repo     string        // root of the source
	User     User          // an ordinary user in the API socket's group
	Outsider User          // an ordinary user who is not
	ended    chan struct{} // closed when the supervisor has ended; nil: none was started
	epoch    uint32        // how often a failpoint was armed
}

// Options change the server of a package.
type Options struct {
	Settings string // more lines of the configuration, before its tables
	Tables   string // more tables of the configuration
	Disk     string // size of a file system of its own for the data folder, such as "256m"; default: the host's
	Inodes   int    // how many files that file system may have; 0: as many as it likes
	NoImages bool   // do not load the demonstration images
	// Failpoints has the programs built with failpoints; see Server.Arm.
	Failpoints bool
	// Before is called when no other server's tests run, and may change the options; After when the server is down.
	Before func(*Options) error
	After  func()
}

var current *Server

// Get returns the package's server, healthy.
func Get(t testing.TB) *Server {
	t.Helper()
	if current == nil {
		t.Fatal("harness: TestMain did not call harness.Main")
	}
	if err := current.waitHealthy(); err != nil {
		t.Fatalf("harness: %v\n%s", err, current.LogTail())
	}
	return current
}

// Main runs the package's tests with a server and exits.
func Main(m *testing.M) { MainWith(m, Options{}) }

// MainWith is Main with options.
func MainWith(m *testing.M, o Options) {
	code := 1
	if err := run(m, o, &code); err != nil {
		fmt.Fprintln(os.Stderr, "harness:", err)
		os.Exit(1)
	}
	os.Exit(code)
}

func run(m *testing.M, o Options, code *int) (err error) {
	if os.Geteuid() != 0 {
		return errors.New("needs root")
	}
	// Other packages' tests on this machine wait here.
	l, err := os.OpenFile(lock, os.O_RDWR|os.O_CREATE|unix.O_CLOEXEC, 0o600)
	if err != nil {
		return err
	}
	defer l.Close()
	if unix.Flock(int(l.Fd()), unix.LOCK_EX|unix.LOCK_NB) != nil {
		fmt.Fprintf(os.Stderr, "harness: another run has server %d; with STOCKADE_TEST_SERVER=1 to 9 runs do not wait for each other\n", Number)
	}
	for {
		if err := unix.Flock(int(l.Fd()), unix.LOCK_EX); !errors.Is(err, unix.EINTR) {
			if err != nil {
				return fmt.Errorf("lock: %w", err)
			}
			break
		}
	}
	if o.After != nil {
		defer o.After()
	}
	if o.Before != nil {
		if err := o.Before(&o); err != nil {
			return err
		}
	}
	_, file, _, _ := runtime.Caller(0)
	s := &Server{Repo: filepath.Dir(filepath.Dir(filepath.Dir(file)))}
	if err := s.build(o); err != nil {
		return err
	}
	if err := s.sweep(); err != nil {
		return fmt.Errorf("remove what an earlier run left: %w", err)
	}
	defer func() {
		if serr := s.sweep(); serr != nil {
			err = errors.Join(err, fmt.Errorf("take the server down: %w", serr))
		}
	}()
	if o.Disk != "" {
		if err := os.Mkdir(Data, 0o711); err != nil {
			return err
		}
		if err := unix.Mount(Prefix, Data, "tmpfs", 0, fmt.Sprintf("mode=0711,size=%s,nr_inodes=%d", o.Disk, o.Inodes)); err != nil {
			return fmt.Errorf("mount a disk of %s: %w", o.Disk, err)
		}
	}
	if err := s.Up(); err != nil {
		return fmt.Errorf("%w\n%s", err, s.LogTail())
	}
	if !o.NoImages {
		err := s.LoadDemo()
		if err == nil {
			err = s.warm()
		}
		if err != nil {
			return fmt.Errorf("%w\n%s", err, s.LogTail())
		}
	}
	current = s
	if *code = m.Run(); *code != 0 {
		fmt.Fprintln(os.Stderr, s.LogTail())
	}
	return nil
}

// build makes programs, tools and users, and installs the programs.
func (s *Server) build(o Options) error {
	if err := s.command("scripts/users.sh", "demo").Run(); err != nil {
		return fmt.Errorf("users.sh: %w", err)
	}
	if err := s.command("scripts/tools.sh", "test").Run(); err != nil {
		return fmt.Errorf("tools.sh: %w", err)
	}
	built, args := "bin", []string{"--no-print-directory", "build"}
	if o.Failpoints {
		built = "bin/failpoint"
		args = append(args, "TAGS=failpoint", "OUT="+built+"/")
	}
	if err := s.command("make", args...).Run(); err != nil {
		return fmt.Errorf("build: %w", err)
	}
	if err := os.RemoveAll(Bin); err != nil {
		return err
	}
	if err := os.Mkdir(Bin, 0o755); err != nil {
		return err
	}
	if err := os.Chmod(Bin, 0o755); err != nil {
		return err
	}
	programs, err := filepath.Glob(filepath.Join(s.Repo, built, "stockade*"))
	if err != nil {
		return err
	}
	if o.Failpoints {
		if err := os.WriteFile(filepath.Join(Bin, failpoint.FileName), make([]byte, failpoint.Size), 0o644); err != nil {
			return err
		}
	}
	for _, p := range append(programs, filepath.Join(s.Repo, "bin", "runc"), filepath.Join(s.Repo, "bin", "docker29"), filepath.Join(s.Repo, "bin", "crun")) {
		if err := copyProgram(p, filepath.Join(Bin, filepath.Base(p))); err != nil {
			return err
		}
	}
	text := fmt.Sprintf("data = %q\nrun = %q\nbin = %q\ncgroup_parent = %q\n%s\n[ids]\nfirst = %d\ncount = %d\n[network]\nprefix = %q\npool = %q\n%s\n",
		Data, Run, Bin, Prefix, o.Settings, IDs.First, IDs.Count, Prefix, Pool, o.Tables)
	if err := os.WriteFile(Config, []byte(text), 0o644); err != nil {
		return err
	}
	if s.User, err = lookup("stockade-demo"); err != nil {
		return err
	}
	s.Outsider, err = lookup("stockade-outsider")
	return err
}

func copyProgram(from, to string) error {
	in, err := os.Open(from)
	if err != nil {
		return err
	}
	defer in.Close()
	out, err := os.OpenFile(to, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o755)
	if err != nil {
		return err
	}
	_, err = io.Copy(out, in)
	return errors.Join(err, out.Chmod(0o755), out.Close())
}

// command runs something of the source tree, its output to standard error.
func (s *Server) command(name string, args ...string) *exec.Cmd {
	if strings.Contains(name, "/") {
		name = filepath.Join(s.Repo, name)
	}
	cmd := exec.Command(name, args...)
	cmd.Dir = s.Repo
	cmd.Stdout, cmd.Stderr = os.Stderr, os.Stderr
	return cmd
}

// Stockade runs the stockade command for this server and returns its output.
func (s *Server) Stockade(args ...string) (string, error) {
	cmd := exec.Command(filepath.Join(Bin, "stockade"), append(args, "--config", Config)...)
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if err != nil {
		err = fmt.Errorf("stockade %s: %w: %s", strings.Join(args, " "), err, bytes.TrimSpace(stderr.Bytes()))
	}
	return string(out), err
}

// Up starts the supervisor and waits until the server is healthy. One that was killed is waited for: it holds its lock to
// the very end.
func (s *Server) Up() error {
	if s.ended != nil {
		select {
		case <-s.ended:
		case <-time.After(Patience):
			return errors.New("the supervisor before still runs")
		}
	}
	log, err := os.OpenFile(Log, os.O_WRONLY|os.O_CREATE|os.O_APPEND, 0o600)
	if err != nil {
		return err
	}
	defer log.Close()
	cmd := exec.Command(filepath.Join(Bin, "stockade"), "up", "--config", Config)
	cmd.Stdout, cmd.Stderr = log, log
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	if err := cmd.Start(); err != nil {
		return err
	}
	ended := make(chan struct{})
	var how error
	go func() {
		how = cmd.Wait()
		close(ended)
	}()
	s.ended = ended
	deadline := time.Now().Add(Patience)
	for {
		select {
		case <-ended:
			return fmt.Errorf("the supervisor ended: %v", how)
		default:
		}
		st, err := s.Status()
		if err == nil && st.Healthy && len(st.Processes) > 0 && st.Processes[0].PID == cmd.Process.Pid {
			return nil
		}
		if time.Now().After(deadline) {
			return fmt.Errorf("the server did not become healthy: %s %v", st.Error, err)
		}
		time.Sleep(50 * time.Millisecond)
	}
}

// Down takes the server down, containers too, and waits.
func (s *Server) Down() error {
	_, err := s.Stockade("down")
	return err
}

// Status returns what "stockade status" says. A server that is not healthy is no error.
func (s *Server) Status() (cli.Status, error) {
	out, err := s.Stockade("status", "--json")
	var st cli.Status
	if jerr := json.Unmarshal([]byte(out), &st); jerr != nil {
		return st, errors.Join(err, jerr)
	}
	return st, nil
}

func (s *Server) waitHealthy() error {
	_, err := s.Stockade("status", "--wait", Patience.String())
	return err
}

// PID returns the pid of a running process: mountd, grantd, netd, cgroupd, engine, gate or supervisor.
func (s *Server) PID(t testing.TB, name string) int {
	t.Helper()
	st, err := s.Status()
	if err != nil {
		t.Fatal(err)
	}
	for _, p := range st.Processes {
		if p.Name == name {
			return p.PID
		}
	}
	t.Fatalf("no process %s runs: %+v", name, st)
	return 0
}

// Kill kills a process with SIGKILL, by its pid. It does not wait for what follows.
func (s *Server) Kill(t testing.TB, name string) (pid int) {
	t.Helper()
	pid = s.PID(t, name)
	if err := unix.Kill(pid, unix.SIGKILL); err != nil {
		t.Fatalf("kill %s: %v", name, err)
	}
	return pid
}

// KillAndWait kills a process other than the supervisor and waits until another one has its place and the server is
// healthy.
func (s *Server) KillAndWait(t testing.TB, name string) {
	t.Helper()
	old := s.Kill(t, name)
	Poll(t, "a new "+name+" and a healthy server", func() (string, bool) {
		st, err := s.Status()
		if err != nil {
			return err.Error(), false
		}
		for _, p := range st.Processes {
			if p.Name == name && p.PID != old {
				return st.Error, st.Healthy
			}
		}
		return "not started again", false
	})
}

// Poll waits until done says so, at most Patience; what it says last is in the failure.
func Poll(t testing.TB, what string, done func() (state string, ok bool)) {
	t.Helper()
	deadline := time.Now().Add(Patience)
	for {
		state, ok := done()
		if ok {
			return
		}
		if time.Now().After(deadline) {
			t.Fatalf("waiting for %s: %s", what, state)
		}
		time.Sleep(20 * time.Millisecond)
	}
}

// LogTail is the end of the server's log.
func (s *Server) LogTail() string {
	data, err := os.ReadFile(Log)
	if err != nil {
		return err.Error()
	}
	lines := strings.Split(string(data), "\n")
	return "--- the server's log, last lines:\n" + strings.Join(lines[max(0, len(lines)-60):], "\n")
}

// Context is a context that ends with the test or after Patience.
func Context(t testing.TB) context.Context {
	ctx, cancel := context.WithTimeout(context.Background(), Patience)
	t.Cleanup(cancel)
	return ctx
}
