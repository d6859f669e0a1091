//go:build root

package archive

import (
	"context"
	"os"
	"os/exec"
	"path/filepath"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"

	"stockade/api/setting"
)

// hostOfU is the host id of U id 0 in the test.
const hostOfU = 2000400000

// insideU is run by the test's binary as root of a user namespace like the engine's: it fills a volume from a running
// container's root, whose ids are those of block 1.
func insideU(dir string) error {
	return Runner{Path: os.Getenv("STKT_BINARY")}.Copy(context.Background(), root{filepath.Join(dir, "fs"), 1 + setting.BlockSize}, "/srv", filepath.Join(dir, "volume"), 1)
}

// TestAsTheEngine runs children from where the engine is: root of a user namespace, nobody on the host.
func TestAsTheEngine(t *testing.T) {
	w := newWorld(t)
	const block1 = hostOfU + 1 + setting.BlockSize
	must(t, os.Chown(w.root, block1, block1))
	write(t, block1, w.root, "srv/", "", 0)
	write(t, block1, w.root, "srv/f", "text", 33)
	into := filepath.Join(w.top, "volume")
	must(t, os.Mkdir(into, 0o755), os.Chown(into, hostOfU+1, hostOfU+1))
	// A file capability, as a store's root would see it.
	capability := []byte{1, 0, 0, 2, 0, 0x20, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0}
	must(t, unix.Setxattr(filepath.Join(w.root, "srv/f"), "security.capability", namespaced(capability, block1), 0))

	self := filepath.Join(filepath.Dir(binary), "self")
	exe, err := os.Executable()
	must(t, err)
	b, err := os.ReadFile(exe)
	must(t, err)
	must(t, os.WriteFile(self, b, 0o755))
	cmd := exec.Command(self)
	cmd.Dir = "/"
	cmd.Env = []string{"STKT_U=" + w.top, "STKT_BINARY=" + binary}
	maps := []syscall.SysProcIDMap{{ContainerID: 0, HostID: hostOfU, Size: 1 + 4*setting.BlockSize}}
	cmd.SysProcAttr = &syscall.SysProcAttr{
		Cloneflags: unix.CLONE_NEWUSER | unix.CLONE_NEWNS, UidMappings: maps, GidMappings: maps, GidMappingsEnableSetgroups: true,
		Credential: &syscall.Credential{},
	}
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	copied := filepath.Join(into, "f")
	if got := owner(t, copied); got != hostOfU+1+33 {
		t.Errorf("owner %d", got)
	}
	value := make([]byte, 64)
	n, err := unix.Getxattr(copied, "security.capability", value)
	if want := namespaced(capability, hostOfU+1); err != nil || string(value[:n]) != string(want) {
		t.Errorf("capability % x, want % x, %v", value[:max(n, 0)], want, err)
	}
}

// namespaced makes version 3 of a file capability, which holds in user namespaces whose root is the given host id.
func namespaced(v2 []byte, root uint32) []byte {
	v3 := append([]byte{}, v2...)
	v3[3] = 3
	return append(v3, byte(root), byte(root>>8), byte(root>>16), byte(root>>24))
}
