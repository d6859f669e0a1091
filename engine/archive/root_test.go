//go:build root

package archive

import (
	"archive/tar"
	"bytes"
	"context"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/containerd/errdefs"
	"github.com/google/go-cmp/cmp"
	dockerspec "github.com/moby/docker-image-spec/specs-go/v1"
	"github.com/moby/moby/api/types/container"
	"github.com/moby/moby/api/types/events"
	"golang.org/x/sys/unix"

	"stockade/api/scope"
	"stockade/engine/httpapi"
	"stockade/engine/runtime"
)

// Ids of the tests: no process of the host has them.
const (
	rangeBase = 2000200000
	storeBase = 2000300000
)

var binary string

func TestMain(m *testing.M) {
	if dir := os.Getenv("STKT_U"); dir != "" {
		if err := insideU(dir); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		os.Exit(0)
	}
	if dir := os.Getenv("STKT_INSIDE"); dir != "" {
		if err := inside(dir); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		os.Exit(0)
	}
	os.Exit(func() int {
		dir, err := os.MkdirTemp("", "stkt-archive")
		if err != nil {
			fmt.Fprintln(os.Stderr, err)
			return 1
		}
		defer os.RemoveAll(dir)
		if err := os.Chmod(dir, 0o755); err != nil {
			fmt.Fprintln(os.Stderr, err)
			return 1
		}
		binary = filepath.Join(dir, "stockade-unpack")
		cmd := exec.Command("go", "build", "-o", binary, "stockade/cmd/stockade-unpack")
		cmd.Stderr = os.Stderr
		if err := cmd.Run(); err != nil {
			return 1
		}
		return m.Run()
	}())
}

type root struct {
	path string
	base uint32
}

func (r root) Path() string { return r.path }
func (r root) Base() uint32 { return r.base }
func (r root) Close() error { return nil }

// world is one container on disk and everything around the service.
type world struct {
	*Service
	top, root string
	c         Container
	events    []string
	commit    Commit
	layer     []byte
}

func (w *world) Lookup(_ context.Context, tenant, ref string) (Container, error) {
	if tenant != "a" || ref != "c" {
		return Container{}, httpapi.NewError(errdefs.ErrNotFound, "No such container: %s", ref)
	}
	return w.c, nil
}

func (w *world) Freeze(context.Context, string, string) (func(), error) { return func() {}, nil }

func (w *world) OpenRoot(context.Context, string, []string, []runtime.Mount) (runtime.Root, error) {
	return root{w.root, rangeBase}, nil
}

func (w *world) Publish(_ string, _ events.Type, action events.Action, _ string, _ map[string]string) {
	w.events = append(w.events, string(action))
}

func (w *world) Commit(_ context.Context, _ string, c Commit, layer io.Reader) (string, error) {
	w.commit = c
	b, err := io.ReadAll(layer)
	w.layer = b
	return "sha256:new", err
}

func (w *world) ApplyChanges(c *dockerspec.DockerOCIImageConfig, changes []string) error {
	c.Env = append(c.Env, changes...)
	return nil
}

func newWorld(t *testing.T) *world {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Fatal("needs root")
	}
	// Not t.TempDir: its parents are closed to other ids.
	top, err := os.MkdirTemp("", "stkt-root")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(top) })
	w := &world{top: top, root: filepath.Join(top, "fs"), c: Container{ID: "c", Name: "web"}}
	must(t, os.Chmod(top, 0o755), os.Mkdir(w.root, 0o755), os.Chown(w.root, rangeBase, rangeBase))
	w.Service = New(Config{
		Runner: Runner{Path: binary}, Store: filepath.Join(top, "store"), StoreBase: storeBase, Containers: w, Roots: w, Images: w,
		Events: w, Log: slog.New(slog.DiscardHandler),
	})
	return w
}

func must(t *testing.T, errs ...error) {
	t.Helper()
	if err := errors.Join(errs...); err != nil {
		t.Fatal(err)
	}
}

