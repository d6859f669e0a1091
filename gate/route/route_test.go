package route

import (
	"errors"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"sigs.k8s.io/yaml"

	"stockade/gate/refusal"
)

func TestParse(t *testing.T) {
	for _, tc := range []struct {
		line string
		op   string // wanted operation
		want string // wanted canonical path, or text of the refusal
		code int
	}{
		{line: "GET /_ping", op: "SystemPing", want: "/_ping"},
		{line: "HEAD /v1.40/_ping", op: "SystemPingHead", want: "/_ping"},
		{line: "GET /v1.57/containers/json?all=1", op: "ContainerList", want: "/containers/json"},
		{line: "GET /containers/abc/json", op: "ContainerInspect", want: "/containers/abc/json"},
		{line: "GET /containers/json/json", op: "ContainerInspect", want: "/containers/json/json"},
		{line: "GET /images/json", op: "ImageList", want: "/images/json"},
		{line: "GET /images/docker.io/library/busybox:latest/json", op: "ImageInspect", want: "/images/docker.io%2Flibrary%2Fbusybox:latest/json"},
		{line: "GET /images/docker.io%2Flibrary%2Fbusybox/json", op: "ImageInspect", want: "/images/docker.io%2Flibrary%2Fbusybox/json"},
		{line: "GET /images/localhost:5000/a@sha256:00/history", op: "ImageHistory", want: "/images/localhost:5000%2Fa@sha256:00/history"},
		{line: "DELETE /images/a/json", op: "ImageDelete", want: "/images/a%2Fjson"},
		{line: "DELETE /images/prune", op: "ImageDelete", want: "/images/prune"},
		{line: "POST /containers/prune", op: "ContainerPrune", want: "/containers/prune"},
		{line: "PUT /containers/a/archive?path=/", op: "PutContainerArchive", want: "/containers/a/archive"},
		{line: "POST /containers/create/start", op: "ContainerStart", want: "/containers/create/start"},

		{line: "GET /v1.30/_ping", want: "client version 1.30 is too old. Minimum supported API version is 1.40, please upgrade your client to a newer version", code: 400},
		{line: "GET /v1.58/_ping", want: "client version 1.58 is too new. Maximum supported API version is 1.57", code: 400},
		{line: "GET /v2.0/_ping", want: "too new", code: 400},
		{line: "GET /v9.9.9/_ping", want: "page not found", code: 404},
		{line: "GET /v1.040/_ping", want: "page not found", code: 404},
		{line: "GET /v1.50/v1.50/_ping", want: "page not found", code: 404},
		{line: "GET /v1.50", want: "page not found", code: 404},
		{line: "GET /", want: "page not found", code: 404},
		{line: "GET /debug/pprof/", want: "page not found", code: 404},
		{line: "GET /metrics", want: "page not found", code: 404},
		{line: "POST /_ping", want: "page not found", code: 404},
		{line: "TRACE /info", want: "page not found", code: 404},
		{line: "get /info", want: "page not found", code: 404},

		{line: "GET http://localhost/_ping", want: "must be a path", code: 400},
		{line: "OPTIONS *", want: "must be a path", code: 400},
		{line: "GET //containers/json", want: "page not found", code: 404},
		{line: "GET /containers//json", want: "No such container", code: 404},
		{line: "GET /containers/json/", want: "page not found", code: 404},
		{line: "GET /containers/./json", want: "cannot be part of a name", code: 400},
		{line: "GET /containers/../info", want: "cannot be part of a name", code: 400},
		{line: "GET /containers/%2e%2e/info", want: "cannot be part of a name", code: 400},
		{line: "GET /containers/a%2F..%2Fb/json", want: "No such container", code: 404},
		{line: "GET /containers/a%2Fb/json", want: "No such container", code: 404},
		{line: "GET /containers/a%00/json", want: "No such container", code: 404},
		{line: "GET /containers/a%zz/json", want: "cannot be part of a name", code: 400},
		{line: "GET /containers/a\\b/json", want: "must be escaped", code: 400},
		{line: "GET /containers/a;b/json", want: "must be escaped", code: 400},
		{line: "GET /containers/é/json", want: "must be escaped", code: 400},
		{line: "GET /containers/a/%61rchive", want: "page not found", code: 404},
		{line: "PUT /containers/a/%61rchive", want: "page not found", code: 404},
		{line: "GET /%63ontainers/json", want: "page not found", code: 404},
		{line: "GET /Containers/json", want: "page not found", code: 404},
		{line: "GET /images/a%2F..%2Fb/json", want: "No such image", code: 404},
		{line: "GET /images/a//b/json", want: "No such image", code: 404},
		{line: "GET /images/a%2F%2Fb/json", want: "No such image", code: 404},
		{line: "GET /images/a/%2e%2e/json", want: "cannot be part of a name", code: 400},
		{line: "GET /volumes/-x", want: "no such volume", code: 404},
		{line: "GET /volumes/a%2Fb", want: "no such volume", code: 404},
		{line: "GET /exec/%20/json", want: "No such exec instance", code: 404},
		{line: "GET /containers/" + strings.Repeat("a", 300) + "/json", want: "No such container", code: 404},

		{line: "GET /plugins/a/b:c/json", want: `plugin "a/b:c" not found`, code: 404},
		{line: "POST /plugins/pull", want: "not implemented", code: 501},
		{line: "POST /build", want: "not implemented", code: 501},
		{line: "POST /v1.50/containers/a/checkpoints", want: "not implemented", code: 501},
		{line: "POST /swarm/init", want: "not implemented", code: 501},
		{line: "POST /images/a/b/push", want: "not implemented", code: 501},
	} {
		method, target, _ := strings.Cut(tc.line, " ")
		m, err := Parse(method, target)
		if tc.code != 0 {
			var r *refusal.Refusal
			if !errors.As(err, &r) || r.Status != tc.code || !strings.Contains(r.Text, tc.want) {
				t.Errorf("%s: %v, want %d %q", tc.line, err, tc.code, tc.want)
			}
			continue
		}
		if err != nil {
			t.Errorf("%s: %v", tc.line, err)
			continue
		}
		if m.Op != tc.op || m.Target() != tc.want {
			t.Errorf("%s: %s %s, want %s %s", tc.line, m.Op, m.Target(), tc.op, tc.want)
		}
	}
}

