//go:build root

package fstest

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"stockade/api/helper"
	"stockade/api/setting"
	"stockade/internal/boot"
	"stockade/internal/confine"
	"stockade/internal/seqpacket"
	"stockade/internal/userns"
	"stockade/priv/grantd"
	"stockade/priv/mountd"
)

// Ids of the tests; nobody else has them.
const (
	gateUID   = 64801
	engineUID = 64802
	mountdUID = 64803
	grantdUID = 64804
	aliceUID  = 64810
	teamGID   = 64811 // supplementary group of alice
	bobUID    = 64820
)

var (
	sub   = setting.IDRange{First: 1_000_000_000, Count: 4 * setting.BlockSize}
	store = setting.IDRange{First: sub.First, Count: setting.BlockSize}
	ghost = setting.IDRange{First: 1 << 31, Count: 1<<31 - 1<<17}
	block = sub.First + 2*setting.BlockSize // host id of a container's root
)

const roleEnv = "STOCKADE_FSTEST_ROLE"

func TestMain(m *testing.M) {
	if role := os.Getenv(roleEnv); role != "" {
		log := slog.New(slog.NewTextHandler(os.Stderr, nil))
		if err := play(role, log); err != nil {
			log.Error("end", "err", err)
			os.Exit(1)
		}
		os.Exit(0)
	}
	if os.Getuid() != 0 {
		fmt.Fprintln(os.Stderr, "needs root")
		os.Exit(1)
	}
	os.Exit(m.Run())
}

// play is what the children do: the mains of the two processes, and the making of namespaces inside U.
func play(role string, log *slog.Logger) error {
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM)
	defer stop()
	switch role {
	case "mountd":
		var set setting.Mountd
		files, err := boot.Receive(&set)
		if err != nil {
			return err
		}
		if err := confine.Process(mountd.Limits(log)); err != nil {
			return err
		}
		return mountd.Run(ctx, set, files, log)
	case "grantd":
		var set setting.Grantd
		files, err := boot.Receive(&set)
		if err != nil {
			return err
		}
		if err := confine.Process(grantd.Limits(files["records"], log)); err != nil {
			return err
		}
		return grantd.Run(ctx, set, files, log)
	case "connect": // a process that connects a socket which others hold, too, and ends
		return unix.Connect(3, &unix.SockaddrUnix{Name: os.Getenv("SOCKET")})
	case "maps":
		var maps []userns.Map
		if err := json.NewDecoder(os.Stdin).Decode(&maps); err != nil {
			return err
		}
		files, err := userns.Create(0, maps, maps)
		if err != nil {
			return err
		}
		fmt.Println(files["user"].Fd())
		_, err = io.Copy(io.Discard, os.Stdin) // the parent opens it meanwhile
		return err
	}
	return fmt.Errorf("role %q", role)
}

// process is one running helper.
type process struct {
	cmd  *exec.Cmd
	log  *lockedBuffer
	done chan struct{}
}

type lockedBuffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (l *lockedBuffer) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.Write(p)
}
func (l *lockedBuffer) String() string { l.mu.Lock(); defer l.mu.Unlock(); return l.b.String() }

// start runs a role as the supervisor would: its uid, its capabilities, its bounding set, its hand-over.
func start(t *testing.T, role string, uid uint32, caps []uintptr, settings any, names []string, files ...*os.File) *process {
	t.Helper()
	doc, err := boot.Encode(settings, names)
	if err != nil {
		t.Fatal(err)
	}
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	if _, err := w.Write(doc); err != nil {
		t.Fatal(err)
	}
	w.Close()
	p := &process{cmd: exec.Command("/proc/self/exe"), log: &lockedBuffer{}, done: make(chan struct{})}
	p.cmd.Stderr = p.log
	p.cmd.Env = []string{roleEnv + "=" + role}
	p.cmd.ExtraFiles = append([]*os.File{r}, files...)
	p.cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: uid, Gid: uid}, AmbientCaps: caps}
	started := make(chan error)
	go func() {
		runtime.LockOSThread() // ends with the goroutine, and its bounding set with it
		for n := uintptr(0); n < 64; n++ {
			keep := false
			for _, c := range caps {
				keep = keep || c == n
			}
			if !keep {
				_ = unix.Prctl(unix.PR_CAPBSET_DROP, n, 0, 0, 0)
			}
		}
		started <- p.cmd.Start()
	}()
	if err := <-started; err != nil {
		t.Fatal(err)
	}
	go func() { _ = p.cmd.Wait(); close(p.done) }()
	t.Cleanup(func() {
		_ = p.cmd.Process.Kill()
		<-p.done
		if t.Failed() {
			t.Logf("%s:\n%s", role, p.log.String())
		}
	})
	return p
}

