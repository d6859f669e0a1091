package policy_test

import (
	"os"
	"slices"
	"strings"
	"testing"

	"stockade/gate/policy"
)

// optionsDoc tells people what each field does here.
const optionsDoc = "../../docs/options.md"

// TestOptionsDocument holds that docs/options.md has each field of testdata/fields.txt once, with the rules that stand
// there.
func TestOptionsDocument(t *testing.T) {
	data, err := os.ReadFile(optionsDoc)
	if err != nil {
		t.Fatal(err)
	}
	classes := readClasses(t)
	var rules []string
	for _, r := range policy.Rules() {
		rules = append(rules, r.ID)
	}
	got := map[string]string{}
	var order []string
	for line := range strings.Lines(string(data)) {
		// A | within a cell would be \|, which no field has.
		cells := strings.Split(strings.TrimSpace(line), " | ")
		if !strings.HasPrefix(line, "| ") || len(cells) < 3 || cells[0] == "| Field" {
			continue
		}
		field, here := strings.TrimPrefix(cells[0], "| "), cells[1]
		if _, twice := got[field]; twice {
			t.Errorf("%s: field %s stands there twice", optionsDoc, field)
		}
		if _, ok := classes[field]; !ok {
			t.Errorf("%s: there is no field %s", optionsDoc, field)
		}
		if len(strings.TrimSuffix(strings.Join(cells[2:], " | "), " |")) < 10 {
			t.Errorf("%s: field %s has no text", optionsDoc, field)
		}
		got[field] = here
		order = append(order, field)
	}
	if !slices.IsSorted(order) {
		t.Errorf("%s: the fields are not in order", optionsDoc)
	}
	for field, c := range classes {
		want := ""
		switch c.kind {
		case "harmless":
			want = "yes"
		case "rule":
			want = "yes, within rule " + strings.ReplaceAll(c.text, ",", ", ")
		case "refused":
			want = "refused: " + c.text
		case "cleared":
			want = "dropped"
		}
		if c.kind == "rule" || c.kind == "refused" {
			for r := range strings.SplitSeq(c.text, ",") {
				if !slices.Contains(rules, r) {
					t.Errorf("field %s: there is no rule %s", field, r)
				}
			}
		}
		if strings.HasPrefix(field, "auth.") { // no option of a container
			want = ""
		}
		if got[field] != want {
			t.Errorf("%s: field %s is described as %q, want %q", optionsDoc, field, got[field], want)
		}
	}
}
