package main

import (
	"strings"
	"testing"
	"time"
)

// TestJudge grows one thing at a time.
func TestJudge(t *testing.T) {
	rising := func(i int) int { return i }
	flat := func(int) int { return 0 }
	cases := map[string]struct {
		fds, links, megabytes, threads func(i int) int
		want                           string
	}{
		"nothing":           {flat, flat, flat, flat, ""},
		"descriptors":       {rising, flat, flat, flat, "gate fds grew"},
		"links":             {flat, rising, flat, flat, "links grew"},
		"memory":            {flat, flat, rising, flat, "gate PSS grew"},
		"threads":           {flat, flat, flat, rising, "gate threads grew"},
		"a peak early":      {func(i int) int { return map[int]int{2: 50}[i] }, flat, flat, flat, ""},
		"memory within":     {flat, flat, func(i int) int { return i / 10 }, flat, ""},
		"threads under way": {flat, flat, flat, func(i int) int { return i / 10 }, ""},
	}
	for name, c := range cases {
		t.Run(name, func(t *testing.T) {
			var samples []sample
			for i := range 30 {
				samples = append(samples, sample{
					at: time.Duration(i) * time.Minute, counts: map[string]int{kindLinks: 4 + c.links(i)},
					processes: []process{{name: "gate", fds: 10 + c.fds(i), pss: int64(20+c.megabytes(i)) << 20, threads: 8 + c.threads(i)}},
				})
			}
			err := judge(samples)
			switch {
			case c.want == "" && err != nil:
				t.Error(err)
			case c.want != "" && (err == nil || !strings.Contains(err.Error(), c.want)):
				t.Errorf("got %v, want %q in it", err, c.want)
			}
		})
	}
}
