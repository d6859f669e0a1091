//go:build root

package attack

import (
	"encoding/json"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"stockade/api/helper"
	"stockade/internal/seqpacket"
	"stockade/test/harness"
)

// rogue is a connection to a helper that somebody made who took the engine or the gate over.
type rogue struct {
	t    *testing.T
	conn *seqpacket.Conn
}

func dialHelper(t *testing.T, name string, u harness.User) *rogue {
	t.Helper()
	r := &rogue{t: t}
	must(t, harness.As(u, func() (err error) {
		r.conn, err = seqpacket.Dial(filepath.Join(harness.Run, "priv", name))
		return err
	}))
	t.Cleanup(func() { r.conn.Close() })
	must(t, r.conn.SetDeadline(time.Now().Add(harness.Patience)))
	must(t, seqpacket.Greet(r.conn))
	return r
}

// ask makes one request. ended: the helper closed the connection.
func (r *rogue) ask(op string, body any, fds ...*os.File) (a helper.Answer[json.RawMessage], ended bool) {
	r.t.Helper()
	if err := r.conn.Send(helper.Request[any]{Op: op, Body: body}, fds...); err != nil {
		return a, true
	}
	files, err := r.conn.Recv(&a, helper.MaxFDs)
	seqpacket.CloseAll(files)
	if a.Class != "" && len(files) != 0 {
		r.t.Errorf("%s: refused, yet with descriptors", op)
	}
	return a, err != nil
}

// refused checks that a request is answered with one of the classes.
func (r *rogue) refused(name, op string, body any, fds []*os.File, classes ...helper.Class) {
	r.t.Helper()
	a, ended := r.ask(op, body, fds...)
	for _, c := range classes {
		if !ended && a.Class == c {
			return
		}
	}
	r.t.Errorf("%s: class %q %q, ended %v; want %v", name, a.Class, a.Text, ended, classes)
}

func (r *rogue) works(op string, body any, fds ...*os.File) json.RawMessage {
	r.t.Helper()
	a, ended := r.ask(op, body, fds...)
	if ended || a.Class != "" {
		r.t.Errorf("control: %s: class %q %q, ended %v", op, a.Class, a.Text, ended)
	}
	return a.Body
}

func open(t *testing.T, path string) *os.File {
	t.Helper()
	f, err := os.Open(path)
	must(t, err)
	t.Cleanup(func() { f.Close() })
	return f
}

func pidfd(t *testing.T, pid int) *os.File {
	t.Helper()
	fd, err := unix.PidfdOpen(pid, 0)
	must(t, err)
	f := os.NewFile(uintptr(fd), "pidfd")
	t.Cleanup(func() { f.Close() })
	return f
}

