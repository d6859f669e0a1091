package system

import (
	"context"
	"encoding/json"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/moby/moby/api/types/container"
	"github.com/moby/moby/api/types/events"
	"github.com/moby/moby/api/types/image"
	"github.com/moby/moby/api/types/registry"
	"github.com/moby/moby/api/types/system"
	"github.com/moby/moby/api/types/volume"

	"stockade/api/scope"
	"stockade/api/setting"
	"stockade/engine/httpapi"
)

type fake struct{}

func (fake) Listeners() int                                                        { return 4 }
func (fake) Publish(string, events.Type, events.Action, string, map[string]string) {}
func (fake) Count(string) int                                                      { return 5 }

type fakeContainers struct{}

func (fakeContainers) All(_ string, size bool) []container.Summary {
	list := []container.Summary{
		{ID: "c", State: "exited"}, {ID: "d", State: "running"}, {ID: "e", State: "paused"}, {ID: "f", State: "created"},
	}
	if size {
		list[0].SizeRw, list[1].SizeRw = 10, 5
	}
	return list
}

type fakeImages struct{ fake }

func (fakeImages) Usage(context.Context, string) ([]image.Summary, int64, int64, error) {
	return []image.Summary{{ID: "i", Size: 100, SharedSize: 40, Containers: 1}, {ID: "j", Size: 50, SharedSize: 40}}, 110, 100, nil
}

type fakeVolumes struct{}

func (fakeVolumes) Usage(context.Context, string) ([]volume.Volume, error) {
	return []volume.Volume{{Name: "v", UsageData: &volume.UsageData{Size: 7}}}, nil
}

