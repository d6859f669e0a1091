//go:build root

package fstest

import (
	"bytes"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"

	"stockade/api/helper"
	"stockade/api/setting"
)

// connect makes a client connection as the API socket's clients do and returns both ends.
func (w *world) connect(uid uint32, groups ...uint32) (client, accepted *os.File) {
	w.t.Helper()
	fd, err := unix.Socket(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	must(w.t, err)
	as(uid, groups, func() { err = unix.Connect(fd, &unix.SockaddrUnix{Name: w.path("run/docker.sock")}) })
	must(w.t, err)
	got, _, err := unix.Accept4(w.api, unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK)
	must(w.t, err)
	client, accepted = os.NewFile(uintptr(fd), "client"), os.NewFile(uintptr(got), "accepted")
	w.t.Cleanup(func() { client.Close(); accepted.Close() })
	return client, accepted
}

// people makes alice's and bob's folders and connects gate and engine.
func people(w *world) (gate, engine *client) {
	for _, d := range []struct {
		path     string
		uid, gid int
		mode     os.FileMode
	}{
		{"alice", aliceUID, aliceUID, 0o700}, {"alice/data", aliceUID, aliceUID, 0o755}, {"alice/data/sub", aliceUID, aliceUID, 0o755},
		{"bob", bobUID, bobUID, 0o700}, {"bob/data", bobUID, bobUID, 0o755}, {"team", 0, teamGID, 0o750}, {"team/data", 0, teamGID, 0o775},
		{"shared", 0, 0, 0o755}, {"shared/data", 0, 0, 0o700}, {"rootonly", 0, 0, 0o700},
	} {
		must(w.t, os.Mkdir(w.path(d.path), 0o700))
		must(w.t, os.Chown(w.path(d.path), d.uid, d.gid))
		must(w.t, os.Chmod(w.path(d.path), d.mode))
	}
	must(w.t, os.WriteFile(w.path("alice/data/secret"), []byte("root's"), 0o600))
	must(w.t, os.WriteFile(w.path("alice/data/own"), []byte("alice's"), 0o600))
	must(w.t, os.Chown(w.path("alice/data/own"), aliceUID, aliceUID))
	return w.dial("grantd-gate.sock", gateUID).greet(), w.dial("grantd-engine.sock", engineUID).greet()
}

func (w *world) grant(gate *client, conn *os.File, q helper.Grant) helper.GrantDone {
	w.t.Helper()
	a, _ := gate.ask("grant", q, conn)
	return body[helper.GrantDone](w.t, a)
}

func use(id string) helper.Use {
	return helper.Use{ID: id, Tenant: "t", TargetUID: block, TargetGID: block}
}

func TestGrantAndUse(t *testing.T) {
	w := newWorld(t, true, nil)
	gate, engine := people(w)
	_, conn := w.connect(aliceUID, teamGID)
	g := w.grant(gate, conn, helper.Grant{Path: w.path("alice/data"), Tenant: "t"})
	if !g.Dir || g.UID != aliceUID || len(g.ID) != 32 {
		t.Fatalf("grant: %+v", g)
	}
	if fl, err := unix.FcntlInt(conn.Fd(), unix.F_GETFL, 0); err != nil || fl&unix.O_NONBLOCK == 0 {
		t.Error("the client's connection was made blocking")
	}
	a, mounts := engine.ask("use", use(g.ID))
	done := body[helper.UseDone](t, a)
	if len(mounts) != 1 || len(done.Mounts) != 1 || done.Mounts[0] != "." || !done.Dir {
		t.Fatalf("use: %+v, %d mounts", done, len(mounts))
	}
	if got := mountFlags(t, mounts[0]); got != unix.ST_NODEV|unix.ST_NOSUID {
		t.Errorf("flags %#x", got)
	}
	if uid, gid := ownerIn(t, mounts[0], "own"); uid != block || gid != block {
		t.Errorf("alice's file is %d:%d in the container, want %d", uid, gid, block)
	}
	if uid, gid := ownerIn(t, mounts[0], "secret"); uid != ghost.First || gid != ghost.First {
		t.Errorf("root's file is %d:%d in the container, want %d", uid, gid, ghost.First)
	}
	// What the container's root can do is what alice could.
	var secret, created error
	as(block, nil, func() {
		_, secret = unix.Openat(int(mounts[0].Fd()), "secret", unix.O_RDONLY|unix.O_CLOEXEC, 0)
		var fd int
		if fd, created = unix.Openat(int(mounts[0].Fd()), "new", unix.O_CREAT|unix.O_WRONLY|unix.O_CLOEXEC, 0o600); created == nil {
			unix.Close(fd)
		}
	})
	if secret != unix.EACCES || created != nil {
		t.Errorf("open root's file: %v, create: %v", secret, created)
	}
	var st unix.Stat_t
	must(t, unix.Lstat(w.path("alice/data/new"), &st))
	if st.Uid != aliceUID || st.Gid != aliceUID {
		t.Errorf("new file on disk is %d:%d", st.Uid, st.Gid)
	}

	// A supplementary group counts; a single file; read-only from grant or use.
	w.grant(gate, conn, helper.Grant{Path: w.path("team/data"), Tenant: "t"})
	file := w.grant(gate, conn, helper.Grant{Path: w.path("alice/data/own"), Tenant: "t", RO: true})
	if file.Dir {
		t.Error("a file is called a folder")
	}
	_, mounts = engine.ask("use", use(file.ID))
	if len(mounts) != 1 || mountFlags(t, mounts[0])&unix.ST_RDONLY == 0 {
		t.Error("a read-only grant gave a writable mount")
	}
	q := use(g.ID)
	q.RO = true
	if _, mounts = engine.ask("use", q); len(mounts) != 1 || mountFlags(t, mounts[0])&unix.ST_RDONLY == 0 {
		t.Error("a read-only use gave a writable mount")
	}

	// Folders that docker -v makes belong to the client.
	w.grant(gate, conn, helper.Grant{Path: w.path("alice/made/deep"), Tenant: "t", Create: true})
	must(t, unix.Lstat(w.path("alice/made/deep"), &st))
	if st.Uid != aliceUID || st.Gid != aliceUID || st.Mode&0o7777 != 0o755 {
		t.Errorf("made %d:%d %#o", st.Uid, st.Gid, st.Mode)
	}

	// uid 0 beneath a listed folder, without any capability.
	_, root := w.connect(0)
	r := w.grant(gate, root, helper.Grant{Path: w.path("shared/data"), Tenant: "t"})
	_, mounts = engine.ask("use", use(r.ID))
	if uid, _ := ownerIn(t, mounts[0], ""); uid != block {
		t.Errorf("root's folder is %d's", uid)
	}
	w.grant(gate, root, helper.Grant{Path: w.path("shared/new"), Tenant: "t", Create: true})

	// The list, dropping, and the records of a new process.
	a, _ = engine.ask("list", helper.ListGrants{})
	all := body[helper.GrantList](t, a).Grants
	if len(all) != 6 {
		t.Fatalf("%d grants listed", len(all))
	}
	a, _ = engine.ask("list", helper.ListGrants{After: all[4].ID})
	if page := body[helper.GrantList](t, a).Grants; len(page) != 1 || page[0] != all[5] {
		t.Errorf("page after the fifth: %v", page)
	}
	a, _ = engine.ask("drop", helper.Drop{IDs: []string{g.ID, "unknown", "../x"}})
	body[helper.None](t, a)
	engine.wantClass(helper.NotFound, "no such bind grant", "use", use(g.ID))
	a, _ = gate.ask("drop", helper.Drop{IDs: []string{r.ID}})
	body[helper.None](t, a)
	files, err := os.ReadDir(w.records)
	must(t, err)
	if len(files) != 4 {
		t.Errorf("%d records on disk, want 4", len(files))
	}
	for _, f := range files {
		info, err := f.Info()
		must(t, err)
		if info.Mode() != 0o600 {
			t.Errorf("record has mode %v", info.Mode())
		}
	}
}

func TestUseRecursive(t *testing.T) {
	w := newWorld(t, true, nil)
	gate, engine := people(w)
	mount := func(p, fs, opts string) {
		must(t, os.MkdirAll(w.path(p), 0o755))
		must(t, unix.Mount("none", w.path(p), fs, 0, opts))
		t.Cleanup(func() { must(t, unix.Unmount(w.path(p), unix.MNT_DETACH)) })
	}
	mount("alice/data/sub", "tmpfs", fmt.Sprintf("mode=755,uid=%d,gid=%d", aliceUID, aliceUID))
	mount("alice/data/with space", "tmpfs", "mode=755")
	mount("alice/data/proc", "proc", "")
	must(t, os.Mkdir(w.path("alice/data/closed"), 0o700))
	mount("alice/data/closed/in", "tmpfs", "mode=755")
	_, conn := w.connect(aliceUID)
	g := w.grant(gate, conn, helper.Grant{Path: w.path("alice/data"), Tenant: "t"})
	q := use(g.ID)
	q.Recursive = true
	a, mounts := engine.ask("use", q)
	done := body[helper.UseDone](t, a)
	if len(mounts) != 3 || len(done.Mounts) != 3 || done.Mounts[1] != "sub" || done.Mounts[2] != "with space" {
		t.Fatalf("%d mounts: %q", len(mounts), done.Mounts)
	}
	if uid, _ := ownerIn(t, mounts[1], ""); uid != block {
		t.Errorf("alice's tmpfs is %d's", uid)
	}
	if uid, _ := ownerIn(t, mounts[2], ""); uid != ghost.First {
		t.Errorf("root's tmpfs is %d's", uid)
	}
	skipped := map[string]string{}
	for _, k := range done.Skipped {
		skipped[k.Path] = k.Reason
	}
	// All of the host: what alice sees anyway.
	g = w.grant(gate, conn, helper.Grant{Path: "/", Tenant: "t"})
	q.ID = g.ID
	a, mounts = engine.ask("use", q)
	done = body[helper.UseDone](t, a)
	if len(mounts) != len(done.Mounts) || done.Mounts[0] != "." || !slices.ContainsFunc(done.Skipped, func(k helper.Skipped) bool { return k.Path == "proc" }) {
		t.Errorf("/: %d mounts, %+v", len(mounts), done)
	}
	if len(skipped) != 2 || !strings.Contains(skipped["proc"], "id-map") || !strings.Contains(skipped["closed/in"], "reach") {
		t.Errorf("skipped: %q", skipped)
	}
}

// SECURITY(T-701): paths that a person must not get, with that person's own real connection.
func TestGrantRefusesPaths(t *testing.T) {
	w := newWorld(t, true, nil)
	gate, _ := people(w)
	_, alice := w.connect(aliceUID)
	_, root := w.connect(0)
	link := func(target, p string) {
		must(t, os.Symlink(target, w.path(p)))
		must(t, os.Lchown(w.path(p), aliceUID, aliceUID))
	}
	link(w.path("bob/data"), "alice/data/bob")
	link("/proc/self/root", "alice/data/root")
	link("/proc/self/fd/0", "alice/data/fd")
	link("/dev/null", "alice/data/null")
	link(w.path("state/store"), "alice/data/store")
	link(w.path("run/docker.sock"), "alice/data/sock")
	link(w.path("rootonly"), "shared/link")
	link("loop", "alice/data/loop")
	link(w.path("alice/data/nowhere"), "alice/data/dangling")
	must(t, unix.Mkfifo(w.path("alice/data/fifo"), 0o600))
	must(t, unix.Mount(w.path("state"), w.path("alice/data/sub"), "", unix.MS_BIND, ""))
	t.Cleanup(func() { must(t, unix.Unmount(w.path("alice/data/sub"), unix.MNT_DETACH)) })
	p := w.path
	for _, a := range []struct {
		name   string
		conn   *os.File
		path   string
		create bool
		class  helper.Class
		text   string
	}{
		{"bob's folder", alice, p("bob/data"), false, helper.Denied, fmt.Sprintf("user id %d has no rights to %s", aliceUID, p("bob/data"))},
		{"bob's folder by link", alice, p("alice/data/bob"), false, helper.Denied, "no rights"},
		{"team's folder without the group", alice, p("team/data"), false, helper.Denied, "no rights"},
		{"root's folder", alice, p("rootonly/x"), false, helper.Denied, "no rights"},
		{"make in bob's folder", alice, p("bob/new"), true, helper.Denied, "no rights"},
		{"make in root's folder", alice, p("shared/new"), true, helper.Denied, "no rights"},
		{"missing", alice, p("alice/none"), false, helper.NotFound, "bind source path does not exist: " + p("alice/none")},
		{"relative", alice, "etc", false, helper.Invalid, "absolute"},
		{"dot dot", alice, p("alice") + "/../bob", false, helper.Invalid, "clean"},
		{"empty", alice, "", false, helper.Invalid, "absolute"},
		{"zero byte", alice, "/etc\x00x", false, helper.Invalid, ""},
		{"long", alice, "/" + strings.Repeat("a/", 2100) + "a", false, helper.Invalid, ""},
		{"file system of processes", alice, "/proc", false, helper.Invalid, "cannot show files of this file system"},
		{"file of that file system", alice, "/proc/version", false, helper.Invalid, "copy what is needed into a volume"},
		{"file system of devices", alice, "/sys/kernel", false, helper.Invalid, "cannot show files of this file system"},
		{"magic link", alice, p("alice/data/root"), false, helper.Denied, "not followed"},
		{"magic link to a descriptor", alice, "/proc/self/fd/0", false, helper.Denied, "not followed"},
		{"magic link in the middle", alice, "/proc/self/root/etc", false, helper.Denied, "not followed"},
		{"own environment of the server", alice, "/proc/self/cwd", false, helper.Denied, "not followed"},
		{"link loop", alice, p("alice/data/loop"), false, helper.Denied, "too many"},
		{"dangling link, create", alice, p("alice/data/dangling/x"), true, helper.Invalid, "not a directory"},
		{"device", alice, "/dev/null", false, helper.Denied, "device"},
		{"device by link", alice, p("alice/data/null"), false, helper.Denied, "device"},
		{"through a file", alice, p("alice/data/own/x"), false, helper.Invalid, "not a directory"},
		{"state", alice, p("state"), false, helper.Denied, "server itself"},
		{"in the state", alice, p("state/store"), false, helper.Denied, "server itself"},
		{"in the state by link", alice, p("alice/data/store"), false, helper.Denied, "server itself"},
		{"API socket by link", alice, p("alice/data/sock"), false, helper.Denied, "server itself"},
		{"state under another mount", alice, p("alice/data/sub"), false, helper.Denied, "server itself"},
		{"in the state under another mount", alice, p("alice/data/sub/store"), false, helper.Denied, "server itself"},
		{"root, outside of the prefixes", root, p("alice"), false, helper.Denied, "setting bind_prefixes"},
		{"root, everything", root, "/", false, helper.Denied, "server's own state"},
		{"root, text is no place", root, p("shared/link"), false, helper.Denied, "setting bind_prefixes"},
		{"root, name beside a prefix", root, p("sharedx"), true, helper.Denied, "setting bind_prefixes"},
		{"root, above the state", root, w.dir, false, helper.Denied, "server's own state"},
		{"root, make outside", root, p("rootonly/new"), true, helper.Denied, "setting bind_prefixes"},
		{"root, make in the state", root, p("state/new"), true, helper.Denied, "server itself"},
	} {
		t.Run(a.name, func(t *testing.T) {
			gate.t = t
			gate.wantClass(a.class, a.text, "grant", helper.Grant{Path: a.path, Tenant: "t", Create: a.create}, a.conn)
		})
	}
	gate.t = t
	for _, made := range []string{"bob/new", "shared/new", "sharedx", "rootonly/new", "state/new", "alice/data/nowhere"} {
		if _, err := os.Lstat(p(made)); err == nil {
			t.Errorf("%s was made", made)
		}
	}
	for _, tenant := range []string{"", "a\nb", strings.Repeat("x", 257)} {
		gate.wantClass(helper.Invalid, "tenant", "grant", helper.Grant{Path: p("alice/data"), Tenant: tenant}, alice)
	}
	if files, err := os.ReadDir(w.records); err != nil || len(files) != 0 {
		t.Errorf("%d records (%v) after refusals", len(files), err)
	}
	w.grant(gate, alice, helper.Grant{Path: p("alice/data/fifo"), Tenant: "t"}) // control
}

// SECURITY(T-701): a compromised gate cannot invent a caller.
func TestGrantRefusesConnections(t *testing.T) {
	w := newWorld(t, true, nil)
	gate, _ := people(w)
	client, accepted := w.connect(aliceUID)
	q := helper.Grant{Path: w.path("alice/data"), Tenant: "t"}
	control := w.grant(gate, accepted, q)
	if control.UID != aliceUID {
		t.Fatalf("control: %+v", control)
	}
	file := func(fd int, err error) *os.File {
		t.Helper()
		must(t, err)
		f := os.NewFile(uintptr(fd), "x")
		t.Cleanup(func() { f.Close() })
		return f
	}
	sock := func(domain, kind int) int {
		fd, err := unix.Socket(domain, kind|unix.SOCK_CLOEXEC, 0)
		must(t, err)
		return fd
	}
	// A socket pair made by somebody else, whose credentials would be theirs.
	pair, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM, 0)
	must(t, err)
	// A listening socket of the gate's own, to which somebody connected.
	other := w.listen("run/other.sock", gateUID, unix.SOCK_STREAM)
	must(t, os.Chmod(w.path("run/other.sock"), 0o666))
	toOther := sock(unix.AF_UNIX, unix.SOCK_STREAM)
	as(aliceUID, nil, func() { err = unix.Connect(toOther, &unix.SockaddrUnix{Name: w.path("run/other.sock")}) })
	must(t, err)
	fromOther, _, err := unix.Accept(int(other.Fd()))
	must(t, err)
	gone, left := w.connect(aliceUID)
	gone.Close()
	half, halved := w.connect(aliceUID)
	must(t, unix.Shutdown(int(half.Fd()), unix.SHUT_WR))
	held := os.NewFile(uintptr(sock(unix.AF_UNIX, unix.SOCK_STREAM)), "held")
	t.Cleanup(func() { held.Close() })
	connect := exec.Command("/proc/self/exe")
	connect.ExtraFiles = []*os.File{held}
	connect.Env = []string{roleEnv + "=connect", "SOCKET=" + w.path("run/docker.sock")}
	connect.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: aliceUID, Gid: aliceUID}}
	must(t, connect.Run())
	orphan, _, err := unix.Accept(w.api)
	must(t, err)
	folder, err := os.Open("/etc")
	must(t, err)
	t.Cleanup(func() { folder.Close() })
	abstract := sock(unix.AF_UNIX, unix.SOCK_STREAM)
	must(t, unix.Bind(abstract, &unix.SockaddrUnix{Name: "@" + w.path("run/docker.sock")}))
	for _, a := range []struct {
		name  string
		f     *os.File
		class helper.Class
		text  string
	}{
		{"the client's own end", client, helper.Denied, "not accepted on a socket of the API"},
		{"socket pair", file(pair[0], nil), helper.Denied, "not accepted on a socket of the API"},
		{"its other end", file(pair[1], nil), helper.Denied, "not accepted on a socket of the API"},
		{"another listening socket", file(fromOther, nil), helper.Denied, "not accepted on a socket of the API"},
		{"the listening socket", file(unix.Dup(w.api)), helper.Invalid, "listening"},
		{"unconnected", file(sock(unix.AF_UNIX, unix.SOCK_STREAM), nil), helper.Denied, "not accepted"},
		{"abstract name", file(abstract, nil), helper.Denied, "not accepted"},
		{"datagram socket", file(sock(unix.AF_UNIX, unix.SOCK_DGRAM), nil), helper.Invalid, "type"},
		{"TCP socket", file(sock(unix.AF_INET, unix.SOCK_STREAM), nil), helper.Invalid, "domain"},
		{"folder", folder, helper.Invalid, "not a socket"},
		{"user namespace", w.u, helper.Invalid, "not a socket"},
		{"client has gone", left, helper.Denied, "has gone"},
		{"its process has ended", file(orphan, nil), helper.Denied, "process has ended"},
		{"client has ended its half", halved, helper.Denied, "has gone"},
	} {
		t.Run(a.name, func(t *testing.T) { gate.t = t; gate.wantClass(a.class, a.text, "grant", q, a.f) })
	}
	unix.Close(toOther)
	gate.t = t
	for _, uid := range []uint32{engineUID, gateUID, grantdUID, block, ghost.First + 5, 65534} {
		_, conn := w.connect(uid)
		gate.wantClass(helper.Denied, fmt.Sprintf("user id %d", uid), "grant", helper.Grant{Path: "/etc", Tenant: "t"}, conn)
	}
	w.grant(gate, accepted, q)
}

