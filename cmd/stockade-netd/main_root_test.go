//go:build root

package main

import (
	"context"
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
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"stockade/api/helper"
	"stockade/api/setting"
	"stockade/internal/boot"
	"stockade/internal/seqpacket"
	"stockade/internal/userns"
)

const (
	role      = "STKT_ROLE"
	engineUID = 54321
	netdUID   = 54322
	socket    = "@stkt-netd" // abstract, so it belongs to the test's network namespace
)

// TestMain starts the tests in a network namespace of their own, and plays the other processes.
func TestMain(m *testing.M) {
	runtime.LockOSThread()
	switch os.Getenv(role) {
	case "netd":
		main()
	case "engine":
		engine()
	case "host":
		os.Exit(m.Run())
	default:
		if os.Geteuid() != 0 {
			fmt.Fprintln(os.Stderr, "needs root")
			os.Exit(1)
		}
		cmd := exec.Command("/proc/self/exe", os.Args[1:]...)
		cmd.Env = append(os.Environ(), role+"=host")
		cmd.Stdout, cmd.Stderr = os.Stdout, os.Stderr
		cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: syscall.CLONE_NEWNET, Pdeathsig: syscall.SIGKILL}
		if err := cmd.Run(); err != nil {
			os.Exit(1)
		}
	}
}

// engine is root of U: it makes one container's network namespace and holds it until its socket closes.
func engine() {
	conn, err := seqpacket.New(3)
	if err != nil {
		os.Exit(1)
	}
	m := []userns.Map{{Inside: 0, Outside: 65537, Count: 1000}}
	files, err := userns.Create(unix.CLONE_NEWNET, m, m, "net")
	if err == nil {
		err = conn.Send(helper.None{}, files["net"])
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "engine:", err)
		os.Exit(1)
	}
	var q helper.None
	_, _ = conn.Recv(&q, 0)
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func startEngine(t *testing.T) (u, container *os.File) {
	pair, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_SEQPACKET|unix.SOCK_CLOEXEC, 0)
	must(t, err)
	theirs := os.NewFile(uintptr(pair[1]), "engine")
	defer theirs.Close()
	cmd := exec.Command("/proc/self/exe")
	cmd.Env, cmd.Stderr, cmd.ExtraFiles = []string{role + "=engine"}, os.Stderr, []*os.File{theirs}
	maps := []syscall.SysProcIDMap{{ContainerID: 0, HostID: engineUID, Size: 1}, {ContainerID: 1, HostID: 500000, Size: 1 << 20}}
	cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: syscall.CLONE_NEWUSER, UidMappings: maps, GidMappings: maps,
		GidMappingsEnableSetgroups: true, Credential: &syscall.Credential{}}
	must(t, cmd.Start())
	conn, err := seqpacket.New(pair[0])
	must(t, err)
	t.Cleanup(func() { conn.Close(); _ = cmd.Wait() })
	u, err = os.Open(fmt.Sprintf("/proc/%d/ns/user", cmd.Process.Pid))
	must(t, err)
	var none helper.None
	fds, err := conn.Recv(&none, 1)
	must(t, err)
	t.Cleanup(func() { u.Close(); fds[0].Close() })
	return u, fds[0]
}

// startNetd starts the real main with its real privileges.
func startNetd(t *testing.T, listener, u, records *os.File) *exec.Cmd {
	t.Helper()
	text, err := boot.Encode(setting.Netd{EngineUID: engineUID, Prefix: "stkt", Pool: "172.29.0.0/16", LowPorts: []uint16{80}},
		[]string{"engine", "userns", "records"})
	must(t, err)
	r, w, err := os.Pipe()
	must(t, err)
	_, err = w.Write(text)
	must(t, err)
	w.Close()
	defer r.Close()
	cmd := exec.Command("/proc/self/exe")
	cmd.Env, cmd.Stderr = []string{role + "=netd"}, os.Stderr
	cmd.ExtraFiles = []*os.File{r, listener, u, records}
	cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: netdUID, Gid: netdUID},
		AmbientCaps: []uintptr{unix.CAP_NET_ADMIN}}
	result := make(chan error)
	go func() { // the thread's bounding set is the child's; the thread ends here
		runtime.LockOSThread()
		for c := uintptr(0); c <= unix.CAP_LAST_CAP; c++ {
			if c != unix.CAP_NET_ADMIN {
				_ = unix.Prctl(unix.PR_CAPBSET_DROP, c, 0, 0, 0)
			}
		}
		result <- cmd.Start()
	}()
	must(t, <-result)
	return cmd
}

