package supervisor

import (
	"os"
	"testing"

	"stockade/internal/config"
)

func TestParseStat(t *testing.T) {
	const tail = " 1 1 1 0 -1 4194560 1 0 0 0 1 1 0 0 20 0 1 0 4242 1000 10"
	for _, tc := range []struct {
		name, stat string
		want       uint64
		ok         bool
	}{
		{"plain", "12 (sh) S" + tail, 4242, true},
		{"command with a parenthesis", "12 (a) Z (b) R" + tail, 4242, true},
		{"zombie", "12 (sh) Z" + tail, 0, false},
		{"short", "12 (sh) S 1 1", 0, false},
		{"empty", "", 0, false},
	} {
		t.Run(tc.name, func(t *testing.T) {
			got, err := parseStat(tc.stat)
			if got != tc.want || (err == nil) != tc.ok {
				t.Errorf("got %d, %v", got, err)
			}
		})
	}
	start, err := startTime(os.Getpid())
	if err != nil {
		t.Fatal(err)
	}
	if !(Instance{PID: os.Getpid(), Start: start}).Alive() || (Instance{PID: os.Getpid(), Start: start + 1}).Alive() {
		t.Error("Alive does not tell this process from another one with its pid")
	}
}

func TestOurs(t *testing.T) {
	s := &Supervisor{cfg: config.Config{Network: config.Network{Prefix: "stk"}}}
	for name, want := range map[string]bool{"stk": true, "stk0": true, "stk-0123abcd": true, "stkt": false, "stkt0": false, "stkt-0123abcd": false, "eth0": false, "st": false} {
		if got := s.ours(name); got != want {
			t.Errorf("%s: %v, want %v", name, got, want)
		}
	}
}
