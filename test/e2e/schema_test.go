//go:build root

package e2e

import (
	"encoding/json"
	"fmt"
	"maps"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"sigs.k8s.io/yaml"

	"stockade/internal/apiversion"
	"stockade/test/harness"
)

// spec is the API's own description, which comes with its Go module.
type spec struct {
	Definitions map[string]*schema              `json:"definitions"`
	Paths       map[string]map[string]operation `json:"paths"`
}

type operation struct {
	Responses map[string]struct {
		Schema *schema `json:"schema"`
	} `json:"responses"`
}

// schema is as much of Swagger 2 as the description uses for answers.
type schema struct {
	Ref        string             `json:"$ref"`
	Type       string             `json:"type"`
	Nullable   bool               `json:"x-nullable"`
	Properties map[string]*schema `json:"properties"`
	Required   []string           `json:"required"`
	Items      *schema            `json:"items"`
	AllOf      []*schema          `json:"allOf"`
	Enum       []any              `json:"enum"`
	Additional json.RawMessage    `json:"additionalProperties"` // a schema or a bool
}

func loadSpec(t testing.TB) *spec {
	t.Helper()
	cmd := exec.Command("go", "list", "-m", "-f", "{{.Dir}}", "github.com/moby/moby/api")
	cmd.Dir = harness.Get(t).Repo
	out, err := cmd.Output()
	if err != nil {
		t.Fatal(err)
	}
	data, err := os.ReadFile(filepath.Join(strings.TrimSpace(string(out)), "swagger.yaml"))
	if err != nil {
		t.Fatal(err)
	}
	var s spec
	if err := yaml.Unmarshal(data, &s); err != nil {
		t.Fatal(err)
	}
	return &s
}

// flat resolves a reference and merges allOf.
func (s *spec) flat(t testing.TB, c *schema) schema {
	t.Helper()
	out := *c
	if c.Ref != "" {
		d := s.Definitions[strings.TrimPrefix(c.Ref, "#/definitions/")]
		if d == nil {
			t.Fatalf("no definition %s", c.Ref)
		}
		nullable := c.Nullable
		out = s.flat(t, d)
		out.Nullable = out.Nullable || nullable
	}
	for _, part := range out.AllOf {
		p := s.flat(t, part)
		all := maps.Clone(p.Properties)
		if all == nil {
			all = map[string]*schema{}
		}
		maps.Copy(all, out.Properties)
		out.Properties, out.Required = all, append(slices.Clone(out.Required), p.Required...)
		if out.Type == "" {
			out.Type = p.Type
		}
	}
	out.AllOf = nil
	return out
}

// check compares a value with its schema and returns what does not fit.
func (s *spec) check(t testing.TB, c *schema, value any, at string) (bad []string) {
	t.Helper()
	f := s.flat(t, c)
	if f.Type == "" && f.Properties == nil && f.Additional == nil {
		return nil // anything
	}
	wrong := func(format string, a ...any) { bad = append(bad, at+": "+fmt.Sprintf(format, a...)) }
	switch v := value.(type) {
	case nil:
		// Go servers write null for what is empty; the description says so only here and there.
		if f.Type == "string" || f.Type == "integer" || f.Type == "number" || f.Type == "boolean" {
			if !f.Nullable {
				wrong("null instead of a %s", f.Type)
			}
		}
	case string:
		if f.Type != "string" {
			wrong("%q instead of a %s", v, f.Type)
		}
		if len(f.Enum) > 0 && !slices.Contains(f.Enum, any(v)) {
			wrong("%q is none of %v", v, f.Enum)
		}
	case bool:
		if f.Type != "boolean" {
			wrong("%v instead of a %s", v, f.Type)
		}
	case json.Number:
		if whole := !strings.ContainsAny(v.String(), ".eE"); f.Type != "number" && (f.Type != "integer" || !whole) {
			wrong("%v instead of a %s", v, f.Type)
		}
	case []any:
		if f.Type != "array" {
			wrong("an array instead of a %s", f.Type)
			return bad
		}
		for i, item := range v {
			bad = append(bad, s.check(t, f.Items, item, fmt.Sprintf("%s[%d]", at, i))...)
		}
	case map[string]any:
		if f.Type != "object" && f.Properties == nil && f.Additional == nil {
			wrong("an object instead of a %s", f.Type)
			return bad
		}
		bad = append(bad, s.object(t, f, v, at)...)
	}
	return bad
}