// SECURITY(T-701): what a compromised engine may try with grants.
func TestUseAttacks(t *testing.T) {
	w := newWorld(t, true, nil)
	gate, engine := people(w)
	_, conn := w.connect(aliceUID)
	g := w.grant(gate, conn, helper.Grant{Path: w.path("alice/data"), Tenant: "t"})
	control := func() {
		t.Helper()
		a, mounts := engine.ask("use", use(g.ID))
		if body[helper.UseDone](t, a); len(mounts) != 1 {
			t.Fatal("control: no mount")
		}
	}
	control()
	before := fdsOpen(t, w.grantd)
	for _, a := range []struct {
		name   string
		change func(q *helper.Use)
		class  helper.Class
	}{
		{"another tenant", func(q *helper.Use) { q.Tenant = "u" }, helper.NotFound},
		{"no tenant", func(q *helper.Use) { q.Tenant = "" }, helper.NotFound},
		{"unknown id", func(q *helper.Use) { q.ID = strings.Repeat("0", 32) }, helper.NotFound},
		{"path as id", func(q *helper.Use) { q.ID = "../alice" }, helper.NotFound},
		{"target is a host user", func(q *helper.Use) { q.TargetUID = bobUID }, helper.Denied},
		{"target is host root", func(q *helper.Use) { q.TargetUID, q.TargetGID = 0, 0 }, helper.Denied},
		{"target is the engine", func(q *helper.Use) { q.TargetUID, q.TargetGID = engineUID, engineUID }, helper.Denied},
		{"target is the store's", func(q *helper.Use) { q.TargetUID, q.TargetGID = store.First, store.First }, helper.Denied},
		{"target group is the store's", func(q *helper.Use) { q.TargetGID = store.First }, helper.Denied},
		{"target is a ghost", func(q *helper.Use) { q.TargetUID = ghost.First }, helper.Denied},
		{"targets in two blocks", func(q *helper.Use) { q.TargetGID = block + setting.BlockSize }, helper.Denied},
		{"target behind the range", func(q *helper.Use) { q.TargetUID = sub.First + sub.Count }, helper.Denied},
	} {
		t.Run(a.name, func(t *testing.T) {
			engine.t = t
			q := use(g.ID)
			a.change(&q)
			engine.wantClass(a.class, "", "use", q)
		})
	}
	engine.t = t

	// The path is swapped between grant and use: the rights of now decide.
	must(t, os.Rename(w.path("alice/data"), w.path("alice/old")))
	engine.wantClass(helper.NotFound, "does not exist", "use", use(g.ID))
	for target, class := range map[string]helper.Class{w.path("bob/data"): helper.Denied, w.path("rootonly"): "", w.path("state"): helper.Denied, "/dev/null": helper.Denied, "/proc/self/cwd": helper.Denied} {
		must(t, os.Symlink(target, w.path("alice/data")))
		a, mounts := engine.ask("use", use(g.ID))
		if a.Class != class {
			t.Errorf("swapped for %s: %q %s", target, a.Class, a.Text)
		}
		// A folder that alice may name but not enter is shown, and stays closed.
		if class == "" {
			var err error
			as(block, nil, func() { _, err = unix.Openat(int(mounts[0].Fd()), ".", unix.O_RDONLY|unix.O_CLOEXEC, 0) })
			if err != unix.EACCES {
				t.Errorf("the container's root opens %s: %v", target, err)
			}
		}
		must(t, os.Remove(w.path("alice/data")))
	}
	must(t, os.Rename(w.path("alice/old"), w.path("alice/data")))
	must(t, os.Chown(w.path("alice"), bobUID, bobUID)) // alice loses her rights
	engine.wantClass(helper.Denied, "no rights", "use", use(g.ID))
	must(t, os.Chown(w.path("alice"), aliceUID, aliceUID))
	control()
	eventually(t, "descriptors closed", func() bool { return fdsOpen(t, w.grantd) <= before })
}