// dial connects as the engine's uid and greets.
func dial(t *testing.T, uid uintptr) (*seqpacket.Conn, error) {
	t.Helper()
	type result struct {
		conn *seqpacket.Conn
		err  error
	}
	c := make(chan result)
	go func() {
		runtime.LockOSThread()
		if _, _, errno := unix.RawSyscall(unix.SYS_SETRESUID, uid, uid, uid); errno != 0 {
			c <- result{nil, errno}
			return
		}
		conn, err := seqpacket.Dial(socket)
		c <- result{conn, err}
	}()
	r := <-c
	if r.err != nil {
		return nil, r.err
	}
	if err := seqpacket.Greet(r.conn); err != nil {
		r.conn.Close()
		return nil, err
	}
	return r.conn, nil
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
	fd, err := unix.Socket(unix.AF_UNIX, unix.SOCK_SEQPACKET|unix.SOCK_CLOEXEC, 0)
	must(t, err)
	must(t, unix.Bind(fd, &unix.SockaddrUnix{Name: socket}))
	must(t, unix.Listen(fd, 16))
	listener := os.NewFile(uintptr(fd), "listener")
	defer listener.Close()
	dir := t.TempDir()
	must(t, os.Chown(dir, netdUID, netdUID))
	records, err := os.Open(dir)
	must(t, err)
	defer records.Close()
	u, container := startEngine(t)
	lo, err := netlink.LinkByName("lo")
	must(t, err)
	must(t, netlink.LinkSetUp(lo))

	cmd := startNetd(t, listener, u, records)
	conn, err := dial(t, engineUID)
	must(t, err)
	status, err := os.ReadFile(filepath.Join("/proc", fmt.Sprint(cmd.Process.Pid), "status"))
	must(t, err)
	for _, want := range []string{"NoNewPrivs:\t1", "Seccomp:\t2", "CapEff:\t0000000000001000", "CapPrm:\t0000000000001000",
		"CapBnd:\t0000000000001000", "CapInh:\t0000000000000000", "CapAmb:\t0000000000000000"} {
		if !slices.Contains(strings.Split(string(status), "\n"), want) {
			t.Errorf("status lacks %q", want)
		}
	}

	attached := call[helper.AttachDone](t, conn, "attach", helper.Attach{ID: "aa", Address: "172.29.0.2"}, container)
	if attached.Class != "" {
		t.Fatalf("attach: %s", attached.Text)
	}
	published := call[helper.PublishDone](t, conn, "publish", helper.Publish{ID: "aa", Ports: []helper.Port{
		{Proto: "tcp", HostIP: "0.0.0.0", HostPort: 80, Container: 80},
		{Proto: "tcp", HostIP: "127.0.0.1", HostPort: 8080, Container: 80},
		{Proto: "udp", HostIP: "0.0.0.0", Container: 53},
		{Proto: "tcp", HostIP: "172.29.0.1", HostPort: 9000, HostEnd: 9010, Container: 80},
	}})
	if published.Class != "" {
		t.Fatalf("publish: %s", published.Text)
	}
	if fd, err := unix.Socket(unix.AF_INET, unix.SOCK_STREAM, 0); err == nil {
		if err := unix.Bind(fd, &unix.SockaddrInet4{Addr: [4]byte{127, 0, 0, 1}, Port: 8080}); err == nil {
			t.Error("a published port is not held")
		}
		unix.Close(fd)
	}

	// kill -9 and a new start
	must(t, cmd.Process.Kill())
	_ = cmd.Wait()
	conn.Close()
	cmd = startNetd(t, listener, u, records)
	conn, err = dial(t, engineUID)
	must(t, err)
	list := call[helper.EndpointList](t, conn, "list", helper.None{})
	if d := cmp.Diff([]string{"aa"}, list.Body.IDs); d != "" {
		t.Error(d)
	}
	again := call[helper.PublishDone](t, conn, "publish", helper.Publish{ID: "aa", Ports: published.Body.Ports})
	if d := cmp.Diff(published.Body, again.Body); d != "" || again.Class != "" {
		t.Error(d, again.Text)
	}

	// somebody flushes the rules
	out, err := exec.Command("nft", "flush", "ruleset").CombinedOutput()
	if err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	until(t, "return of the rules", func() bool {
		out, _ := exec.Command("nft", "list", "ruleset").Output()
		return strings.Contains(string(out), "172.29.0.2 . 80") && strings.Contains(string(out), "table bridge stkt")
	})

	// attacks on the protocol
	if c, err := dial(t, 0); err == nil {
		c.Close()
		t.Error("uid 0 is not the engine and was served")
	}
	for name, send := range map[string]func(*seqpacket.Conn) error{
		"unknown op":    func(c *seqpacket.Conn) error { return c.Send(helper.Request[helper.None]{Op: "setns"}) },
		"no descriptor": func(c *seqpacket.Conn) error { return c.Send(helper.Request[helper.Attach]{Op: "attach"}) },
		"two": func(c *seqpacket.Conn) error {
			return c.Send(helper.Request[helper.Attach]{Op: "attach"}, container, container)
		},
		"fd for publish": func(c *seqpacket.Conn) error { return c.Send(helper.Request[helper.Publish]{Op: "publish"}, container) },
		"unknown field": func(c *seqpacket.Conn) error {
			return c.Send(helper.Request[map[string]int]{Op: "list", Body: map[string]int{"x": 1}})
		},
	} {
		c, err := dial(t, engineUID)
		must(t, err)
		must(t, send(c))
		_ = c.SetDeadline(time.Now().Add(30 * time.Second))
		var answer helper.Answer[helper.None]
		if _, err := c.Recv(&answer, 0); err == nil {
			t.Errorf("%s: answered %+v", name, answer)
		}
		c.Close()
	}

	if a := call[helper.None](t, conn, "detach", helper.Detach{IDs: []string{"aa", "unknown"}}); a.Class != "" {
		t.Errorf("detach: %s", a.Text)
	}
	until(t, "removal of the link", func() bool {
		_, err := netlink.LinkByName(attached.Body.Host)
		return err != nil
	})
	conn.Close()
	must(t, cmd.Process.Signal(unix.SIGTERM))
	if err := cmd.Wait(); err != nil {
		t.Errorf("end: %v", err)
	}
}

func until(t *testing.T, what string, f func() bool) {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
	defer cancel()
	for ctx.Err() == nil {
		if f() {
			return
		}
		time.Sleep(10 * time.Millisecond)
	}
	t.Fatalf("%s did not happen", what)
}
