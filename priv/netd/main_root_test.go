//go:build root

package netd

import (
	"context"
	"fmt"
	"io"
	"log/slog"
	"net"
	"os"
	"os/exec"
	"runtime"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"stockade/api/helper"
	"stockade/api/setting"
	"stockade/internal/seqpacket"
	"stockade/internal/userns"
)

// The tests run in a network namespace of their own: this program starts itself there, so the host is never touched.
const roleVariable = "STKT_ROLE"

const testPool = "172.29.0.0/16"

func TestMain(m *testing.M) {
	runtime.LockOSThread() // keeps threads that changed namespace from being the main one
	switch os.Getenv(roleVariable) {
	case "host":
		lo, err := netlink.LinkByName("lo")
		if err == nil {
			err = netlink.LinkSetUp(lo)
		}
		if err != nil {
			fmt.Fprintln(os.Stderr, "lo:", err)
			os.Exit(1)
		}
		os.Exit(m.Run())
	case "engine":
		engine()
	default:
		if os.Geteuid() != 0 {
			fmt.Fprintln(os.Stderr, "needs root")
			os.Exit(1)
		}
		cmd := exec.Command("/proc/self/exe", os.Args[1:]...)
		cmd.Env = append(os.Environ(), roleVariable+"=host")
		cmd.Stdout, cmd.Stderr = os.Stdout, os.Stderr
		cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: syscall.CLONE_NEWNET, Pdeathsig: syscall.SIGKILL}
		if err := cmd.Run(); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		os.Exit(0)
	}
}

// engine runs as root of U and makes a container's network namespace for each message.
func engine() {
	conn, err := seqpacket.New(3)
	if err != nil {
		os.Exit(1)
	}
	for {
		var q helper.None
		if _, err := conn.Recv(&q, 0); err != nil {
			os.Exit(0)
		}
		m := []userns.Map{{Inside: 0, Outside: 65537, Count: 1000}}
		files, err := userns.Create(unix.CLONE_NEWNET, m, m, "net")
		if err != nil {
			fmt.Fprintln(os.Stderr, "engine:", err)
			os.Exit(1)
		}
		if err := conn.Send(helper.None{}, files["net"]); err != nil {
			os.Exit(1)
		}
		seqpacket.CloseAll([]*os.File{files["net"], files["user"]})
	}
}

// bench is a host with U and a running netd.
type bench struct {
	t       *testing.T
	u       *os.File
	pid     int
	conn    *seqpacket.Conn
	records string
	s       *Server
}

func newBench(t *testing.T) *bench {
	t.Helper()
	b := &bench{t: t, records: t.TempDir()}
	pair, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_SEQPACKET|unix.SOCK_CLOEXEC, 0)
	must(t, err)
	theirs := os.NewFile(uintptr(pair[1]), "engine")
	cmd := exec.Command("/proc/self/exe")
	cmd.Env = []string{roleVariable + "=engine"}
	cmd.Stderr = os.Stderr
	cmd.ExtraFiles = []*os.File{theirs}
	maps := []syscall.SysProcIDMap{{ContainerID: 0, HostID: 54321, Size: 1}, {ContainerID: 1, HostID: 500000, Size: 1 << 20}}
	cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: syscall.CLONE_NEWUSER, UidMappings: maps, GidMappings: maps,
		GidMappingsEnableSetgroups: true, Credential: &syscall.Credential{}}
	must(t, cmd.Start())
	theirs.Close()
	b.pid = cmd.Process.Pid
	b.conn, err = seqpacket.New(pair[0])
	must(t, err)
	t.Cleanup(func() { b.conn.Close(); _ = cmd.Wait() })
	b.u, err = os.Open(fmt.Sprintf("/proc/%d/ns/user", b.pid))
	must(t, err)
	t.Cleanup(func() { b.u.Close() })
	b.start()
	t.Cleanup(func() {
		if b.s == nil {
			return
		}
		for id := range b.s.endpoints {
			_ = b.s.deleteLink(linkName("stkt", id))
		}
		b.stop()
		_ = b.deleteLink("stkt0")
		b.nft("flush ruleset")
	})
	return b
}

func (b *bench) deleteLink(name string) error {
	link, err := netlink.LinkByName(name)
	if err == nil {
		err = netlink.LinkDel(link)
	}
	return err
}

// start starts netd (again); stop ends it as kill -9 would, as far as the kernel's state goes.
func (b *bench) start() {
	b.t.Helper()
	folder, err := os.Open(b.records)
	must(b.t, err)
	set := setting.Netd{EngineUID: 0, Prefix: "stkt", Pool: testPool, LowPorts: []uint16{80}}
	began := time.Now()
	b.s, err = New(set, b.u, folder, slog.New(slog.NewTextHandler(io.Discard, nil)))
	must(b.t, err)
	b.t.Logf("start: %v", time.Since(began))
}

func (b *bench) stop() {
	b.s.Close()
	b.s.store.folder.Close()
	b.s = nil
}

// background runs one of the server's loops until the test ends.
func (b *bench) background(loop func(context.Context)) context.Context {
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan struct{})
	go func() { loop(ctx); close(done) }()
	b.t.Cleanup(func() { cancel(); <-done })
	return ctx
}

func (b *bench) namespace() *os.File {
	b.t.Helper()
	must(b.t, b.conn.Send(helper.None{}))
	var a helper.None
	fds, err := b.conn.Recv(&a, 1)
	must(b.t, err)
	b.t.Cleanup(func() { fds[0].Close() })
	return fds[0]
}