// T-701 T-702 T-703 T-704: the engine's uid, taken over, asks the running helpers over their real sockets for what
// lies outside of their scope. The helpers' own tests (priv/fstest, priv/netd, priv/cgroupd) go through every check;
// this one shows that the sockets of the whole server lead to them.
func TestRogueEngine(t *testing.T) {
	s := harness.Get(t)
	engine := harness.Lookup(t, "stockade-engine")
	work := filepath.Join(s.User.Home, "attack-rogue")
	must(t, os.Mkdir(work, 0o755))
	must(t, os.Chown(work, int(s.User.UID), int(s.User.GID)))
	t.Cleanup(func() { must(t, os.RemoveAll(work)) })
	id := s.Must(t, "run", "-d", "-v", work+":/x", "busybox", "sleep", "1000")
	t.Cleanup(func() { s.Must(t, "rm", "-f", id) })
	before := s.Settled(t)
	initialUser, initialNet := open(t, "/proc/self/ns/user"), open(t, "/proc/self/ns/net")
	u := open(t, fmt.Sprintf("/proc/%d/ns/user", s.PID(t, "engine")))

	mountd := dialHelper(t, "mountd.sock", engine)
	layer := func(name string) helper.Clone {
		return helper.Clone{Items: []helper.CloneItem{{Kind: helper.KindRW, Name: name}}}
	}
	mountd.refused("map of the host", "clone", layer(id), []*os.File{initialUser}, helper.Denied)
	mountd.refused("map of U", "clone", layer(id), []*os.File{u}, helper.Denied)
	mountd.refused("path as a name", "clone", layer("../../.."), []*os.File{u}, helper.Invalid, helper.Denied)
	mountd.refused("absolute name", "clone", layer("/etc"), []*os.File{u}, helper.Invalid, helper.Denied)
	mountd.refused("folder as a map", "clone", layer(id), []*os.File{open(t, "/etc")}, helper.Invalid)
	if _, ended := mountd.ask("bind", helper.Bind{}, open(t, "/etc"), u); !ended {
		t.Error("the engine may ask for binds")
	}

	cgroupd := dialHelper(t, "cgroupd.sock", engine)
	cgroupd.works("create", helper.CgroupCreate{ID: "rogue"})
	cgroupd.refused("pid 1", "attach", helper.CgroupAttach{ID: "rogue", PID: 1}, []*os.File{pidfd(t, 1)}, helper.Denied)
	cgroupd.refused("a process of root's", "attach", helper.CgroupAttach{ID: "rogue", PID: os.Getpid()}, []*os.File{pidfd(t, os.Getpid())}, helper.Denied)
	cgroupd.refused("the gate", "attach", helper.CgroupAttach{ID: "rogue", PID: s.PID(t, "gate")}, []*os.File{pidfd(t, s.PID(t, "gate"))}, helper.Denied)
	cgroupd.refused("another pid than the descriptor's", "attach", helper.CgroupAttach{ID: "rogue", PID: 1}, []*os.File{pidfd(t, s.PID(t, "engine"))}, helper.Denied, helper.Invalid)
	for _, name := range []string{"..", "../docker", "a/b", "", ".", "cgroup.procs", strings.Repeat("a", 65)} {
		cgroupd.refused("group "+name, "create", helper.CgroupCreate{ID: name}, nil, helper.Invalid)
		cgroupd.refused("kill "+name, "kill", helper.CgroupID{ID: name}, nil, helper.Invalid)
	}
	cgroupd.works("remove", helper.CgroupID{ID: "rogue"})

	netd := dialHelper(t, "netd.sock", engine)
	netd.works("list", helper.None{})
	attach := helper.Attach{ID: "rogue", Address: "10.231.200.200"}
	netd.refused("the host's namespace", "attach", attach, []*os.File{initialNet}, helper.Denied)
	netd.refused("a user namespace", "attach", attach, []*os.File{u}, helper.Invalid, helper.Denied)
	netd.refused("another's endpoint", "publish", helper.Publish{ID: "nobodys", Ports: []helper.Port{{Proto: "tcp", HostIP: "0.0.0.0", HostPort: 22, Container: 22}}}, nil, helper.NotFound, helper.Denied)
	netd.refused("rule in a name", "publish", helper.Publish{ID: "x; flush ruleset"}, nil, helper.Invalid, helper.NotFound)

	grantd := dialHelper(t, "grantd-engine.sock", engine)
	var grants helper.GrantList
	must(t, json.Unmarshal(grantd.works("list", helper.ListGrants{}), &grants))
	if len(grants.Grants) == 0 {
		t.Fatal("control: no grant")
	}
	block := harness.IDs.First + 65536
	for _, g := range grants.Grants {
		grantd.refused("another tenant's", "use", helper.Use{ID: g.ID, Tenant: "another", TargetUID: block, TargetGID: block}, nil, helper.NotFound)
		grantd.refused("as host root", "use", helper.Use{ID: g.ID, Tenant: "default", TargetUID: 0, TargetGID: 0}, nil, helper.Denied)
		grantd.refused("as the engine", "use", helper.Use{ID: g.ID, Tenant: "default", TargetUID: engine.UID, TargetGID: engine.GID}, nil, helper.Denied)
		grantd.refused("as the store", "use", helper.Use{ID: g.ID, Tenant: "default", TargetUID: harness.IDs.First, TargetGID: harness.IDs.First}, nil, helper.Denied)
	}
	grantd.works("use", helper.Use{ID: grants.Grants[0].ID, Tenant: "default", TargetUID: block, TargetGID: block})
	grantd.refused("unknown", "use", helper.Use{ID: strings.Repeat("0", 32), Tenant: "default", TargetUID: block, TargetGID: block}, nil, helper.NotFound)
	if _, ended := grantd.ask("grant", helper.Grant{Path: "/etc", Tenant: "default"}, initialUser); !ended {
		t.Error("the engine may ask for new grants")
	}
	for _, name := range []string{"mountd.sock", "netd.sock", "cgroupd.sock", "grantd-engine.sock"} {
		r := dialHelper(t, name, engine)
		must(t, r.conn.Raw([]byte(strings.Repeat("{", 70000))[:60000]))
		var a helper.Answer[json.RawMessage]
		if _, err := r.conn.Recv(&a, 0); err == nil {
			t.Errorf("%s answers nonsense: %+v", name, a)
		}
		r = dialHelper(t, name, engine)
		if _, ended := r.ask("shutdown", helper.None{}); !ended {
			t.Errorf("%s: an unknown request does not end the connection", name)
		}
	}
	s.NoLeaks(t, before)
	healthy(t, s)
}