func (p *process) waitLog(t *testing.T, text string) {
	t.Helper()
	eventually(t, "log line "+text, func() bool { return strings.Contains(p.log.String(), text) })
}

func eventually(t *testing.T, what string, ok func() bool) {
	t.Helper()
	for range 1000 {
		if ok() {
			return
		}
		time.Sleep(10 * time.Millisecond)
	}
	t.Fatalf("never: %s", what)
}

// as runs do on a thread of its own with another identity (and, for another uid than 0, without capabilities).
func as(uid uint32, groups []uint32, do func()) {
	done := make(chan struct{})
	var onThread func()
	onThread = func() {
		runtime.LockOSThread()
		if unix.Gettid() == unix.Getpid() {
			go onThread()
			<-done
			runtime.UnlockOSThread()
			return
		}
		defer close(done)
		setIdentity(uid, groups)
		do()
	}
	go onThread()
	<-done
}

// world is a running pair of helpers with their folders, namespaces and sockets.
type world struct {
	t       *testing.T
	dir     string
	u       *os.File
	mountd  *process
	grantd  *process
	records string
	api     int // listening stream socket
	pair    *os.File
}

func (w *world) path(elem ...string) string {
	return filepath.Join(append([]string{w.dir}, elem...)...)
}

// newWorld makes the folders and U and starts mountd; with grantd also grantd, else the test holds its end of the pair.
func newWorld(t *testing.T, withGrantd bool, change func(*setting.Grantd)) *world {
	t.Helper()
	dir, err := os.MkdirTemp("/var/tmp", "stkt")
	if err != nil {
		t.Fatal(err)
	}
	w := &world{t: t, dir: dir}
	t.Cleanup(func() { os.RemoveAll(dir) })
	must(t, os.Chmod(dir, 0o755))
	for _, d := range []struct {
		path string
		uid  int
		mode os.FileMode
	}{
		{"state", 0, 0o711}, {"state/store", engineUID, 0o711}, {"state/store/layers", engineUID, 0o711}, {"state/store/rw", engineUID, 0o711},
		{"state/store/volumes", engineUID, 0o711}, {"run", 0, 0o755}, {"grants", grantdUID, 0o700},
	} {
		must(t, os.Mkdir(w.path(d.path), 0o700))
		must(t, os.Chown(w.path(d.path), d.uid, d.uid))
		must(t, os.Chmod(w.path(d.path), d.mode))
	}
	w.records = w.path("grants")
	files, err := userns.Create(0, []userns.Map{{Inside: 0, Outside: engineUID, Count: 1}, {Inside: 1, Outside: sub.First, Count: sub.Count}},
		[]userns.Map{{Inside: 0, Outside: engineUID, Count: 1}, {Inside: 1, Outside: sub.First, Count: sub.Count}})
	must(t, err)
	w.u = files["user"]
	t.Cleanup(func() { w.u.Close() })

	pair, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_SEQPACKET|unix.SOCK_CLOEXEC, 0)
	must(t, err)
	ends := [2]*os.File{os.NewFile(uintptr(pair[0]), "mountd's end"), os.NewFile(uintptr(pair[1]), "grantd's end")}
	listener := w.listen("run/mountd.sock", engineUID, unix.SOCK_SEQPACKET)
	storeDir, err := os.OpenFile(w.path("state/store"), unix.O_PATH|unix.O_DIRECTORY, 0)
	must(t, err)
	w.mountd = start(t, "mountd", mountdUID, []uintptr{unix.CAP_SYS_ADMIN}, setting.Mountd{EngineUID: engineUID, Store: store},
		[]string{"engine", "grantd", "store", "userns"}, listener, ends[0], storeDir, w.u)
	for _, f := range []*os.File{listener, ends[0], storeDir} {
		f.Close()
	}
	w.mountd.waitLog(t, "confined")
	if !withGrantd {
		w.pair = ends[1]
		t.Cleanup(func() { w.pair.Close() })
		return w
	}
	apiFile := w.listen("run/docker.sock", 0, unix.SOCK_STREAM)
	must(t, os.Chmod(w.path("run/docker.sock"), 0o666))
	w.api, err = unix.Dup(int(apiFile.Fd()))
	must(t, err)
	apiFile.Close()
	t.Cleanup(func() { unix.Close(w.api) })
	set := setting.Grantd{GateUID: gateUID, EngineUID: engineUID, APISockets: []string{w.path("run/docker.sock")}, Sub: sub, Ghost: ghost,
		RootPrefixes: []string{w.path("shared")}, Forbidden: []string{w.path("state"), w.path("run")}, MaxGrants: 20}
	if change != nil {
		change(&set)
	}
	gate, engine := w.listen("run/grantd-gate.sock", gateUID, unix.SOCK_SEQPACKET), w.listen("run/grantd-engine.sock", engineUID, unix.SOCK_SEQPACKET)
	records, err := os.Open(w.records)
	must(t, err)
	w.grantd = start(t, "grantd", grantdUID, []uintptr{unix.CAP_SETUID, unix.CAP_SETGID}, set,
		[]string{"gate", "engine", "mountd", "userns", "records"}, gate, engine, ends[1], w.u, records)
	for _, f := range []*os.File{gate, engine, ends[1], records} {
		f.Close()
	}
	w.grantd.waitLog(t, "confined")
	return w
}

