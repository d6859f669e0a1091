//go:build root

package unpack

import (
	"bytes"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// What a blob that takes over the child would find: read from the kernel while the child waits for its blob.
//
// SECURITY(T-402)
func TestConfinement(t *testing.T) {
	dir, _ := place(t)
	r, w := io.Pipe()
	ended := make(chan error, 1)
	go func() {
		_, err := Config{Path: binary, Base: testBase}.Layer(t.Context(), dir, r)
		ended <- err
	}()
	pid, status := awaitConfined(t)
	var mask uint64
	for _, c := range kept {
		mask |= 1 << c
	}
	for _, want := range []string{
		"NoNewPrivs:\t1", fmt.Sprintf("CapPrm:\t%016x", mask), fmt.Sprintf("CapEff:\t%016x", mask), "CapInh:\t0000000000000000",
		fmt.Sprintf("Uid:\t%d\t%[1]d\t%[1]d\t%[1]d", testBase), fmt.Sprintf("Gid:\t%d\t%[1]d\t%[1]d\t%[1]d", testBase), "Groups:\t \n",
	} {
		if !strings.Contains(status, want) {
			t.Errorf("no %q in %s", want, status)
		}
	}
	if root, err := os.Readlink(filepath.Join("/proc", pid, "root")); err != nil || root != dir {
		t.Errorf("root folder %s, %v", root, err)
	}
	for _, ns := range []string{"user", "mnt", "net", "ipc", "pid", "uts"} {
		theirs, err := os.Readlink(filepath.Join("/proc", pid, "ns", ns))
		ours, ourErr := os.Readlink("/proc/self/ns/" + ns)
		if err != nil || ourErr != nil || theirs == ours {
			t.Errorf("namespace %s: %s, ours %s, %v, %v", ns, theirs, ours, err, ourErr)
		}
	}
	threads, err := filepath.Glob(filepath.Join("/proc", pid, "task/*/status"))
	if err != nil || len(threads) < 2 {
		t.Fatalf("threads: %v, %v", threads, err)
	}
	for _, name := range threads {
		b, err := os.ReadFile(name)
		if err != nil || !bytes.Contains(b, []byte("Seccomp:\t2")) || !bytes.Contains(b, []byte(fmt.Sprintf("CapEff:\t%016x", mask))) {
			t.Errorf("thread %s is not confined: %v %s", name, err, b)
		}
	}
	if _, err := w.Write(archive(t, file("f", "x"))); err != nil {
		t.Error(err)
	}
	w.Close()
	if err := <-ended; err != nil {
		t.Error(err)
	}
}

// awaitConfined finds the child of this test's binary once its filter is in place.
func awaitConfined(t *testing.T) (pid, status string) {
	t.Helper()
	for end := time.Now().Add(30 * time.Second); time.Now().Before(end); time.Sleep(5 * time.Millisecond) {
		links, err := filepath.Glob("/proc/[0-9]*/exe")
		if err != nil {
			t.Fatal(err)
		}
		for _, l := range links {
			if exe, err := os.Readlink(l); err != nil || exe != binary {
				continue
			}
			b, err := os.ReadFile(filepath.Join(filepath.Dir(l), "status"))
			if err == nil && bytes.Contains(b, []byte("Seccomp:\t2")) {
				return filepath.Base(filepath.Dir(l)), string(b)
			}
		}
	}
	t.Fatal("no confined child")
	return "", ""
}

// Control of TestHostile: without these protections the same names and links do reach the canary beside the layer.
//
// SECURITY(T-402)
func TestHostileControl(t *testing.T) {
	for name, attack := range map[string]func(dir string) error{
		"parent path": func(dir string) error { return os.WriteFile(filepath.Join(dir, "../canary"), []byte("dead"), 0o600) },
		"hard link out": func(dir string) error {
			if err := os.Link(filepath.Join(dir, "../canary"), filepath.Join(dir, "x")); err != nil {
				return err
			}
			return os.WriteFile(filepath.Join(dir, "x"), []byte("dead"), 0o600)
		},
		"through a link": func(dir string) error {
			if err := os.Symlink("..", filepath.Join(dir, "up")); err != nil {
				return err
			}
			return os.WriteFile(filepath.Join(dir, "up/canary"), []byte("dead"), 0o600)
		},
	} {
		t.Run(name, func(t *testing.T) {
			dir, canary := place(t)
			if err := os.Mkdir(dir, 0o755); err != nil {
				t.Fatal(err)
			}
			if err := attack(dir); err != nil {
				t.Fatal(err)
			}
			if b, err := os.ReadFile(canary); err != nil || string(b) != "dead" {
				t.Errorf("canary: %q, %v", b, err)
			}
		})
	}
}
