package network

import (
	"encoding/json"
	"log/slog"
	"net/http/httptest"
	"net/netip"
	"net/url"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	api "github.com/moby/moby/api/types/network"

	"stockade/api/scope"
	"stockade/engine/httpapi"
)

type containers struct{}

func (containers) Endpoints(tenant, network string) map[string]api.EndpointResource {
	if tenant != "a" || network != Bridge {
		return nil
	}
	return map[string]api.EndpointResource{"c1": {Name: "web", IPv4Address: netip.MustParsePrefix("10.9.0.2/24")}}
}

func service(t *testing.T, data string) *Service {
	t.Helper()
	a, err := NewAddresses("10.9.0.0/24")
	if err != nil {
		t.Fatal(err)
	}
	s, err := New(data, a, containers{})
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func do(t *testing.T, s *Service, tenant, method, path, body string, out any) int {
	t.Helper()
	rt := httpapi.NewRouter(slog.New(slog.DiscardHandler))
	s.Register(rt)
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

func TestList(t *testing.T) {
	s := service(t, t.TempDir())
	for _, c := range []struct {
		filters string
		want    []string
	}{
		{"", []string{"bridge", "none"}},
		{`{"name":["bri"]}`, []string{"bridge"}},
		{`{"driver":["null"]}`, []string{"none"}},
		{`{"type":["custom"]}`, []string{}},
		{`{"type":["builtin"]}`, []string{"bridge", "none"}},
		{`{"dangling":["true"]}`, []string{}},
		{`{"id":["` + s.ID("a", "none")[:12] + `"]}`, []string{"none"}},
		{`{"id":["` + s.ID("b", "none") + `"]}`, []string{}},
	} {
		var got []api.Summary
		if code := do(t, s, "a", "GET", "/networks?filters="+url.QueryEscape(c.filters), "", &got); code != 200 {
			t.Fatalf("%s: %d", c.filters, code)
		}
		names := []string{}
		for _, n := range got {
			names = append(names, n.Name)
		}
		if diff := cmp.Diff(c.want, names); diff != "" {
			t.Errorf("%s: %s", c.filters, diff)
		}
	}
}

func TestInspect(t *testing.T) {
	data := t.TempDir()
	s := service(t, data)
	if s.ID("a", Bridge) != service(t, data).ID("a", Bridge) {
		t.Error("the id changed with a restart")
	}
	var n api.Inspect
	if code := do(t, s, "a", "GET", "/networks/"+s.ID("a", Bridge)[:10], "", &n); code != 200 {
		t.Fatal(code)
	}
	if n.Name != "bridge" || n.Driver != "bridge" || n.Containers["c1"].Name != "web" ||
		n.IPAM.Config[0].Subnet.String() != "10.9.0.0/24" || n.IPAM.Config[0].Gateway.String() != "10.9.0.1" {
		t.Errorf("%+v", n)
	}
	if id, name, gateway, bits := s.Bridge("a"); id != n.ID || name != "bridge" || gateway != "10.9.0.1" || bits != 24 {
		t.Error(id, name, gateway, bits)
	}
	for path, want := range map[string]int{"/networks/none": 200, "/networks/host": 404, "/networks/x": 404, "/networks/bridge?scope=swarm": 404} {
		if code := do(t, s, "a", "GET", path, "", nil); code != want {
			t.Errorf("%s: %d", path, code)
		}
	}
	if code := do(t, s, "a", "GET", "/networks/"+s.ID("b", Bridge), "", nil); code != 404 {
		t.Errorf("another tenant's id: %d", code)
	}
}

func TestRefusals(t *testing.T) {
	s := service(t, t.TempDir())
	for _, c := range []struct {
		method, path, body string
		code               int
	}{
		{"DELETE", "/networks/bridge", "", 403},
		{"DELETE", "/networks/nope", "", 404},
		{"POST", "/networks/create", `{"Name":"bridge"}`, 403},
		{"POST", "/networks/create", `{"Name":"mine"}`, 501},
		{"POST", "/networks/bridge/connect", `{"Container":"x"}`, 501},
		{"POST", "/networks/nope/disconnect", `{"Container":"x"}`, 404},
		{"POST", "/networks/prune", "", 200},
	} {
		if code := do(t, s, "a", c.method, c.path, c.body, nil); code != c.code {
			t.Errorf("%s %s: %d", c.method, c.path, code)
		}
	}
}

func TestAddresses(t *testing.T) {
	for _, bad := range []string{"", "10.0.0.0", "10.0.0.0/30", "fd00::/64", "0.0.0.0/0"} {
		if _, err := NewAddresses(bad); err == nil {
			t.Errorf("pool %q is accepted", bad)
		}
	}
	a, err := NewAddresses("10.9.0.5/29") // 10.9.0.0 … 10.9.0.7
	if err != nil {
		t.Fatal(err)
	}
	take := func(id, wanted, want string, code int) {
		t.Helper()
		w, _ := netip.ParseAddr(wanted)
		got, err := a.Allocate(t.Context(), id, w)
		if code != 0 {
			if err == nil || httpapi.Status(err) != code {
				t.Errorf("%s wants %q: %v %v", id, wanted, got, err)
			}
			return
		}
		if err != nil || got.String() != want {
			t.Errorf("%s wants %q: %v %v, want %s", id, wanted, got, err, want)
		}
	}
	take("a", "", "10.9.0.2", 0)
	take("a", "", "10.9.0.2", 0) // keeps it
	take("a", "10.9.0.5", "", 409)
	take("b", "10.9.0.2", "", 409)
	for _, never := range []string{"10.9.0.0", "10.9.0.1", "10.9.0.7", "10.9.1.2", "::1"} {
		take("b", never, "", 400)
	}
	take("b", "10.9.0.4", "10.9.0.4", 0)
	take("c", "", "10.9.0.3", 0)
	a.Free("c")
	a.Free("unknown")
	take("d", "", "10.9.0.5", 0) // 10.9.0.3 rests
	take("e", "", "10.9.0.6", 0)
	take("f", "", "10.9.0.3", 0)
	take("g", "", "", 503)
	a.Free("a")
	take("g", "", "10.9.0.2", 0)
}
