//go:build root

package unpack

import (
	"archive/tar"
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/containerd/errdefs"
	"github.com/klauspost/compress/gzip"
	"github.com/klauspost/compress/zstd"
	"github.com/ulikunitz/xz"
	"golang.org/x/sys/unix"
)

// testBase is where the tests' store ids begin: no process of the host has them.
const testBase = 2000100000

var binary string

func TestMain(m *testing.M) {
	os.Exit(func() int {
		dir, err := os.MkdirTemp("", "stkt-unpack")
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
		cmd.Env = append(os.Environ(), "CGO_ENABLED=0") // the child changes all of its threads
		cmd.Stderr = os.Stderr
		if err := cmd.Run(); err != nil {
			return 1
		}
		return m.Run()
	}())
}

type entry struct {
	tar.Header
	body string
}

func file(name, body string) entry {
	return entry{tar.Header{Name: name, Typeflag: tar.TypeReg, Mode: 0o644}, body}
}
func folder(name string) entry {
	return entry{tar.Header{Name: name, Typeflag: tar.TypeDir, Mode: 0o755}, ""}
}
func link(kind byte, name, to string) entry {
	return entry{tar.Header{Name: name, Typeflag: kind, Linkname: to, Mode: 0o777}, ""}
}

func archive(t *testing.T, entries ...entry) []byte {
	t.Helper()
	var b bytes.Buffer
	w := tar.NewWriter(&b)
	for _, e := range entries {
		e.Size = int64(len(e.body))
		if err := w.WriteHeader(&e.Header); err != nil {
			t.Fatal(err)
		}
		if _, err := io.WriteString(w, e.body); err != nil {
			t.Fatal(err)
		}
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

// place makes a folder with a canary beside the layer: …/canary and …/fs.
func place(t *testing.T) (dir, canary string) {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Fatal("needs root")
	}
	// Not t.TempDir: its parents may be closed to the store's ids.
	top, err := os.MkdirTemp("", "stkt-layer")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(top) })
	// Writable by everybody: only the confinement protects it.
	if err := os.Chmod(top, 0o777); err != nil {
		t.Fatal(err)
	}
	canary = filepath.Join(top, "canary")
	if err := os.WriteFile(canary, []byte("alive"), 0o666); err != nil {
		t.Fatal(err)
	}
	if err := os.Chmod(canary, 0o666); err != nil {
		t.Fatal(err)
	}
	return filepath.Join(top, "fs"), canary
}

func layer(t *testing.T, l Limits, dir string, blob []byte) (Result, error) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	return Config{Path: binary, Base: testBase, Limits: l}.Layer(ctx, dir, bytes.NewReader(blob))
}

