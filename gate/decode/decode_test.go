package decode

import (
	"encoding/base64"
	"encoding/json"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/moby/moby/api/types/container"
	"github.com/moby/moby/api/types/registry"

	"stockade/gate/refusal"
	"stockade/gate/route"
)

// SECURITY(T-201): each of these has two readings.
func TestJSONRefuses(t *testing.T) {
	for _, tc := range []struct{ name, body, want string }{
		{"repeated field", `{"Image":"a","Image":"b"}`, `"Image" is given twice`},
		{"repeated object", `{"HostConfig":{},"HostConfig":{"Privileged":true}}`, `"HostConfig" is given twice`},
		{"repeated by an escape", `{"Image":"a","\u0049mage":"b"}`, `"Image" is given twice`},
		{"repeated key of a map", `{"Labels":{"a":"1","a":"2"}}`, `"Labels.a" is given twice`},
		{"repeated port", `{"ExposedPorts":{"80/tcp":{},"80/TCP":{}}}`, `is given twice`},
		{"repeated port by default", `{"ExposedPorts":{"80/tcp":{},"80":{}}}`, `is given twice`},
		{"repeated in a list", `{"HostConfig":{"Mounts":[{"Type":"tmpfs","Type":"bind"}]}}`, `"HostConfig.Mounts[0].Type" is given twice`},
		{"lower case", `{"hostconfig":{"Privileged":true}}`, `it is written "HostConfig"`},
		{"upper case within", `{"HostConfig":{"PRIVILEGED":true}}`, `it is written "Privileged"`},
		{"long s", `{"Ho` + "\u017f" + `tConfig":{"Privileged":true}}`, `it is written "HostConfig"`},
		{"kelvin", `{"HostConfig":{"MaskedPaths":null,"Mas` + "\u212a" + `edPaths":[]}}`, `it is written "MaskedPaths"`},
		{"unknown field", `{"HostConfig":{"Evil":1}}`, `unknown field "HostConfig.Evil"`},
		{"unknown in an empty struct", `{"Volumes":{"/a":{"x":1}}}`, `unknown field "Volumes./a.x"`},
		{"name of the Go type", `{"Config":{"Image":"x"}}`, `unknown field "Config"`},
		{"name of the Go field", `{"HostConfig":{"CPUShares":1}}`, `it is written "CpuShares"`},
		{"trailing value", `{} {"HostConfig":{}}`, "unexpected content"},
		{"trailing bytes", `{}x`, "unexpected content"},
		{"trailing NUL", "{}\x00", "unexpected content"},
		{"truncated", `{"Image":`, "unexpected EOF"},
		{"empty", ``, "unexpected EOF"},
		{"comment", `{/**/}`, "invalid JSON"},
		{"byte order mark", "\ufeff{}", "invalid JSON"},
		{"invalid UTF-8", "{\"Image\":\"\xff\"}", "UTF-8"},
		{"UTF-16", "{\x00}\x00", "invalid JSON"},
		{"wrong type", `{"HostConfig":{"Privileged":"true"}}`, "cannot unmarshal"},
		{"number as object", `{"HostConfig":5}`, "cannot unmarshal"},
		{"object as list", `{"HostConfig":{"Binds":{}}}`, "cannot unmarshal"},
		{"object as string", `{"Image":{}}`, "cannot unmarshal"},
		{"number out of range", `{"HostConfig":{"Memory":1e400}}`, "cannot unmarshal"},
		{"fraction", `{"HostConfig":{"Memory":1.5}}`, "cannot unmarshal"},
		{"array too long", `{"HostConfig":{"ConsoleSize":[1,2,3]}}`, "3 elements instead of 2"},
		{"array too short", `{"HostConfig":{"ConsoleSize":[1]}}`, "1 elements instead of 2"},
		{"bad port", `{"ExposedPorts":{"x/tcp":{}}}`, "invalid"},
		{"deep", `{"HostConfig":{"Mounts":` + strings.Repeat("[", 100) + strings.Repeat("]", 100) + `}}`, "nested deeper"},
		{"top level list", `[]`, "cannot unmarshal"},
		{"obsolete with a value", `{"MacAddress":"02:00:00:00:00:01"}`, "may only be empty"},
		{"obsolete misspelt", `{"macaddress":""}`, "unknown field"},
	} {
		var r container.CreateRequest
		err := JSON([]byte(tc.body), &r, Legacy{"MacAddress": WhenEmpty})
		if err == nil || !strings.Contains(err.Error(), tc.want) {
			t.Errorf("%s: %v, want %q", tc.name, err, tc.want)
			continue
		}
		if no := refusal.Of(err); no.Status != http.StatusBadRequest || no.Rule != "decode" {
			t.Errorf("%s: %+v", tc.name, no)
		}
	}
}

