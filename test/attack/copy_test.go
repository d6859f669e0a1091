//go:build root

package attack

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"errors"
	"fmt"
	"io"
	"net/url"
	"os"
	"os/exec"
	"strings"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"

	"stockade/test/harness"
)

// swap exchanges x and y in each folder, as fast as it can and for ever.
func swap(dirs []string) {
	for {
		for _, d := range dirs {
			_ = unix.Renameat2(unix.AT_FDCWD, d+"/x", unix.AT_FDCWD, d+"/y", unix.RENAME_EXCHANGE)
		}
	}
}

// secretFolder is a folder on the host that anybody may change, with a secret in a file.
func secretFolder(t *testing.T) (dir, before string) {
	t.Helper()
	dir = folder(t)
	must(t, os.WriteFile(dir+"/f", []byte("secret of the host"), 0o666))
	must(t, os.Chmod(dir+"/f", 0o666))
	return dir, tree(t, dir)
}

// copyNaively looks that dir/x is a folder, then reads dir/x/f or writes dir/x/new and sets x's mode: the control.
func copyNaively(dir string, write bool) string {
	if fi, err := os.Lstat(dir + "/x"); err != nil || !fi.IsDir() {
		return ""
	}
	if write {
		_ = os.WriteFile(dir+"/x/new", []byte("planted"), 0o666) // now or in another round
		_ = os.Chmod(dir+"/x", 0o700)
		return ""
	}
	data, _ := os.ReadFile(dir + "/x/f") // gone meanwhile
	return string(data)
}

func archivePath(id, path string) string {
	return "/v1.51/containers/" + id + "/archive?path=" + url.QueryEscape(path)
}

// T-401: a container swaps a folder for a link to the host's files, in its root, in a volume and in a bind, all the
// time that files are copied from and to it (CVE-2018-15664, CVE-2026-41568), and modes set (CVE-2021-41089). The control is a program that looks before it
// opens, in the same bind, and loses against the same container.
func TestCopyWhileLinksSwap(t *testing.T) {
	s := harness.Get(t)
	withProbe(t, s)
	secret, before := secretFolder(t)
	bind := folder(t)
	must(t, os.Chown(bind, int(s.User.UID), int(s.User.GID)))
	volume := s.Must(t, "volume", "create")
	t.Cleanup(func() { s.Must(t, "volume", "rm", volume) })
	id := s.Must(t, "run", "-d", "-e", probeEnv+"=swap", "-v", volume+":/volume", "-v", bind+":/bind", probeImage, "sleep", "1000")
	t.Cleanup(func() { s.Must(t, "rm", "-f", id) })
	// A stopped container with the same volume: its files are reached without any container's processes.
	stopped := s.Must(t, "create", "-v", volume+":/volume", probeImage, "true")
	t.Cleanup(func() { s.Must(t, "rm", stopped) })
	targets := []string{secret, "../../../../../../.." + secret, "/proc/self/root" + secret, "/proc/1/root" + secret}
	var dirs []string
	for _, place := range []string{"/root/swap", "/volume", "/bind"} {
		for i, target := range targets {
			dir := fmt.Sprintf("%s/%d", place, i)
			s.Must(t, "exec", id, "sh", "-c", "mkdir -p "+dir+"/x && echo inside >"+dir+"/x/f && ln -s "+target+" "+dir+"/y")
			dirs = append(dirs, dir)
		}
	}
	s.Must(t, append([]string{"exec", "-d", id, "probe"}, dirs...)...)

	planted := tarOf(t, entry{Header: tar.Header{Name: "./", Typeflag: tar.TypeDir, Mode: 0o700}}, entry{Header: tar.Header{Name: "f"}, body: "planted"}, entry{Header: tar.Header{Name: "new"}, body: "planted"})
	above := tarOf(t, entry{Header: tar.Header{Name: "x/", Typeflag: tar.TypeDir, Mode: 0o700}}, entry{Header: tar.Header{Name: "x/f"}, body: "planted"}, entry{Header: tar.Header{Name: "x/new"}, body: "planted"})
	statuses := map[string]int{}
	for round := range 5 {
		for _, dir := range dirs {
			of := []string{id}
			if strings.HasPrefix(dir, "/volume") {
				of = append(of, stopped)
			}
			for _, c := range of {
				for _, r := range []struct {
					name, method, path string
					body               any
				}{
					{"get", "GET", dir + "/x/f", nil},
					{"get", "GET", dir, nil},
					{"head", "HEAD", dir + "/x/f", nil},
					{"put", "PUT", dir + "/x", bytes.NewReader(planted)},
					{"put above", "PUT", dir, bytes.NewReader(above)},
				} {
					if r.name == "put above" && round < 4 {
						continue // it ends the race by replacing the link
					}
					resp := s.API(t, s.User, r.method, archivePath(c, r.path), r.body)
					if resp.Status >= 500 {
						t.Errorf("%s %s: %+v", r.method, r.path, resp)
					}
					if strings.Contains(resp.Body, "secret of the host") {
						t.Fatalf("%s %s reads the host's file", r.method, r.path)
					}
					statuses[fmt.Sprint(r.name, " ", resp.Status)]++
				}
			}
		}
		if got := tree(t, secret); got != before {
			t.Fatalf("the host's folder changed: %s", got)
		}
	}
	if s.Must(t, "diff", id); tree(t, secret) != before {
		t.Error("diff changed the host's folder")
	}
	for _, name := range []string{"get", "head", "put"} {
		if statuses[name+" 200"] == 0 || statuses[name+" 404"]+statuses[name+" 400"]+statuses[name+" 403"] == 0 {
			t.Errorf("control: %s met one of the two states only: %v", name, statuses)
		}
	}

	naive := bind + "/naive"
	s.Must(t, "exec", id, "sh", "-c", "mkdir -p /bind/naive/x && echo inside >/bind/naive/x/f && ln -s "+secret+" /bind/naive/y")
	s.Must(t, "exec", "-d", id, "probe", "/bind/naive")
	harness.Poll(t, "control: a naive program to read the secret", func() (string, bool) {
		for range 2000 {
			if strings.Contains(copyNaively(naive, false), "secret") {
				return "", true
			}
		}
		return "never lost", false
	})
	harness.Poll(t, "control: a naive program to plant a file", func() (string, bool) {
		for range 200 {
			copyNaively(naive, true)
		}
		_, err := os.Stat(secret + "/new")
		fi, merr := os.Stat(secret)
		return "never lost", err == nil && merr == nil && fi.Mode().Perm() == 0o700
	})
}