// write makes a file (or with a trailing slash a folder, or with "-> " in body a link) owned by id base+id.
func write(t *testing.T, base int, dir, name, body string, id int) {
	t.Helper()
	path := filepath.Join(dir, name)
	switch {
	case strings.HasSuffix(name, "/"):
		must(t, os.Mkdir(path, 0o755))
	case strings.HasPrefix(body, "-> "):
		must(t, os.Symlink(body[3:], path))
	default:
		must(t, os.WriteFile(path, []byte(body), 0o640))
	}
	must(t, os.Lchown(path, base+id, base+id))
}

func (w *world) do(t *testing.T, method, path string, body io.Reader) (res *httptest.ResponseRecorder) {
	t.Helper()
	rt := httpapi.NewRouter(slog.New(slog.DiscardHandler))
	w.Register(rt)
	req := httptest.NewRequest(method, path, body)
	scope.Scope{Tenant: "a", Version: "1.51"}.Set(req.Header)
	res = httptest.NewRecorder()
	defer func() {
		if err := recover(); err != nil && err != http.ErrAbortHandler {
			panic(err)
		} else if err != nil {
			res.Code = 599 // cut off
		}
	}()
	rt.ServeHTTP(res, req)
	return res
}

func message(res *httptest.ResponseRecorder) string {
	var m struct{ Message string }
	_ = json.Unmarshal(res.Body.Bytes(), &m)
	return m.Message
}

// list describes a tar: name, kind, owner and content or target of each entry.
func list(t *testing.T, b []byte) []string {
	t.Helper()
	var out []string
	tr := tar.NewReader(bytes.NewReader(b))
	for {
		h, err := tr.Next()
		if err == io.EOF {
			return out
		}
		must(t, err)
		body, err := io.ReadAll(tr)
		must(t, err)
		out = append(out, strings.TrimSpace(fmt.Sprintf("%s %c %d %s%s", h.Name, h.Typeflag, h.Uid, body, h.Linkname)))
	}
}

func pack(t *testing.T, headers ...tar.Header) *bytes.Buffer {
	t.Helper()
	var buf bytes.Buffer
	tw := tar.NewWriter(&buf)
	for _, h := range headers {
		body := ""
		if h.Typeflag == tar.TypeReg {
			body, h.Linkname = h.Linkname, ""
			h.Size = int64(len(body))
		}
		if h.Mode == 0 {
			h.Mode = 0o644
		}
		must(t, tw.WriteHeader(&h))
		_, err := io.WriteString(tw, body)
		must(t, err)
	}
	must(t, tw.Close())
	return &buf
}

func archivePath(p string) string { return "/containers/c/archive?path=" + url.QueryEscape(p) }

