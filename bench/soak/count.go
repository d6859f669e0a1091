package main

import (
	"errors"
	"fmt"
	"io"
	"maps"
	"regexp"
	"slices"
	"sync"
	"text/tabwriter"
	"time"
)

// counter counts operations by kind.
type counter struct {
	mu    sync.Mutex
	kinds map[string]*count
}

// count is what became of the operations of one kind.
type count struct {
	recent, all  []time.Duration // of those that succeeded; recent since the last interval
	errors       map[string]int
	recentErrors int
}

// ids are left out of error texts, so that equal ones count together.
var ids = regexp.MustCompile(`[0-9a-f]{12,64}|soak-[0-9a-z-]+`)

func (c *counter) add(kind string, took time.Duration, err error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	k := c.kinds[kind]
	if k == nil {
		k = &count{errors: map[string]int{}}
		c.kinds[kind] = k
	}
	if err != nil {
		k.errors[ids.ReplaceAllString(err.Error(), "…")]++
		k.recentErrors++
		return
	}
	k.recent = append(k.recent, took)
	k.all = append(k.all, took)
}

// quantile returns the q-th part of sorted durations in milliseconds.
func quantile(sorted []time.Duration, q float64) float64 {
	if len(sorted) == 0 {
		return 0
	}
	return float64(sorted[min(int(q*float64(len(sorted))), len(sorted)-1)].Microseconds()) / 1000
}

func (c *counter) printInterval(out io.Writer, at, interval time.Duration) {
	c.mu.Lock()
	defer c.mu.Unlock()
	fmt.Fprintf(out, "\n== %v\n", at.Round(time.Second))
	w := tabwriter.NewWriter(out, 0, 4, 2, ' ', tabwriter.AlignRight)
	fmt.Fprintln(w, "operation\tper second\tp50 ms\tp99 ms\terrors\t")
	for _, kind := range slices.Sorted(maps.Keys(c.kinds)) {
		k := c.kinds[kind]
		slices.Sort(k.recent)
		fmt.Fprintf(w, "%s\t%.1f\t%.1f\t%.1f\t%d\t\n", kind, float64(len(k.recent))/interval.Seconds(), quantile(k.recent, .5), quantile(k.recent, .99), k.recentErrors)
		k.recent, k.recentErrors = nil, 0
	}
	w.Flush()
}

func (c *counter) printTotal(out io.Writer) {
	c.mu.Lock()
	defer c.mu.Unlock()
	fmt.Fprintf(out, "\n== whole run\n")
	w := tabwriter.NewWriter(out, 0, 4, 2, ' ', tabwriter.AlignRight)
	fmt.Fprintln(w, "operation\tcount\tp50 ms\tp99 ms\tfirst third p50\tlast third p50\terrors\t")
	for _, kind := range slices.Sorted(maps.Keys(c.kinds)) {
		k := c.kinds[kind]
		failed := 0
		for _, n := range k.errors {
			failed += n
		}
		third := max(len(k.all)/3, 1)
		first, last := slices.Sorted(slices.Values(k.all[:min(third, len(k.all))])), slices.Sorted(slices.Values(k.all[max(len(k.all)-third, 0):]))
		all := slices.Sorted(slices.Values(k.all))
		fmt.Fprintf(w, "%s\t%d\t%.1f\t%.1f\t%.1f\t%.1f\t%d\t\n", kind, len(all), quantile(all, .5), quantile(all, .99), quantile(first, .5), quantile(last, .5), failed)
	}
	w.Flush()
}

// failed is what went wrong: every error counts, for nothing that the clients do may fail.
func (c *counter) failed() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	var errs []error
	for kind, k := range c.kinds {
		for text, n := range k.errors {
			errs = append(errs, fmt.Errorf("%s: %d times: %s", kind, n, text))
		}
	}
	return errors.Join(errs...)
}
