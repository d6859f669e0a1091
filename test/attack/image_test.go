//go:build root

package attack

import (
	"archive/tar"
	"bytes"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"

	"stockade/internal/demoimage"
	"stockade/test/harness"
)

// entry is one entry of a hostile layer.
type entry struct {
	tar.Header
	body string
}

func tarOf(t *testing.T, entries ...entry) []byte {
	t.Helper()
	var b bytes.Buffer
	w := tar.NewWriter(&b)
	for _, e := range entries {
		e.Size = int64(len(e.body))
		if e.Mode == 0 {
			e.Mode = 0o777
		}
		must(t, w.WriteHeader(&e.Header))
		_, err := w.Write([]byte(e.body))
		must(t, err)
	}
	must(t, w.Close())
	return b.Bytes()
}

// archive is what "docker load" reads: busybox and the given layer on top.
func archive(t *testing.T, name string, config map[string]any, layers ...[]byte) []byte {
	t.Helper()
	files, err := demoimage.BusyboxLayer(demoimage.Busybox)
	must(t, err)
	base, err := demoimage.Layer(files)
	must(t, err)
	var diffs []string
	var entries []entry
	manifest := map[string]any{"Config": "config.json", "RepoTags": []string{name}}
	var names []string
	for i, l := range append([][]byte{base}, layers...) {
		diffs = append(diffs, fmt.Sprintf("sha256:%x", sha256.Sum256(l)))
		names = append(names, fmt.Sprintf("%d/layer.tar", i))
		entries = append(entries, entry{Header: tar.Header{Name: names[i]}, body: string(l)})
	}
	manifest["Layers"] = names
	doc, err := json.Marshal(map[string]any{"architecture": runtime.GOARCH, "os": "linux", "config": config, "rootfs": map[string]any{"type": "layers", "diff_ids": diffs}})
	must(t, err)
	list, err := json.Marshal([]any{manifest})
	must(t, err)
	return tarOf(t, append(entries, entry{Header: tar.Header{Name: "config.json"}, body: string(doc)}, entry{Header: tar.Header{Name: "manifest.json"}, body: string(list)})...)
}

// unpackNaively does what a program without checks does with a layer. It is the control.
func unpackNaively(dir string, layer []byte) error {
	r := tar.NewReader(bytes.NewReader(layer))
	for {
		h, err := r.Next()
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return err
		}
		path, link := filepath.Join(dir, h.Name), filepath.Join(dir, h.Linkname)
		if filepath.IsAbs(h.Name) {
			path = h.Name
		}
		if filepath.IsAbs(h.Linkname) {
			link = h.Linkname
		}
		if where, name := filepath.Split(path); strings.HasPrefix(name, ".wh.") {
			err = os.RemoveAll(where + "/" + strings.TrimPrefix(name, ".wh."))
		} else {
			switch h.Typeflag {
			case tar.TypeDir:
				err = os.MkdirAll(path, 0o755)
			case tar.TypeSymlink:
				err = os.Symlink(h.Linkname, path)
			case tar.TypeLink:
				err = os.Link(link, path)
			case tar.TypeChar, tar.TypeBlock:
				err = syscall.Mknod(path, uint32(h.Mode)|map[byte]uint32{tar.TypeChar: unix.S_IFCHR, tar.TypeBlock: unix.S_IFBLK}[h.Typeflag], int(unix.Mkdev(uint32(h.Devmajor), uint32(h.Devminor))))
			default:
				var body []byte
				if body, err = io.ReadAll(r); err == nil {
					err = os.WriteFile(path, body, 0o666)
				}
			}
		}
		if err != nil {
			return err
		}
	}
}