func TestGet(t *testing.T) {
	w := newWorld(t)
	write(t, rangeBase, w.root, "etc/", "", 0)
	write(t, rangeBase, w.root, "etc/secret", "s3", 0)
	write(t, rangeBase, w.root, "etc/user", "u", 1000)
	must(t, os.Chmod(filepath.Join(w.root, "etc/secret"), 0))
	must(t, os.Link(filepath.Join(w.root, "etc/user"), filepath.Join(w.root, "etc/same")))
	write(t, rangeBase, w.root, "conf", "-> /etc", 0)
	write(t, rangeBase, w.root, "broken", "-> ../../nowhere", 0)
	must(t, unix.Mkfifo(filepath.Join(w.root, "pipe"), 0o644), os.Lchown(filepath.Join(w.root, "pipe"), rangeBase, rangeBase))

	etc := func(name string) []string {
		return []string{name + "/ 5 0", name + "/same 0 1000 u", name + "/secret 0 0 s3", name + "/user 1 1000 " + name + "/same"}
	}
	for _, c := range []struct {
		path, name, link string
		want             []string
	}{
		{"/etc", "etc", "", etc("etc")},
		{"etc/", "etc", "", etc("etc")},
		{"/etc/.", ".", "", etc(".")},
		{"/../../etc", "etc", "", etc("etc")},
		{"/etc/secret", "secret", "", []string{"secret 0 0 s3"}},
		{"/conf/user", "user", "", []string{"user 0 1000 u"}},
		{"/conf", "conf", "/etc", []string{"conf 2 0 /etc"}},
		{"/conf/", "conf", "", etc("conf")},
		{"/broken", "broken", "/nowhere", []string{"broken 2 0 ../../nowhere"}},
		{"/pipe", "pipe", "", []string{"pipe 6 0"}},
	} {
		t.Run(c.path, func(t *testing.T) {
			for _, method := range []string{"HEAD", "GET"} {
				res := w.do(t, method, archivePath(c.path), nil)
				if res.Code != 200 {
					t.Fatalf("%s: %d %s", method, res.Code, res.Body)
				}
				raw, err := base64.StdEncoding.DecodeString(res.Header().Get("X-Docker-Container-Path-Stat"))
				must(t, err)
				var st container.PathStat
				must(t, json.Unmarshal(raw, &st))
				if st.Name != c.name || st.LinkTarget != c.link {
					t.Errorf("%s: %+v", method, st)
				}
				if method == "GET" {
					if diff := cmp.Diff(c.want, list(t, res.Body.Bytes())); diff != "" {
						t.Error(diff)
					}
				}
			}
		})
	}
	w.c.Mounts = []runtime.Mount{{Target: "/etc", Grant: "g"}}
	for _, path := range []string{"/etc", "/etc/user", "/conf/user", "/conf/."} {
		if res := w.do(t, "HEAD", archivePath(path), nil); res.Code != 409 {
			t.Errorf("bind of a stopped container: %s: %d", path, res.Code)
		}
	}
	w.c.Mounts = nil
	for path, want := range map[string]int{"/nope": 404, "/etc/user/x": 400, "/broken/": 404} {
		if res := w.do(t, "GET", archivePath(path), nil); res.Code != want {
			t.Errorf("%s: %d %s", path, res.Code, res.Body)
		}
	}
	if m := message(w.do(t, "GET", archivePath("/nope"), nil)); m != "Could not find the file /nope in container web" {
		t.Errorf("%q", m)
	}
	if res := w.do(t, "GET", "/containers/c/archive", nil); res.Code != 400 {
		t.Errorf("no path: %d", res.Code)
	}
	if names := list(t, w.do(t, "GET", "/containers/c/export", nil).Body.Bytes()); names[0] != "broken 2 0 ../../nowhere" || len(names) != 7 {
		t.Errorf("export: %q", names)
	}
	if !slices.Contains(w.events, "archive-path") || !slices.Contains(w.events, "export") {
		t.Errorf("events %v", w.events)
	}
}

func owner(t *testing.T, path string) uint32 {
	t.Helper()
	var st unix.Stat_t
	must(t, unix.Lstat(path, &st))
	return st.Uid
}