func TestLayer(t *testing.T) {
	when := time.Unix(1700000000, 0)
	capNetRaw := "\x01\x00\x00\x02\x00\x20\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00"
	suid := file("bin/su", "su")
	suid.Mode, suid.Uid, suid.Gid, suid.ModTime = 0o4755, 0, 12, when
	ping := file("bin/ping", "ping")
	ping.PAXRecords = map[string]string{paxAttr + "security.capability": capNetRaw, paxAttr + "user.note": "n",
		paxAttr + "user.overlay.opaque": "y", paxAttr + "trusted.overlay.opaque": "y"}
	owned := folder("home/u/")
	owned.Uid, owned.Gid, owned.Mode, owned.ModTime = 1000, 1000, 0o700, when
	huge := file("huge", "")
	huge.Uid = 1 << 20
	device := entry{tar.Header{Name: "dev/sda", Typeflag: tar.TypeBlock, Devmajor: 8, Mode: 0o666}, ""}
	fake := entry{tar.Header{Name: "fakewhiteout", Typeflag: tar.TypeChar, Mode: 0o666}, ""}
	plain := archive(t, folder("./"), suid, ping, owned, huge, device, fake,
		link(tar.TypeSymlink, "lib", "usr/lib"), folder("usr/lib"), file("lib/libc", "c"),
		link(tar.TypeLink, "hard", "bin/su"), file("a/b/c/d", "deep"),
		file(".wh.gone", ""), file("etc/.wh..wh..opq", ""), file("etc/new", "new"),
		file("again", "1"), file("again", "22"), folder("swap"), file("swap/x", "x"), file("swap", "now a file"),
		file(".wh.back", ""), folder("back"), file("home/u/f", "f"), file(".wh..wh.plnk/1", ""))

	var gz, zs bytes.Buffer
	gw := gzip.NewWriter(&gz)
	_, err := gw.Write(plain)
	if err = errors.Join(err, gw.Close()); err != nil {
		t.Fatal(err)
	}
	zw, err := zstd.NewWriter(&zs)
	if err != nil {
		t.Fatal(err)
	}
	_, err = zw.Write(plain)
	if err = errors.Join(err, zw.Close()); err != nil {
		t.Fatal(err)
	}
	xzBlob := xzFile(t, xz.WriterConfig{BlockSize: 4096}, plain)
	for name, blob := range map[string][]byte{"plain": plain, "gzip": gz.Bytes(), "zstd": zs.Bytes(), "xz": xzBlob} {
		t.Run(name, func(t *testing.T) {
			dir, _ := place(t)
			res, err := layer(t, Limits{}, dir, blob)
			if err != nil {
				t.Fatal(err)
			}
			if want := fmt.Sprintf("sha256:%x", sha256.Sum256(plain)); res.DiffID.String() != want {
				t.Errorf("diffID %s, want %s", res.DiffID, want)
			}
			stat := func(name string) (st unix.Stat_t) {
				t.Helper()
				if err := unix.Lstat(filepath.Join(dir, name), &st); err != nil {
					t.Fatalf("%s: %v", name, err)
				}
				return st
			}
			for _, row := range []struct {
				name     string
				mode     uint32
				uid, gid uint32
			}{
				{".", unix.S_IFDIR | 0o755, 0, 0},
				{"bin/su", unix.S_IFREG | 0o4755, 0, 12},
				{"home/u", unix.S_IFDIR | 0o700, 1000, 1000},
				{"huge", unix.S_IFREG | 0o644, nobody, 0},
				{"lib", unix.S_IFLNK | 0o777, 0, 0},
				{"usr/lib/libc", unix.S_IFREG | 0o644, 0, 0},
				{"a/b", unix.S_IFDIR | 0o755, 0, 0},
				{"gone", unix.S_IFCHR, 0, 0},
				{"swap", unix.S_IFREG | 0o644, 0, 0},
				{"back", unix.S_IFDIR | 0o755, 0, 0},
			} {
				st := stat(row.name)
				if st.Mode != row.mode || st.Uid != testBase+row.uid || st.Gid != testBase+row.gid {
					t.Errorf("%s: mode %o owner %d:%d, want %o %d:%d", row.name, st.Mode, st.Uid, st.Gid, row.mode,
						testBase+row.uid, testBase+row.gid)
				}
			}
			if st := stat("gone"); st.Rdev != 0 {
				t.Errorf("whiteout is device %d", st.Rdev)
			}
			if a, b := stat("hard"), stat("bin/su"); a.Ino != b.Ino {
				t.Error("hard link is another file")
			}
			for _, name := range []string{"bin/su", "home/u"} {
				if st := stat(name); st.Mtim.Sec != when.Unix() {
					t.Errorf("%s: time %d", name, st.Mtim.Sec)
				}
			}
			for _, name := range []string{"dev/sda", "fakewhiteout", ".wh..wh.plnk/1", ".wh.gone"} {
				if _, err := os.Lstat(filepath.Join(dir, name)); !errors.Is(err, os.ErrNotExist) {
					t.Errorf("%s exists (%v)", name, err)
				}
			}
			if b, _ := os.ReadFile(filepath.Join(dir, "again")); string(b) != "22" {
				t.Errorf("again = %q", b)
			}
			attr := func(name, attr string) string {
				b := make([]byte, 100)
				n, err := unix.Lgetxattr(filepath.Join(dir, name), attr, b)
				if err != nil {
					return err.Error()
				}
				return string(b[:n])
			}
			if got := attr("etc", opaqueAttr); got != "y" {
				t.Errorf("etc opaque: %q", got)
			}
			if got := attr("back", opaqueAttr); got != "y" {
				t.Errorf("back opaque: %q", got)
			}
			if got := attr("bin/ping", "user.note"); got != "n" {
				t.Errorf("user.note: %q", got)
			}
			// Revision 3, with the store's root as the namespace's root.
			if got := attr("bin/ping", "security.capability"); len(got) != 24 || got[3] != 3 {
				t.Errorf("security.capability: %x", got)
			}
			for _, a := range []string{opaqueAttr, "trusted.overlay.opaque"} {
				if got := attr("bin/ping", a); got != unix.ENODATA.Error() {
					t.Errorf("%s: %q", a, got)
				}
			}
			all := strings.Join(res.Warnings, "\n")
			for _, w := range []string{"dev/sda", "fakewhiteout", "user.overlay.opaque", "trusted.overlay", "1048576"} {
				if !strings.Contains(all, w) {
					t.Errorf("no warning about %s in %q", w, all)
				}
			}
		})
	}
}