func (w *world) listen(name string, uid, kind int) *os.File {
	w.t.Helper()
	fd, err := unix.Socket(unix.AF_UNIX, kind|unix.SOCK_CLOEXEC, 0)
	must(w.t, err)
	must(w.t, unix.Bind(fd, &unix.SockaddrUnix{Name: w.path(name)}))
	must(w.t, unix.Listen(fd, 16))
	must(w.t, os.Chown(w.path(name), uid, uid))
	must(w.t, os.Chmod(w.path(name), 0o600))
	return os.NewFile(uintptr(fd), name)
}

// childOfU makes a user namespace inside U; Outside counts in U.
func (w *world) childOfU(maps ...userns.Map) *os.File {
	w.t.Helper()
	exe, err := os.Open("/proc/self/exe")
	must(w.t, err)
	defer exe.Close()
	cmd := exec.Command("nsenter", "--user=/proc/self/fd/3", "--", "/proc/self/fd/4")
	cmd.ExtraFiles = []*os.File{w.u, exe}
	cmd.Env = []string{roleEnv + "=maps", "PATH=/usr/bin:/bin"}
	var errOut bytes.Buffer
	cmd.Stderr = &errOut
	in, err := cmd.StdinPipe()
	must(w.t, err)
	out, err := cmd.StdoutPipe()
	must(w.t, err)
	must(w.t, cmd.Start())
	must(w.t, json.NewEncoder(in).Encode(maps))
	var fd int
	if _, err := fmt.Fscan(out, &fd); err != nil {
		w.t.Fatalf("namespace: %v: %s", err, errOut.String())
	}
	ns, err := os.Open(fmt.Sprintf("/proc/%d/fd/%d", cmd.Process.Pid, fd))
	must(w.t, err)
	in.Close()
	must(w.t, cmd.Wait())
	w.t.Cleanup(func() { ns.Close() })
	return ns
}

// dial connects as uid.
func (w *world) dial(name string, uid uint32) *client {
	w.t.Helper()
	var conn *seqpacket.Conn
	var err error
	as(uid, nil, func() { conn, err = seqpacket.Dial(w.path("run", name)) })
	must(w.t, err)
	must(w.t, conn.SetDeadline(time.Now().Add(30*time.Second)))
	w.t.Cleanup(func() { conn.Close() })
	return &client{w.t, conn}
}

// client is one connection.
type client struct {
	t *testing.T
	*seqpacket.Conn
}

func (c *client) greet() *client {
	c.t.Helper()
	must(c.t, seqpacket.Greet(c.Conn))
	must(c.t, c.SetDeadline(time.Now().Add(30*time.Second)))
	return c
}

// ask makes one request; a closed connection fails the test.
func (c *client) ask(op string, body any, fds ...*os.File) (helper.Answer[json.RawMessage], []*os.File) {
	c.t.Helper()
	must(c.t, c.Send(helper.Request[any]{Op: op, Body: body}, fds...))
	var a helper.Answer[json.RawMessage]
	files, err := c.Recv(&a, helper.MaxFDs)
	if err != nil {
		c.t.Fatalf("%s: %v", op, err)
	}
	c.t.Cleanup(func() { seqpacket.CloseAll(files) })
	return a, files
}

func (c *client) wantClass(class helper.Class, text, op string, body any, fds ...*os.File) {
	c.t.Helper()
	a, files := c.ask(op, body, fds...)
	if a.Class != class || !strings.Contains(a.Text, text) || len(files) != 0 {
		c.t.Errorf("%s: class %q, text %q, %d descriptors; want %q with %q", op, a.Class, a.Text, len(files), class, text)
	}
}

// wantEnd tells whether the server ends the connection after what was sent.
func (c *client) wantEnd(what string) {
	c.t.Helper()
	var a helper.Answer[json.RawMessage]
	_, err := c.Recv(&a, helper.MaxFDs)
	if !errors.Is(err, io.EOF) && !errors.Is(err, unix.ECONNRESET) {
		c.t.Errorf("%s: got answer %+v, error %v; want the end of the connection", what, a, err)
	}
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func fdsOpen(t *testing.T, p *process) int {
	t.Helper()
	list, err := os.ReadDir(fmt.Sprintf("/proc/%d/fd", p.cmd.Process.Pid))
	must(t, err)
	return len(list)
}
