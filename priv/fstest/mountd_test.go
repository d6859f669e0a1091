//go:build root

package fstest

import (
	"bytes"
	"encoding/json"
	"fmt"
	"os"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"stockade/api/helper"
	"stockade/api/setting"
	"stockade/internal/seqpacket"
	"stockade/internal/userns"
)

// containerMap is the map of a container's store folders: store ids to block 2 of U.
var containerMap = userns.Map{Inside: store.First, Outside: 1 + 2*setting.BlockSize, Count: setting.BlockSize}

func (w *world) fill() {
	for _, d := range []string{"layers/one", "layers/one/fs", "rw/c1", "volumes/v1", "volumes/v1/data"} {
		must(w.t, os.Mkdir(w.path("state/store", d), 0o755))
		must(w.t, os.Lchown(w.path("state/store", d), int(store.First), int(store.First)))
	}
	must(w.t, os.WriteFile(w.path("state/store/layers/one/fs/file"), []byte("x"), 0o600))
	must(w.t, os.Chown(w.path("state/store/layers/one/fs/file"), int(store.First)+7, int(store.First)+7))
}

func ownerIn(t *testing.T, dir *os.File, name string) (uint32, uint32) {
	t.Helper()
	var st unix.Stat_t
	must(t, unix.Fstatat(int(dir.Fd()), name, &st, unix.AT_SYMLINK_NOFOLLOW|unix.AT_EMPTY_PATH))
	return st.Uid, st.Gid
}

func mountFlags(t *testing.T, f *os.File) int64 {
	t.Helper()
	var st unix.Statfs_t
	must(t, unix.Fstatfs(int(f.Fd()), &st))
	return st.Flags & (unix.ST_RDONLY | unix.ST_NOSUID | unix.ST_NODEV)
}

func TestMountdClone(t *testing.T) {
	w := newWorld(t, false, nil)
	w.fill()
	ns := w.childOfU(containerMap)
	c := w.dial("mountd.sock", engineUID).greet()
	a, mounts := c.ask("clone", helper.Clone{Items: []helper.CloneItem{
		{Kind: helper.KindLayer, Name: "one"}, {Kind: helper.KindRW, Name: "c1"}, {Kind: helper.KindVolume, Name: "v1"}, {Kind: helper.KindVolume, Name: "v1", RO: true},
	}}, ns)
	if a.Class != "" || len(mounts) != 4 {
		t.Fatalf("clone: %+v, %d mounts", a, len(mounts))
	}
	for i, want := range []int64{unix.ST_NODEV | unix.ST_RDONLY, unix.ST_NODEV, unix.ST_NODEV, unix.ST_NODEV | unix.ST_RDONLY} {
		if got := mountFlags(t, mounts[i]); got != want {
			t.Errorf("mount %d has flags %#x, want %#x", i, got, want)
		}
		if uid, gid := ownerIn(t, mounts[i], ""); uid != block || gid != block {
			t.Errorf("mount %d is owned by %d:%d, want %d", i, uid, gid, block)
		}
	}
	if uid, _ := ownerIn(t, mounts[0], "file"); uid != block+7 {
		t.Errorf("file in the layer is owned by %d, want %d", uid, block+7)
	}
	fd, err := unix.Openat(int(mounts[0].Fd()), "new", unix.O_CREAT|unix.O_WRONLY, 0o600)
	if err == nil {
		unix.Close(fd)
		t.Error("a layer is writable")
	}
	// The container's root writes, and store ids land on disk.
	as(block, nil, func() {
		fd, err = unix.Openat(int(mounts[1].Fd()), "new", unix.O_CREAT|unix.O_WRONLY|unix.O_CLOEXEC, 0o600)
	})
	must(t, err)
	unix.Close(fd)
	var st unix.Stat_t
	must(t, unix.Lstat(w.path("state/store/rw/c1/new"), &st))
	if st.Uid != store.First || st.Gid != store.First {
		t.Errorf("on disk: %d:%d, want %d", st.Uid, st.Gid, store.First)
	}
}

