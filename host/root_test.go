//go:build root

package host

import (
	"errors"
	"os"
	"strings"
	"testing"

	"stockade/internal/config"
)

// TestCheck finds nothing wrong but what it was given wrong, with all reasons at once.
func TestCheck(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Fatal("needs root")
	}
	for _, f := range Check(config.Default()) {
		switch f.Check {
		case "programs", "users", "subordinate ids": // of this machine's installation
		default:
			if f.Err != nil {
				t.Errorf("%s: %v", f.Check, f.Err)
			}
		}
	}
	c := config.Default()
	c.Group, c.Bin, c.Data = "no-such-group", "/no-such-folder", "/proc"
	err := Failed(Check(c))
	for _, want := range []string{"no group no-such-group", "/no-such-folder/stockade-gate", "id-mapped mounts: ", "to do: "} {
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("no …%s… in %v", want, err)
		}
	}
	if entries, err := os.ReadDir("/var/lib"); err == nil {
		for _, e := range entries {
			if strings.HasPrefix(e.Name(), ".stockade-check-") {
				t.Errorf("/var/lib/%s is left", e.Name())
			}
		}
	}
}

// TestIDMapped tries a file system that cannot be mapped.
func TestIDMapped(t *testing.T) {
	if err := idMapped("/var/lib/no/such/folder"); err != nil {
		t.Errorf("the nearest folder above: %v", err)
	}
	if err := idMapped("/sys/kernel"); err == nil || errors.Is(err, os.ErrNotExist) {
		t.Errorf("sysfs: got %v", err)
	}
}
