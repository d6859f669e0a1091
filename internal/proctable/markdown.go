package proctable

import (
	"fmt"
	"strings"
)

// Markdown is the table as ARCHITECTURE.md shows it.
func Markdown() string {
	var b strings.Builder
	b.WriteString("| process | host user | capabilities | root in U | no_new_privs | seccomp | Landlock | asked by | why |\n|---|---|---|---|---|---|---|---|---|\n")
	yes := func(v bool) string {
		if v {
			return "yes"
		}
		return "–"
	}
	for _, p := range Table {
		caps := strings.Join(p.Caps, ", ")
		if caps == "" {
			caps = "none"
		}
		fmt.Fprintf(&b, "| stockade-%s | %s | %s | %s | %s | %s | %s | %s | %s |\n", p.Name, p.User, caps, yes(p.InU), yes(p.NoNew), yes(p.Seccomp), yes(p.Landlock), p.Serves, p.Why)
	}
	return b.String()
}