func service(t *testing.T, insecure ...string) *Service {
	t.Helper()
	s, err := New(Config{
		Engine: setting.Engine{
			Data: t.TempDir(), Version: "1.2.3", GitCommit: "abc", Insecure: insecure,
			Runtimes: map[string]string{"runc": "/usr/lib/stockade/runc"},
		},
		APIVersion: "1.57", MinAPIVersion: "1.40", Containers: fakeContainers{}, Images: fakeImages{}, Volumes: fakeVolumes{},
		Events: fake{}, Log: slog.New(slog.DiscardHandler),
	})
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func do(t *testing.T, s *Service, method, path, version, body string) *httptest.ResponseRecorder {
	t.Helper()
	rt := httpapi.NewRouter(slog.New(slog.DiscardHandler))
	s.Register(rt)
	req := httptest.NewRequest(method, path, strings.NewReader(body))
	scope.Scope{Tenant: "a", Version: version}.Set(req.Header)
	w := httptest.NewRecorder()
	rt.ServeHTTP(w, req)
	return w
}

func TestPing(t *testing.T) {
	s := service(t)
	for method, body := range map[string]string{"GET": "OK", "HEAD": ""} {
		w := do(t, s, method, "/_ping", "1.51", "")
		if w.Code != 200 || w.Body.String() != body || w.Header().Get("Api-Version") != "1.57" || w.Header().Get("Ostype") != "linux" {
			t.Errorf("%s: %d %q %v", method, w.Code, w.Body, w.Header())
		}
	}
}

func TestVersionAndInfo(t *testing.T) {
	s := service(t, "localhost:5000")
	var v system.VersionResponse
	if err := json.Unmarshal(do(t, s, "GET", "/version", "1.51", "").Body.Bytes(), &v); err != nil {
		t.Fatal(err)
	}
	if v.Version != "1.2.3" || v.APIVersion != "1.57" || len(v.Components) != 1 || v.Components[0].Details["GitCommit"] != "abc" {
		t.Errorf("%+v", v)
	}
	var i system.Info
	if err := json.Unmarshal(do(t, s, "GET", "/info", "1.51", "").Body.Bytes(), &i); err != nil {
		t.Fatal(err)
	}
	if i.Containers != 4 || i.ContainersRunning != 1 || i.ContainersPaused != 1 || i.ContainersStopped != 2 || i.Images != 5 || i.NEventsListener != 4 || i.MemTotal <= 0 || i.NCPU <= 0 ||
		i.KernelVersion == "" || i.Runtimes["runc"].Path == "" || i.RegistryConfig.IndexConfigs["localhost:5000"].Secure {
		t.Errorf("%+v", i)
	}
	again, err := serverID(s.cfg.Engine.Data)
	if err != nil || again != i.ID || len(i.ID) != 36 {
		t.Errorf("id %q, then %q, %v", i.ID, again, err)
	}
	for version, want := range map[string]bool{"1.44": true, "1.51": false} {
		var m map[string]any
		if err := json.Unmarshal(do(t, s, "GET", "/info", version, "").Body.Bytes(), &m); err != nil {
			t.Fatal(err)
		}
		if _, ok := m["BridgeNfIptables"]; ok != want {
			t.Errorf("%s: BridgeNfIptables %v", version, ok)
		}
		if commit := m["RuncCommit"].(map[string]any); (commit["Expected"] == "N/A") != want {
			t.Errorf("%s: %v", version, commit)
		}
	}
}

func TestDiskUsage(t *testing.T) {
	s := service(t)
	if w := do(t, s, "GET", "/system/df?type=nope", "1.51", ""); w.Code != 400 {
		t.Errorf("unknown type: %d", w.Code)
	}
	for _, c := range []struct {
		query, version string
		keys           []string
	}{
		{"", "1.51", []string{"BuildCache", "Containers", "Images", "LayersSize", "Volumes"}},
		{"?type=volume", "1.51", []string{"Volumes"}},
		{"?verbose=1", "1.52", []string{"BuildCacheUsage", "ContainerUsage", "ImageUsage", "VolumeUsage"}},
	} {
		var m map[string]any
		if err := json.Unmarshal(do(t, s, "GET", "/system/df"+c.query, c.version, "").Body.Bytes(), &m); err != nil {
			t.Fatal(err)
		}
		keys := []string{}
		for _, k := range []string{"BuildCache", "BuildCacheUsage", "ContainerUsage", "Containers", "ImageUsage", "Images", "LayersSize", "VolumeUsage", "Volumes"} {
			if _, ok := m[k]; ok {
				keys = append(keys, k)
			}
		}
		if diff := cmp.Diff(c.keys, keys); diff != "" {
			t.Errorf("%s %s: %s", c.query, c.version, diff)
		}
	}
	if du := containerUsage(fakeContainers{}.All("", true)); du.ActiveCount != 2 || du.TotalSize != 15 || du.Reclaimable != 10 {
		t.Errorf("%+v", du)
	}
	du := imageUsage([]image.Summary{{Size: 100, SharedSize: 40, Containers: 1}, {Size: 50, SharedSize: 40}}, 110, 100)
	if du.ActiveCount != 1 || du.Reclaimable != 10 {
		t.Errorf("%+v", du)
	}
}

// registryServer demands a password, either way of asking.
func registryServer(t *testing.T, challenge string) *httptest.Server {
	t.Helper()
	mux := http.NewServeMux()
	srv := httptest.NewServer(mux)
	t.Cleanup(srv.Close)
	good := func(r *http.Request) bool {
		u, p, _ := r.BasicAuth()
		return u == "me" && p == "secret"
	}
	mux.HandleFunc("/v2/", func(w http.ResponseWriter, r *http.Request) {
		if challenge == "" || challenge == "Basic" && good(r) || r.Header.Get("Authorization") == "Bearer tok" {
			return
		}
		w.Header().Set("Www-Authenticate", strings.ReplaceAll(challenge, "HOST", srv.URL))
		w.WriteHeader(http.StatusUnauthorized)
	})
	mux.HandleFunc("/token", func(w http.ResponseWriter, r *http.Request) {
		if !good(r) || r.URL.Query().Get("service") != "reg" || r.URL.Query().Get("account") != "me" {
			w.WriteHeader(http.StatusUnauthorized)
			return
		}
		_ = httpapi.WriteJSON(w, 200, map[string]string{"token": "tok", "refresh_token": "again"})
	})
	return srv
}

func TestAuth(t *testing.T) {
	for _, c := range []struct {
		name, challenge, password string
		code                      int
		answer                    string
	}{
		{"open registry", "", "x", 200, `{"Status":"Login Succeeded"}`},
		{"basic", "Basic", "secret", 200, `{"Status":"Login Succeeded"}`},
		{"basic, wrong", "Basic", "x", 401, `unauthorized: incorrect username or password`},
		{"token", `Bearer realm="HOST/token",service="reg"`, "secret", 200, `{"IdentityToken":"again","Status":"Login Succeeded"}`},
		{"token, wrong", `Bearer realm="HOST/token",service="reg"`, "x", 401, `unauthorized: incorrect username or password`},
		{"realm of another kind", `Bearer realm="file:///etc/shadow"`, "secret", 403, `is not allowed`},
		{"realm at the metadata address", `Bearer realm="http://169.254.169.254/token"`, "secret", 500, `is not allowed`},
		{"unknown challenge", `Digest x="y"`, "secret", 500, `unknown challenge`},
	} {
		t.Run(c.name, func(t *testing.T) {
			srv := registryServer(t, c.challenge)
			host := strings.TrimPrefix(srv.URL, "http://")
			body := `{"username":"me","password":"` + c.password + `","serveraddress":"` + host + `"}`
			w := do(t, service(t, host), "POST", "/auth", "1.51", body)
			if w.Code != c.code || !strings.Contains(w.Body.String(), c.answer) {
				t.Errorf("%d %s", w.Code, w.Body)
			}
			if strings.Contains(w.Body.String(), "secret") {
				t.Error("the answer repeats the password")
			}
		})
	}
}

func TestRealmWithoutTLSIsRefused(t *testing.T) {
	s := service(t)
	if _, err := s.bearer(t.Context(), "https://r/v2/", "https", map[string]string{"realm": "http://r/token"}, registry.AuthConfig{}); httpapi.Status(err) != 403 {
		t.Error(err)
	}
}

func TestRegistryHost(t *testing.T) {
	for in, want := range map[string]string{
		"": dockerHub, "https://index.docker.io/v1/": dockerHub, "docker.io": dockerHub, "r.example:5000": "r.example:5000",
		"https://r.example/v2/": "r.example", "[::1]:5000": "[::1]:5000", "a@b": "", "x y": "", "h:port": "",
	} {
		if got, err := registryHost(in); got != want || (err != nil) != (want == "") {
			t.Errorf("%q: %q %v", in, got, err)
		}
	}
}

func TestHostFiles(t *testing.T) {
	dir := t.TempDir()
	write := func(name, text string) string {
		path := filepath.Join(dir, name)
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
		return path
	}
	name, version := osRelease(write("os", "ID=x\nPRETTY_NAME=\"X Linux 1\"\nVERSION_ID='1'\n"))
	if name != "X Linux 1" || version != "1" {
		t.Errorf("%q %q", name, version)
	}
	if m := memTotal(write("mem", "MemFree: 1 kB\nMemTotal: 2048 kB\n")); m != 2<<20 {
		t.Error(m)
	}
	cgroups := write("cgroups", "#subsys_name\thierarchy\tnum\tenabled\nmemory\t3\t1\t1\ncpu\t0\t1\t1\npids\t4\t1\t1\n")
	if got := readControllers(false, dir, cgroups); got != (controllers{memory: true, pids: true}) {
		t.Errorf("v1: %+v", got)
	}
	write("cgroup.controllers", "cpuset cpu memory pids\n")
	write("sub/memory.swap.max", "max\n")
	if got := readControllers(true, dir, ""); got != (controllers{true, true, true, true, true}) {
		t.Errorf("v2: %+v", got)
	}
}

func TestBuildPrune(t *testing.T) {
	w := do(t, service(t), "POST", "/build/prune", "1.51", "")
	if got := strings.TrimSpace(w.Body.String()); w.Code != 200 || got != `{"SpaceReclaimed":0}` && got != `{"CachesDeleted":[],"SpaceReclaimed":0}` {
		t.Errorf("%d %s", w.Code, got)
	}
}
