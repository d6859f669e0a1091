package failpoint

import (
	"bytes"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
)

const root = "../.."

// TestTable holds that each failpoint is listed, and is in the code once.
func TestTable(t *testing.T) {
	if n := len(Names) * SlotWords * 4; n > Size {
		t.Fatalf("the table needs %d bytes, the file has %d", n, Size)
	}
	where := map[string][]string{}
	for _, name := range Names {
		if _, twice := where[name]; twice {
			t.Errorf("%s is listed twice", name)
		}
		where[name] = nil
	}
	call := regexp.MustCompile(`\bfailpoint\.(?:Hit|Fail)\(([^)]*)\)`)
	err := filepath.WalkDir(root, func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		if d.IsDir() && (strings.HasPrefix(d.Name(), ".") && path != root || d.Name() == "bin" || d.Name() == "tools" || d.Name() == "test") {
			return fs.SkipDir
		}
		if filepath.Ext(path) != ".go" || strings.HasSuffix(path, "_test.go") {
			return nil
		}
		text, err := os.ReadFile(path)
		if err != nil {
			return err
		}
		for _, m := range call.FindAllStringSubmatch(string(text), -1) {
			name := strings.Trim(m[1], `"`)
			if _, ok := where[name]; !ok || name == m[1] {
				t.Errorf("%s: %s is not a name of the table", path, m[0])
				continue
			}
			where[name] = append(where[name], path)
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	for name, files := range where {
		if len(files) != 1 {
			t.Errorf("%s is in the code %d times: %q", name, len(files), files)
		}
	}
}

// TestShippedPrograms holds that programs built without the tag contain no failpoint.
func TestShippedPrograms(t *testing.T) {
	build := func(dir string, args ...string) {
		t.Helper()
		cmd := exec.Command("go", append([]string{"build", "-trimpath", "-ldflags", "-s -w", "-o", dir + "/"}, args...)...)
		cmd.Dir = root
		if out, err := cmd.CombinedOutput(); err != nil {
			t.Fatalf("%v: %s", err, out)
		}
	}
	// found lists the names in a folder's programs.
	found := func(dir string) (programs int, names []string) {
		t.Helper()
		files, err := filepath.Glob(dir + "/stockade*")
		if err != nil {
			t.Fatal(err)
		}
		for _, f := range files {
			data, err := os.ReadFile(f)
			if err != nil {
				t.Fatal(err)
			}
			for _, name := range append([]string{"failpoint %s"}, Names...) {
				if bytes.Contains(data, []byte(name)) {
					names = append(names, filepath.Base(f)+": "+name)
				}
			}
		}
		return len(files), names
	}
	shipped, armed := t.TempDir(), t.TempDir()
	build(shipped, "./cmd/...")
	if n, names := found(shipped); n < 9 || len(names) != 0 {
		t.Errorf("in %d programs: %q", n, names)
	}
	build(armed, "-tags", "failpoint", "./cmd/stockade-cgroupd")
	if _, names := found(armed); len(names) <= len(Names) {
		t.Errorf("control: a program with failpoints contains only %q", names)
	}
}