// SECURITY(T-702): what a compromised engine may try with folders and maps; the control is that the same request with
// a right folder and map succeeds before and after.
func TestMountdCloneAttacks(t *testing.T) {
	w := newWorld(t, false, nil)
	w.fill()
	s := func(p string) string { return w.path("state/store", p) }
	must(t, os.MkdirAll(w.path("outside/fs"), 0o755))
	must(t, os.Chown(w.path("outside/fs"), int(store.First), int(store.First)))
	must(t, os.Symlink("../../../outside", s("layers/linked")))
	must(t, os.Mkdir(s("layers/inner"), 0o711))
	must(t, os.Symlink("/etc", s("layers/inner/fs")))
	must(t, os.MkdirAll(s("layers/roots/fs"), 0o755)) // owned by root
	must(t, os.Mkdir(s("rw/engines"), 0o755))
	must(t, os.Chown(s("rw/engines"), engineUID, engineUID))
	must(t, os.Mkdir(s("rw/group"), 0o755))
	must(t, os.Chown(s("rw/group"), int(store.First), 0))
	must(t, os.Mkdir(s("volumes/other"), 0o711))
	must(t, os.Mkdir(s("volumes/other/data"), 0o711))
	must(t, unix.Mount("none", s("volumes/other/data"), "tmpfs", 0, fmt.Sprintf("uid=%d,gid=%d", store.First, store.First)))
	t.Cleanup(func() { must(t, unix.Unmount(s("volumes/other/data"), unix.MNT_DETACH)) })
	must(t, os.Mkdir(s("layers/afile"), 0o711))
	must(t, os.WriteFile(s("layers/afile/fs"), nil, 0o600))
	must(t, os.Chown(s("layers/afile/fs"), int(store.First), int(store.First)))

	ns := w.childOfU(containerMap)
	c := w.dial("mountd.sock", engineUID).greet()
	good := helper.Clone{Items: []helper.CloneItem{{Kind: helper.KindLayer, Name: "one"}}}
	control := func() {
		t.Helper()
		if a, mounts := c.ask("clone", good, ns); a.Class != "" || len(mounts) != 1 {
			t.Fatalf("control: %+v", a)
		}
	}
	control()
	before := fdsOpen(t, w.mountd)
	item := func(kind, name string) helper.Clone {
		return helper.Clone{Items: []helper.CloneItem{{Kind: helper.KindLayer, Name: "one"}, {Kind: kind, Name: name}}}
	}
	for _, a := range []struct {
		name  string
		q     helper.Clone
		class helper.Class
	}{
		{"no folder", helper.Clone{}, helper.Invalid},
		{"too many", helper.Clone{Items: make([]helper.CloneItem, helper.MaxFDs+1)}, helper.Invalid},
		{"dot dot", item(helper.KindLayer, ".."), helper.Invalid},
		{"path", item(helper.KindRW, "c1/../../.."), helper.Invalid},
		{"slash", item(helper.KindRW, "c1/x"), helper.Invalid},
		{"absolute", item(helper.KindRW, "/etc"), helper.Invalid},
		{"empty", item(helper.KindRW, ""), helper.Invalid},
		{"zero byte", item(helper.KindRW, "c1\x00"), helper.Invalid},
		{"long", item(helper.KindRW, strings.Repeat("a", 129)), helper.Invalid},
		{"kind", item("..", "one"), helper.Invalid},
		{"no kind", item("", "one"), helper.Invalid},
		{"missing", item(helper.KindLayer, "nothing"), helper.NotFound},
		{"link", item(helper.KindLayer, "linked"), helper.Denied},
		{"inner link", item(helper.KindLayer, "inner"), helper.Denied},
		{"owned by root", item(helper.KindLayer, "roots"), helper.Denied},
		{"owned by the engine", item(helper.KindRW, "engines"), helper.Denied},
		{"group root", item(helper.KindRW, "group"), helper.Denied},
		{"another file system", item(helper.KindVolume, "other"), helper.Denied},
		{"a file", item(helper.KindLayer, "afile"), helper.Denied},
	} {
		t.Run(a.name, func(t *testing.T) { c.t = t; c.wantClass(a.class, "", "clone", a.q, ns) })
	}
	c.t = t
	initial, err := os.Open("/proc/self/ns/user")
	must(t, err)
	netns, err := os.Open("/proc/self/ns/net")
	must(t, err)
	folder, err := os.Open("/etc")
	must(t, err)
	foreign, err := userns.Create(0, []userns.Map{{Inside: store.First, Outside: block, Count: 65536}}, []userns.Map{{Inside: store.First, Outside: block, Count: 65536}})
	must(t, err)
	r, pw, err := os.Pipe()
	must(t, err)
	t.Cleanup(func() { seqpacket.CloseAll([]*os.File{initial, netns, folder, foreign["user"], r, pw}) })
	for _, a := range []struct {
		name  string
		f     *os.File
		class helper.Class
		text  string
	}{
		{"U itself", w.u, helper.Denied, "U and the initial"},
		{"initial namespace", initial, helper.Denied, "U and the initial"},
		{"not a descendant", foreign["user"], helper.Denied, "not a descendant"},
		{"network namespace", netns, helper.Invalid, "type"},
		{"folder", folder, helper.Invalid, "not a namespace"},
		{"pipe", r, helper.Invalid, "not a namespace"},
		{"socket pair", w.pair, helper.Invalid, "not a namespace"},
		{"shows root's files", w.childOfU(userns.Map{Inside: 0, Outside: 1 + 2*65536, Count: 1}), helper.Denied, "outside of the store's range"},
		{"shows one id too many", w.childOfU(userns.Map{Inside: store.First, Outside: 1 + 65536, Count: 65537}), helper.Denied, "outside of the store's range"},
		{"shows the engine's files", w.childOfU(containerMap, userns.Map{Inside: engineUID, Outside: 0, Count: 1}), helper.Denied, "outside of the store's range"},
	} {
		t.Run(a.name, func(t *testing.T) { c.t = t; c.wantClass(a.class, a.text, "clone", good, a.f) })
	}
	c.t = t
	control()
	eventually(t, "descriptors closed", func() bool { return fdsOpen(t, w.mountd) <= before })
}

