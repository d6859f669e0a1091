package httpapi

import (
	"testing"

	"github.com/containerd/errdefs"
)

func TestParseFilters(t *testing.T) {
	for _, c := range []struct {
		name, raw, wantErr string
	}{
		{"empty", "", ""},
		{"sets", `{"label":{"a=b":true}}`, ""},
		{"lists", `{"label":["a=b"]}`, ""},
		{"unknown term", `{"nope":["x"]}`, "invalid filter 'nope'"},
		{"no object", `["x"]`, "invalid filter"},
	} {
		t.Run(c.name, func(t *testing.T) {
			f, err := ParseFilters(c.raw, "label", "name")
			if c.wantErr == "" {
				if err != nil {
					t.Fatal(err)
				}
				if c.raw != "" && !f.Labels("label", map[string]string{"a": "b"}) {
					t.Error("label a=b does not match")
				}
				return
			}
			if err == nil || err.Error() != c.wantErr || Status(err) != 400 {
				t.Fatalf("got %v, want %q", err, c.wantErr)
			}
		})
	}
}

func TestFilters(t *testing.T) {
	f := Filters{"label": {"a", "b=c"}, "name": {"^we", "["}, "id": {"abc"}, "off": {"false"}, "two": {"1", "0"}}
	off, err := f.Bool("off", true)
	_, errTwo := f.Bool("two", true)
	for _, c := range []struct {
		name      string
		got, want bool
	}{
		{"absent term", f.Exact("none", "x") && f.Prefix("none") && f.Match("none"), true},
		{"exact", f.Exact("id", "abc"), true},
		{"exact is not a prefix", f.Exact("id", "abcd"), false},
		{"prefix", f.Prefix("id", "abcd"), true},
		{"expression", f.Match("name", "web"), true},
		{"bad expression is literal", f.Match("name", "["), true},
		{"no match", f.Match("name", "db"), false},
		{"all labels", f.Labels("label", map[string]string{"a": "", "b": "c"}), true},
		{"one label wrong", f.Labels("label", map[string]string{"a": "", "b": "x"}), false},
		{"any label", f.AnyLabel("label", map[string]string{"a": ""}), true},
		{"any label of none", f.AnyLabel("none", map[string]string{"a": ""}), false},
		{"bool", !off && err == nil, true},
		{"two booleans", errdefs.IsInvalidArgument(errTwo), true},
		{"older", VersionLess("1.9", "1.44"), true},
		{"newer", VersionLess("1.52", "1.52"), false},
		{"no version", VersionLess("x", "1.52"), false},
	} {
		if c.got != c.want {
			t.Errorf("%s: %v", c.name, c.got)
		}
	}
}