func (s *spec) object(t testing.TB, f schema, v map[string]any, at string) (bad []string) {
	t.Helper()
	for _, name := range f.Required {
		if _, ok := v[name]; !ok {
			bad = append(bad, at+"."+name+": is required and missing")
		}
	}
	var rest *schema
	open := f.Properties == nil || string(f.Additional) == "true"
	if len(f.Additional) > 0 && f.Additional[0] == '{' {
		rest, open = new(schema), true
		if err := json.Unmarshal(f.Additional, rest); err != nil {
			t.Fatal(err)
		}
		if rest.Type == "" && rest.Ref == "" && rest.Properties == nil {
			rest = nil // anything
		}
	}
	for name, item := range v {
		switch c := f.Properties[name]; {
		case c != nil:
			bad = append(bad, s.check(t, c, item, at+"."+name)...)
		case rest != nil:
			bad = append(bad, s.check(t, rest, item, at+"."+name)...)
		case !open:
			bad = append(bad, at+"."+name+": is not in the description")
		}
	}
	return bad
}

// undescribed are parts of answers that Docker's own server has otherwise than its description.
var undescribed = []string{".HostConfig.MemorySwappiness: null", ".ExitCode: null",
	// The older form of GET /system/df, beside the newer one.
	".LayersSize: is not", ".Images: is not", ".Containers: is not", ".Volumes: is not", ".BuildCache: is not"}