func TestPut(t *testing.T) {
	w := newWorld(t)
	write(t, rangeBase, w.root, "etc/", "", 0)
	write(t, rangeBase, w.root, "etc/passwd", "root:x:0:0::/:/bin/sh\nweb:x:33:33::/:/bin/sh\n", 0)
	write(t, rangeBase, w.root, "etc/group", "web:x:33:\n", 0)
	write(t, rangeBase, w.root, "srv/", "", 0)
	write(t, rangeBase, w.root, "link", "-> /srv", 0)
	write(t, rangeBase, w.root, "data/", "", 0)
	in := func(headers ...tar.Header) *bytes.Buffer { return pack(t, headers...) }
	f := tar.Header{Name: "f", Typeflag: tar.TypeReg, Linkname: "hello", Uid: 5, Gid: 5}

	if res := w.do(t, "PUT", archivePath("/link"), in(f)); res.Code != 200 {
		t.Fatalf("%d %s", res.Code, res.Body)
	}
	if b, err := os.ReadFile(filepath.Join(w.root, "srv/f")); err != nil || string(b) != "hello" || owner(t, filepath.Join(w.root, "srv/f")) != rangeBase+5 {
		t.Errorf("%q %v, owner %d", b, err, owner(t, filepath.Join(w.root, "srv/f")))
	}
	w.c.User = "web"
	if res := w.do(t, "PUT", archivePath("/srv")+"&copyUIDGID=1", in(f)); res.Code != 200 || owner(t, filepath.Join(w.root, "srv/f")) != rangeBase+33 {
		t.Errorf("copyUIDGID: %d %s, owner %d", res.Code, res.Body, owner(t, filepath.Join(w.root, "srv/f")))
	}
	setuid := tar.Header{Name: "su", Typeflag: tar.TypeReg, Linkname: "x", Mode: 0o4755, Uid: 7}
	node := tar.Header{Name: "sda", Typeflag: tar.TypeBlock, Devmajor: 8}
	if res := w.do(t, "PUT", archivePath("/srv"), in(node, setuid)); res.Code != 200 {
		t.Errorf("device: %d %s", res.Code, res.Body)
	}
	if _, err := os.Lstat(filepath.Join(w.root, "srv/sda")); !os.IsNotExist(err) {
		t.Errorf("device node: %v", err)
	}
	if fi, err := os.Stat(filepath.Join(w.root, "srv/su")); err != nil || fi.Mode() != 0o755|os.ModeSetuid {
		t.Errorf("setuid: %v %v", fi, err)
	}
	folder := tar.Header{Name: "f/", Typeflag: tar.TypeDir, Mode: 0o755}
	for _, c := range []struct {
		name, query string
		body        *bytes.Buffer
		change      func()
		code        int
		text        string
	}{
		{"missing", archivePath("/nope"), in(f), nil, 404, "Could not find the file /nope in container web"},
		{"file", archivePath("/srv/f"), in(f), nil, 400, "extraction point is not a directory"},
		{"folder over file", archivePath("/srv") + "&noOverwriteDirNonDir=1", in(folder), nil, 400, "cannot overwrite non-directory"},
		{"no tar", archivePath("/srv"), bytes.NewBufferString(strings.Repeat("x", 2000)), nil, 400, ""},
		{"cut tar", archivePath("/srv"), bytes.NewBuffer(in(f).Bytes()[:514]), nil, 400, ""},
		{"dots", archivePath("/srv"), in(tar.Header{Name: "../../x", Typeflag: tar.TypeReg}), nil, 400, ""},
		{"read-only volume", archivePath("/data"), in(f), func() { w.c.Mounts = []runtime.Mount{{Target: "/data", RO: true, Volume: "v"}} }, 403, "mounted volume is marked read-only"},
		{"bind of a stopped container", archivePath("/data"), in(f), func() { w.c.Mounts = []runtime.Mount{{Target: "/data", Grant: "g"}} }, 409, "while the container runs only"},
		{"read-only bind of a running container", archivePath("/data"), in(f), func() { w.c.Running, w.c.Mounts[0].RO = true, true }, 403, "marked read-only"},
		{"read-only root", archivePath("/srv"), in(f), func() { w.c.ReadonlyRoot = true }, 403, "container rootfs is marked read-only"},
		{"volume in read-only root", archivePath("/data"), in(f), func() { w.c.Mounts[0].RO = false }, 200, ""},
	} {
		t.Run(c.name, func(t *testing.T) {
			if c.change != nil {
				c.change()
			}
			if res := w.do(t, "PUT", c.query, c.body); res.Code != c.code || !strings.Contains(message(res), c.text) {
				t.Errorf("%d %s", res.Code, res.Body)
			}
		})
	}
}

