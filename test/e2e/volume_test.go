//go:build root

package e2e

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"stockade/test/harness"
)

func TestVolumes(t *testing.T) {
	both(t, func(t *testing.T, d client) {
		name := d.volume()
		d.want(name, "volume", "create", "--label", "a=b", name)
		d.want(name, "volume", "create", name) // again is fine
		d.want("local b local", "volume", "inspect", "-f", "{{.Driver}} {{.Labels.a}} {{.Scope}}", name)
		d.want(name, "volume", "ls", "-q", "-f", "label=a=b", "-f", "name="+name)
		d.ok("run", "--rm", "-v", name+":/data", "busybox", "sh", "-c", "echo kept >/data/file")
		d.want("kept", "run", "--rm", "--mount", "type=volume,source="+name+",target=/other,readonly", "busybox", "cat", "/other/file")
		d.fails(1, "Read-only file system", "run", "--rm", "-v", name+":/data:ro", "busybox", "touch", "/data/x")
		user := d.sleeper("-v", name+":/data")
		d.want(name, "volume", "ls", "-q", "-f", "name="+name, "-f", "dangling=false")
		d.fails(1, "volume is in use", "volume", "rm", name)
		d.ok("rm", "-f", user)
		d.want(name, "volume", "rm", name)
		d.fails(1, "no such volume", "volume", "inspect", name)
		d.fails(1, "no such volume", "volume", "rm", name)
		d.ok("volume", "rm", "-f", name)

		anonymous := d.ok("volume", "create")
		t.Cleanup(func() { d.run("volume", "rm", "-f", anonymous) })
		named := d.volume()
		d.ok("volume", "create", named)
		if out := d.ok("volume", "prune", "-f"); !strings.Contains(out, anonymous) || strings.Contains(out, named) {
			t.Errorf("prune: %s", out)
		}
		if out := d.ok("volume", "prune", "-f", "-a", "--filter", "label!=keep"); !strings.Contains(out, named) {
			t.Errorf("prune -a: %s", out)
		}
		d.fails(125, "volume-driver", "run", "--rm", "--mount", "type=volume,source="+name+",target=/x,volume-driver=other", "busybox", "true")
		d.fails(1, "", "volume", "create", "--opt", "type=none", "--opt", "o=bind", "--opt", "device=/etc", name)
	})
}

// TestVolumeContent holds that a new volume begins with what the image has there, its owners and modes too.
func TestVolumeContent(t *testing.T) {
	d := docker(t)
	ref := unique() + ":1"
	owned := file("data/sub/owned", "x")
	owned.Uid, owned.Gid, owned.Mode = 33, 33, 0o600
	folder := dir("data", 0o750)
	folder.Uid, folder.Gid = 33, 33
	img := newImage(t, ocispec.ImageConfig{Env: []string{"PATH=/bin"}, Volumes: map[string]struct{}{"/data": {}}}, archive(t, folder, dir("data/sub", 0o711), owned))
	d.load(img.dockerArchive(t, ref), ref)
	const look = "stat -c '%u %g %a' /data /data/sub /data/sub/owned"
	const want = "33 33 750\n0 0 711\n33 33 600"
	d.want(want, "run", "--rm", ref, "sh", "-c", look) // anonymous: the image asks for it
	name := d.volume()
	d.want(want, "run", "--rm", "-v", name+":/data", ref, "sh", "-c", look+"; echo y >/data/sub/owned")
	d.want("y", "run", "--rm", "-v", name+":/data", ref, "cat", "/data/sub/owned") // not copied again
	empty := d.volume()
	d.want("", "run", "--rm", "-v", empty+":/data:nocopy", ref, "ls", "/data")
	// A volume that a user may write because the image's folder is theirs.
	writable := d.volume()
	d.ok("run", "--rm", "-u", "33", "-v", writable+":/data", ref, "touch", "/data/by-user")
}

// owner is who owns a file on the host.
func (d client) owner(path string) string { return d.host("stat", "-c", "%U:%G %a", path) }

