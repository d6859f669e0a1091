package compat

import (
	"os"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"stockade/gate/route"
)

func TestMask(t *testing.T) {
	id := strings.Repeat("0123456789abcdef", 4)
	for in, want := range map[string]string{
		"plain text, 42 and a-b":                  "plain text, 42 and a-b",
		id:                                        "<id>",
		"sha256:" + id:                            "sha256:<id>",
		"container " + id[:12] + " ends":          "container <id> ends",
		"0123456789ab is all digits or not":       "<id> is all digits or not",
		"busybox deadbeef":                        "busybox deadbeef",
		"2026-01-02T03:04:05.678901234Z start":    "<time> start",
		"2026-01-02T03:04:05+01:00":               "<time>",
		"2026-01-02 03:04:05 +0000 UTC":           "<time>",
		"Up 3 seconds":                            "Up <ago>",
		"Up Less than a second":                   "Up <ago>",
		"Exited (3) About a minute ago":           "Exited (3) <ago>",
		"10 months ago":                           "<ago>",
		"172.17.0.2 and 10.0.0.1/24":              "<ip> and <ip>/24",
		"02:42:ac:11:00:02":                       "<mac>",
		"1.23MB, 0B, 12 kB":                       "<size>, <size>, <size>",
		"at 1700000000 and 1700000000123456789":   "at <unix> and <unix>",
		"failed at /var/lib/x/volumes/v":          "failed at <data>/volumes/v",
		"port 18931 stays, as does version 1.41":  "port 18931 stays, as does version 1.41",
		"exit 137, \"Exited (137)\" are no times": "exit 137, \"Exited (137)\" are no times",
	} {
		if got := Mask(in, map[string]string{"/var/lib/x": "<data>"}); got != want {
			t.Errorf("%q: got %q, want %q", in, got, want)
		}
	}
	if got := MaskOutput("ID             NAME  \n0123456789ab   x\n", nil); got != "ID NAME\n<id> x\n" {
		t.Errorf("columns: %q", got)
	}
}

func TestCompareCommand(t *testing.T) {
	base := Answer{Code: 1, Stdout: "b\na\n", Stderr: "0123456789ab failed\n"}
	for _, c := range []struct {
		name string
		step Step
		ours Answer
		want []string
	}{
		{"same", docker("x"), base, nil},
		{"another id", docker("x"), Answer{Code: 1, Stdout: "b\na\n", Stderr: "ba9876543210 failed\n"}, nil},
		{"code", docker("x"), Answer{Code: 0, Stdout: "b\na\n", Stderr: base.Stderr}, []string{"exit code 1, ours 0"}},
		{"order", docker("x"), Answer{Code: 1, Stdout: "a\nb\n", Stderr: base.Stderr}, []string{`stdout "b\na\n", ours "a\nb\n"`}},
		{"any order", docker("x").anyOrder(), Answer{Code: 1, Stdout: "a\nb\n", Stderr: base.Stderr}, nil},
		{"no output", docker("x").noOutput(), Answer{Code: 1}, nil},
		{"no output, code", docker("x").noOutput(), Answer{}, []string{"exit code 1, ours 0"}},
		{"stderr", docker("x"), Answer{Code: 1, Stdout: base.Stdout}, []string{`stderr "<id> failed\n", ours ""`}},
	} {
		if diff := cmp.Diff(c.want, Compare(c.step, base, c.ours)); diff != "" {
			t.Errorf("%s: %s", c.name, diff)
		}
	}
}

func TestCompareAnswer(t *testing.T) {
	answer := func(code int, body string) Answer {
		return Answer{Code: code, Type: "application/json", Body: []byte(body)}
	}
	for _, c := range []struct {
		name       string
		step       Step
		peer, ours Answer
		want       []string
	}{
		{"other values", get("/"), answer(200, `{"A":1,"B":["x"]}`), answer(200, `{"B":["y","z"],"A":2}`), nil},
		{"status", get("/"), answer(200, `{"A":1}`), answer(404, `{"message":"x"}`), []string{"status 200, ours 404"}},
		{"status of an error", get("/"), answer(500, `{"message":"y"}`), answer(404, `{"message":"x"}`), []string{"status 500, ours 404", `value .message "y", ours "x"`}},
		{"message", get("/"), answer(404, `{"message":"a"}`), answer(404, `{"message":"b"}`), []string{`value .message "a", ours "b"`}},
		{"message of a success", get("/"), answer(200, `{"message":"a"}`), answer(200, `{"message":"b"}`), nil},
		{"missing", get("/"), answer(200, `{"A":{"B":1,"C":2}}`), answer(200, `{"A":{"B":1}}`), []string{"field .A.C number, ours missing"}},
		{"missing with all beneath", get("/"), answer(200, `{"A":{"B":{"C":2}}}`), answer(200, `{}`), []string{"field .A object, ours missing"}},
		{"more", get("/"), answer(200, `[{}]`), answer(200, `[{"X":true}]`), []string{"field [].X missing, ours bool"}},
		{"type", get("/"), answer(200, `{"A":null}`), answer(200, `{"A":"x"}`), []string{"field .A null, ours string"}},
		{"types of a list", get("/"), answer(200, `[{"A":null},{"A":1}]`), answer(200, `[{"A":1}]`), []string{"field [].A null|number, ours number"}},
		{"empty list", get("/"), answer(200, `[]`), answer(200, `[{"A":1}]`), []string{"field [] missing, ours object"}},
		{"kind of answer", get("/"), answer(200, `[]`), answer(200, `{}`), []string{"field . array, ours object"}},
		{"id as key", get("/"), answer(200, `{"0123456789ab":1}`), answer(200, `{"ba9876543210":1}`), nil},
		{"stream", get("/"), answer(200, `{"A":1}{"B":1}`), answer(200, `{"A":1}`), []string{"field .B number, ours missing"}},
		{"values", get("/").same(".A.B", "[0]"), answer(200, `{"A":{"B":[1]}}`), answer(200, `{"A":{"B":[2]}}`), []string{"value .A.B [1], ours [2]"}},
		{"value in a list", get("/").same("[1].A"), answer(200, `[{"A":1},{"A":2}]`), answer(200, `[{"A":2},{"A":1}]`), []string{"value [1].A 2, ours 1"}},
		{"content type", get("/"), Answer{Code: 200, Type: "text/plain; charset=utf-8", Body: []byte("OK")}, answer(200, `{}`),
			[]string{`type "text/plain", ours "application/json"`, `body "OK", ours "{}"`}},
	} {
		got := Compare(c.step, c.peer, c.ours)
		if diff := cmp.Diff(c.want, got); diff != "" {
			t.Errorf("%s: %s", c.name, diff)
		}
	}
}