// TestSchema compares answers with the API's description.
func TestSchema(t *testing.T) {
	sp := loadSpec(t)
	d := docker(t)
	s := d.s
	volume, dir := d.volume(), d.folder()
	name := d.sleeper("-p", "127.0.0.1::8080", "-v", volume+":/v", "-v", dir+":/b", "--tmpfs", "/t", "--memory", "64m", "--cpus", "0.5", "--ulimit", "nofile=100", "--label", "a=b",
		"--health-cmd", "true", "--health-interval", "1s", "--dns", "10.0.0.1", "--init")
	d.ok("exec", name, "touch", "/changed")
	ended := d.start("--restart", "on-failure:1", "busybox", "false")
	d.ok("wait", ended)
	execID := s.API(t, s.User, "POST", "/v"+apiversion.Max+"/containers/"+name+"/exec", map[string]any{"Cmd": []string{"true"}, "AttachStdout": true})
	var made struct{ ID string }
	if err := json.Unmarshal([]byte(execID.Body), &made); err != nil {
		t.Fatal(err)
	}
	since := fmt.Sprintf("since=%d&until=%d", time.Now().Add(-time.Minute).Unix(), time.Now().Unix()+1)
	for _, c := range []struct {
		method, path, pattern string
		status                int
		body                  any
	}{
		{"GET", "/version", "/version", 200, nil},
		{"GET", "/info", "/info", 200, nil},
		{"GET", "/system/df", "/system/df", 200, nil},
		{"GET", "/system/df?verbose=1", "/system/df", 200, nil},
		{"GET", "/events?" + since, "/events", 200, nil},
		{"GET", "/containers/json?all=1&size=1", "/containers/json", 200, nil},
		{"GET", "/containers/" + name + "/json?size=1", "/containers/{id}/json", 200, nil},
		{"GET", "/containers/" + ended + "/json", "/containers/{id}/json", 200, nil},
		{"GET", "/containers/" + name + "/top", "/containers/{id}/top", 200, nil},
		{"GET", "/containers/" + name + "/changes", "/containers/{id}/changes", 200, nil},
		{"GET", "/containers/" + name + "/stats?stream=0&one-shot=1", "/containers/{id}/stats", 200, nil},
		{"GET", "/containers/none/json", "/containers/{id}/json", 404, nil},
		{"POST", "/containers/create?name=" + d.name(), "/containers/create", 201, map[string]any{"Image": "busybox"}},
		{"POST", "/containers/create", "/containers/create", 404, map[string]any{"Image": "no-such-image"}},
		{"POST", "/containers/create?name=" + name, "/containers/create", 409, map[string]any{"Image": "busybox"}},
		{"POST", "/containers/" + ended + "/wait", "/containers/{id}/wait", 200, nil},
		{"POST", "/containers/" + name + "/update", "/containers/{id}/update", 200, map[string]any{"Memory": 128 << 20, "MemorySwap": 128 << 20}},
		{"POST", "/containers/prune?filters=" + `{"label":["no-such-label"]}`, "/containers/prune", 200, nil},
		{"GET", "/exec/" + made.ID + "/json", "/exec/{id}/json", 200, nil},
		{"POST", "/containers/" + name + "/exec", "/containers/{id}/exec", 201, map[string]any{"Cmd": []string{"true"}}},
		{"GET", "/images/json?all=1&digests=1&shared-size=1", "/images/json", 200, nil},
		{"GET", "/images/busybox/json", "/images/{name}/json", 200, nil},
		{"GET", "/images/stockade/demo/json", "/images/{name}/json", 200, nil},
		{"GET", "/images/busybox/history", "/images/{name}/history", 200, nil},
		{"GET", "/images/none/json", "/images/{name}/json", 404, nil},
		{"POST", "/images/prune?filters=" + `{"label":["no-such-label"]}`, "/images/prune", 200, nil},
		{"GET", "/volumes", "/volumes", 200, nil},
		{"GET", "/volumes/" + volume, "/volumes/{name}", 200, nil},
		{"POST", "/volumes/create", "/volumes/create", 201, map[string]any{"Name": d.volume(), "Labels": map[string]string{"a": "b"}}},
		{"POST", "/volumes/prune?filters=" + `{"label":["no-such-label"]}`, "/volumes/prune", 200, nil},
		{"GET", "/networks", "/networks", 200, nil},
		{"GET", "/networks/bridge", "/networks/{id}", 200, nil},
		{"GET", "/networks/none", "/networks/{id}", 200, nil},
	} {
		t.Run(fmt.Sprintf("%s %s %d", c.method, c.pattern, c.status), func(t *testing.T) {
			r := s.API(t, s.User, c.method, "/v"+apiversion.Max+strings.NewReplacer("{", "%7B", "}", "%7D", `"`, "%22").Replace(c.path), c.body)
			if r.Status != c.status {
				t.Fatalf("status %d: %s", r.Status, r.Body)
			}
			want := sp.Paths[c.pattern][strings.ToLower(c.method)].Responses[fmt.Sprint(c.status)].Schema
			if want == nil {
				t.Fatal("the description says nothing about this answer")
			}
			if !strings.HasPrefix(r.Header.Get("Content-Type"), "application/json") {
				t.Errorf("content type %q", r.Header.Get("Content-Type"))
			}
			dec := json.NewDecoder(strings.NewReader(r.Body))
			dec.UseNumber()
			n := 0
			for ; dec.More(); n++ {
				var value any
				if err := dec.Decode(&value); err != nil {
					t.Fatal(err)
				}
				for _, text := range sp.check(t, want, value, "") {
					if !slices.ContainsFunc(undescribed, func(u string) bool { return strings.HasPrefix(text, u) }) {
						t.Error(text)
					}
				}
			}
			if n == 0 {
				t.Error("no answer")
			}
		})
	}
}

// TestErrorShape holds that every refusal is a message in JSON.
func TestErrorShape(t *testing.T) {
	s := harness.Get(t)
	for _, c := range []struct {
		method, path string
		status       int
		body         any
	}{
		{"GET", "/no-such-endpoint", http.StatusNotFound, nil},
		{"GET", "/v1.39/version", http.StatusBadRequest, nil},
		{"GET", "/v1.999/version", http.StatusBadRequest, nil},
		{"DELETE", "/version", http.StatusNotFound, nil},
		{"GET", "/containers/none/json", http.StatusNotFound, nil},
		{"POST", "/containers/create", http.StatusBadRequest, "{"},
		{"POST", "/containers/create", http.StatusBadRequest, `{"Image":"busybox","NoSuchField":1}`},
		{"POST", "/containers/create", http.StatusForbidden, map[string]any{"Image": "busybox", "HostConfig": map[string]any{"Privileged": true}}},
		{"POST", "/build", http.StatusNotImplemented, nil},
	} {
		r := s.API(t, s.User, c.method, c.path, c.body)
		var answer struct{ Message string }
		if err := json.Unmarshal([]byte(r.Body), &answer); err != nil || r.Status != c.status || answer.Message == "" {
			t.Errorf("%s %s: %d %s, want %d with a message", c.method, c.path, r.Status, r.Body, c.status)
		}
	}
}