func TestGrantLimit(t *testing.T) {
	w := newWorld(t, true, func(s *setting.Grantd) { s.MaxGrants = 2 })
	gate, _ := people(w)
	_, alice := w.connect(aliceUID)
	_, bob := w.connect(bobUID)
	q := helper.Grant{Path: w.path("alice/data"), Tenant: "t"}
	first := w.grant(gate, alice, q)
	w.grant(gate, alice, q)
	gate.wantClass(helper.Exhausted, "the limit is 2", "grant", q, alice)
	w.grant(gate, bob, helper.Grant{Path: w.path("bob/data"), Tenant: "t"})
	a, _ := gate.ask("drop", helper.Drop{IDs: []string{first.ID}})
	body[helper.None](t, a)
	w.grant(gate, alice, q)
}

// SECURITY(T-702)
func TestGrantdProtocolAttacks(t *testing.T) {
	w := newWorld(t, true, nil)
	gate, engine := people(w)
	_, conn := w.connect(aliceUID)
	many := make([]*os.File, helper.MaxFDs)
	for i := range many {
		many[i] = conn
	}
	grant := helper.Grant{Path: w.path("alice/data"), Tenant: "t"}
	send := func(op string, body any, fds ...*os.File) func(*client) {
		return func(c *client) { must(c.t, c.greet().Send(helper.Request[any]{Op: op, Body: body}, fds...)) }
	}
	for _, a := range []struct {
		name, socket string
		uid          uint32
		do           func(c *client)
	}{
		{"grant from the engine", "grantd-engine.sock", engineUID, send("grant", grant, conn)},
		{"use from the gate", "grantd-gate.sock", gateUID, send("use", use(""))},
		{"list from the gate", "grantd-gate.sock", gateUID, send("list", helper.ListGrants{})},
		{"bind from the engine", "grantd-engine.sock", engineUID, send("bind", helper.Bind{}, conn, w.u)},
		{"no connection", "grantd-gate.sock", gateUID, send("grant", grant)},
		{"two connections", "grantd-gate.sock", gateUID, send("grant", grant, conn, conn)},
		{"flood of descriptors", "grantd-gate.sock", gateUID, send("grant", grant, many...)},
		{"descriptor with use", "grantd-engine.sock", engineUID, send("use", use(""), conn)},
		{"out of phase", "grantd-gate.sock", gateUID, func(c *client) { must(c.t, c.Send(helper.Request[helper.Grant]{Op: "grant", Body: grant}, conn)) }},
		{"unknown field", "grantd-engine.sock", engineUID, func(c *client) { must(c.t, c.greet().Raw([]byte(`{"op":"use","body":{"uid":0}}`))) }},
		{"oversized", "grantd-engine.sock", engineUID, func(c *client) { must(c.t, c.greet().Raw(bytes.Repeat([]byte("x"), helper.MaxMessage+1))) }},
	} {
		t.Run(a.name, func(t *testing.T) {
			c := w.dial(a.socket, a.uid)
			c.t = t
			a.do(c)
			c.wantEnd(a.name)
		})
	}
	must(t, os.Chmod(w.path("run/grantd-gate.sock"), 0o666))
	for _, uid := range []uint32{0, engineUID, aliceUID} {
		c := w.dial("grantd-gate.sock", uid)
		_ = c.Send(helper.Request[helper.Hello]{Op: "hello", Body: helper.Hello{Version: helper.Version}})
		c.wantEnd(fmt.Sprintf("uid %d at the gate's socket", uid))
	}
	gate.wantClass(helper.Invalid, "limit", "drop", helper.Drop{IDs: make([]string, 501)})
	g := w.grant(gate, conn, grant)
	if a, mounts := engine.ask("use", use(g.ID)); a.Class != "" || len(mounts) != 1 {
		t.Errorf("control: %+v", a)
	}
	// Without mountd grantd ends, to get a new pair.
	must(t, w.mountd.cmd.Process.Kill())
	<-w.mountd.done
	must(t, engine.Send(helper.Request[helper.Use]{Op: "use", Body: use(g.ID)}))
	<-w.grantd.done
	if w.grantd.cmd.ProcessState.ExitCode() != 1 {
		t.Errorf("grantd ended with %v", w.grantd.cmd.ProcessState)
	}
	// The record outlives it, complete.
	data, err := os.ReadFile(filepath.Join(w.records, g.ID))
	must(t, err)
	if !json.Valid(data) {
		t.Errorf("record %q", data)
	}
}