// container attaches a new namespace and sets its addresses as the engine would.
func (b *bench) container(id, address string) *os.File {
	b.t.Helper()
	ns := b.namespace()
	began := time.Now()
	done, _, err := b.s.attach(context.Background(), helper.Attach{ID: id, Address: address}, []*os.File{ns})
	must(b.t, err)
	b.t.Logf("attach: %v", time.Since(began))
	must(b.t, inside(ns, func() error {
		lo, err := netlink.LinkByName("lo")
		if err != nil {
			return err
		}
		if err := netlink.LinkSetUp(lo); err != nil {
			return err
		}
		return configure("eth0", fmt.Sprintf("%s/%d", address, done.Bits), done.Gateway)
	}))
	return ns
}

func configure(link, cidr, gateway string) error {
	eth, err := netlink.LinkByName(link)
	if err != nil {
		return err
	}
	addr, err := netlink.ParseAddr(cidr)
	if err != nil {
		return err
	}
	if err := netlink.AddrAdd(eth, addr); err != nil {
		return err
	}
	if err := netlink.LinkSetUp(eth); err != nil || gateway == "" {
		return err
	}
	return netlink.RouteAdd(&netlink.Route{LinkIndex: eth.Attrs().Index, Gw: net.ParseIP(gateway)})
}

// outside makes a machine of the LAN: host side 10.77.0.1, its own address 10.77.0.2.
func (b *bench) outside() *os.File {
	b.t.Helper()
	ns := b.namespace()
	attrs := netlink.NewLinkAttrs()
	attrs.Name = "lan0"
	must(b.t, netlink.LinkAdd(&netlink.Veth{LinkAttrs: attrs, PeerName: "eth0", PeerNamespace: netlink.NsFd(int(ns.Fd()))}))
	b.t.Cleanup(func() { _ = b.deleteLink("lan0") })
	must(b.t, configure("lan0", "10.77.0.1/24", ""))
	must(b.t, inside(ns, func() error { return configure("eth0", "10.77.0.2/24", "") }))
	return ns
}

// inside runs f on a thread in the network namespace; the thread ends with it. nil means the host's.
func inside(ns *os.File, f func() error) error {
	if ns == nil {
		return f()
	}
	result := make(chan error)
	go func() {
		runtime.LockOSThread()
		err := unix.Setns(int(ns.Fd()), unix.CLONE_NEWNET)
		if err == nil {
			err = f()
		}
		result <- err
	}()
	return <-result
}

// serve answers every connection and datagram on a port with name and the peer's address.
func (b *bench) serve(ns *os.File, name, address string) {
	b.t.Helper()
	must(b.t, inside(ns, func() error {
		l, err := net.Listen("tcp4", address)
		if err != nil {
			return err
		}
		b.t.Cleanup(func() { l.Close() })
		go func() {
			for {
				c, err := l.Accept()
				if err != nil {
					return
				}
				fmt.Fprintf(c, "%s %s", name, c.RemoteAddr().(*net.TCPAddr).IP)
				c.Close()
			}
		}()
		u, err := net.ListenPacket("udp4", address)
		if err != nil {
			return err
		}
		b.t.Cleanup(func() { u.Close() })
		go func() {
			buf := make([]byte, 100)
			for {
				_, from, err := u.ReadFrom(buf)
				if err != nil {
					return
				}
				_, _ = u.WriteTo([]byte(name+" "+from.(*net.UDPAddr).IP.String()), from)
			}
		}()
		return nil
	}))
}

// ask connects from a namespace and returns what the server says.
func ask(ns *os.File, network, address string, limit time.Duration) (string, error) {
	var text string
	err := inside(ns, func() error {
		c, err := net.DialTimeout(network, address, limit)
		if err != nil {
			return err
		}
		defer c.Close()
		_ = c.SetDeadline(time.Now().Add(limit))
		if strings.HasPrefix(network, "udp") {
			if _, err := c.Write([]byte("hello")); err != nil {
				return err
			}
		}
		buf := make([]byte, 100)
		n, err := c.Read(buf)
		text = string(buf[:n])
		return err
	})
	return text, err
}

const (
	patience = 10 * time.Second       // for what must work
	silence  = 700 * time.Millisecond // for what must not; each has a control that works
)

func (b *bench) reach(ns *os.File, network, address, want string) {
	b.t.Helper()
	got, err := ask(ns, network, address, patience)
	if err != nil || !strings.HasPrefix(got, want) {
		b.t.Errorf("%s %s: %q, %v; want %q", network, address, got, err, want)
	}
}

func (b *bench) refused(ns *os.File, network, address string) {
	b.t.Helper()
	if got, err := ask(ns, network, address, silence); err == nil {
		b.t.Errorf("%s %s: reached %q", network, address, got)
	}
}

func (b *bench) publish(id string, ports ...helper.Port) ([]helper.Port, error) {
	began := time.Now()
	done, _, err := b.s.publish(context.Background(), helper.Publish{ID: id, Ports: ports}, nil)
	b.t.Logf("publish %d: %v", len(ports), time.Since(began))
	return done.Ports, err
}

func (b *bench) nft(args string) string {
	out, err := exec.Command("nft", strings.Fields(args)...).CombinedOutput()
	if err != nil {
		b.t.Logf("nft %s: %v: %s", args, err, out)
	}
	return string(out)
}

// until polls for a condition with a generous limit.
func until(t *testing.T, what string, f func() bool) {
	t.Helper()
	for end := time.Now().Add(30 * time.Second); time.Now().Before(end); time.Sleep(10 * time.Millisecond) {
		if f() {
			return
		}
	}
	t.Fatalf("%s did not happen", what)
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}