// T-402: layers that reach out of their folder. Whether such an image is refused or made harmless, nothing on the host
// changes, not even what everybody may write; each control shows that without checks the same layer does change it.
func TestHostileLayers(t *testing.T) {
	s := harness.Get(t)
	dir := folder(t)
	control := filepath.Join(dir, "control") // stands for the folder of a layer
	canary := filepath.Join(dir, "canary")
	up := strings.Repeat("../", 20)
	link := func(kind byte, name, to string) entry {
		return entry{Header: tar.Header{Typeflag: kind, Name: name, Linkname: to}}
	}
	file := func(name string) entry { return entry{Header: tar.Header{Name: name}, body: "pwned"} }
	reset := func() {
		must(t, os.RemoveAll(canary))
		must(t, os.RemoveAll(control))
		for _, d := range []string{canary, control, canary + "/sub"} {
			must(t, os.Mkdir(d, 0o777))
			must(t, os.Chmod(d, 0o777))
		}
		for _, f := range []string{"/file", "/sub/file"} {
			must(t, os.WriteFile(canary+f, []byte("alive"), 0o666))
			must(t, os.Chmod(canary+f, 0o666))
		}
	}
	for i, c := range []struct {
		name    string
		entries []entry
	}{
		{"dots", []entry{file(up + canary + "/file")}},
		{"dots to the folder beside", []entry{file("../canary/new")}},
		{"absolute path", []entry{file(canary + "/file")}},
		{"file through a link", []entry{link(tar.TypeSymlink, "esc", canary), file("esc/new")}},
		{"file over a link", []entry{link(tar.TypeSymlink, "f", canary+"/file"), file("f")}},
		{"file through a relative link", []entry{link(tar.TypeSymlink, "esc", up+canary), file("esc/new")}},
		{"file through two links", []entry{link(tar.TypeSymlink, "a", "b"), link(tar.TypeSymlink, "b", canary), file("a/new")}},
		{"folder through a link", []entry{link(tar.TypeSymlink, "esc", canary), {Header: tar.Header{Typeflag: tar.TypeDir, Name: "esc/newdir/"}}}},
		{"hard link out, then written", []entry{link(tar.TypeLink, "h", up+canary+"/file"), file("h")}},
		{"absolute hard link, then written", []entry{link(tar.TypeLink, "h", canary+"/file"), file("h")}},
		{"hard link through a link", []entry{link(tar.TypeSymlink, "esc", canary), link(tar.TypeLink, "h", "esc/file"), file("h")}},
		{"link made through a link", []entry{link(tar.TypeSymlink, "esc", canary), link(tar.TypeSymlink, "esc/l", "/etc/shadow")}},
		{"whiteout through a link", []entry{link(tar.TypeSymlink, "esc", canary), file("esc/.wh.file")}},
		{"whiteout with dots", []entry{file(up + canary + "/.wh.sub")}},
		{"device through a link", []entry{link(tar.TypeSymlink, "esc", canary), {Header: tar.Header{Typeflag: tar.TypeChar, Name: "esc/dev", Devmajor: 1, Devminor: 3}}}},
	} {
		reset()
		layer := tarOf(t, c.entries...)
		before := tree(t, canary)
		image := fmt.Sprintf("attack/layer:%d", i)
		r := s.Exec(t, s.User, bytes.NewReader(archive(t, image, nil, layer)), s.DockerPath(), "load")
		if r.Code == 0 { // made harmless: it must also run without effect
			s.Docker(t, "run", "--rm", image, "sh", "-c", "ls -lR / >/dev/null 2>&1; echo x >/esc/run; echo x >/h; echo x >/f")
			s.Must(t, "rmi", image)
		} else if !strings.Contains(r.Stderr+r.Stdout, "rror") {
			t.Errorf("%s: no reason: %v", c.name, r)
		}
		if after := tree(t, canary); after != before {
			t.Errorf("%s changed the host:\n%s\nbefore:\n%s", c.name, after, before)
		}
		err := unpackNaively(control, layer)
		if tree(t, canary) == before {
			t.Errorf("%s: control changes nothing (%v)", c.name, err)
		}
	}
	healthy(t, s)
}

// T-402: devices and special bits of a layer are worth nothing.
func TestDevicesInLayers(t *testing.T) {
	s := harness.Get(t)
	layer := tarOf(t,
		entry{Header: tar.Header{Typeflag: tar.TypeChar, Name: "mem", Devmajor: 1, Devminor: 1}},
		entry{Header: tar.Header{Typeflag: tar.TypeChar, Name: "zero", Devmajor: 1, Devminor: 5}},
		entry{Header: tar.Header{Typeflag: tar.TypeBlock, Name: "disk", Devmajor: 8}})
	control := folder(t)
	must(t, unpackNaively(control, layer))
	if f, err := os.Open(control + "/zero"); err != nil {
		t.Errorf("control: %v", err)
	} else {
		f.Close()
	}
	if r := s.Exec(t, s.User, bytes.NewReader(archive(t, "attack/devices:1", nil, layer)), s.DockerPath(), "load"); r.Code == 0 {
		r := s.Docker(t, "run", "--rm", "attack/devices:1", "sh", "-c", "for f in /mem /zero /disk; do test -c $f -o -b $f && echo $f; done; true")
		if r.Code != 0 || r.Stdout != "" {
			t.Error(r)
		}
		s.Must(t, "rmi", "attack/devices:1")
	}
	healthy(t, s)
}