func TestBinds(t *testing.T) {
	both(t, func(t *testing.T, d client) {
		dir := d.folder()
		d.host("sh", "-c", "echo from-host >"+dir+"/file")
		// Files that the container's root makes are the caller's.
		d.want("from-host", "run", "--rm", "-v", dir+":/here", "busybox", "sh", "-c", "cat /here/file; echo x >/here/made; mkdir -m 700 /here/folder")
		if got := d.owner(dir + "/made"); got != "stockade-demo:stockade-demo 644" {
			t.Errorf("made inside: %s", got)
		}
		if got := d.owner(dir + "/folder"); got != "stockade-demo:stockade-demo 700" {
			t.Errorf("made inside: %s", got)
		}
		d.want("0 0", "run", "--rm", "-v", dir+":/here", "busybox", "stat", "-c", "%u %g", "/here/file")
		// The container's configured user stands for the caller.
		d.want("1000 100", "run", "--rm", "-u", "1000:100", "-v", dir+":/here", "busybox", "sh", "-c", "stat -c '%u %g' /here/file; touch /here/by-user")
		if got := d.owner(dir + "/by-user"); !strings.HasPrefix(got, "stockade-demo:") {
			t.Errorf("made by a user inside: %s", got)
		}
		d.fails(1, "Read-only file system", "run", "--rm", "-v", dir+":/here:ro", "busybox", "touch", "/here/x")
		d.fails(1, "Read-only file system", "run", "--rm", "--mount", "type=bind,source="+dir+",target=/here,readonly", "busybox", "touch", "/here/x")
		d.want("from-host", "run", "--rm", "-v", dir+"/file:/etc/motd:ro", "busybox", "cat", "/etc/motd")

		// -v makes what is missing, as the caller; --mount does not.
		d.ok("run", "--rm", "-v", dir+"/new/deep:/here", "busybox", "true")
		if got := d.owner(dir + "/new/deep"); !strings.HasPrefix(got, "stockade-demo:stockade-demo") {
			t.Errorf("made for -v: %s", got)
		}
		d.fails(125, "bind source path does not exist", "run", "--rm", "--mount", "type=bind,source="+dir+"/missing,target=/here", "busybox", "true")
		// The client makes 126 of every error that speaks of permission.
		d.fails(126, "permission denied", "run", "--rm", "-v", "/root/e2e-missing/x:/here", "busybox", "true")
		if _, err := os.Lstat("/root/e2e-missing"); err == nil {
			t.Error("a folder was made that the caller could not make")
		}
	})
}

// TestBindRights holds that a bind gives the container's root the caller's rights and no more.
func TestBindRights(t *testing.T) {
	d := docker(t)
	foreign, err := os.MkdirTemp("", "e2e-foreign")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(foreign) })
	for name, mode := range map[string]os.FileMode{"readable": 0o644, "secret": 0o600} {
		if err := os.WriteFile(filepath.Join(foreign, name), []byte(name), mode); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.Chmod(foreign, 0o755); err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct{ name, command, want string }{
		{"read", "cat /f/readable", "readable"},
		{"read what is secret", "cat /f/secret 2>&1 || true", "cat: can't open '/f/secret': Permission denied"},
		{"write", "echo x >/f/readable || true", ""},
		{"create", "touch /f/new 2>&1 || true", "touch: /f/new: Permission denied"},
		{"delete", "rm -f /f/readable 2>&1 || true", "rm: can't remove '/f/readable': Permission denied"},
		{"take", "chown 0 /f/secret || echo no; chmod 644 /f/secret || echo no", "no\nno"},
		{"owner", "stat -c %u /f/secret", "65534"},
	} {
		t.Run(c.name, func(t *testing.T) {
			docker(t).want(c.want, "run", "--rm", "-v", foreign+":/f", "busybox", "sh", "-c", c.command)
		})
	}
	if data, err := os.ReadFile(filepath.Join(foreign, "readable")); err != nil || string(data) != "readable" {
		t.Errorf("the file is now %q (%v)", data, err)
	}
	// A set-user-id file on a bind gives nothing.
	dir := d.folder()
	d.ok("run", "--rm", "-v", dir+":/w", "busybox", "sh", "-c", "cp /bin/busybox /w/busybox && chmod 4755 /w/busybox")
	d.want("1000", "run", "--rm", "-v", dir+":/w", "-u", "1000", "busybox", "/w/busybox", "id", "-u")
	d.want("nosuid\nnodev", "run", "--rm", "-v", dir+":/w", "busybox", "sh", "-c", `grep ' /w ' /proc/mounts | tr ', ' '\n\n' | grep '^no[sd]' | sort -r`)
	// The server's own folder is nobody's to bind.
	d.fails(125, "belongs to the server itself", "run", "--rm", "-v", harness.Data+":/d", "busybox", "true")
}

// TestBindByRoot holds that uid 0, whose own rights limit nothing, binds only what the administrator listed.
func TestBindByRoot(t *testing.T) {
	d := docker(t)
	run := func(args ...string) harness.Result {
		return d.s.Exec(t, harness.Root, nil, d.path, append([]string{"run", "--rm"}, args...)...)
	}
	r := run("-v", "/etc:/e", "busybox", "true")
	if r.Code != 125 || !strings.Contains(r.Stderr, "rule bind-root") || !strings.Contains(r.Stderr, "bind it as the user who owns it") {
		t.Errorf("root binds /etc: %v", r)
	}
	dir, err := os.MkdirTemp("/srv", "e2e")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	// Images and containers are each user's own: root has none of the ordinary user's.
	var b strings.Builder
	fmt.Fprint(&b, small(t, unique()).dockerArchive(t, "e2e-root:1"))
	if r := d.s.Exec(t, harness.Root, strings.NewReader(b.String()), d.path, "load"); r.Code != 0 {
		t.Fatal(r)
	}
	t.Cleanup(func() { d.s.Exec(t, harness.Root, nil, d.path, "rmi", "-f", "e2e-root:1") })
	if r := run("-v", dir+":/w", "e2e-root:1", "touch", "/w/x"); r.Code != 0 {
		t.Error(r)
	}
	if _, err := os.Stat(filepath.Join(dir, "x")); err != nil {
		t.Error(err)
	}
}
