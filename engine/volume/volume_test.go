package volume

import (
	"context"
	"encoding/json"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/moby/moby/api/types/events"
	api "github.com/moby/moby/api/types/volume"

	"stockade/api/scope"
	"stockade/engine/httpapi"
	"stockade/engine/runtime"
)

type recorder struct{ seen []string }

func (r *recorder) Publish(tenant string, typ events.Type, action events.Action, id string, _ map[string]string) {
	r.seen = append(r.seen, tenant+" "+string(typ)+" "+string(action)+" "+id)
}

type copier struct{ calls int }

func (c *copier) Copy(_ context.Context, _ runtime.Root, path, into string, _ uint32) error {
	c.calls++
	return os.WriteFile(filepath.Join(into, "from"), []byte(path), 0o644)
}

type fixture struct {
	*Service
	data   string
	events *recorder
	copier *copier
}

func open(t *testing.T, data string) *fixture {
	t.Helper()
	f := &fixture{data: data, events: &recorder{}, copier: &copier{}}
	s, err := Open(Config{Data: data, Owner: os.Getuid(), Copier: f.copier, Events: f.events, Log: slog.New(slog.DiscardHandler)})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { s.Close() })
	f.Service = s
	return f
}

func (f *fixture) do(t *testing.T, tenant, method, path, body string, out any) int {
	t.Helper()
	rt := httpapi.NewRouter(slog.New(slog.DiscardHandler))
	f.Register(rt)
	req := httptest.NewRequest(method, path, strings.NewReader(body))
	scope.Scope{Tenant: tenant, Version: "1.51"}.Set(req.Header)
	w := httptest.NewRecorder()
	rt.ServeHTTP(w, req)
	if out != nil {
		if err := json.Unmarshal(w.Body.Bytes(), out); err != nil {
			t.Fatalf("%s %s: %v: %s", method, path, err, w.Body)
		}
	}
	return w.Code
}

func TestCreateInspectRemove(t *testing.T) {
	f := open(t, t.TempDir())
	var v, again api.Volume
	if code := f.do(t, "a", "POST", "/volumes/create", `{"Name":"db","Labels":{"k":"v"}}`, &v); code != 201 {
		t.Fatalf("create: %d", code)
	}
	if v.Name != "db" || v.Driver != "local" || v.Scope != "local" || v.Labels["k"] != "v" {
		t.Errorf("created %+v", v)
	}
	f.do(t, "a", "POST", "/volumes/create", `{"Name":"db"}`, &again)
	if diff := cmp.Diff(v, again); diff != "" {
		t.Errorf("second create: %s", diff)
	}
	if code := f.do(t, "b", "GET", "/volumes/db", "", nil); code != 404 {
		t.Errorf("another tenant sees it: %d", code)
	}
	inner := filepath.Join(f.data, "store", "volumes", filepath.Base(filepath.Dir(v.Mountpoint)), "data")
	for path, mode := range map[string]os.FileMode{inner: 0o755, filepath.Dir(inner): 0o711} {
		if info, err := os.Stat(path); err != nil || info.Mode().Perm() != mode {
			t.Errorf("%s: %v %v", path, info, err)
		}
	}

	if err := f.Reference("a", "db", "c1"); err != nil {
		t.Fatal(err)
	}
	var msg struct{ Message string }
	if code := f.do(t, "a", "DELETE", "/volumes/db?force=1", "", &msg); code != 409 || msg.Message != "remove db: volume is in use - [c1]" {
		t.Errorf("remove in use: %d %q", code, msg.Message)
	}
	f.Unreference("a", "db", "c1")
	if code := f.do(t, "b", "DELETE", "/volumes/db", "", &msg); code != 404 {
		t.Errorf("another tenant removes it: %d", code)
	}
	if code := f.do(t, "a", "DELETE", "/volumes/db", "", nil); code != 204 {
		t.Errorf("remove: %d", code)
	}
	if code := f.do(t, "a", "DELETE", "/volumes/db?force=1", "", nil); code != 204 {
		t.Errorf("forced remove of nothing: %d", code)
	}
	if _, err := os.Stat(inner); !os.IsNotExist(err) {
		t.Errorf("folder stays: %v", err)
	}
	if diff := cmp.Diff([]string{"a volume create db", "a volume destroy db"}, f.events.seen); diff != "" {
		t.Error(diff)
	}
}

func TestCreateRefuses(t *testing.T) {
	f := open(t, t.TempDir())
	for _, c := range []struct {
		body string
		code int
	}{
		{`{"Name":"../x"}`, 400},
		{`{"Name":"a/b"}`, 400},
		{`{"Name":"x"}`, 400}, // one character, as in Docker
		{`{"Name":".hidden"}`, 400},
		{`{"Name":"ok","DriverOpts":{"type":"none","o":"bind","device":"/"}}`, 400},
		{`{"Name":"ok","Driver":"nfs"}`, 404},
	} {
		if code := f.do(t, "a", "POST", "/volumes/create", c.body, nil); code != c.code {
			t.Errorf("%s: %d", c.body, code)
		}
	}
}