// T-401: paths that mean something else than the container's own files. The control shows where they lead on the host.
func TestCopyOfStrangePaths(t *testing.T) {
	s := harness.Get(t)
	secret, before := secretFolder(t)
	id := s.Must(t, "run", "-d", "busybox", "sh", "-c", "mkdir /links; ln -s /proc/1/root /links/root; ln -s /proc/self/root /links/self; ln -s / /links/slash; ln -s /links/loop /links/loop; mkfifo /links/pipe; sleep 1000")
	stopped := s.Must(t, "create", "busybox")
	t.Cleanup(func() { s.Must(t, "rm", "-f", id, stopped) })
	up := strings.Repeat("../", 40)
	paths := []string{
		up + secret[1:], "/" + up + secret[1:], "/bin/" + up + secret[1:], "/proc/self/root" + secret, "/proc/1/root" + secret, "/proc/thread-self/root" + secret, "/proc/self/cwd" + secret, "/proc/1/cwd" + secret,
		"/links/root" + secret, "/links/self" + secret, "/links/slash" + secret, "/links/loop/f", "/links/pipe", "/proc/self/exe", "/proc/self/environ", "/proc/self/maps", "/proc/kcore", "/proc/kmsg", "/proc/sysrq-trigger",
		"/proc/sys/kernel/core_pattern", "/proc/1/mem", "/sys/kernel/uevent_helper", "/dev/zero", "/dev/random", "/dev/pts/ptmx", "/dev/tty", secret, "file:///etc/passwd", "C:\\x", "//", "/.", "\x00", "/\x00/x", "/\xff\xfe", "/a\nb",
		"/" + strings.Repeat("a", 300), "/" + strings.Repeat("a/", 3000), strings.Repeat("/links/slash", 100) + secret, "/" + strings.Repeat("\u202e", 100),
	}
	for fd := range 20 {
		paths = append(paths, fmt.Sprintf("/proc/self/fd/%d", fd), fmt.Sprintf("/dev/fd/%d%s", fd, secret))
	}
	planted := tarOf(t, entry{Header: tar.Header{Name: "./", Typeflag: tar.TypeDir, Mode: 0o700}}, entry{Header: tar.Header{Name: "f"}, body: "planted"}, entry{Header: tar.Header{Name: "new"}, body: "planted"})
	for i, path := range paths {
		of := []string{id}
		if i%4 == 0 {
			of = append(of, stopped)
		}
		for _, c := range of {
			for _, method := range []string{"GET", "HEAD", "PUT"} {
				var body any
				if method == "PUT" {
					body = bytes.NewReader(planted)
				}
				for _, p := range []string{path, path + "/f"} {
					if len(path) == len(secret) || method == "GET" || p == path {
						r := s.API(t, s.User, method, archivePath(c, p), body)
						if r.Status >= 500 || strings.Contains(r.Body, "secret of the host") || len(r.Body) > 8<<20 {
							t.Errorf("%s %.200q: %d %.500s", method, p, r.Status, r.Body)
						}
					}
				}
			}
		}
	}
	if got := tree(t, secret); got != before {
		t.Errorf("the host's folder changed: %s", got)
	}
	healthy(t, s)
	// Names in the tar itself, with and without help from links that are in the container already.
	for _, c := range []struct {
		name    string
		entries []entry
	}{
		{"up", []entry{{Header: tar.Header{Name: up + secret[1:] + "/f"}, body: "planted"}}},
		{"absolute", []entry{{Header: tar.Header{Name: secret + "/f"}, body: "planted"}}},
		{"a link", []entry{{Header: tar.Header{Name: "l", Typeflag: tar.TypeSymlink, Linkname: secret}}, {Header: tar.Header{Name: "l/f"}, body: "planted"}}},
		{"a link up", []entry{{Header: tar.Header{Name: "u", Typeflag: tar.TypeSymlink, Linkname: up + secret[1:]}}, {Header: tar.Header{Name: "u/f"}, body: "planted"}, {Header: tar.Header{Name: "u/", Typeflag: tar.TypeDir, Mode: 0o700}}}},
		{"a hard link", []entry{{Header: tar.Header{Name: "h", Typeflag: tar.TypeLink, Linkname: secret + "/f"}}, {Header: tar.Header{Name: "h"}, body: "planted"}}},
		{"a link that is there", []entry{{Header: tar.Header{Name: "links/root" + secret + "/f"}, body: "planted"}}},
		{"a mode through a link", []entry{{Header: tar.Header{Name: "links/self" + secret + "/", Typeflag: tar.TypeDir, Mode: 0o700}}}},
		{"a device", []entry{{Header: tar.Header{Name: "device", Typeflag: tar.TypeChar, Devmajor: 1, Devminor: 1, Mode: 0o666}}}},
		{"proc", []entry{{Header: tar.Header{Name: "proc/sys/kernel/core_pattern"}, body: "|/planted"}, {Header: tar.Header{Name: "proc/sysrq-trigger"}, body: "h"}}},
	} {
		body := tarOf(t, c.entries...)
		if r := s.API(t, s.User, "PUT", archivePath(id, "/"), bytes.NewReader(body)); r.Status >= 500 && c.name != "proc" {
			t.Errorf("%s: %+v", c.name, r)
		}
		if got := tree(t, secret); got != before {
			t.Fatalf("%s: the host's folder changed: %s", c.name, got)
		}
	}
	if r := s.Docker(t, "exec", id, "head", "-c", "1", "/device"); r.Code == 0 {
		t.Errorf("a device that was copied in works: %v", r)
	}
	if data, err := os.ReadFile("/proc/sys/kernel/core_pattern"); err != nil || strings.Contains(string(data), "planted") {
		t.Errorf("core_pattern is %s (%v)", data, err)
	}
	leads := 0
	for _, path := range paths {
		if data, err := os.ReadFile(path + "/f"); err == nil && strings.Contains(path, secret[1:]) && string(data) == "secret of the host" {
			leads++
		}
	}
	if leads < 5 {
		t.Errorf("control: only %d of the paths lead to the secret on the host", leads)
	}
	r := s.API(t, s.User, "GET", archivePath(id, "/etc/passwd"), nil)
	if r.Status != 200 || !strings.Contains(r.Body, "root") {
		t.Errorf("control: %+v", r)
	}
}

