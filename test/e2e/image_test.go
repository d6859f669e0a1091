//go:build root

package e2e

import (
	"archive/tar"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

// load loads an archive from standard input.
func (d client) load(archive string, refs ...string) string {
	d.t.Helper()
	d.forget(refs...)
	r := d.feed(archive, "load")
	if r.Code != 0 {
		d.t.Fatal(r)
	}
	return r.Stdout + r.Stderr
}

func TestLoad(t *testing.T) {
	both(t, func(t *testing.T, d client) {
		one, two := unique(), unique()
		if out := d.load(small(t, one).dockerArchive(t, one+":1", one+":2"), one+":1", one+":2"); !strings.Contains(out, "Loaded image: "+one+":1") || !strings.Contains(out, one+":2") {
			t.Errorf("load says %s", out)
		}
		d.want(one, "run", "--rm", one+":2", "cat", "/word")
		if out := d.load(small(t, two).ociArchive(t, "docker.io/library/"+two+":1"), two+":1"); !strings.Contains(out, "Loaded image: "+two+":1") {
			t.Errorf("load says %s", out)
		}
		d.want(two, "run", "--rm", two+":1", "cat", "/word")
		// Nothing has a name.
		out := d.load(small(t, unique()).dockerArchive(t))
		id := strings.TrimSpace(out[strings.LastIndex(out, "sha256:"):])
		d.forget(id)
		d.want("[]", "image", "inspect", "-f", "{{.RepoTags}}", id)

		file := filepath.Join(d.folder(), "image.tar")
		if err := os.WriteFile(file, []byte(small(t, one).dockerArchive(t, one+":3")), 0o644); err != nil {
			t.Fatal(err)
		}
		d.forget(one + ":3")
		d.ok("load", "-q", "-i", file)
		d.want(one, "run", "--rm", one+":3", "cat", "/word")
		if r := d.feed("this is no archive", "load"); r.Code == 0 {
			t.Errorf("load of a text: %v", r)
		}
	})
}

// TestLayers holds that what layers say is what a container sees.
func TestLayers(t *testing.T) {
	d := docker(t)
	ref := unique() + ":1"
	capability := "\x01\x00\x00\x02\x00\x20\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00" // v2, effective: CAP_NET_RAW
	busybox, err := os.ReadFile("/bin/busybox")
	if err != nil {
		t.Fatal(err)
	}
	capable := entry{body: string(busybox), Header: tar.Header{Name: "bin/busybox-raw", Typeflag: tar.TypeReg, Mode: 0o755,
		PAXRecords: map[string]string{"SCHILY.xattr.security.capability": capability}}}
	owned := file("owned", "x")
	owned.Uid, owned.Gid, owned.Mode = 1234, 4321, 0o640
	setuid := file("setuid", "x")
	setuid.Mode = 0o4755
	device := entry{Header: tar.Header{Name: "disk", Typeflag: tar.TypeBlock, Devmajor: 8, Mode: 0o666}}
	layers := [][]byte{
		archive(t, dir("data", 0o755), file("data/a", "a"), file("data/b", "b"), dir("opaque", 0o755), file("opaque/x", "x"), dir("gone", 0o755), file("gone/x", "x"),
			file("one", "linked"), hardLink("two", "one"), owned, setuid, device, capable, file("wasfile", "x"), dir("wasdir", 0o755), file("wasdir/x", "x")),
		archive(t, file("data/.wh.a", ""), file("opaque/.wh..wh..opq", ""), file("opaque/z", "z"), file(".wh.gone", ""), dir("wasfile", 0o755), file("wasdir", "now a file")),
	}
	for i := range 30 {
		layers = append(layers, archive(t, dir("many", 0o755), file(fmt.Sprintf("many/%d", i), ""), file("many/last", fmt.Sprint(i))))
	}
	out := d.load(newImage(t, ocispec.ImageConfig{Env: []string{"PATH=/bin"}}, layers...).dockerArchive(t, ref), ref)
	if !strings.Contains(out, "device node") {
		t.Errorf("no warning of the device node: %s", out)
	}
	for _, c := range []struct{ name, script, want string }{
		{"whiteout", "ls /data", "b"},
		{"opaque folder", "ls /opaque", "z"},
		{"whiteout of a folder", "test -e /gone || echo gone", "gone"},
		{"hard link", "stat -c %h /one; test /one -ef /two && cat /two", "2\nlinked"},
		{"owner and mode", "stat -c '%u %g %a' /owned", "1234 4321 640"},
		{"setuid", "stat -c %a /setuid", "4755"},
		{"device node", "test -e /disk || echo none", "none"},
		{"a folder instead of a file", "stat -c %F /wasfile", "directory"},
		{"a file instead of a folder", "cat /wasdir", "now a file"},
		{"many layers", "ls /many | wc -l; cat /many/last", "31\n29"},
	} {
		t.Run(c.name, func(t *testing.T) {
			docker(t).want(c.want, "run", "--rm", ref, "sh", "-c", c.script)
		})
	}
	t.Run("file capability", func(t *testing.T) {
		docker(t).want(fmt.Sprintf("CapEff:\t%016x", 1<<unix.CAP_NET_RAW), "run", "--rm", "-u", "1000", ref, "busybox-raw", "grep", "CapEff", "/proc/self/status")
	})
}

func TestImport(t *testing.T) {
	both(t, func(t *testing.T, d client) {
		ref := unique() + ":1"
		d.forget(ref)
		bottom, err := base()
		if err != nil {
			t.Fatal(err)
		}
		r := d.feed(string(bottom), "import", "-m", "a message", "--change", "ENV WORD=imported", "--change", `CMD ["sh","-c","echo $WORD"]`, "--change", "USER 33:33",
			"--change", "WORKDIR /tmp", "--change", "LABEL a=b", "--change", "EXPOSE 80", "-", ref)
		if r.Code != 0 || !strings.HasPrefix(r.Stdout, "sha256:") {
			t.Fatal(r)
		}
		d.want("imported", "run", "--rm", ref)
		d.want("33 /tmp", "run", "--rm", ref, "sh", "-c", "echo $(id -u) $(pwd)")
		d.want("b map[80/tcp:{}] a message", "image", "inspect", "-f", "{{.Config.Labels.a}} {{.Config.ExposedPorts}} {{.Comment}}", ref)
		d.fails(1, "import-url", "import", "http://127.0.0.1/x.tar")
	})
}

func TestImages(t *testing.T) {
	both(t, func(t *testing.T, d client) {
		name := unique()
		d.load(small(t, name).dockerArchive(t, name+":1"), name+":1", name+":2", name+"-other:1")
		id := d.ok("images", "-q", "--no-trunc", name)
		d.want(name+" 1 "+id, "images", "--no-trunc", "--format", "{{.Repository}} {{.Tag}} {{.ID}}", name)
		d.ok("tag", name+":1", name+":2")
		d.want("1\n2", "images", "--format", "{{.Tag}}", "--filter", "reference="+name+":*")
		d.want(id, "image", "inspect", "-f", "{{.Id}}", name+":2")
		d.want(id, "image", "inspect", "-f", "{{.Id}}", strings.TrimPrefix(id, "sha256:")[:12])
		d.want("["+"WORD="+name+" PATH=/bin] linux 2", "image", "inspect", "-f", "{{.Config.Env}} {{.Os}} {{len .RootFS.Layers}}", name+":1")
		d.want("e2e\ne2e", "history", "--format", "{{.CreatedBy}}", name+":1")
		d.fails(1, "No such image", "image", "inspect", name+":3")
		d.fails(1, "No such image", "rmi", name+":3")

		d.ok("tag", name+":1", name+"-other:1")
		d.fails(1, "multiple repositories", "rmi", id)
		d.ok("rmi", name+"-other:1")
		used := d.start(name+":2", "sleep", "1000")
		if out := d.ok("rmi", name+":1"); out != "Untagged: "+name+":1" {
			t.Errorf("rmi of one of two tags: %s", out)
		}
		d.fails(1, "is using its referenced image", "rmi", name+":2")
		d.ok("rm", "-f", used)
		if out := d.ok("rmi", name+":2"); !strings.Contains(out, "Untagged: "+name+":2") || !strings.Contains(out, "Deleted: "+id) {
			t.Errorf("rmi of the last tag: %s", out)
		}
		d.fails(1, "No such image", "image", "inspect", id)
	})
}

func TestImagePrune(t *testing.T) {
	d := docker(t)
	name := unique()
	d.load(small(t, name).dockerArchive(t, name+":1"), name+":1")
	old := d.ok("images", "-q", "--no-trunc", name)
	d.load(small(t, name+"-new").dockerArchive(t, name+":1"))
	if got := d.ok("images", "-q", "--no-trunc", "--filter", "dangling=true"); !strings.Contains(got, old) {
		t.Errorf("the image without its name is not dangling: %s", got)
	}
	if out := d.ok("image", "prune", "-f"); !strings.Contains(out, old) || !strings.Contains(out, "Total reclaimed space:") {
		t.Errorf("prune: %s", out)
	}
	d.fails(1, "No such image", "image", "inspect", old)
	d.want("1", "images", "--format", "{{.Tag}}", name)
}
