package proctable

import (
	"os"
	"strings"
	"testing"
)

const page = "../../ARCHITECTURE.md"

// TestArchitecturePage keeps the page's table equal to the code's. STOCKADE_GOLDEN=1 writes it.
func TestArchitecturePage(t *testing.T) {
	data, err := os.ReadFile(page)
	if err != nil {
		t.Fatal(err)
	}
	const begin, end = "<!-- table -->\n", "<!-- end -->"
	head, rest, ok := strings.Cut(string(data), begin)
	_, tail, ok2 := strings.Cut(rest, end)
	if !ok || !ok2 {
		t.Fatalf("%s has no place for the table", page)
	}
	want := head + begin + Markdown() + end + tail
	if string(data) == want {
		return
	}
	if os.Getenv("STOCKADE_GOLDEN") == "1" {
		if err := os.WriteFile(page, []byte(want), 0o644); err != nil {
			t.Fatal(err)
		}
		return
	}
	t.Errorf("%s differs from the table in code; make golden writes it", page)
}

func TestTableIsSane(t *testing.T) {
	for _, p := range Table {
		if p.InU && len(p.Caps) > 0 {
			t.Errorf("%s: root in U has no capability outside", p.Name)
		}
		if p.Why == "" && len(p.Caps) > 0 {
			t.Errorf("%s: privilege without a reason", p.Name)
		}
	}
}
