//go:build root

package userns

import (
	"os"
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
