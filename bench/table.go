package main

import (
	"fmt"
	"os"
	"slices"
	"strings"
)

// bar is a wanted ratio of Stockade's value to that of another side, or of a former result.
type bar struct {
	against string
	most    float64 // ratio ≤ most
	least   float64 // ratio ≥ least, when most is 0
}

func (b bar) String() string {
	if b.most > 0 {
		return fmt.Sprintf("≤ %g × %s", b.most, b.against)
	}
	return fmt.Sprintf("≥ %g × %s", b.least, b.against)
}

func (b bar) met(ratio float64) bool {
	if b.most > 0 {
		return ratio <= b.most
	}
	return ratio >= b.least
}

// result is one row of the table.
type result struct {
	name, what, unit string
	values           map[string]float64 // by side; others than the servers may be there to compare with
	bars             []bar
}

type table struct {
	sides       []string
	results     []result
	met, missed []string
	failures    []string
}

func newTable(servers []*side) *table {
	t := &table{}
	for _, s := range servers {
		t.sides = append(t.sides, s.name)
	}
	return t
}

// add prints a result.
func (t *table) add(r result) {
	t.results = append(t.results, r)
	line := fmt.Sprintf("%-13s %s:", r.name, r.what)
	for _, s := range t.columns(r) {
		line += fmt.Sprintf(" %s %s", s, number(r.values[s]))
	}
	line += " " + r.unit
	for _, b := range r.bars {
		line += "; " + t.judge(r, b)
	}
	fmt.Println(line)
}

// columns are the sides of a result, Stockade first.
func (t *table) columns(r result) []string {
	var out []string
	for _, s := range t.sides {
		if _, ok := r.values[s]; ok {
			out = append(out, s)
		}
	}
	var others []string
	for s := range r.values {
		if !slices.Contains(t.sides, s) {
			others = append(others, s)
		}
	}
	slices.Sort(others)
	return append(out, others...)
}

// judge says whether a bar is met; one against a side that was not measured is neither met nor missed.
func (t *table) judge(r result, b bar) string {
	with, ok := r.values[b.against]
	if !ok || with == 0 {
		return fmt.Sprintf("%s: not measured", b)
	}
	ratio := r.values[ourName] / with
	word, list := "met", &t.met
	if !b.met(ratio) {
		word, list = "MISSED", &t.missed
	}
	*list = append(*list, fmt.Sprintf("%s (%.3g, %s)", r.name, ratio, b))
	return fmt.Sprintf("ratio %.3g, bar %s: %s", ratio, b, word)
}

func (t *table) failed(name string, err error) {
	fmt.Printf("%-13s error: %v\n", name, err)
	t.failures = append(t.failures, name)
}

// end prints everything once more as a table for docs/benchmarks.md, and what was missed.
func (t *table) end() error {
	fmt.Print("\n| what | unit | ")
	fmt.Print(strings.Join(t.sides, " | "), " | others | ratios and bars |\n|", strings.Repeat("---|", len(t.sides)+4), "\n")
	for _, r := range t.results {
		cells := []string{r.name + ": " + r.what, r.unit}
		for _, s := range t.sides {
			cell := ""
			if v, ok := r.values[s]; ok {
				cell = number(v)
			}
			cells = append(cells, cell)
		}
		var others, ratios []string
		for _, s := range t.columns(r) {
			if !slices.Contains(t.sides, s) {
				others = append(others, s+" "+number(r.values[s]))
			}
			i := slices.IndexFunc(r.bars, func(b bar) bool { return b.against == s })
			switch ours := r.values[ourName]; {
			case s == ourName || ours == 0 || r.values[s] == 0:
			case i >= 0:
				mark := "met"
				if !r.bars[i].met(ours / r.values[s]) {
					mark = "**missed**"
				}
				ratios = append(ratios, fmt.Sprintf("%.3g (%s, %s)", ours/r.values[s], r.bars[i], mark))
			default:
				ratios = append(ratios, fmt.Sprintf("%.3g × %s", ours/r.values[s], s))
			}
		}
		cells = append(cells, strings.Join(others, ", "), strings.Join(ratios, ", "))
		fmt.Println("| " + strings.Join(cells, " | ") + " |")
	}
	fmt.Printf("\n%d bars met, %d missed, %d measurements failed\n", len(t.met), len(t.missed), len(t.failures))
	for _, m := range t.missed {
		fmt.Println("missed:", m)
	}
	if len(t.failures) > 0 {
		fmt.Fprintln(os.Stderr, "bench: failed:", strings.Join(t.failures, ", "))
	}
	return nil
}

func number(v float64) string {
	switch {
	case v >= 100:
		return fmt.Sprintf("%.0f", v)
	case v >= 10:
		return fmt.Sprintf("%.1f", v)
	}
	return fmt.Sprintf("%.3g", v)
}
