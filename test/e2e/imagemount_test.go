//go:build root

package e2e

import (
	"archive/tar"
	"net/http"
	"path/filepath"
	"strings"
	"testing"

	"github.com/moby/moby/api/types/container"
	"github.com/moby/moby/api/types/mount"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

// imageMount is a container with another image at /i.
type imageMount struct{ image, options string }

func (m imageMount) args(cmd ...string) []string {
	return append([]string{"run", "--rm", "--mount", "type=image,source=" + m.image + ",target=/i" + m.options, "busybox"}, cmd...)
}

// TestImageMount holds that an image is shown as a container of it would have it, and read-only.
func TestImageMount(t *testing.T) {
	both(t, func(t *testing.T, d client) {
		tag := unique()
		owned := file("data/owned", "mine")
		owned.Uid, owned.Gid = 1000, 100
		img := newImage(t, ocispec.ImageConfig{},
			archive(t, dir("data", 0o755), file("data/kept", "one"), file("data/hidden", "two"), file("data/changed", "three"), owned),
			archive(t, file("data/.wh.hidden", ""), file("data/changed", "four"),
				entry{Header: tar.Header{Name: "data/out", Typeflag: tar.TypeSymlink, Linkname: "/etc/passwd"}}))
		if r := d.feed(img.dockerArchive(t, tag+":latest"), "load"); r.Code != 0 {
			t.Fatal(r)
		}
		t.Cleanup(func() { d.run("rmi", "-f", tag) })
		whole, part := imageMount{image: tag}, imageMount{tag, ",image-subpath=data"}
		d.want("changed\nkept\nout\nowned", whole.args("ls", "/i/data")...)
		d.want("onefour", whole.args("cat", "/i/data/kept", "/i/data/changed")...)
		d.want("1000 100", whole.args("stat", "-c", "%u %g", "/i/data/owned")...)
		d.fails(1, "Read-only file system", whole.args("touch", "/i/x")...)
		d.fails(1, "Read-only file system", append([]string{"run", "--rm", "--mount", "type=image,source=" + tag + ",target=/i,readonly=false", "busybox"}, "touch", "/i/data/kept")...)
		d.want("one", part.args("cat", "/i/kept")...)
		d.want("four", imageMount{tag, ",image-subpath=data/changed"}.args("cat", "/i")...)
		d.fails(127, "cannot access path missing", imageMount{tag, ",image-subpath=missing"}.args("true")...)
		d.fails(125, "leads out of the image", imageMount{tag, ",image-subpath=data/out"}.args("true")...)
		d.fails(125, "image-subpath", imageMount{tag, ",image-subpath=../x"}.args("true")...)
		d.fails(125, "No such image: e2e-none:latest", imageMount{image: "e2e-none"}.args("true")...)
		// The image of the container itself, and two places of one image.
		d.want("same", "run", "--rm", "--mount", "type=image,source="+tag+",target=/a", "--mount", "type=image,source="+tag+",target=/b", tag,
			"sh", "-c", "cmp /a/bin/busybox /bin/busybox && cmp /b/bin/busybox /bin/busybox && echo same")
		// Changes of the container that shows it go nowhere.
		name := d.sleeper("--mount", "type=image,source="+tag+",target=/i")
		m := d.inspect(name).Mounts
		id := d.ok("image", "inspect", "-f", "{{.Id}}", tag)
		if len(m) != 1 || m[0].Type != mount.TypeImage || m[0].Name != tag || m[0].Source != id || m[0].RW || m[0].Destination != "/i" {
			t.Errorf("mounts: %+v", m)
		}
		d.want("one", "exec", name, "cat", "/i/data/kept")
		d.ok("restart", "-t", "0", name)
		d.want("one", "run", "--rm", "--volumes-from", name, "busybox", "cat", "/i/data/kept")
		// Copies see it, running or not, and cannot write to it.
		out := filepath.Join(d.folder(), "kept")
		for range 2 {
			d.ok("cp", name+":/i/data/kept", out)
			if got := d.host("cat", out); got != "one" {
				t.Errorf("copied: %q", got)
			}
			d.fails(1, "read-only", "cp", out, name+":/i/data/new")
			d.ok("stop", "-t", "0", name)
		}
		// It is in use, by a container that stands still as well.
		d.fails(1, "must be forced", "rmi", tag)
		d.fails(1, "must be forced", "rmi", id)
		d.ok("start", name)
		d.fails(1, "cannot be forced", "rmi", "-f", id)
		d.ok("rmi", "-f", tag) // only its name
		d.want("one", "exec", name, "cat", "/i/data/kept")
		d.ok("restart", "-t", "0", name)
		d.want("one", "exec", name, "cat", "/i/data/kept")
		d.ok("rm", "-f", name)
		d.ok("rmi", id)
	})
}

// TestImageMountLayers holds that images of one layer and of none can be shown.
func TestImageMountLayers(t *testing.T) {
	d := docker(t)
	for name, layers := range map[string][][]byte{"none": nil, "one": {archive(t, file(".wh.gone", ""), file("f", "here"))}} {
		t.Run(name, func(t *testing.T) {
			tag := unique()
			img := newImage(t, ocispec.ImageConfig{}, layers...)
			img.layers, img.config.RootFS.DiffIDs, img.config.History = img.layers[1:], img.config.RootFS.DiffIDs[1:], img.config.History[1:]
			if r := d.feed(img.dockerArchive(t, tag+":latest"), "load"); r.Code != 0 {
				t.Fatal(r)
			}
			t.Cleanup(func() { d.ok("rmi", tag) })
			want := map[string]string{"none": "", "one": "f"}[name]
			d.want(want, imageMount{image: tag}.args("ls", "-A", "/i")...)
		})
	}
}

// TestImageMountVersion holds that clients of older versions do not get what their version does not have.
func TestImageMountVersion(t *testing.T) {
	d := docker(t)
	req := container.CreateRequest{Config: &container.Config{Image: "busybox"}, HostConfig: &container.HostConfig{
		Mounts: []mount.Mount{{Type: mount.TypeImage, Source: "busybox", Target: "/i"}},
	}}
	name := d.name()
	for version, want := range map[string]int{"1.47": http.StatusBadRequest, "1.48": http.StatusCreated} {
		r := d.s.API(t, d.s.User, "POST", "/v"+version+"/containers/create?name="+name, req)
		if r.Status != want || want == http.StatusBadRequest && !strings.Contains(r.Body, "needs API v1.48 or newer") {
			t.Errorf("%s: %d %s", version, r.Status, r.Body)
		}
	}
}

// TestBindSubmounts holds which of a bind's mounts are read-only.
func TestBindSubmounts(t *testing.T) {
	both(t, func(t *testing.T, d client) {
		top := d.folder()
		d.host("mkdir", top+"/sub")
		mountTmpfs(t, top+"/sub", int(d.s.User.UID))
		for _, c := range []struct{ options, top, sub string }{
			{"", "rw", "rw"},
			{",readonly", "ro", "ro"},
			{",readonly,bind-recursive=enabled", "ro", "ro"},
			{",readonly,bind-propagation=rprivate,bind-recursive=readonly", "ro", "ro"},
			{",readonly,bind-recursive=writable", "ro", "rw"},
			{",readonly,bind-recursive=disabled", "ro", "ro"},
		} {
			script := "for f in /w/x /w/sub/x; do if touch $f 2>/dev/null; then echo rw; else echo ro; fi; done"
			d.want(c.top+"\n"+c.sub, "run", "--rm", "--mount", "type=bind,source="+top+",target=/w"+c.options, "busybox", "sh", "-c", script)
		}
		d.fails(125, "readonly", "run", "--rm", "--mount", "type=bind,source="+top+",target=/w,bind-recursive=writable", "busybox", "true")
	})
}
