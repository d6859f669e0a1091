package main

import (
	"errors"
	"fmt"
	"io"
	"slices"
	"text/tabwriter"
	"time"
)

// Bounds of growth between the first and the last third of the samples. Whatever is counted must not grow at all: its
// median in the last third must not be above the highest value of the first. Memory may move as the collector likes, and
// threads come with load and do not go.
const (
	memoryFactor = 1.15
	memorySlack  = 8 << 20 // bytes, of each process
	threadSlack  = 8
	// Layers of a deleted image stay for five minutes after it was last used (engine/image): in the first third of ten
	// minutes their number still rises.
	storeFactor = 2
	storeAfter  = 9 * time.Minute
)

// curve is one value over time.
type curve struct {
	name   string
	values []float64
	limit  func(first []float64) float64 // highest median of the last third; nil: not judged
	bytes  bool
}

func exact(first []float64) float64   { return slices.Max(first) }
func threads(first []float64) float64 { return slices.Max(first) + threadSlack }
func store(first []float64) float64   { return storeFactor * slices.Max(first) }
func memory(first []float64) float64  { return median(first)*memoryFactor + memorySlack }

func median(v []float64) float64 {
	s := slices.Sorted(slices.Values(v))
	return s[len(s)/2]
}

// curves turns samples into curves, those of each process last.
func curves(samples []sample) []curve {
	var all []curve
	add := func(name string, limit func([]float64) float64, bytes bool, value func(sample) float64) {
		c := curve{name: name, limit: limit, bytes: bytes}
		for _, s := range samples {
			c.values = append(c.values, value(s))
		}
		all = append(all, c)
	}
	for _, kind := range samples[0].kinds() {
		limit := exact
		if kind == kindStore {
			if limit = store; samples[len(samples)-1].at < storeAfter {
				limit = nil
			}
		}
		add(kind, limit, false, func(s sample) float64 { return float64(s.counts[kind]) })
	}
	for _, p := range samples[0].processes {
		of := func(f func(process) float64) func(sample) float64 {
			return func(s sample) float64 {
				for _, q := range s.processes {
					if q.name == p.name {
						return f(q)
					}
				}
				return 0
			}
		}
		add(p.name+" PSS", memory, true, of(func(p process) float64 { return float64(p.pss) }))
		add(p.name+" RSS", nil, true, of(func(p process) float64 { return float64(p.rss) }))
		add(p.name+" fds", exact, false, of(func(p process) float64 { return float64(p.fds) }))
		add(p.name+" threads", threads, false, of(func(p process) float64 { return float64(p.threads) }))
	}
	return all
}

// thirds returns the first and the last third of the values.
func (c curve) thirds() (first, last []float64) {
	n := len(c.values) / 3
	return c.values[:n], c.values[len(c.values)-n:]
}

func (c curve) format(v float64) string {
	if c.bytes {
		return fmt.Sprintf("%.1f MB", v/1e6)
	}
	return fmt.Sprintf("%.0f", v)
}

// judge compares the thirds.
func judge(samples []sample) error {
	if len(samples) < 3 {
		return errors.New("fewer than three samples: nothing to compare")
	}
	var errs []error
	for _, c := range curves(samples) {
		if c.limit == nil {
			continue
		}
		first, last := c.thirds()
		if got, most := median(last), c.limit(first); got > most {
			errs = append(errs, fmt.Errorf("%s grew: %s in the first third, %s in the last (at most %s)", c.name, c.format(median(first)), c.format(got), c.format(most)))
		}
	}
	return errors.Join(errs...)
}

// printCurves prints a row for each curve: its thirds and up to twelve values in between.
func printCurves(out io.Writer, samples []sample) {
	if len(samples) < 3 {
		return
	}
	fmt.Fprintf(out, "\n== curves, %d samples at rest\n", len(samples))
	w := tabwriter.NewWriter(out, 0, 4, 2, ' ', tabwriter.AlignRight)
	fmt.Fprintln(w, "what\tfirst third\tlast third\tlimit\tvalues\t")
	for _, c := range curves(samples) {
		first, last := c.thirds()
		limit := "-"
		if c.limit != nil {
			limit = c.format(c.limit(first))
		}
		fmt.Fprintf(w, "%s\t%s\t%s\t%s\t", c.name, c.format(median(first)), c.format(median(last)), limit)
		const columns = 12
		for i := range min(columns, len(c.values)) {
			v := c.values[i*(len(c.values)-1)/max(min(columns, len(c.values))-1, 1)]
			if c.bytes {
				v /= 1e6
			}
			fmt.Fprintf(w, "%.0f ", v)
		}
		fmt.Fprintln(w, "\t")
	}
	w.Flush()
}