// SECURITY(T-702): protocol attacks end the connection; the helper goes on serving others.
func TestMountdProtocolAttacks(t *testing.T) {
	w := newWorld(t, false, nil)
	w.fill()
	ns := w.childOfU(containerMap)
	etc, err := os.OpenFile("/etc", unix.O_PATH, 0)
	must(t, err)
	defer etc.Close()
	many := make([]*os.File, helper.MaxFDs)
	for i := range many {
		many[i] = etc
	}
	clone := helper.Clone{Items: []helper.CloneItem{{Kind: helper.KindLayer, Name: "one"}}}
	raw := func(c *client, data []byte) {
		must(c.t, c.Raw(data))
	}
	w.dial("mountd.sock", engineUID).greet()
	before := fdsOpen(t, w.mountd)
	for _, a := range []struct {
		name string
		do   func(c *client)
	}{
		{"bind on the engine's socket", func(c *client) {
			must(c.t, c.greet().Send(helper.Request[helper.Bind]{Op: "bind"}, etc, ns))
		}},
		{"request before hello", func(c *client) { must(c.t, c.Send(helper.Request[helper.Clone]{Op: "clone", Body: clone}, ns)) }},
		{"second hello", func(c *client) {
			must(c.t, c.greet().Send(helper.Request[helper.Hello]{Op: "hello", Body: helper.Hello{Version: helper.Version}}))
		}},
		{"other version", func(c *client) {
			must(c.t, c.Send(helper.Request[helper.Hello]{Op: "hello", Body: helper.Hello{Version: helper.Version + 1}}))
		}},
		{"unknown request", func(c *client) { must(c.t, c.greet().Send(helper.Request[helper.None]{Op: "attach"})) }},
		{"unknown field", func(c *client) { raw(c.greet(), []byte(`{"op":"clone","body":{"items":[],"store":"/"}}`)) }},
		{"two values", func(c *client) { raw(c.greet(), []byte(`{"op":"clone","body":{"items":[]}}{}`)) }},
		{"not JSON", func(c *client) { raw(c.greet(), []byte("\x00\x01")) }},
		{"no map", func(c *client) { must(c.t, c.greet().Send(helper.Request[helper.Clone]{Op: "clone", Body: clone})) }},
		{"two maps", func(c *client) {
			must(c.t, c.greet().Send(helper.Request[helper.Clone]{Op: "clone", Body: clone}, ns, ns))
		}},
		{"flood of descriptors", func(c *client) {
			must(c.t, c.greet().Send(helper.Request[helper.Clone]{Op: "clone", Body: clone}, many...))
		}},
		{"flood with hello", func(c *client) {
			must(c.t, c.Send(helper.Request[helper.Hello]{Op: "hello", Body: helper.Hello{Version: helper.Version}}, many...))
		}},
		{"oversized", func(c *client) { raw(c.greet(), bytes.Repeat([]byte(" "), helper.MaxMessage+1)) }},
		{"empty", func(c *client) { raw(c.greet(), nil) }},
	} {
		t.Run(a.name, func(t *testing.T) {
			c := w.dial("mountd.sock", engineUID)
			c.t = t
			a.do(c)
			c.wantEnd(a.name)
		})
	}
	for _, uid := range []uint32{0, gateUID, aliceUID} {
		must(t, os.Chmod(w.path("run/mountd.sock"), 0o666))
		c := w.dial("mountd.sock", uid)
		_ = c.Send(helper.Request[helper.Hello]{Op: "hello", Body: helper.Hello{Version: helper.Version}})
		c.wantEnd(fmt.Sprintf("uid %d", uid))
	}
	c := w.dial("mountd.sock", engineUID).greet()
	if a, mounts := c.ask("clone", clone, ns); a.Class != "" || len(mounts) != 1 {
		t.Fatalf("control: %+v", a)
	}
	c.Close()
	eventually(t, "descriptors closed", func() bool { return fdsOpen(t, w.mountd) <= before })
}