func TestChangesAndCommit(t *testing.T) {
	w := newWorld(t)
	upper := filepath.Join(w.top, "store/rw/c/upper")
	top, bottom := filepath.Join(w.top, "store/layers/top/fs"), filepath.Join(w.top, "store/layers/bottom/fs")
	for _, dir := range []string{upper, top, bottom} {
		must(t, os.MkdirAll(dir, 0o755))
	}
	then := time.Unix(1e9, 0)
	put := func(dir string, names ...string) {
		for _, n := range names {
			name, body, _ := strings.Cut(n, "=")
			write(t, storeBase, dir, name, body, 0)
		}
	}
	hide := func(dir, name string) {
		must(t, unix.Mknod(filepath.Join(dir, name), unix.S_IFCHR, 0), os.Lchown(filepath.Join(dir, name), storeBase, storeBase))
	}
	put(bottom, "etc/", "etc/passwd=p", "etc/old=o", "usr/", "usr/lib/", "usr/lib/a=a", "keep/", "keep/x=x", "gone/", "gone/y=y", "re/", "re/one=1", "re/two=2")
	put(top, "gone2=g", "etc/")
	hide(top, "gone")
	put(upper, "etc/", "etc/passwd=changed", "etc/hosts=", "new=n", "dev/", "dev/shm/", "proc/", "usr/", "usr/lib/", "usr/lib/b=b", "gone/", "re/", "re/two=2", ".wh.trick=t")
	hide(upper, "etc/old")
	hide(upper, "gone2")
	must(t, unix.Setxattr(filepath.Join(upper, "re"), "user.overlay.opaque", []byte("y"), 0))
	for _, dir := range []string{"etc", "usr", "usr/lib", "re"} {
		for _, l := range []string{bottom, top, upper} {
			_ = os.Chtimes(filepath.Join(l, dir), then, then) // not all have it
		}
	}
	w.c.Layers = []string{"top", "bottom"}
	w.c.Image, w.c.Config = "sha256:old", &container.Config{Cmd: []string{"sh"}}

	var got []container.FilesystemChange
	res := w.do(t, "GET", "/containers/c/changes", nil)
	must(t, json.Unmarshal(res.Body.Bytes(), &got))
	lines := []string{}
	for _, c := range got {
		lines = append(lines, fmt.Sprintf("%d %s", c.Kind, c.Path))
	}
	want := []string{"1 /.wh.trick", "0 /etc", "2 /etc/old", "0 /etc/passwd", "1 /gone", "2 /gone2", "1 /new", "0 /re", "2 /re/one", "0 /re/two", "0 /usr/lib", "1 /usr/lib/b"}
	if diff := cmp.Diff(want, lines); diff != "" {
		t.Error(diff)
	}

	res = w.do(t, "POST", "/commit?container=c&repo=r&tag=t&changes="+url.QueryEscape("A=b"), strings.NewReader("null"))
	if res.Code != http.StatusCreated || !strings.Contains(res.Body.String(), "sha256:new") {
		t.Fatalf("%d %s", res.Code, res.Body)
	}
	made := Commit{Parent: "sha256:old", Repo: "r", Tag: "t", CreatedBy: "sh"}
	made.Config.Env, made.Config.Cmd = []string{"A=b"}, []string{"sh"}
	if diff := cmp.Diff(made, w.commit); diff != "" {
		t.Error(diff)
	}
	want = []string{
		"etc/ 5 0", "etc/.wh.old 0 0", "etc/passwd 0 0 changed", "gone/ 5 0", ".wh.gone2 0 0", "new 0 0 n", "re/ 5 0", "re/.wh..wh..opq 0 0",
		"re/two 0 0 2", "usr/ 5 0", "usr/lib/ 5 0", "usr/lib/b 0 0 b",
	}
	if diff := cmp.Diff(want, list(t, w.layer)); diff != "" {
		t.Error(diff)
	}
}