// T-402, T-801: archives that claim more than they hold, or hold more than they seem to.
func TestBombs(t *testing.T) {
	s := harness.Get(t)
	before := used(t)
	sparse := func() []byte { // an entry in GNU's sparse form 1.0 that becomes 1 TiB
		var b bytes.Buffer
		w := tar.NewWriter(&b)
		body := fmt.Sprintf("%-512s", "1\n1099511627264\n512\n")
		body = strings.ReplaceAll(body, " ", "\x00") + strings.Repeat("x", 512)
		must(t, w.WriteHeader(&tar.Header{Name: "GNUSparseFile.0/huge", Size: int64(len(body)), Mode: 0o644, Format: tar.FormatPAX}))
		_, err := w.Write([]byte(body))
		must(t, err)
		must(t, w.Close())
		// The writer refuses to write these records, so they are put in front of the header by hand.
		records := ""
		for _, kv := range []string{"GNU.sparse.major=1", "GNU.sparse.minor=0", "GNU.sparse.name=huge", "GNU.sparse.realsize=1099511627776"} {
			n := len(kv) + 3
			for len(fmt.Sprint(n))+len(kv)+2 != n {
				n++
			}
			records += fmt.Sprintf("%d %s\n", n, kv)
		}
		var p bytes.Buffer
		pw := tar.NewWriter(&p)
		must(t, pw.WriteHeader(&tar.Header{Name: "PaxHeaders.0/huge", Size: int64(len(records)), Mode: 0o644, Format: tar.FormatUSTAR}))
		_, err = pw.Write([]byte(records))
		must(t, err)
		must(t, pw.Flush())
		head := p.Bytes()
		head[156] = tar.TypeXHeader
		sum := 0
		copy(head[148:156], "        ")
		for _, c := range head[:512] {
			sum += int(c)
		}
		copy(head[148:156], fmt.Sprintf("%06o\x00 ", sum))
		return append(head, b.Bytes()...)
	}()
	h, err := tar.NewReader(bytes.NewReader(sparse)).Next()
	if err != nil || h.Size != 1<<40 {
		t.Fatalf("control: the sparse entry is %+v (%v)", h, err)
	}
	truncated := tarOf(t, entry{Header: tar.Header{Name: "x"}, body: strings.Repeat("x", 4096)})[:1024]
	names := tarOf(t, entry{Header: tar.Header{Name: strings.Repeat("d/", 5000) + "x"}, body: "x"})
	attributes := tarOf(t, entry{Header: tar.Header{Name: "x", PAXRecords: map[string]string{"SCHILY.xattr.user.overlay.redirect": "/", "SCHILY.xattr.trusted.overlay.opaque": "y", "SCHILY.xattr.security.capability": "\x01\x00\x00\x02\xff\xff\xff\xff\x00\x00\x00\x00\xff\xff\xff\xff\x00\x00\x00\x00"}}, body: "x"})
	for _, c := range []struct {
		name  string
		layer []byte
	}{{"sparse terabyte", sparse}, {"truncated", truncated}, {"very deep", names}, {"attributes of the overlay", attributes}, {"noise", bytes.Repeat([]byte{0x5a}, 4096)}} {
		r := s.Exec(t, s.User, bytes.NewReader(archive(t, "attack/bomb:1", nil, c.layer)), s.DockerPath(), "load")
		if r.Code == 0 {
			s.Docker(t, "run", "--rm", "attack/bomb:1", "true")
			s.Must(t, "rmi", "-f", "attack/bomb:1")
		}
		healthy(t, s)
	}
	if after := used(t); after > before+64<<20 {
		t.Errorf("the bombs left %d MiB on the disk", (after-before)>>20)
	}
	for _, text := range []string{"", "x", `[]`, `[{"Config":"../../../etc/passwd","Layers":[]}]`, `[{"Config":"config.json","RepoTags":["../x:y"],"Layers":["/etc/passwd"]}]`, `{`} {
		r := s.Exec(t, s.User, bytes.NewReader(tarOf(t, entry{Header: tar.Header{Name: "manifest.json"}, body: text})), s.DockerPath(), "load")
		if strings.Contains(r.Stdout+r.Stderr, "root:") {
			t.Error(r)
		}
	}
	healthy(t, s)
}

// used is how much the data folder takes on disk, in bytes.
func used(t *testing.T) int64 {
	t.Helper()
	var sum int64
	must(t, filepath.Walk(harness.Data, func(_ string, fi os.FileInfo, err error) error {
		if os.IsNotExist(err) {
			return nil
		}
		if err == nil {
			sum += fi.Sys().(*syscall.Stat_t).Blocks * 512
		}
		return err
	}))
	return sum
}

// healthy shows that the server still serves others.
func healthy(t *testing.T, s *harness.Server) {
	t.Helper()
	if got := s.Must(t, "run", "--rm", "busybox", "echo", "well"); got != "well" {
		t.Errorf("got %q", got)
	}
}