// SECURITY(T-702): what grantd's end refuses even to grantd.
func TestMountdBind(t *testing.T) {
	w := newWorld(t, false, nil)
	fd, err := unix.Dup(int(w.pair.Fd()))
	must(t, err)
	conn, err := seqpacket.New(fd)
	must(t, err)
	c := (&client{t, conn}).greet()
	must(t, os.Mkdir(w.path("alice"), 0o755))
	must(t, os.Chown(w.path("alice"), aliceUID, aliceUID))
	open := func(p string, flags int) *os.File {
		f, err := os.OpenFile(p, flags, 0)
		must(t, err)
		t.Cleanup(func() { f.Close() })
		return f
	}
	dir := open(w.path("alice"), unix.O_PATH)
	maps := []userns.Map{{Inside: aliceUID, Outside: block, Count: 1}}
	files, err := userns.Create(0, maps, maps)
	must(t, err)
	ns := files["user"]
	defer ns.Close()
	a, mounts := c.ask("bind", helper.Bind{RO: true}, dir, ns)
	if a.Class != "" || len(mounts) != 1 {
		t.Fatalf("bind: %+v", a)
	}
	if got := mountFlags(t, mounts[0]); got != unix.ST_NODEV|unix.ST_NOSUID|unix.ST_RDONLY {
		t.Errorf("flags %#x", got)
	}
	if uid, _ := ownerIn(t, mounts[0], ""); uid != block {
		t.Errorf("owner %d, want %d", uid, block)
	}
	must(t, os.Symlink("/etc", w.path("link")))
	initial := open("/proc/self/ns/user", os.O_RDONLY)
	for _, x := range []struct {
		name  string
		f, ns *os.File
		class helper.Class
	}{
		{"not O_PATH", open(w.path("alice"), os.O_RDONLY), ns, helper.Invalid},
		{"device", open("/dev/null", unix.O_PATH), ns, helper.Denied},
		{"link", open(w.path("link"), unix.O_PATH|unix.O_NOFOLLOW), ns, helper.Denied},
		{"cannot be mapped", open("/proc", unix.O_PATH), ns, helper.Invalid},
		{"map U", dir, w.u, helper.Denied},
		{"map initial", dir, initial, helper.Denied},
		{"map of the engine", dir, w.childOfU(containerMap), helper.Denied},
		{"map is a folder", dir, dir, helper.Invalid},
	} {
		t.Run(x.name, func(t *testing.T) { c.t = t; c.wantClass(x.class, "", "bind", helper.Bind{}, x.f, x.ns) })
	}
	c.t = t
	if a, _ := c.ask("bind", helper.Bind{}, dir, ns); a.Class != "" {
		t.Errorf("control: %+v", a)
	}
	must(t, c.Send(helper.Request[helper.Clone]{Op: "clone", Body: helper.Clone{}}, ns))
	c.wantEnd("clone on the pair")
	conn.Close()
	w.pair.Close()
	<-w.mountd.done // without its pair it ends, to get a new one
	if w.mountd.cmd.ProcessState.ExitCode() != 1 {
		t.Errorf("ended with %v", w.mountd.cmd.ProcessState)
	}
}

func body[T any](t *testing.T, a helper.Answer[json.RawMessage]) T {
	t.Helper()
	if a.Class != "" {
		t.Fatalf("refused: %s: %s", a.Class, a.Text)
	}
	var v T
	must(t, seqpacket.Decode(a.Body, &v))
	return v
}