// SECURITY(T-402)
func TestHostile(t *testing.T) {
	small := Limits{Bytes: 1 << 20, Sparse: 1 << 10, Ratio: 512, Entries: 50, CPU: 60}
	many := make([]entry, 60)
	for i := range many {
		many[i] = file(fmt.Sprintf("f%d", i), "")
	}
	var bomb bytes.Buffer
	gw := gzip.NewWriter(&bomb)
	if _, err := gw.Write(archive(t, file("zero", strings.Repeat("\x00", 2<<20)))); err != nil {
		t.Fatal(err)
	}
	gw.Close()
	for _, row := range []struct {
		name  string
		blob  []byte
		class error
	}{
		{"parent path", archive(t, file("../canary", "dead")), errdefs.ErrInvalidArgument},
		{"parent path inside", archive(t, file("a/../../canary", "dead")), errdefs.ErrInvalidArgument},
		{"hard link out", archive(t, link(tar.TypeLink, "x", "../canary"), file("x", "dead")), errdefs.ErrInvalidArgument},
		{"hard link through symlink", archive(t, link(tar.TypeSymlink, "up", ".."), link(tar.TypeLink, "x", "up/canary")),
			errdefs.ErrInvalidArgument},
		{"hard link to itself", archive(t, file("x", ""), link(tar.TypeLink, "x", "x")), errdefs.ErrInvalidArgument},
		{"whiteout of parent", archive(t, file(".wh...", "")), errdefs.ErrInvalidArgument},
		{"whiteout of self", archive(t, file(".wh..", "")), errdefs.ErrInvalidArgument},
		{"whiteout of nothing", archive(t, file(".wh.", "")), errdefs.ErrInvalidArgument},
		{"root is a file", archive(t, file(".", "dead")), errdefs.ErrInvalidArgument},
		{"root is a link", archive(t, link(tar.TypeSymlink, ".", "/etc")), errdefs.ErrInvalidArgument},
		{"file as parent", archive(t, file("f", ""), file("f/x", "")), errdefs.ErrInvalidArgument},
		{"link loop as parent", archive(t, link(tar.TypeSymlink, "l", "l"), file("l/x", "")), errdefs.ErrInvalidArgument},
		{"no tar", []byte(strings.Repeat("x", 2000)), errdefs.ErrInvalidArgument},
		{"truncated", archive(t, file("f", strings.Repeat("x", 5000)))[:3000], errdefs.ErrInvalidArgument},
		{"broken xz", xzFile(t, xz.WriterConfig{}, archive(t, file("f", "x")))[:40], errdefs.ErrInvalidArgument},
		{"xz bomb", xzFile(t, xz.WriterConfig{}, archive(t, file("zero", strings.Repeat("\x00", 2<<20)))), errdefs.ErrOutOfRange},
		{"xz dictionary", []byte("\xfd7zXZ\x00\x00\x04\xe6\xd6\xb4\x46\x02\x00\x21\x01\x28\x00\x00\x00\x00\x00\x00\x00"), errdefs.ErrOutOfRange},
		{"broken gzip", bomb.Bytes()[:12], errdefs.ErrInvalidArgument},
		{"too many entries", archive(t, many...), errdefs.ErrOutOfRange},
		{"too many bytes", archive(t, file("f", strings.Repeat("x", 2<<20))), errdefs.ErrOutOfRange},
		{"compression bomb", bomb.Bytes(), errdefs.ErrOutOfRange},
		{"long name", archive(t, file(strings.Repeat("n", 300), "")), errdefs.ErrOutOfRange},
		{"long path", archive(t, file(strings.Repeat("n/", 3000)+"f", "")), errdefs.ErrOutOfRange},
		{"sparse bomb", sparse(t, 1<<40), errdefs.ErrOutOfRange},
		{"sparse", sparse(t, 1<<12), errdefs.ErrOutOfRange},
	} {
		t.Run(row.name, func(t *testing.T) {
			dir, canary := place(t)
			if _, err := layer(t, small, dir, row.blob); !errors.Is(err, row.class) {
				t.Errorf("got %v, want %v", err, row.class)
			}
			alive(t, canary)
		})
	}
}