func TestJSONTakes(t *testing.T) {
	var r container.CreateRequest
	body := ` {"Image":"a","OnBuild":null,"ExposedPorts":{"80":{}},"HostConfig":{"Dns":["1.1.1.1"],"ConsoleSize":[1,2],"PidsLimit":5},"MacAddress":""} ` + "\n"
	if err := JSON([]byte(body), &r, Legacy{"MacAddress": WhenEmpty}); err != nil {
		t.Fatal(err)
	}
	if r.Image != "a" || len(r.ExposedPorts) != 1 || *r.HostConfig.PidsLimit != 5 || !r.HostConfig.DNS[0].IsValid() {
		t.Errorf("got %+v", r)
	}
}

func TestLegacyByVersion(t *testing.T) {
	for _, tc := range []struct {
		version, body string
		ok            bool
	}{
		{"1.41", `{"HostConfig":{"KernelMemory":0}}`, true},
		{"1.42", `{"HostConfig":{"KernelMemory":0}}`, false},
		{"1.41", `{"HostConfig":{"KernelMemory":1}}`, false},
		{"1.51", `{"MacAddress":null}`, true},
		{"1.52", `{"MacAddress":null}`, false},
	} {
		var r container.CreateRequest
		if err := JSON([]byte(tc.body), &r, legacyFields("ContainerCreate", tc.version)); (err == nil) != tc.ok {
			t.Errorf("%s %s: %v", tc.version, tc.body, err)
		}
	}
	var e container.ExecCreateRequest
	if err := JSON([]byte(`{"Cmd":["ls"],"Detach":true}`), &e, legacyFields("ContainerExec", "1.50")); err != nil {
		t.Error(err)
	}
}

func TestQuery(t *testing.T) {
	params := []route.Param{{Name: "all", Kind: route.Bool}, {Name: "limit", Kind: route.Int}, {Name: "h", Kind: route.Count}, {Name: "since", Kind: route.Time},
		{Name: "name", Kind: route.Name}, {Name: "ref", Kind: route.Ref}, {Name: "path", Kind: route.Path}, {Name: "type", Kind: route.Words},
		{Name: "condition", Kind: route.Enum, Values: []string{"removed"}}, {Name: "old", Kind: route.Ignored}, {Name: "zero"},
		{Name: "filters", Kind: route.Filter, Values: []string{"label", "status"}}}
	for _, tc := range []struct{ raw, want string }{
		{"", ""},
		{"all=True&limit=-1", "all=1&limit=-1"},
		{"all=0", "all=0"},
		{"all=&name=", ""},
		{"all", ""},
		{"h=007", "h=7"},
		{"since=12.5", "since=12.5"},
		{"type=a&type=b", "type=a&type=b"},
		{"path=%2Fa%20b%2F..", "path=%2Fa+b%2F.."},
		{"ref=docker.io%2Flibrary%2Fa:b", "ref=docker.io%2Flibrary%2Fa%3Ab"},
		{"condition=removed", "condition=removed"},
		{"old=anything", ""},
		{`filters={"status":["b","a"],"label":{"x=y":true}}`, `filters=%7B%22label%22%3A%7B%22x%3Dy%22%3Atrue%7D%2C%22status%22%3A%7B%22a%22%3Atrue%2C%22b%22%3Atrue%7D%7D`},
		{`filters={}`, ""},
		{`filters=`, ""},
	} {
		got, err := Query(params, tc.raw)
		if err != nil {
			t.Errorf("%q: %v", tc.raw, err)
			continue
		}
		if d := cmp.Diff(tc.want, got.Encode()); d != "" {
			t.Errorf("%q (-want +got):\n%s", tc.raw, d)
		}
	}
	for _, raw := range []string{"All=1", "%61ll=1", "all=1&all=0", "all=1&all=1", "unknown=1", "all=maybe", "limit=1e3", "limit=99999999999", "h=-1",
		"since=yesterday", "since=1h", "name=a/b", "name=..", "name=a%00", "ref=-x", "path=%ff", "path=a;b", "path=%zz", "condition=other", "zero=1",
		"filters=[]", `filters={"label":{"a":true},"label":{"b":true}}`, `filters={"Label":{"a":true}}`, `filters={"label":{"a":false}}`,
		`filters={"label":{"a":true,"a":true}}`, `filters={"label":"a"}`, `filters={"label":[1]}`, `filters={"label":["a"]}x`, `filters={"evil":["a"]}`,
		strings.Repeat("type=a&", 100)} {
		if got, err := Query(params, raw); err == nil {
			t.Errorf("%q: allowed as %q", raw, got.Encode())
		}
	}
}

