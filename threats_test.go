package stockade_test

import (
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
)

const threatPage = "docs/threats.md"

var (
	threatMet   = regexp.MustCompile(`SECURITY\((T-\d{3})\)`)
	threatNamed = regexp.MustCompile(`\bT-\d{3}\b`)
	threatPath  = regexp.MustCompile(`[\w/-]+\.go`)
)

// threatFiles returns the files that name each threat: code where it is met, and tests.
func threatFiles(t *testing.T) (met, tested map[string][]string) {
	t.Helper()
	met, tested = map[string][]string{}, map[string][]string{}
	err := filepath.WalkDir(".", func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		if d.IsDir() && (path == ".git" || path == "bin" || path == "tools") {
			return fs.SkipDir
		}
		if filepath.Ext(path) != ".go" || path == "threats_test.go" {
			return nil
		}
		data, err := os.ReadFile(path)
		if err != nil {
			return err
		}
		found, into := threatNamed.FindAllString(string(data), -1), tested
		if !strings.HasSuffix(path, "_test.go") {
			found, into = nil, met
			for _, m := range threatMet.FindAllStringSubmatch(string(data), -1) {
				found = append(found, m[1])
			}
		}
		slices.Sort(found)
		for _, id := range slices.Compact(found) {
			into[id] = append(into[id], path)
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return met, tested
}

// TestThreats keeps docs/threats.md true: whatever file it names does name the threat, and every threat is met and tested
// or has a reason. STOCKADE_GOLDEN=1 writes its last two columns.
func TestThreats(t *testing.T) {
	met, tested := threatFiles(t)
	data, err := os.ReadFile(threatPage)
	if err != nil {
		t.Fatal(err)
	}
	const begin, end = "<!-- table -->\n", "<!-- end -->"
	head, rest, ok := strings.Cut(string(data), begin)
	table, tail, ok2 := strings.Cut(rest, end)
	if !ok || !ok2 {
		t.Fatalf("%s has no table", threatPage)
	}
	cell := func(files []string) string {
		if len(files) == 0 {
			return ""
		}
		return "`" + strings.Join(files, "`, `") + "`"
	}
	known, stale := map[string]bool{}, false
	var b strings.Builder
	for line := range strings.Lines(table) {
		f := strings.Split(strings.TrimSpace(line), "|")
		if len(f) != 6 {
			t.Fatalf("not a row of four cells: %s", line)
		}
		id, where := strings.TrimSpace(f[1]), strings.TrimSpace(f[3])
		if !threatNamed.MatchString(id) {
			b.WriteString(line)
			continue
		}
		if known[id] {
			t.Errorf("%s stands there twice", id)
		}
		known[id] = true
		told := [2][]string{threatPath.FindAllString(f[3], -1), threatPath.FindAllString(f[4], -1)}
		if !strings.HasPrefix(where, "Not ") {
			where = cell(met[id])
			if len(met[id]) == 0 {
				t.Errorf("%s: no code has a comment SECURITY(%s); if it is not met, say so: \"Not …\"", id, id)
			}
			if len(tested[id]) == 0 {
				t.Errorf("%s: no test names it", id)
			}
			stale = stale || len(told[0]) == 0 || len(told[1]) == 0
		} else if len(met[id]) > 0 {
			t.Errorf("%s: the page says that it is not met, %v says that it is", id, met[id])
		}
		for i, found := range []map[string][]string{met, tested} {
			for _, path := range told[i] {
				stale = stale || !slices.Contains(found[id], path)
			}
		}
		fmt.Fprintf(&b, "| %s |%s| %s | %s |\n", id, f[2], where, cell(tested[id]))
	}
	for _, files := range []map[string][]string{met, tested} {
		for id := range files {
			if !known[id] {
				t.Errorf("%s is named in %v and not in %s", id, files[id], threatPage)
			}
		}
	}
	if os.Getenv("STOCKADE_GOLDEN") == "1" {
		if err := os.WriteFile(threatPage, []byte(head+begin+b.String()+end+tail), 0o644); err != nil {
			t.Fatal(err)
		}
	} else if stale {
		t.Errorf("%s names a file that does not name the threat, or none; make golden writes it", threatPage)
	}
}