// sparse is an archive with one GNU sparse entry (PAX 0.1) of size bytes, none of which is sent.
func sparse(t *testing.T, size int64) []byte {
	t.Helper()
	record := func(k, v string) string {
		n := len(k) + len(v) + 3
		for len(fmt.Sprint(n))+len(k)+len(v)+3 != n {
			n = len(fmt.Sprint(n)) + len(k) + len(v) + 3
		}
		return fmt.Sprintf("%d %s=%s\n", n, k, v)
	}
	pax := record("GNU.sparse.major", "0") + record("GNU.sparse.minor", "1") + record("GNU.sparse.name", "s") +
		record("GNU.sparse.size", fmt.Sprint(size)) + record("GNU.sparse.numblocks", "1") +
		record("GNU.sparse.map", fmt.Sprintf("%d,0", size))
	e := archive(t, file("h", pax), file("s", ""))
	e[156] = 'x'
	sum := 0
	copy(e[148:156], "        ")
	for _, c := range e[:512] {
		sum += int(c)
	}
	copy(e[148:156], fmt.Sprintf("%06o\x00 ", sum))
	return e
}

func alive(t *testing.T, canary string) {
	t.Helper()
	if b, err := os.ReadFile(canary); err != nil || string(b) != "alive" {
		t.Errorf("canary: %q, %v", b, err)
	}
}

// Links that lead out are kept as they are but lead nowhere while the layer is written.
//
// SECURITY(T-402)
func TestLinksStayInside(t *testing.T) {
	dir, canary := place(t)
	blob := archive(t, link(tar.TypeSymlink, "up", ".."), file("up/canary", "dead"),
		link(tar.TypeSymlink, "abs", filepath.Dir(canary)), file("direct", ""),
		link(tar.TypeSymlink, "to", canary), file("to", "dead"), file("/etc/x", "inside"))
	if _, err := layer(t, Limits{}, dir, blob); err != nil {
		t.Fatal(err)
	}
	alive(t, canary)
	if b, err := os.ReadFile(filepath.Join(dir, "canary")); err != nil || string(b) != "dead" {
		t.Errorf("a path through a link: %q, %v", b, err)
	}
	// Control: the same path without the confinement does reach the canary.
	if b, err := os.ReadFile(filepath.Join(dir, "up", "canary")); err != nil || string(b) != "alive" {
		t.Errorf("control: %q, %v", b, err)
	}
}

func TestDigest(t *testing.T) {
	dir, _ := place(t)
	blob := archive(t, file("../x", "not looked at"))
	res, err := Config{Path: binary, Base: testBase}.Digest(t.Context(), dir, bytes.NewReader(blob))
	if err != nil {
		t.Fatal(err)
	}
	if want := fmt.Sprintf("sha256:%x", sha256.Sum256(blob)); res.DiffID.String() != want {
		t.Errorf("digest %s, want %s", res.DiffID, want)
	}
	if names, err := os.ReadDir(dir); err != nil || len(names) != 0 {
		t.Errorf("folder: %v, %v", names, err)
	}
}

func TestReaderError(t *testing.T) {
	dir, _ := place(t)
	broken := errors.New("broken source")
	_, err := Config{Path: binary, Base: testBase}.Layer(t.Context(), dir, io.MultiReader(
		bytes.NewReader(archive(t, file("f", "x"))[:700]), failing{broken}))
	if !errors.Is(err, broken) {
		t.Errorf("got %v", err)
	}
}

type failing struct{ err error }

func (f failing) Read([]byte) (int, error) { return 0, f.err }
