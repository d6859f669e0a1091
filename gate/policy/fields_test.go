package policy_test

import (
	"encoding"
	"encoding/json"
	"os"
	"reflect"
	"slices"
	"strings"
	"testing"

	"github.com/moby/moby/api/types/container"
	"github.com/moby/moby/api/types/registry"
	"github.com/moby/moby/api/types/volume"

	"stockade/gate/decode"
	"stockade/gate/policy"
	"stockade/gate/route"
)

// prefixes name the fields of each request type in testdata/fields.txt.
var prefixes = map[reflect.Type]string{
	reflect.TypeFor[container.CreateRequest]():     "",
	reflect.TypeFor[container.Config]():            "",
	reflect.TypeFor[container.UpdateConfig]():      "HostConfig.",
	reflect.TypeFor[container.ExecCreateRequest](): "exec.",
	reflect.TypeFor[container.ExecStartRequest]():  "execstart.",
	reflect.TypeFor[volume.CreateRequest]():        "volume.",
	reflect.TypeFor[registry.AuthConfig]():         "auth.",
}

// class is one line of testdata/fields.txt:
//
//	PATH <tab> rule ID[,ID…]     the rules look at it
//	PATH <tab> refused ID        any value is refused by the rule, so what lies beneath needs no line
//	PATH <tab> cleared REASON    never reaches the engine
//	PATH <tab> harmless REASON
//	PATH <tab> parts             only its parts mean something, and each has a line
type class struct{ kind, text string }

func readClasses(t *testing.T) map[string]class {
	t.Helper()
	data, err := os.ReadFile("testdata/fields.txt")
	if err != nil {
		t.Fatal(err)
	}
	out := map[string]class{}
	for line := range strings.Lines(string(data)) {
		path, rest, ok := strings.Cut(strings.TrimSpace(line), "\t")
		kind, text, _ := strings.Cut(rest, " ")
		if !ok || out[path] != (class{}) {
			t.Fatalf("bad line %q", line)
		}
		out[path] = class{kind, text}
	}
	return out
}

// walk calls visit with every field of t, recursively; visit returns whether to go beneath it.
func walk(t reflect.Type, prefix string, visit func(path string) bool) {
	for t.Kind() == reflect.Pointer || t.Kind() == reflect.Slice || t.Kind() == reflect.Map || t.Kind() == reflect.Array {
		t = t.Elem()
	}
	p := reflect.PointerTo(t)
	if t.Kind() != reflect.Struct || p.Implements(reflect.TypeFor[encoding.TextUnmarshaler]()) || p.Implements(reflect.TypeFor[json.Unmarshaler]()) {
		return
	}
	for name, ft := range decode.Fields(t) {
		if visit(prefix + name) {
			walk(ft, prefix+name+".", visit)
		}
	}
}

// SECURITY(T-202): a field that nobody has thought about fails this test.
func TestEveryFieldIsClassified(t *testing.T) {
	classes := readClasses(t)
	rules := map[string][]string{} // field → rules
	for _, r := range policy.Rules() {
		for _, f := range r.Fields {
			rules[f] = append(rules[f], r.ID)
		}
	}
	seen := map[string]bool{}
	for _, r := range route.All() {
		if r.Body == nil {
			continue
		}
		typ := reflect.TypeOf(r.Body()).Elem()
		prefix, ok := prefixes[typ]
		if !ok {
			t.Errorf("%s: the body type %s is not classified", r.Op, typ)
			continue
		}
		walk(typ, prefix, func(path string) bool {
			seen[path] = true
			c, ok := classes[path]
			switch {
			case !ok:
				t.Errorf("%s: field %s is not classified in testdata/fields.txt", r.Op, path)
			case c.kind == "rule" || c.kind == "refused":
				want := strings.Split(c.text, ",")
				if !slices.Equal(slices.Sorted(slices.Values(want)), slices.Sorted(slices.Values(rules[path]))) {
					t.Errorf("field %s: classified as checked by %q, the rules that name it are %q", path, want, rules[path])
				}
			case c.kind == "harmless" || c.kind == "cleared":
				if len(c.text) < 10 {
					t.Errorf("field %s: no reason", path)
				}
				if len(rules[path]) > 0 {
					t.Errorf("field %s: classified as %s, yet checked by %q", path, c.kind, rules[path])
				}
			case c.kind != "parts":
				t.Errorf("field %s: unknown class %q", path, c.kind)
			}
			return c.kind != "refused"
		})
	}
	for path := range classes {
		if !seen[path] {
			t.Errorf("testdata/fields.txt: %s is no field of a request", path)
		}
	}
}