func TestCopyUp(t *testing.T) {
	w := newWorld(t)
	write(t, rangeBase, w.root, "srv/", "", 0)
	write(t, rangeBase, w.root, "srv/f", "text", 42)
	write(t, rangeBase, w.root, "srv/l", "-> /etc/passwd", 42)
	write(t, rangeBase, w.root, "srv/sub/", "", 7)
	write(t, rangeBase, w.root, "at", "-> /srv", 0)
	src := filepath.Join(w.root, "srv")
	must(t, unix.Setxattr(filepath.Join(src, "f"), "user.note", []byte("n"), 0), os.Chown(src, rangeBase+9, rangeBase+9), os.Chmod(src, 0o770|os.ModeSticky))
	into := filepath.Join(w.top, "volume")
	must(t, os.Mkdir(into, 0o755), os.Chown(into, storeBase, storeBase))

	for _, nothing := range []string{"/nope", "/srv/f"} {
		must(t, w.cfg.Runner.Copy(t.Context(), root{w.root, rangeBase}, nothing, into, storeBase))
	}
	must(t, w.cfg.Runner.Copy(t.Context(), root{w.root, rangeBase}, "/at", into, storeBase))
	for name, want := range map[string]uint32{"f": storeBase + 42, "l": storeBase + 42, "sub": storeBase + 7, ".": storeBase + 9} {
		if got := owner(t, filepath.Join(into, name)); got != want {
			t.Errorf("%s: owner %d, want %d", name, got, want)
		}
	}
	note := make([]byte, 8)
	if n, err := unix.Getxattr(filepath.Join(into, "f"), "user.note", note); err != nil || string(note[:n]) != "n" {
		t.Errorf("attribute: %q %v", note[:max(n, 0)], err)
	}
	if target, err := os.Readlink(filepath.Join(into, "l")); err != nil || target != "/etc/passwd" {
		t.Errorf("link: %q %v", target, err)
	}
	if fi, err := os.Stat(into); err != nil || fi.Mode().Perm() != 0o770 || fi.Mode()&os.ModeSticky == 0 {
		t.Errorf("folder: %v %v", fi, err)
	}
}

// TestLinksLeadNowhere lets a container swap a folder and a link to the host's folder while files are copied both ways.
// The control copies by path, as a server without a child would, and shows that the attack works then.
func TestLinksLeadNowhere(t *testing.T) {
	w := newWorld(t)
	host := filepath.Join(w.top, "host")
	must(t, os.Mkdir(host, 0o777), os.Chmod(host, 0o777), os.WriteFile(filepath.Join(host, "f"), []byte("host"), 0o644))
	write(t, rangeBase, w.root, "real/", "", 0)
	write(t, rangeBase, w.root, "real/f", "inside", 0)
	write(t, rangeBase, w.root, "link", "-> "+host, 0)
	write(t, rangeBase, w.root, "up", "-> ../../../../../.."+host, 0)

	stop := make(chan struct{})
	var swapping sync.WaitGroup
	swapping.Go(func() {
		a, b := filepath.Join(w.root, "real"), filepath.Join(w.root, "link")
		for {
			select {
			case <-stop:
				return
			default:
				_ = unix.Renameat2(unix.AT_FDCWD, a, unix.AT_FDCWD, b, unix.RENAME_EXCHANGE)
			}
		}
	})
	defer swapping.Wait()
	defer close(stop)

	for end := time.Now().Add(time.Minute); ; {
		if b, _ := os.ReadFile(filepath.Join(w.root, "real/f")); string(b) == "host" {
			break
		}
		if time.Now().After(end) {
			t.Fatal("control: copying by path never left the root, so this test proves nothing")
		}
	}
	for i := range 20 {
		for _, path := range []string{"/real/f", "/real/.", "/real", "/up/f", "/up/."} {
			res := w.do(t, "GET", archivePath(path), nil)
			if bytes.Contains(res.Body.Bytes(), []byte("host")) && res.Code == 200 && slices.ContainsFunc(list(t, res.Body.Bytes()), func(e string) bool {
				return strings.HasSuffix(e, " 0 host")
			}) {
				t.Fatalf("%s: read a file of the host", path)
			}
			w.do(t, "PUT", archivePath(strings.TrimSuffix(path, "/f")), pack(t, tar.Header{Name: fmt.Sprintf("put%d", i), Typeflag: tar.TypeReg, Linkname: "x"}))
		}
	}
	entries, err := os.ReadDir(host)
	if err != nil || len(entries) != 1 {
		t.Fatalf("the host's folder was written: %v %v", entries, err)
	}
}