// T-701: the gate's uid, taken over, cannot invent a caller.
func TestRogueGate(t *testing.T) {
	s := harness.Get(t)
	gate := harness.Lookup(t, "stockade-gate")
	pair, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	must(t, err)
	ends := []*os.File{os.NewFile(uintptr(pair[0]), "pair"), os.NewFile(uintptr(pair[1]), "pair")}
	t.Cleanup(func() { ends[0].Close(); ends[1].Close() })

	// A socket of its own, to which root connects.
	path := filepath.Join(folder(t), "sock")
	l, err := net.ListenUnix("unix", &net.UnixAddr{Name: path, Net: "unix"})
	must(t, err)
	defer l.Close()
	root, err := net.Dial("unix", path)
	must(t, err)
	defer root.Close()
	accepted, err := l.AcceptUnix()
	must(t, err)
	defer accepted.Close()
	own, err := accepted.File()
	must(t, err)
	defer own.Close()
	// The client's end of a connection to the API, which anybody in the group can have.
	client, err := s.Dial(s.User)
	must(t, err)
	defer client.Close()
	end, err := client.(*net.UnixConn).File()
	must(t, err)
	defer end.Close()

	r := dialHelper(t, "grantd-gate.sock", gate)
	grant := helper.Grant{Path: s.User.Home, Tenant: "default"}
	for name, f := range map[string]*os.File{"socket pair": ends[0], "socket of its own": own, "a client's end": end, "a folder": open(t, "/etc"), "a namespace": open(t, "/proc/self/ns/user")} {
		r.refused(name, "grant", grant, []*os.File{f}, helper.Denied, helper.Invalid)
	}
	r.works("drop", helper.Drop{IDs: []string{strings.Repeat("0", 32)}})
	if _, ended := r.ask("use", helper.Use{ID: strings.Repeat("0", 32), Tenant: "default"}); !ended {
		t.Error("the gate may use grants")
	}
	// Control: through the gate itself, with its caller's connection, the same path is granted.
	s.Must(t, "run", "--rm", "-v", s.User.Home+":/x:ro", "busybox", "true")
}

