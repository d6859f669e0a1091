//go:build root

package archive

import (
	"bufio"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"
)

// inside is run by the test's binary in a mount namespace of its own: it makes folder dir its root with mounts in it, as
// a running container has, and waits for the end of its input.
func inside(dir string) error {
	for _, m := range []struct {
		source, target, kind string
		flags                uintptr
	}{
		{"none", "/", "", unix.MS_REC | unix.MS_PRIVATE},
		{dir, dir, "", unix.MS_BIND},
		{"proc", dir + "/proc", "proc", 0},
		{"tmpfs", dir + "/tmp", "tmpfs", 0},
		{dir + "/etc/image", dir + "/etc/hosts", "", unix.MS_BIND},
	} {
		if err := unix.Mount(m.source, m.target, m.kind, m.flags, ""); err != nil {
			return fmt.Errorf("mount on %s: %w", m.target, err)
		}
	}
	if err := unix.Chroot(dir); err != nil {
		return err
	}
	if err := os.WriteFile("/tmp/new", []byte("memory"), 0o644); err != nil {
		return err
	}
	fmt.Println("ready")
	_, err := bufio.NewReader(os.Stdin).ReadByte()
	_ = err // the end of the input
	return nil
}

func TestRunningContainer(t *testing.T) {
	w := newWorld(t)
	for _, f := range []string{"etc/", "etc/image=image", "etc/hosts=", "proc/", "tmp/"} {
		name, body, _ := strings.Cut(f, "=")
		write(t, rangeBase, w.root, name, body, 0)
	}
	self, err := os.Executable()
	must(t, err)
	cmd := exec.Command(self)
	cmd.Env = []string{"STKT_INSIDE=" + w.root}
	cmd.Stderr = os.Stderr
	cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: unix.CLONE_NEWNS}
	in, err := cmd.StdinPipe()
	must(t, err)
	out, err := cmd.StdoutPipe()
	must(t, err)
	must(t, cmd.Start())
	defer func() {
		in.Close()
		must(t, cmd.Wait())
	}()
	if line, err := bufio.NewReader(out).ReadString('\n'); err != nil || line != "ready\n" {
		t.Fatalf("%q %v", line, err)
	}
	f, err := os.OpenFile(fmt.Sprintf("/proc/%d/root", cmd.Process.Pid), unix.O_PATH|unix.O_DIRECTORY, 0)
	must(t, err)
	defer f.Close()
	w.root = fmt.Sprintf("/proc/self/fd/%d", f.Fd())

	for path, want := range map[string]string{
		"/tmp":       "tmp/ 5 0|tmp/new 0 0 memory",
		"/etc/hosts": "hosts 0 0 image",
		"/proc":      "proc/ 5 0",
		// Magic links: the first would lead to the host's root folder, the second to the child's own, the container's.
		"/proc/1/root/etc/shadow":    "403",
		"/proc/self/root/etc/image":  "image 0 0 image",
		"/proc/self/root/etc/shadow": "404",
	} {
		res := w.do(t, "GET", archivePath(path), nil)
		got := fmt.Sprint(res.Code)
		if res.Code == 200 {
			got = strings.ReplaceAll(strings.Join(list(t, res.Body.Bytes()), "|"), " 65534", " 0")
		}
		if got != want {
			t.Errorf("%s: %q, want %q", path, got, want)
		}
	}
	names := list(t, w.do(t, "GET", "/containers/c/export", nil).Body.Bytes())
	want := []string{"etc/ 5 0", "etc/hosts 0 0", "etc/image 0 0 image", "proc/ 5 65534", "tmp/ 5 65534"}
	if !slices.Equal(names, want) {
		t.Errorf("export: %q", names)
	}
	if _, err := os.Stat(filepath.Join(w.top, "fs/tmp/new")); !os.IsNotExist(err) {
		t.Errorf("the mount is not the container's own: %v", err)
	}
}
