package compat

import (
	"fmt"
	"strings"
)

// Difference is one thing in which the servers differ.
type Difference struct {
	Scenario string
	Step     string
	What     string
}

func (d Difference) String() string {
	return fmt.Sprintf("%s / %s: %s", d.Scenario, d.Step, d.What)
}

// Row allows differences. In its patterns * stands for any text.
type Row struct {
	Step   string // "scenario / step"
	What   string
	Reason string
}

// Allows tells whether the row is about the difference.
func (r Row) Allows(d Difference) bool {
	return r.Reason != "" && match(r.Step, d.Scenario+" / "+d.Step) && match(r.What, d.What)
}

// match compares text with a pattern in which * stands for any text.
func match(pattern, text string) bool {
	parts := strings.Split(pattern, "*")
	if len(parts) == 1 {
		return pattern == text
	}
	rest, ok := strings.CutPrefix(text, parts[0])
	if !ok {
		return false
	}
	for _, p := range parts[1 : len(parts)-1] {
		_, after, found := strings.Cut(rest, p)
		if !found {
			return false
		}
		rest = after
	}
	return strings.HasSuffix(rest, parts[len(parts)-1])
}

// Judge returns the differences that no row allows, and the rows that allow none of them.
func Judge(rows []Row, found []Difference) (unlisted []Difference, stale []Row) {
	used := make([]bool, len(rows))
	for _, d := range found {
		listed := false
		for i, r := range rows {
			if r.Allows(d) {
				used[i], listed = true, true
			}
		}
		if !listed {
			unlisted = append(unlisted, d)
		}
	}
	for i, r := range rows {
		if !used[i] {
			stale = append(stale, r)
		}
	}
	return unlisted, stale
}

// Document is docs/compatibility.md. The first of the peers is the one that matters most.
func Document(scenarios []Scenario, peers ...Peer) string {
	calls := 0
	for _, s := range scenarios {
		calls += len(s.Steps)
	}
	var b strings.Builder
	fmt.Fprintf(&b, `# How Stockade differs from Docker's daemon

Made from test/compat by "STOCKADE_GOLDEN=1 go test ./test/compat"; a test compares it.

"make test-compat" plays %d scenarios with %d calls of the docker command and of the API against Stockade and against a
daemon of Docker's, and compares exit codes, HTTP statuses, output, error messages, and the names and types of all JSON
fields. Ids, times, sizes and addresses are masked. The differences that exist are these, each for a reason; any other
fails the test, and a row that is no longer true fails it, too. * stands for any text. What Stockade does not
implement at all stands in [api.md](api.md); what options do differently, such as ports that are published on IPv4
addresses only (no "[::]" in "docker ps"), in [options.md](options.md).

`, len(scenarios), calls)
	fmt.Fprintf(&b, "The peer is %s, by version %s of the API, if \"make peer\" has built it", peers[0].Name, peers[0].Version)
	for _, p := range peers[1:] {
		fmt.Fprintf(&b, "; else %s, by version %s", p.Name, p.Version)
	}
	b.WriteString(". STOCKADE_PEER=debian chooses the latter.\n")
	section(&b, "From every version", known)
	for _, p := range peers {
		section(&b, "From "+p.Name+" only", p.Own)
	}
	return b.String()
}

func section(b *strings.Builder, title string, rows []Row) {
	fmt.Fprintf(b, "\n## %s: %d\n\n", title, len(rows))
	if len(rows) == 0 {
		return
	}
	b.WriteString("| Scenario / call | Difference (Docker's first) | Reason |\n|---|---|---|\n")
	cell := strings.NewReplacer("|", `\|`, "\n", " ", "<", "&lt;").Replace
	for _, r := range rows {
		fmt.Fprintf(b, "| `%s` | `%s` | %s |\n", strings.ReplaceAll(r.Step, "|", `\|`), strings.ReplaceAll(r.What, "|", `\|`), cell(r.Reason))
	}
}
