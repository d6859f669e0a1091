//go:build root

package userns

import (
	"fmt"
	"os"
	"os/exec"
	"slices"
	"testing"

	"golang.org/x/sys/unix"
)

func TestCreateWhenNotDumpable(t *testing.T) {
	if err := unix.Prctl(unix.PR_SET_DUMPABLE, 0, 0, 0, 0); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = unix.Prctl(unix.PR_SET_DUMPABLE, 1, 0, 0, 0) })
	maps := []Map{{0, 100000, 65536}}
	files, err := Create(unix.CLONE_NEWNET, maps, maps, "net")
	if err != nil {
		t.Fatal(err)
	}
	defer files["user"].Close()
	defer files["net"].Close()
	owner, err := Owner(files["net"])
	if err != nil {
		t.Fatal(err)
	}
	defer owner.Close()
	a, err := Identify(files["user"], unix.CLONE_NEWUSER)
	if err != nil {
		t.Fatal(err)
	}
	if b, err := Identify(owner, unix.CLONE_NEWUSER); err != nil || a != b {
		t.Errorf("owner is %v (%v), want %v", b, err, a)
	}
	if uids, gids, err := Read(files["user"]); err != nil || !slices.Equal(uids, maps) || !slices.Equal(gids, maps) {
		t.Errorf("Read = %v, %v, %v", uids, gids, err)
	}
	if _, _, err := Read(files["net"]); err == nil {
		t.Error("Read of a network namespace succeeded")
	}
	self, err := os.Open("/proc/self/ns/user")
	if err != nil {
		t.Fatal(err)
	}
	defer self.Close()
	u, err := Identify(self, unix.CLONE_NEWUSER)
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		name string
		f    *os.File
		want bool
	}{{"child", files["user"], true}, {"itself", self, false}} {
		if got, err := Descends(c.f, u); err != nil || got != c.want {
			t.Errorf("%s: Descends = %v, %v", c.name, got, err)
		}
	}
	if _, err := Identify(files["net"], unix.CLONE_NEWUSER); err == nil {
		t.Error("a network namespace passed as a user namespace")
	}
}

func TestCreateIn(t *testing.T) {
	maps := []Map{{0, 100000, 65536}}
	files, err := Create(0, maps, maps)
	if err != nil {
		t.Fatal(err)
	}
	user := files["user"]
	defer user.Close()
	made, err := CreateIn(user, unix.CLONE_NEWNET, "net")
	if err != nil {
		t.Fatal(err)
	}
	defer made["net"].Close()
	owner, err := Owner(made["net"])
	if err != nil {
		t.Fatal(err)
	}
	defer owner.Close()
	want, err := Identify(user, unix.CLONE_NEWUSER)
	if err != nil {
		t.Fatal(err)
	}
	if got, err := Identify(owner, unix.CLONE_NEWUSER); err != nil || got != want {
		t.Errorf("owner is %v (%v), want %v", got, err, want)
	}
	if files, err := CreateIn(made["net"], unix.CLONE_NEWNET, "net"); err == nil {
		files["net"].Close()
		t.Error("a network namespace passed as a user namespace")
	}
}

// SECURITY(T-702): whoever owns the namespace that Read's child enters must not get hold of the child, a copy of this
// process.
func TestChildIsClosedToTheNamespace(t *testing.T) {
	maps := []Map{{0, 100000, 65536}}
	files, err := Create(0, maps, maps)
	if err != nil {
		t.Fatal(err)
	}
	ns := files["user"]
	defer ns.Close()
	pid, err := pausedChild(0, ns.Fd(), 0)
	if err != nil {
		t.Fatal(err)
	}
	defer end(pid)
	if open, err := os.ReadDir(fmt.Sprintf("/proc/%d/fd", pid)); err != nil || len(open) != 1 {
		t.Errorf("%d descriptors in the child, %v", len(open), err)
	}
	look := func(pid int) error {
		cmd := exec.Command("nsenter", "--user=/proc/self/fd/3", "--", "readlink", fmt.Sprintf("/proc/%d/cwd", pid))
		cmd.ExtraFiles = []*os.File{ns}
		return cmd.Run()
	}
	if look(pid) == nil {
		t.Error("the namespace's root can look into the child")
	}
	sleep := exec.Command("nsenter", "--user=/proc/self/fd/3", "--", "sh", "-c", "echo ready; read x")
	sleep.ExtraFiles = []*os.File{ns}
	in, err := sleep.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	out, err := sleep.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := sleep.Start(); err != nil {
		t.Fatal(err)
	}
	if _, err := out.Read(make([]byte, 6)); err != nil {
		t.Fatal(err)
	}
	if err := look(sleep.Process.Pid); err != nil {
		t.Errorf("control: an ordinary process of the namespace: %v", err)
	}
	in.Close()
	_ = sleep.Wait()
}
