// Command testsum sums the test events of several runs ("go test -json", one file per suite) and prints the tests that
// passed only when run again, those that failed, and as its last line "N passed, N failed[, N skipped]".
//
// A test that is in more than one suite counts once, with the worst result. A package that failed without a failed test
// (it did not build, or its TestMain ended it) counts as one failure, as does each failed step in the -lint file.
package main

import (
	"bufio"
	"encoding/json"
	"flag"
	"fmt"
	"io"
	"os"
	"slices"
	"strings"
)

type event struct {
	Action  string
	Package string
	Test    string
}

type id struct{ pkg, test string }

func (i id) String() string { return strings.TrimSuffix(i.pkg+"."+i.test, ".") }

// rank orders results from best to worst.
var rank = map[string]int{"skip": 1, "pass": 2, "fail": 3}

// sum is the result of all suites.
type sum struct {
	results map[id]string
	rerun   map[id]bool // failed at first
}

// add reads one suite: within it the last result of a test counts, and a test without an end (its process died) failed.
func (s *sum) add(r io.Reader) error {
	last := map[id]string{}
	scan := bufio.NewScanner(r)
	scan.Buffer(nil, 16<<20)
	for scan.Scan() {
		var e event
		if err := json.Unmarshal(scan.Bytes(), &e); err != nil || e.Package == "" {
			continue // build output
		}
		key := id{e.Package, e.Test}
		switch e.Action {
		case "run":
			last[key] = "fail"
		case "pass", "skip", "fail":
			if e.Action == "fail" && e.Test != "" {
				s.rerun[key] = true
			}
			last[key] = e.Action
		}
	}
	for key, result := range last {
		if key.test == "" {
			if result != "fail" || hasFailure(last, key.pkg) {
				continue
			}
		}
		if rank[result] > rank[s.results[key]] {
			s.results[key] = result
		}
	}
	return scan.Err()
}

func hasFailure(last map[id]string, pkg string) bool {
	for key, result := range last {
		if key.pkg == pkg && key.test != "" && result == "fail" {
			return true
		}
	}
	return false
}

// print writes the report and tells whether everything passed.
func (s *sum) print(w io.Writer, lint []string) bool {
	count := map[string]int{}
	var again, failed []string
	for key, result := range s.results {
		count[result]++
		switch {
		case result == "fail":
			failed = append(failed, key.String())
		case s.rerun[key]:
			again = append(again, key.String())
		}
	}
	for _, name := range lint {
		count["fail"]++
		failed = append(failed, name)
	}
	slices.Sort(again)
	slices.Sort(failed)
	for _, name := range again {
		fmt.Fprintln(w, "failed at first, passed when run again:", name)
	}
	for _, name := range failed {
		fmt.Fprintln(w, "failed:", name)
	}
	fmt.Fprintf(w, "%d passed, %d failed", count["pass"], count["fail"])
	if n := count["skip"]; n > 0 {
		fmt.Fprintf(w, ", %d skipped", n)
	}
	fmt.Fprintln(w)
	return count["fail"] == 0
}

func main() {
	lintFile := flag.String("lint", "", "file with the name of one failed step per line")
	flag.Parse()
	s := sum{results: map[id]string{}, rerun: map[id]bool{}}
	for _, name := range flag.Args() {
		f, err := os.Open(name)
		if err == nil {
			err = s.add(f)
			f.Close()
		}
		if err != nil {
			fmt.Fprintln(os.Stderr, "testsum:", err)
			os.Exit(1)
		}
	}
	var lint []string
	if data, err := os.ReadFile(*lintFile); err == nil {
		lint = strings.FieldsFunc(string(data), func(r rune) bool { return r == '\n' })
	}
	if !s.print(os.Stdout, lint) {
		os.Exit(1)
	}
}
