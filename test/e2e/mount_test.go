//go:build root

package e2e

import (
	"fmt"
	"testing"

	"golang.org/x/sys/unix"
)

// mountTmpfs mounts a file system of a user's for the time of the test.
func mountTmpfs(t testing.TB, path string, uid int) {
	t.Helper()
	if err := unix.Mount("stkt", path, "tmpfs", unix.MS_NOSUID|unix.MS_NODEV, fmt.Sprintf("size=1m,mode=0700,uid=%d", uid)); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := unix.Unmount(path, unix.MNT_DETACH); err != nil {
			t.Error(err)
		}
	})
}
