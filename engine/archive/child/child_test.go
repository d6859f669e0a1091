package child

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"errors"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"
)

func TestAbsolute(t *testing.T) {
	for in, want := range map[string]string{
		"etc": "/etc", "/etc/": "/etc/", "/etc/.": "/etc/.", "../../etc": "/etc", "/": "/", ".": "/.", "/a/../b": "/b",
	} {
		if got := absolute(in); got != want {
			t.Errorf("%q: %q, want %q", in, got, want)
		}
	}
}

func TestWritable(t *testing.T) {
	mounts := []Mount{{Target: "/data"}, {Target: "/data/ro", RO: true}, {Target: "/conf/", RO: true}}
	for _, c := range []struct {
		dir      string
		readonly bool
		ok       bool
	}{
		{"/srv", false, true}, {"/srv", true, false}, {"/data", true, true}, {"/data/x", true, true}, {"/database", true, false},
		{"/data/ro", false, false}, {"/data/ro/x", false, false}, {"/data/rox", false, true}, {"/conf", false, false}, {"/conf/x", false, false},
	} {
		err := writable(c.dir, Options{Mounts: mounts, ReadonlyRoot: c.readonly})
		var r *refusal
		if (err == nil) != c.ok || err != nil && (!errors.As(err, &r) || r.class != Denied) {
			t.Errorf("%s, read-only root %v: %v", c.dir, c.readonly, err)
		}
	}
	if err := writable("/srv", Options{Mounts: []Mount{{Target: "/", RO: true}}}); err == nil {
		t.Error("a read-only mount on / is ignored")
	}
}

func TestDecompress(t *testing.T) {
	var zipped bytes.Buffer
	zw := gzip.NewWriter(&zipped)
	if _, err := io.WriteString(zw, "text"); err != nil {
		t.Fatal(err)
	}
	zw.Close()
	for _, c := range []struct{ name, in, want string }{
		{"plain", "text", "text"}, {"short", "t", "t"}, {"empty", "", ""}, {"gzip", zipped.String(), "text"},
	} {
		r, err := decompress(strings.NewReader(c.in))
		if err != nil {
			t.Errorf("%s: %v", c.name, err)
			continue
		}
		if b, err := io.ReadAll(r); err != nil || string(b) != c.want {
			t.Errorf("%s: %q %v", c.name, b, err)
		}
	}
	if _, err := decompress(strings.NewReader("\xfd7zXZ\x00")); err == nil {
		t.Error("xz is accepted")
	}
}

func TestModes(t *testing.T) {
	for mode, want := range map[string]bool{Stat: true, Get: true, CopyUp: true, Export: true, Put: true, Changes: true, Diff: true, "layer": false, "": false} {
		if IsMode(mode) != want {
			t.Errorf("%q: %v", mode, !want)
		}
	}
}

// TestWalk writes a tree that changes under the walker's hands: what is no longer what it was is left out.
func TestWalk(t *testing.T) {
	dir := t.TempDir()
	if err := errors.Join(
		os.Mkdir(filepath.Join(dir, "d"), 0o755), os.WriteFile(filepath.Join(dir, "d/f"), []byte("x"), 0o600),
		os.Symlink("d", filepath.Join(dir, "l")), unix.Mkfifo(filepath.Join(dir, "p"), 0o600),
		unix.Setxattr(filepath.Join(dir, "d/f"), "user.a", []byte("b"), 0),
	); err != nil {
		t.Fatal(err)
	}
	fd, err := openFolder(unix.AT_FDCWD, dir, 0)
	if err != nil {
		t.Fatal(err)
	}
	var out bytes.Buffer
	w := newWalker(&out)
	// A link and a pipe where a file is expected: neither is followed, none waits.
	if err := errors.Join(w.file(fd, "l", "l"), w.file(fd, "p", "p"), w.entry(fd, "none", "none")); err != nil {
		t.Fatal(err)
	}
	if err := w.finish(w.folder(fd, "top", true)); err != nil {
		t.Fatal(err)
	}
	var got []string
	tr := tar.NewReader(&out)
	for {
		h, err := tr.Next()
		if err == io.EOF {
			break
		}
		if err != nil {
			t.Fatal(err)
		}
		got = append(got, h.Name+h.PAXRecords[xattrPrefix+"user.a"])
	}
	if diff := cmp.Diff([]string{"top/", "top/d/", "top/d/fb", "top/l", "top/p"}, got); diff != "" {
		t.Error(diff)
	}
	if !pseudoPath(t, "/proc") || pseudoPath(t, dir) {
		t.Error("pseudo file systems are not told apart")
	}
}

func pseudoPath(t *testing.T, path string) bool {
	t.Helper()
	fd, err := openFolder(unix.AT_FDCWD, path, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(fd)
	return pseudo(fd)
}

func TestLowers(t *testing.T) {
	top, bottom := t.TempDir(), t.TempDir()
	must := func(errs ...error) {
		t.Helper()
		if err := errors.Join(errs...); err != nil {
			t.Fatal(err)
		}
	}
	file := func(dir, name string) error { return os.WriteFile(filepath.Join(dir, name), nil, 0o600) }
	must(
		os.MkdirAll(filepath.Join(bottom, "a/b"), 0o755), file(bottom, "a/b/f"), file(bottom, "a/g"), os.Mkdir(filepath.Join(bottom, "hid"), 0o755),
		file(bottom, "hid/x"), os.Symlink("/", filepath.Join(bottom, "root")), file(bottom, "low"),
		os.MkdirAll(filepath.Join(top, "a/b"), 0o755), file(top, "hid"), file(top, "a/b/new"),
		unix.Setxattr(filepath.Join(top, "a/b"), opaqueXattr, []byte("y"), 0),
	)
	var l lowers
	for _, dir := range []string{top, bottom} {
		fd, err := unix.Open(dir, unix.O_PATH|unix.O_DIRECTORY, 0)
		must(err)
		defer unix.Close(fd)
		l = append(l, fd)
	}
	for name, want := range map[string]bool{
		"low": true, "a": true, "a/g": true, "a/b": true, "a/b/new": true, "a/b/f": false, "hid": true, "hid/x": false, "none": false,
		"root": true, "root/etc": false, "../" + filepath.Base(top): false, "a/../../x": false,
	} {
		_, err := l.find(name)
		if (err == nil) != want {
			t.Errorf("%s: %v", name, err)
		}
	}
	if diff := cmp.Diff([]string{"b", "g"}, l.children("a")); diff != "" {
		t.Error(diff)
	}
}