// described is the part of the API's own description that the table is compared with.
type described struct {
	Paths map[string]map[string]struct {
		OperationID string `json:"operationId"`
		Parameters  []struct {
			Name string `json:"name"`
			In   string `json:"in"`
		} `json:"parameters"`
	} `json:"paths"`
}

func readDescription(t *testing.T) described {
	t.Helper()
	dir, err := exec.Command("go", "list", "-m", "-f", "{{.Dir}}", "github.com/moby/moby/api").Output()
	if err != nil {
		t.Fatalf("find the API's module: %v", err)
	}
	data, err := os.ReadFile(filepath.Join(strings.TrimSpace(string(dir)), "swagger.yaml"))
	if err != nil {
		t.Fatal(err)
	}
	var d described
	if err := yaml.Unmarshal(data, &d); err != nil {
		t.Fatal(err)
	}
	return d
}

// SECURITY(T-202): an endpoint of the API that is not in the table fails this test, and so does a parameter.
func TestTableIsComplete(t *testing.T) {
	count := 0
	for path, methods := range readDescription(t).Paths {
		for method, op := range methods {
			count++
			i := slices.IndexFunc(table, func(r Route) bool {
				return r.Method == strings.ToUpper(method) && strings.ReplaceAll(r.Pattern, "...", "") == path
			})
			if i < 0 {
				t.Errorf("%s %s is not in the table", strings.ToUpper(method), path)
				continue
			}
			r := table[i]
			if r.Op != op.OperationID {
				t.Errorf("%s: operation %s, want %s", r.Pattern, r.Op, op.OperationID)
			}
			if r.Missing != "" {
				continue
			}
			for _, p := range op.Parameters {
				switch {
				case p.In == "query" && !slices.ContainsFunc(r.Query, func(q Param) bool { return q.Name == p.Name }):
					t.Errorf("%s: no parameter %s", r.Op, p.Name)
				case p.In == "body" && r.Body == nil && r.Stream != Upload:
					t.Errorf("%s: no body", r.Op)
				case p.In == "header" && !r.Auth:
					t.Errorf("%s: no header %s", r.Op, p.Name)
				}
			}
		}
	}
	if count < 100 {
		t.Errorf("only %d endpoints were found in the description", count)
	}
}

func TestRowsAreSound(t *testing.T) {
	ops := map[string]bool{}
	for _, r := range table {
		if ops[r.Op] {
			t.Errorf("%s stands twice", r.Op)
		}
		ops[r.Op] = true
		if (r.Missing == "") != (r.Role == Anyone) {
			t.Errorf("%s: implemented endpoints have a role, others none", r.Op)
		}
		if r.Quiet && (r.Method == http.MethodPost || r.Body != nil || r.Stream != None) {
			t.Errorf("%s changes something and needs an audit record", r.Op)
		}
		for _, p := range r.Query {
			if p.Kind == 0 || (p.Kind == Enum || p.Kind == Filter) != (len(p.Values) > 0) {
				t.Errorf("%s: parameter %s", r.Op, p.Name)
			}
		}
	}
	var zero Route
	if zero.Role == Anyone {
		t.Error("the zero value allows")
	}
}

func FuzzParse(f *testing.F) {
	for _, s := range []string{"/v1.50/containers/json?all=1", "/images/a%2Fb/json", "/containers/../x", "/v1.50//", "/%2e%2e/"} {
		f.Add("GET", s)
	}
	f.Fuzz(func(t *testing.T, method, target string) {
		m, err := Parse(method, target)
		if err != nil {
			return
		}
		canonical := m.Target()
		if strings.Contains(canonical, "//") || strings.Contains(canonical, "/../") || strings.HasSuffix(canonical, "/..") {
			t.Fatalf("%q became %q", target, canonical)
		}
		again, err := Parse(method, canonical)
		if err != nil || again.Op != m.Op || again.Name != m.Name {
			t.Fatalf("%q became %q, which reads as %+v, %v", target, canonical, again, err)
		}
	})
}
