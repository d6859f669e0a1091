package stockade_test

import (
	"os"
	"regexp"
	"slices"
	"testing"
)

// TestDependencies holds that each direct dependency is justified in docs/dev/dependencies.md, and nothing else is.
func TestDependencies(t *testing.T) {
	read := func(file, pattern string) []string {
		data, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		var list []string
		for _, m := range regexp.MustCompile(pattern).FindAllSubmatch(data, -1) {
			list = append(list, string(m[1]))
		}
		slices.Sort(list)
		return list
	}
	direct := read("go.mod", `(?m)^\t(\S+) v\S+$`)
	justified := read("docs/dev/dependencies.md", `(?m)^\| ([a-z]\S*\.\S+) \| .+ \|$`)
	if len(direct) == 0 || !slices.Equal(direct, justified) {
		t.Errorf("go.mod requires\n%v\ndocs/dev/dependencies.md justifies\n%v", direct, justified)
	}
}
