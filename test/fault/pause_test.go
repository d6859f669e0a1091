//go:build root

package fault

import (
	"fmt"
	"testing"

	"stockade/test/harness"
)

// T-801: "stockade down" after a power cut of the processes ends paused containers, too.
func TestDownWhilePaused(t *testing.T) {
	s := harness.Get(t)
	before := s.Settled(t)
	id := s.Must(t, "run", "-d", "busybox", "sleep", "1000")
	s.Must(t, "pause", id)
	if got := s.Must(t, "inspect", "-f", "{{.State.Paused}}", id); got != "true" {
		t.Fatalf("control: paused %s", got)
	}
	s.Kill(t, "supervisor")
	harness.Poll(t, "the server to be down", func() (string, bool) { // the killed supervisor holds its lock to the very end
		err := s.Down()
		return fmt.Sprint(err), err == nil
	})
	for _, kind := range []string{harness.KindProcesses, harness.KindShims, harness.KindCgroups} {
		if left := s.Census(t)[kind]; len(left) != 0 {
			t.Errorf("left: %s: %q", kind, left)
		}
	}
	if err := s.Up(); err != nil {
		t.Fatal(err)
	}
	s.Must(t, "rm", "-f", id)
	s.NoLeaks(t, before)
}