// T-401: programs and libraries of the container that a copying server might use (CVE-2019-14271, CVE-2026-41567): each
// leaves a mark when it is executed. The control copies with the programs of the same image in a chroot, as root.
func TestCopyExecutesNothing(t *testing.T) {
	s := harness.Get(t)
	trap := "#!/bin/busybox sh\n/bin/busybox id >>/executed\n/bin/busybox echo $0 >>/executed\n"
	var entries []entry
	for _, dir := range []string{"bin", "sbin", "usr/bin", "usr/sbin", "usr/local/bin", "usr/local/sbin"} {
		for _, name := range []string{"tar", "docker-tar", "docker-untar", "gzip", "gunzip", "unpigz", "igzip", "xz", "unxz", "zstd", "unzstd", "bzip2", "cp", "getent", "mount", "ldconfig", "storage-untar", "stockade-unpack"} {
			entries = append(entries, entry{Header: tar.Header{Name: dir + "/" + name, Mode: 0o755}, body: trap})
		}
	}
	// Libraries of name services, for programs that are linked to them.
	for _, dir := range []string{"lib", "lib64", "usr/lib", "lib/x86_64-linux-gnu", "usr/lib/x86_64-linux-gnu"} {
		for _, name := range []string{"libnss_files.so.2", "libnss_evil.so.2", "libc.so.6", "ld-linux-x86-64.so.2"} {
			entries = append(entries, entry{Header: tar.Header{Name: dir + "/" + name, Mode: 0o755}, body: trap})
		}
	}
	entries = append(entries, entry{Header: tar.Header{Name: "etc/nsswitch.conf"}, body: "passwd: evil files\ngroup: evil files\nhosts: evil\n"}, entry{Header: tar.Header{Name: "etc/ld.so.preload"}, body: "/lib/libnss_evil.so.2\n"},
		entry{Header: tar.Header{Name: "etc/passwd"}, body: "root:x:0:0::/:/bin/sh\nuser:x:7:8::/:/bin/sh\n"}, entry{Header: tar.Header{Name: "copy/f"}, body: "a file"})
	layer := tarOf(t, entries...)
	if r := s.Exec(t, s.User, bytes.NewReader(archive(t, "attack/traps:1", map[string]any{"User": "user", "Volumes": map[string]any{"/copy": struct{}{}}}, layer)), s.DockerPath(), "load"); r.Code != 0 {
		t.Fatal(r)
	}
	t.Cleanup(func() { s.Must(t, "rmi", "attack/traps:1") })
	id := s.Must(t, "run", "-d", "-u", "0", "attack/traps:1", "busybox", "sleep", "1000")
	t.Cleanup(func() { s.Must(t, "rm", "-f", "-v", id) })
	stopped := s.Must(t, "create", "attack/traps:1", "busybox", "true")
	t.Cleanup(func() { s.Must(t, "rm", "-v", stopped) })

	plain := tarOf(t, entry{Header: tar.Header{Name: "put", Uname: "user", Gname: "user"}, body: "x"})
	var zipped bytes.Buffer
	z := gzip.NewWriter(&zipped)
	_, err := z.Write(plain)
	must(t, errors.Join(err, z.Close()))
	for _, c := range []string{id, stopped} {
		for _, body := range [][]byte{plain, zipped.Bytes(), []byte("\xfd7zXZ\x00 not supported"), []byte("BZh9 broken"), []byte("\x28\xb5\x2f\xfd broken")} {
			for _, query := range []string{"", "&copyUIDGID=true", "&noOverwriteDirNonDir=true"} {
				r := s.API(t, s.User, "PUT", archivePath(c, "/copy")+query, bytes.NewReader(body))
				if want := map[bool]int{true: 200, false: 400}[len(body) > 30]; r.Status != want {
					t.Errorf("put of %.8q: %+v", body, r)
				}
			}
		}
		for _, path := range []string{"/copy", "/copy/put", "/bin", "/etc/passwd"} {
			if r := s.API(t, s.User, "GET", archivePath(c, path), nil); r.Status != 200 {
				t.Errorf("get %s: %+v", path, r)
			}
		}
		if r := s.API(t, s.User, "GET", "/v1.51/containers/"+c+"/export", nil); r.Status != 200 {
			t.Errorf("export: %d", r.Status)
		}
		s.Must(t, "diff", c)
		s.Must(t, "commit", c, "attack/traps:2")
		s.Must(t, "rmi", "attack/traps:2")
		if r := s.API(t, s.User, "GET", archivePath(c, "/executed"), nil); r.Status != 404 {
			t.Errorf("a program of the container was executed: %s", r.Body)
		}
	}
	s.Must(t, "exec", id, "tar", "control")
	if r := s.API(t, s.User, "GET", archivePath(id, "/executed"), nil); r.Status != 200 || !strings.Contains(r.Body, "/tar\n") {
		t.Errorf("control: executed in the container: %+v", r)
	}

	root := folder(t)
	export := s.API(t, s.User, "GET", "/v1.51/containers/"+stopped+"/export", nil)
	r := s.Exec(t, harness.Root, strings.NewReader(export.Body), "/bin/tar", "-x", "-C", root, "bin")
	if r.Code != 0 {
		t.Fatal(r)
	}
	cmd := exec.Command("/bin/tar", "-c", "/copy")
	cmd.SysProcAttr = &syscall.SysProcAttr{Chroot: root}
	cmd.Stdout = io.Discard
	if err := cmd.Run(); err != nil {
		t.Errorf("control: %v", err)
	}
	if data, err := os.ReadFile(root + "/executed"); err != nil || !strings.Contains(string(data), "uid=0") {
		t.Errorf("control: a server that uses the container's tar: %q %v", data, err)
	}
}