// T-701 T-702 T-703 T-704: what a process can do that runs as the engine or the gate, but without the confinement that
// they put on themselves; and the engine with every right that it has in its own namespaces. Controls as root.
func TestRogueProcesses(t *testing.T) {
	s := harness.Get(t)
	victim := s.Must(t, "run", "-d", "busybox", "sleep", "1000")
	t.Cleanup(func() { s.Must(t, "rm", "-f", victim) })
	dir := folder(t)
	must(t, os.WriteFile(dir+"/private", []byte("secret"), 0o600))
	gatePID, enginePID, upPID := s.PID(t, "gate"), s.PID(t, "engine"), s.PID(t, "supervisor")
	pids := map[string]int{"mountd": s.PID(t, "mountd"), "grantd": s.PID(t, "grantd"), "netd": s.PID(t, "netd"), "cgroupd": s.PID(t, "cgroupd"), "supervisor": upPID}
	cgroup := "/sys/fs/cgroup/memory"
	if _, err := os.Stat(cgroup); err != nil {
		cgroup = "/sys/fs/cgroup"
	}
	type attempt struct{ name, script, control string }
	same := func(name, script string) attempt { return attempt{name, script, script} }
	attempts := []attempt{
		same("read shadow", "cat /etc/shadow"),
		same("read a private file", "cat "+dir+"/private"),
		{"write to /etc", "echo x >/etc/stkt-rogue", "echo x >/etc/stkt-rogue; rm /etc/stkt-rogue"},
		same("list grants", "ls "+harness.Data+"/grantd"),
		same("list netd's records", "ls "+harness.Data+"/netd"),
		same("read the audit log", "cat "+harness.Data+"/log/audit.jsonl"),
		same("change the audit log", "true >>"+harness.Data+"/log/audit.jsonl"),
		same("change the configuration", "true >>"+harness.Config),
		same("list rules", "nft list tables"),
		{"make a table", "nft add table ip stktrogue", "nft add table ip stktrogue && nft delete table ip stktrogue"},
		{"make a link", "ip link add stktrogue type veth", "ip link add stktrogue type veth && ip link delete stktrogue"},
		{"make a group", "mkdir " + cgroup + "/stktrogue", "mkdir " + cgroup + "/stktrogue && rmdir " + cgroup + "/stktrogue"},
		{"make a group in ours", "mkdir " + cgroup + "/" + harness.Prefix + "/rogue2", "mkdir " + cgroup + "/" + harness.Prefix + "/rogue2 && rmdir " + cgroup + "/" + harness.Prefix + "/rogue2"},
		{"change the kernel", "echo x >/proc/sys/kernel/domainname", `d=$(cat /proc/sys/kernel/domainname) && echo "$d" >/proc/sys/kernel/domainname`},
		{"make a device", "mknod " + dir + "/rogue c 1 3 && echo x >" + dir + "/rogue", "mknod " + dir + "/rogue c 1 3 && echo x >" + dir + "/rogue && rm " + dir + "/rogue"},
		{"join the host's mounts", "nsenter --mount=/proc/1/ns/mnt true", "nsenter --mount=/proc/self/ns/mnt true"},
		same("signal init", "kill -0 1"),
	}
	for name, pid := range pids {
		attempts = append(attempts, same("signal "+name, fmt.Sprintf("kill -0 %d", pid)), same("read the memory of "+name, fmt.Sprintf("cat /proc/%d/maps | grep -q .", pid)))
	}
	gate := append(attempts[:len(attempts):len(attempts)],
		same("signal the engine", fmt.Sprintf("kill -0 %d", enginePID)), same("memory of the engine", fmt.Sprintf("cat /proc/%d/maps | grep -q .", enginePID)),
		same("files of containers", "ls "+harness.Data+"/engine"), same("join U", fmt.Sprintf("nsenter --user=/proc/%d/ns/user true", enginePID)))
	engine := append(attempts[:len(attempts):len(attempts)],
		same("signal the gate", fmt.Sprintf("kill -0 %d", gatePID)), same("memory of the gate", fmt.Sprintf("cat /proc/%d/maps | grep -q .", gatePID)),
		same("descriptors of the gate", fmt.Sprintf("ls /proc/%d/fd | grep -q .", gatePID)))
	inU := []string{"/usr/bin/nsenter", "-t", fmt.Sprint(enginePID), "-U", "-m", "-S", "0", "-G", "0", "--"}
	for _, c := range []struct {
		who      string
		user     harness.User
		prefix   []string
		attempts []attempt
		own      string // control: what this one may
	}{
		{"gate", harness.Lookup(t, "stockade-gate"), nil, gate, "test -S " + harness.Run + "/engine.sock"},
		{"engine outside of U", harness.Lookup(t, "stockade-engine"), nil, engine, "ls " + harness.Data + "/engine"},
		{"engine in U", harness.Root, inU, engine, "ls " + harness.Data + "/engine && grep -q 'CapEff:.0*1ffffffffff' /proc/self/status"},
	} {
		run := func(script string) harness.Result {
			args := append(append([]string{}, c.prefix...), "/bin/sh", "-c", script)
			u := c.user
			if u.UID != 0 {
				u.Home = "/"
			}
			return s.Exec(t, u, nil, args[0], args[1:]...)
		}
		if r := run(c.own); r.Code != 0 {
			t.Errorf("%s: control: %v", c.who, r)
		}
		for _, a := range c.attempts {
			if r := run(a.script); r.Code == 0 {
				t.Errorf("%s: %s: %v", c.who, a.name, r)
			}
		}
	}
	for _, a := range append(gate, engine...) {
		if r := s.Exec(t, harness.Root, nil, "/bin/sh", "-c", a.control); r.Code != 0 && !strings.Contains(a.name, "memory") {
			t.Errorf("control: %s: %v", a.name, r)
		}
	}
}