func TestList(t *testing.T) {
	f := open(t, t.TempDir())
	for _, body := range []string{`{"Name":"web-data","Labels":{"env":"prod"}}`, `{"Name":"db-data"}`, `{}`} {
		f.do(t, "a", "POST", "/volumes/create", body, nil)
	}
	f.do(t, "b", "POST", "/volumes/create", `{"Name":"other"}`, nil)
	if err := f.Reference("a", "db-data", "c1"); err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		filters string
		want    int
	}{
		{"", 3}, {`{"name":["data"]}`, 2}, {`{"name":["^web"]}`, 1}, {`{"label":["env=prod"]}`, 1}, {`{"label":["env=x"]}`, 0},
		{`{"dangling":["true"]}`, 2}, {`{"dangling":["false"]}`, 1}, {`{"driver":["nfs"]}`, 0}, {`{"driver":["local"]}`, 3},
		{`{"label":["` + AnonymousLabel + `"]}`, 1},
	} {
		var got api.ListResponse
		if code := f.do(t, "a", "GET", "/volumes?filters="+url.QueryEscape(c.filters), "", &got); code != http.StatusOK || len(got.Volumes) != c.want {
			t.Errorf("%s: %d, %d volumes", c.filters, code, len(got.Volumes))
		}
	}
}

func TestPruneAndUsage(t *testing.T) {
	f := open(t, t.TempDir())
	anonymous, _, err := f.ensure("a", "", nil, nil)
	if err != nil {
		t.Fatal(err)
	}
	named, _, _ := f.ensure("a", "named", nil, nil)
	used, _, _ := f.ensure("a", "", nil, nil)
	if err := f.Reference("a", used.Name, "c1"); err != nil {
		t.Fatal(err)
	}
	for _, v := range []Volume{anonymous, named, used} {
		dir := filepath.Join(f.dir, v.StoreName, "data")
		if err := os.WriteFile(filepath.Join(dir, "f"), make([]byte, 100), 0o600); err != nil {
			t.Fatal(err)
		}
		if err := os.Link(filepath.Join(dir, "f"), filepath.Join(dir, "same")); err != nil {
			t.Fatal(err)
		}
		if err := os.Symlink("/", filepath.Join(dir, "out")); err != nil {
			t.Fatal(err)
		}
	}
	usage, err := f.Usage(t.Context(), "a")
	if err != nil || len(usage) != 3 || usage[0].UsageData.Size != 100 {
		t.Errorf("usage %+v %v", usage, err)
	}
	for _, c := range []struct{ filters, want string }{
		{"", anonymous.Name}, {`{"all":["true"]}`, "named"},
	} {
		var rep api.PruneReport
		f.do(t, "a", "POST", "/volumes/prune?filters="+url.QueryEscape(c.filters), "", &rep)
		if len(rep.VolumesDeleted) != 1 || rep.VolumesDeleted[0] != c.want || rep.SpaceReclaimed != 100 {
			t.Errorf("%s: %+v", c.filters, rep)
		}
	}
}

func TestSurvivesRestartAndSweeps(t *testing.T) {
	data := t.TempDir()
	f := open(t, data)
	v, created, err := f.ensure("a", "keep", map[string]string{"k": "v"}, nil)
	if err != nil || !created {
		t.Fatal(created, err)
	}
	f.Close()
	stray := filepath.Join(data, "store", "volumes", "stray")
	if err := os.MkdirAll(filepath.Join(stray, "data"), 0o700); err != nil {
		t.Fatal(err)
	}
	f = open(t, data)
	got, err := f.Get("a", "keep")
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(v, got); diff != "" {
		t.Error(diff)
	}
	if _, err := os.Stat(stray); !os.IsNotExist(err) {
		t.Errorf("stray folder: %v", err)
	}
	if _, err := os.Stat(filepath.Join(f.dir, v.StoreName, "data")); err != nil {
		t.Error(err)
	}
}

func TestPopulateOnlyEmptyVolumes(t *testing.T) {
	f := open(t, t.TempDir())
	v, _, err := f.ensure("a", "", nil, nil)
	if err != nil {
		t.Fatal(err)
	}
	for range 2 {
		if err := f.Populate(t.Context(), v.StoreName, nil, "/srv"); err != nil {
			t.Fatal(err)
		}
	}
	if f.copier.calls != 1 {
		t.Errorf("%d copies", f.copier.calls)
	}
}