// No process of another uid, the caller's included, may touch grantd while it opens as that caller.
func TestGrantdIsClosed(t *testing.T) {
	w := newWorld(t, true, nil)
	gate, _ := people(w)
	_, conn := w.connect(aliceUID)
	w.grant(gate, conn, helper.Grant{Path: w.path("alice/data"), Tenant: "t"})
	pid := w.grantd.cmd.Process.Pid
	for _, uid := range []uint32{aliceUID, grantdUID, engineUID} {
		var mem, attach error
		as(uid, nil, func() {
			_, mem = os.OpenFile(fmt.Sprintf("/proc/%d/mem", pid), os.O_RDONLY, 0)
			attach = unix.PtraceSeize(pid)
		})
		if mem == nil || attach != unix.EPERM {
			t.Errorf("uid %d: memory %v, trace %v", uid, mem, attach)
		}
	}
	status, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	must(t, err)
	for _, want := range []string{"NoNewPrivs:\t1", "Seccomp:\t2", "CapEff:\t00000000000000c0", "CapBnd:\t00000000000000c0", "CapAmb:\t0000000000000000"} {
		if !strings.Contains(string(status), want) {
			t.Errorf("no %q", want)
		}
	}
}

func TestWantedEnd(t *testing.T) {
	w := newWorld(t, true, nil)
	for _, p := range []*process{w.mountd, w.grantd} { // each ends by itself, in either order
		must(t, p.cmd.Process.Signal(unix.SIGTERM))
		<-p.done
		if p.cmd.ProcessState.ExitCode() != 0 {
			t.Errorf("ended with %v", p.cmd.ProcessState)
		}
	}
}
