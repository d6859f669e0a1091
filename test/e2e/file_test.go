//go:build root

package e2e

import (
	"archive/tar"
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"stockade/test/harness"
)

// names lists a tar.
func names(t testing.TB, archive string) map[string]*tar.Header {
	t.Helper()
	out := map[string]*tar.Header{}
	r := tar.NewReader(strings.NewReader(archive))
	for {
		h, err := r.Next()
		if errors.Is(err, io.EOF) {
			return out
		}
		if err != nil {
			t.Fatalf("read archive of %d bytes: %v", len(archive), err)
		}
		out[strings.TrimPrefix(h.Name, "./")] = h
	}
}

func TestCopy(t *testing.T) {
	both(t, func(t *testing.T, d client) {
		dir := d.folder()
		d.host("sh", "-c", "cd "+dir+" && mkdir -p tree/sub && echo one >tree/one && echo two >tree/sub/two && ln -s one tree/link && echo x >file && chmod 640 file")
		name := d.sleeper()
		for _, running := range []bool{true, false} {
			suffix := "running"
			if !running {
				d.ok("stop", name)
				suffix = "stopped"
			}
			// In: a file under its name, a new name, a folder, a folder's contents.
			d.ok("cp", filepath.Join(dir, "file"), name+":/tmp/")
			d.ok("cp", filepath.Join(dir, "file"), name+":/tmp/"+suffix)
			d.ok("cp", filepath.Join(dir, "tree"), name+":/tmp/tree-"+suffix)
			d.ok("cp", filepath.Join(dir, "tree")+"/.", name+":/home")
			// Out again.
			out := filepath.Join(dir, "out-"+suffix)
			d.ok("cp", name+":/tmp/tree-"+suffix, out)
			if got := d.host("sh", "-c", "cd "+out+" && find . | sort | tr '\\n' ' ' && cat sub/two && readlink link && stat -c '%U' one"); got != ". ./link ./one ./sub ./sub/two two\none\nstockade-demo" {
				t.Errorf("%s: came back: %s", suffix, got)
			}
			d.ok("cp", name+":/tmp/"+suffix, filepath.Join(dir, "back"))
			if got := d.host("stat", "-c", "%a", filepath.Join(dir, "back")); got != "640" {
				t.Errorf("mode %s", got)
			}
			list := names(t, d.run("cp", name+":/home/sub", "-").Stdout)
			if list["sub/two"] == nil || list["sub/two"].Size != 4 {
				t.Errorf("archive: %v", list)
			}
			if r := d.feed(string(archive(t, file("piped", "by tar"))), "cp", "-", name+":/var"); r.Code != 0 {
				t.Error(r)
			}
			d.fails(1, "Could not find the file", "cp", name+":/no/such/file", dir)
			d.fails(1, "no such directory", "cp", filepath.Join(dir, "file"), name+":/no/such/folder/")
		}
		d.ok("start", name)
		d.want("one\ntwo\nx\nby tar", "exec", name, "cat", "/home/link", "/tmp/tree-running/sub/two", "/tmp/stopped", "/var/piped")
		// As with Docker, copied files have inside the ids that they had.
		d.want(fmt.Sprintf("%d %d", d.s.User.UID, d.s.User.GID), "exec", name, "stat", "-c", "%u %g", "/home/one")
	})
}

// TestCopyVolume holds that copying goes into what is mounted, running or not.
func TestCopyVolume(t *testing.T) {
	d := docker(t)
	volume, dir := d.volume(), d.folder()
	d.host("sh", "-c", "echo x >"+dir+"/file")
	name := d.sleeper("-v", volume+":/data")
	d.ok("cp", dir+"/file", name+":/data/running")
	d.ok("stop", name)
	d.ok("cp", dir+"/file", name+":/data/stopped")
	d.want("running\nstopped", "run", "--rm", "-v", volume+":/v", "busybox", "ls", "/v")
}

func TestDiffExportCommit(t *testing.T) {
	both(t, func(t *testing.T, d client) {
		name := d.start("-e", "A=b", "busybox", "sh", "-c", "echo new >/new; rm /etc/shadow; mkdir -p /made/in; chmod 700 /tmp; chown 1000 /new; ln /new /made/link; exec sleep 1000")
		want := "A /made\nA /made/in\nA /made/link\nA /new\nC /etc\nC /tmp\nD /etc/shadow"
		harness.Poll(t, "the changes:\n"+want, func() (string, bool) {
			got := strings.Split(d.ok("diff", name), "\n")
			slices.Sort(got)
			return strings.Join(got, "\n"), strings.Join(got, "\n") == want
		})
		list := names(t, d.run("export", name).Stdout)
		if h := list["new"]; h == nil || h.Uid != 1000 || list["bin/busybox"] == nil || list["etc/shadow"] != nil {
			t.Errorf("export of %d files: %+v", len(list), h)
		}
		ref := unique() + ":1"
		d.forget(ref)
		id := d.ok("commit", "-m", "message", "-a", "author", "--change", `CMD ["cat","/new"]`, "--change", "ENV C=d", name, ref)
		if !strings.HasPrefix(id, "sha256:") {
			t.Errorf("commit says %q", id)
		}
		d.want("new", "run", "--rm", ref)
		d.want("b d 700 1000 gone", "run", "--rm", ref, "sh", "-c", "echo $A $C $(stat -c %a /tmp) $(stat -c %u /new) $(test -e /etc/shadow || echo gone)")
		d.want("message author 2", "image", "inspect", "-f", "{{.Comment}} {{.Author}} {{len .RootFS.Layers}}", ref)
		// An image made of the exported files says the same.
		flat := unique() + ":1"
		d.forget(flat)
		file := filepath.Join(d.folder(), "x.tar")
		d.ok("export", "-o", file, name)
		d.ok("import", file, flat)
		d.want("new\n1000", "run", "--rm", flat, "sh", "-c", "cat /new; stat -c %u /made/link")
	})
}

// TestWritableLayer holds that what a container writes stays with it, and with it only.
func TestWritableLayer(t *testing.T) {
	d := docker(t)
	name := d.name()
	d.ok("create", "--name", name, "busybox", "sh", "-c", "echo x >>/count; wc -l </count")
	for _, want := range []string{"1", "2", "3"} {
		d.want(want, "start", "-a", name)
	}
	d.want("none", "run", "--rm", "busybox", "sh", "-c", "test -e /count || echo none")
	if big := bytes.Count([]byte(d.run("export", name).Stdout), []byte("x\nx\nx\n")); big == 0 {
		t.Error("the export lacks the file")
	}
}

// TestUploadRefused holds that a hostile archive writes nowhere but beneath its target.
func TestUploadRefused(t *testing.T) {
	d := docker(t)
	name := d.sleeper()
	hostile := archive(t, entry{Header: tar.Header{Name: "up", Typeflag: tar.TypeSymlink, Linkname: "/../../../../../.."}}, file("up/tmp/e2e-escaped", "x"), file("../../../../tmp/e2e-escaped", "x"))
	d.feed(string(hostile), "cp", "-", name+":/tmp")
	if _, err := os.Lstat("/tmp/e2e-escaped"); err == nil {
		os.Remove("/tmp/e2e-escaped")
		t.Error("a file was written on the host")
	}
}
