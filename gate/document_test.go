package gate

import (
	"fmt"
	"os"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"stockade/gate/policy"
	"stockade/gate/route"
)

// document is docs/api.md: what exists, and what is refused.
func document() string {
	var b strings.Builder
	implemented := 0
	for _, r := range route.All() {
		if r.Missing == "" {
			implemented++
		}
	}
	fmt.Fprintf(&b, `# The Engine API that Stockade serves

Made from the gate's own tables by `+"`make golden`"+`; a test compares it.

API versions %s to %s. %d of %d endpoints are implemented; the others answer 501 (or 404) with the reason given here. Unknown query
parameters, unknown, repeated or differently spelled JSON fields and anything after the JSON are answered with 400.

## Endpoints

| Endpoint | Operation | |
|---|---|---|
`, route.MinVersion, route.MaxVersion, implemented, len(route.All()))
	for _, r := range route.All() {
		state := "yes"
		if r.Missing != "" {
			state = "501: " + r.Missing
			if r.Absent {
				state = "404: " + r.Missing
			}
		}
		fmt.Fprintf(&b, "| %s %s | %s | %s |\n", r.Method, strings.ReplaceAll(r.Pattern, "...", ""), r.Op, state)
	}
	b.WriteString(`
## Rules

A request that breaks a rule is answered with 403, naming field, value, rule and remedy. They hold for administrators (uid 0
and members of the administrators' group), too, except where it says so. Fields are named as in the JSON; "exec." and
"volume." stand for the requests that make those, "ImageCreate?" for a query parameter.

| Rule | Threat | Fields | What to do instead |
|---|---|---|---|
`)
	for _, r := range policy.Rules() {
		id := r.ID
		if r.Admin {
			id += " (not for administrators)"
		}
		fmt.Fprintf(&b, "| %s | %s | %s | %s |\n", id, r.Threat, strings.Join(r.Fields, ", "), r.Remedy)
	}
	b.WriteString(`
Every bind of a host path also needs a grant: grantd opens the path with the caller's own rights and refuses what the caller
could not open (rule grant). Which check or reason applies to every single field stands in gate/policy/testdata/fields.txt.
`)
	return b.String()
}

// TestDocument keeps docs/api.md equal to the tables. STOCKADE_GOLDEN=1 writes it.
func TestDocument(t *testing.T) {
	const path = "../docs/api.md"
	want := document()
	if os.Getenv("STOCKADE_GOLDEN") == "1" {
		if err := os.WriteFile(path, []byte(want), 0o644); err != nil {
			t.Fatal(err)
		}
		return
	}
	got, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if d := cmp.Diff(want, string(got)); d != "" {
		t.Errorf("docs/api.md is not current; run make golden (-want +got):\n%s", d)
	}
}