// Refusals are in Docker's words, which users look up.
func TestWords(t *testing.T) {
	for _, tc := range []struct{ method, target, want string }{
		{"GET", "/containers/json?limit=x", `strconv.Atoi: parsing "x": invalid syntax`},
		{"GET", "/containers/json?filters=x", "invalid filter"},
		{"GET", `/containers/json?filters={"x":["y"]}`, "invalid filter 'x'"},
		{"POST", "/containers/create?name=a/b", "Invalid container name (a/b), only [a-zA-Z0-9][a-zA-Z0-9_.-] are allowed"},
		{"POST", "/containers/a/wait?condition=x", `invalid condition: "x"`},
		{"POST", "/containers/a/resize", `invalid resize height "": invalid syntax`},
		{"POST", "/exec/a/resize?h=1&w=-1", `invalid resize width "-1": value out of range`},
		{"GET", "/containers/a/archive?path=", "bad parameter: path cannot be empty"},
		{"GET", "/containers/a/logs?since=x", `invalid value for "since": invalid timestamp "x": invalid seconds "x": invalid syntax`},
		{"GET", "/events?until=x", `invalid value for 'until': invalid timestamp "x": invalid seconds "x": invalid syntax`},
		{"POST", "/images/a/tag?repo=b&tag=-x", "invalid tag format"},
		{"POST", "/images/a/tag?repo=-b", "invalid reference format"},
	} {
		m, err := route.Parse(tc.method, tc.target)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := Query(m.Query, m.RawQuery); err == nil || err.Error() != tc.want {
			t.Errorf("%s %s: %v, want %s", tc.method, tc.target, err, tc.want)
		}
	}
}

// request makes a request whose body has a declared or an unknown length.
func request(body, kind string, chunked bool) *http.Request {
	r := httptest.NewRequest(http.MethodPost, "/x", strings.NewReader(body))
	if kind != "" {
		r.Header.Set("Content-Type", kind)
	}
	if chunked {
		r.ContentLength = -1
	}
	return r
}

