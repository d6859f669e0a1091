package policy_test

import (
	"os"
	"slices"
	"strings"
	"testing"

	"stockade/gate/policy"
)

// optionsPage tells people what fields.txt tells the tests.
const optionsPage = "../../docs/options.md"

// TestOptionsPage keeps docs/options.md true: it has each field of a create request once, as testdata/fields.txt classifies
// it, and names rules that exist.
func TestOptionsPage(t *testing.T) {
	data, err := os.ReadFile(optionsPage)
	if err != nil {
		t.Fatal(err)
	}
	known := map[string]bool{}
	for _, r := range policy.Rules() {
		known[r.ID] = true
	}
	classes := readClasses(t)
	listed := map[string]bool{}
	for line := range strings.Lines(string(data)) {
		row, ok := strings.CutPrefix(line, "| ")
		if !ok || strings.HasPrefix(row, "Field |") {
			continue
		}
		cells := strings.SplitN(row, " | ", 3)
		if len(cells) != 3 || strings.TrimSuffix(strings.TrimSpace(cells[2]), "|") == "" {
			t.Errorf("not a row of three: %s", line)
			continue
		}
		field, here := cells[0], cells[1]
		if listed[field] {
			t.Errorf("%s: listed twice", field)
		}
		listed[field] = true
		c, ok := classes[field]
		if !ok {
			t.Errorf("%s: no field of testdata/fields.txt", field)
			continue
		}
		rules := strings.ReplaceAll(c.text, ",", ", ")
		want := map[string]string{"rule": "yes, within rule " + rules, "refused": "refused: " + rules, "harmless": "yes", "cleared": "dropped"}[c.kind]
		if here != want {
			t.Errorf("%s: the page says %q, the classification %q", field, here, want)
		}
		if c.kind == "rule" || c.kind == "refused" {
			for _, id := range strings.Split(c.text, ",") {
				if !known[id] {
					t.Errorf("%s: no rule %q", field, id)
				}
			}
		}
	}
	for field, c := range classes {
		other := slices.ContainsFunc([]string{"exec.", "execstart.", "volume.", "auth."}, func(p string) bool { return strings.HasPrefix(field, p) })
		if c.kind != "parts" && !other && !listed[field] {
			t.Errorf("%s: not on the page", field)
		}
	}
}