func TestJudge(t *testing.T) {
	found := []Difference{{"a", "docker run {n}", "exit code 1, ours 2"}, {"b", "GET /x", "field .A null, ours missing"}}
	rows := []Row{
		{"a / docker run*", "exit code 1, ours 2", "x"},
		{"* / GET *", "field .A null, ours *", "x"},
		{"c / *", "*", "nothing is like this"},
		{"a / *", "*", ""}, // without a reason nothing is allowed
	}
	unlisted, stale := Judge(rows, found)
	if len(unlisted) != 0 || !cmp.Equal(stale, rows[2:]) {
		t.Errorf("unlisted %v, stale %v", unlisted, stale)
	}
	unlisted, stale = Judge(rows[1:2], found)
	if !cmp.Equal(unlisted, found[:1]) || len(stale) != 0 {
		t.Errorf("unlisted %v, stale %v", unlisted, stale)
	}
}

func TestMatch(t *testing.T) {
	for _, c := range []struct {
		pattern, text string
		want          bool
	}{
		{"", "", true}, {"", "a", false}, {"a", "a", true}, {"a", "ab", false}, {"*", "", true}, {"*", "abc", true}, {"a*", "abc", true},
		{"*c", "abc", true}, {"a*c", "abc", true}, {"a*b", "abc", false}, {"a*b*c", "a1b2c", true}, {"a*a", "a", false}, {"*b*b*", "abc", false},
	} {
		if got := match(c.pattern, c.text); got != c.want {
			t.Errorf("%q on %q: %v", c.pattern, c.text, got)
		}
	}
}

func TestSplit(t *testing.T) {
	got := split(`run  --name {n} sh -c 'echo "a b"' '' x`)
	if diff := cmp.Diff([]string{"run", "--name", "{n}", "sh", "-c", `echo "a b"`, "", "x"}, got); diff != "" {
		t.Error(diff)
	}
}

// TestScenarioList holds what the runner relies on.
func TestScenarioList(t *testing.T) {
	seen := map[string]bool{}
	for _, sc := range All() {
		if seen[sc.Name] || sc.Name != strings.ToLower(sc.Name) || len(sc.Steps) == 0 {
			t.Errorf("%s: names are unique and lower case, for they name images, and each has steps", sc.Name)
		}
		seen[sc.Name] = true
		for _, s := range sc.Steps {
			if (len(s.Args) > 0) == (s.Method != "") {
				t.Errorf("%s: %s: is one call, of the command or of the API", sc.Name, s)
			}
		}
		names := sc.Names()
		slices.Sort(names)
		if len(slices.Compact(names)) != len(sc.Steps) {
			t.Errorf("%s: two steps have one name", sc.Name)
		}
	}
	for _, r := range slices.Concat(known, Newest.Own, Debian.Own) {
		if r.Reason == "" || r.Step == "" || r.What == "" || strings.HasPrefix(r.Step, "*") && strings.HasPrefix(r.What, "*") {
			t.Errorf("a row says which steps, what and why: %+v", r)
		}
	}
}

// TestEndpoints holds that every endpoint that is implemented is called directly at least once.
func TestEndpoints(t *testing.T) {
	called := map[string]bool{}
	vars := map[string]string{}
	for _, name := range []string{"n", "id", "e", "f", "g", "h"} {
		vars[name] = "x1"
	}
	for _, sc := range All() {
		for _, s := range sc.Steps {
			if s.Method == "" {
				continue
			}
			if m, err := route.Parse(s.Method, s.Fill(vars).Target(Newest.Version)); err == nil {
				called[m.Op] = true
			}
		}
	}
	for _, r := range route.All() {
		if r.Missing == "" && !called[r.Op] {
			t.Errorf("no scenario calls %s %s", r.Method, r.Pattern)
		}
	}
}

// TestDocument keeps docs/compatibility.md equal to the table. STOCKADE_GOLDEN=1 writes it.
func TestDocument(t *testing.T) {
	const path = "../../docs/compatibility.md"
	want := Document(All(), Newest, Debian)
	if os.Getenv("STOCKADE_GOLDEN") == "1" {
		if err := os.WriteFile(path, []byte(want), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	got, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(want, string(got)); diff != "" {
		t.Errorf("run STOCKADE_GOLDEN=1 go test ./test/compat: %s", diff)
	}
}