func TestBody(t *testing.T) {
	m, err := route.Parse(http.MethodPost, "/containers/create")
	if err != nil {
		t.Fatal(err)
	}
	good := `{"Image":"x"}`
	for _, tc := range []struct {
		name, body, kind string
		chunked          bool
		status           int
	}{
		{"plain", good, "application/json", false, 0},
		{"chunked", good, "application/json", true, 0},
		{"charset", good, "application/json; charset=UTF-8", false, 0},
		{"no body", "", "application/json", false, 400},
		{"no body, chunked", "", "application/json", true, 400},
		{"no type", good, "", false, 400},
		{"other type", good, "text/plain", false, 400},
		{"similar type", good, "application/json+x", false, 400},
		{"other charset", good, "application/json; charset=utf-7", false, 400},
		{"other parameter", good, "application/json; boundary=x", false, 400},
		{"too large", `{"Image":"` + strings.Repeat("x", MaxBody) + `"}`, "application/json", true, 413},
		{"attack after the limit", good + strings.Repeat(" ", MaxBody) + `{"HostConfig":{"Privileged":true}}`, "application/json", true, 413},
	} {
		_, err := Body(m, request(tc.body, tc.kind, tc.chunked))
		if tc.status == 0 {
			if err != nil {
				t.Errorf("%s: %v", tc.name, err)
			}
			continue
		}
		if err == nil || refusal.Of(err).Status != tc.status {
			t.Errorf("%s: %v, want %d", tc.name, err, tc.status)
		}
	}
	for body, ok := range map[string]bool{"": true, "{}": true, "null": true, `{"HostConfig":{}}`: false, "x": false, "{}{}": false} {
		if err := Empty(m, request(body, "application/json", true)); (err == nil) != ok {
			t.Errorf("empty %q: %v", body, err)
		}
	}
}

func TestRegistryAuth(t *testing.T) {
	enc := base64.URLEncoding.EncodeToString
	for _, tc := range []struct {
		name   string
		values []string
		ok     bool
		want   string
	}{
		{"none", nil, true, ""},
		{"empty object", []string{"e30="}, true, "e30="},
		{"without padding", []string{"e30"}, true, "e30="},
		{"credentials", []string{enc([]byte(`{"username":"a","password":"b","email":"c"}`))}, true, enc([]byte(`{"username":"a","password":"b"}`))},
		{"twice", []string{"e30=", "e30="}, false, ""},
		{"not base64", []string{"{}"}, false, ""},
		{"repeated", []string{enc([]byte(`{"username":"a","username":"b"}`))}, false, ""},
		{"other case", []string{enc([]byte(`{"Username":"a"}`))}, false, ""},
		{"trailing", []string{enc([]byte(`{}{}`))}, false, ""},
	} {
		got, err := RegistryAuth(http.Header{registry.AuthHeader: tc.values})
		if (err == nil) != tc.ok || got != tc.want {
			t.Errorf("%s: %q, %v", tc.name, got, err)
		}
	}
}

// FuzzJSON: what is accepted must read the same again in our own encoding.
func FuzzJSON(f *testing.F) {
	for _, s := range []string{`{}`, `{"Image":"a","HostConfig":{"Binds":["/a:/b"]}}`, `{"hostconfig":{}}`, `{"ExposedPorts":{"80/tcp":{}}}`, `null`} {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		var a, b container.CreateRequest
		if JSON(data, &a, nil) != nil {
			return
		}
		out, err := json.Marshal(&a)
		if err != nil {
			t.Fatalf("%q: %v", data, err)
		}
		if err := JSON(out, &b, nil); err != nil {
			t.Fatalf("%q became %q: %v", data, out, err)
		}
		again, err := json.Marshal(&b)
		if err != nil || string(again) != string(out) {
			t.Fatalf("%q became %q, then %q: %v", data, out, again, err)
		}
	})
}

func FuzzQuery(f *testing.F) {
	params := []route.Param{{Name: "all", Kind: route.Bool}, {Name: "name", Kind: route.Name}, {Name: "t", Kind: route.Words}, {Name: "filters", Kind: route.Filter, Values: []string{"a"}}}
	for _, s := range []string{"all=1", `filters={"a":["b"]}`, "t=1&t=%20", "name=a;b"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, raw string) {
		got, err := Query(params, raw)
		if err != nil {
			return
		}
		again, err := Query(params, got.Encode())
		if err != nil || again.Encode() != got.Encode() {
			t.Fatalf("%q became %q, then %q: %v", raw, got.Encode(), again.Encode(), err)
		}
	})
}
