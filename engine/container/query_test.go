package container

import (
	"encoding/json"
	"fmt"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/moby/moby/api/types/container"

	"stockade/engine/container/store"
)

func (a *api) names(query string) []string {
	a.t.Helper()
	var list []container.Summary
	if err := json.Unmarshal([]byte(a.want(200, "GET", "/containers/json?"+query, nil)), &list); err != nil {
		a.t.Fatal(err)
	}
	out := []string{}
	for _, s := range list {
		out = append(out, strings.TrimPrefix(s.Names[0], "/"))
	}
	return out
}

func TestListFilters(t *testing.T) {
	a := newAPI(t)
	var exposed, published container.HostConfig
	if err := json.Unmarshal([]byte(`{"PortBindings":{"80/tcp":[{"HostPort":"8080"}]}}`), &published); err != nil {
		t.Fatal(err)
	}
	var ports container.Config
	if err := json.Unmarshal([]byte(`{"ExposedPorts":{"443/tcp":{}}}`), &ports); err != nil {
		t.Fatal(err)
	}
	ports.Labels = map[string]string{"tier": "web"}
	webID := a.create("web", ports, &published)
	a.create("db", container.Config{Cmd: []string{"exit", "3"}, Labels: map[string]string{"tier": "db"}}, &container.HostConfig{Binds: []string{"data:/var/lib"}})
	exposed.NetworkMode = "none"
	a.create("idle", container.Config{}, &exposed)
	a.want(204, "POST", "/containers/web/start", nil)
	a.want(204, "POST", "/containers/db/start", nil)
	until(t, "db ends", func() bool { return a.inspectOf("db").State.Status == "exited" })
	for _, c := range []struct {
		query, filters string
		want           []string
	}{
		{"", "", []string{"web"}},
		{"all=1", "", []string{"idle", "db", "web"}},
		{"limit=1", "", []string{"idle"}},
		{"all=1", `{"name":["^/w"]}`, []string{"web"}},
		{"all=1", `{"name":["b"]}`, []string{"db", "web"}},
		{"all=1", `{"id":["` + webID[:10] + `"]}`, []string{"web"}},
		{"all=1", `{"label":["tier"]}`, []string{"db", "web"}},
		{"all=1", `{"label":{"tier=db":true}}`, []string{"db"}},
		{"", `{"status":["created"]}`, []string{"idle"}},
		{"", `{"exited":["3"]}`, []string{"db"}},
		{"", `{"exited":["0"]}`, []string{}},
		{"all=1", `{"ancestor":["busybox"]}`, []string{"idle", "db", "web"}},
		{"all=1", `{"ancestor":["nope"]}`, []string{}},
		{"all=1", `{"before":["db"]}`, []string{"web"}},
		{"all=1", `{"since":["db"]}`, []string{"idle"}},
		{"all=1", `{"volume":["data"]}`, []string{"db"}},
		{"all=1", `{"volume":["/var/lib"]}`, []string{"db"}},
		{"all=1", `{"network":["none"]}`, []string{"idle"}},
		{"all=1", `{"network":["bridge"]}`, []string{"db", "web"}},
		{"all=1", `{"publish":["8080"]}`, []string{"web"}},
		{"all=1", `{"publish":["8000-9000/tcp"]}`, []string{"web"}},
		{"all=1", `{"publish":["80"]}`, []string{}},
		{"all=1", `{"expose":["443"]}`, []string{"web"}},
		{"all=1", `{"health":["none"]}`, []string{"idle", "db", "web"}},
		{"all=1", `{"is-task":["true"]}`, []string{}},
	} {
		got := a.names(c.query + "&filters=" + url.QueryEscape(c.filters))
		if diff := cmp.Diff(c.want, got); diff != "" {
			t.Errorf("%s %s: %s", c.query, c.filters, diff)
		}
	}
	for _, bad := range []string{`{"bogus":["x"]}`, `{"status":["x"]}`, `{"exited":["x"]}`, `{"health":["x"]}`, `{"publish":["x"]}`} {
		a.want(400, "GET", "/containers/json?filters="+url.QueryEscape(bad), nil)
	}
	a.want(404, "GET", "/containers/json?filters="+url.QueryEscape(`{"before":["nobody"]}`), nil)
}

func TestStatusText(t *testing.T) {
	now := time.Date(2026, 1, 1, 12, 0, 0, 0, time.UTC)
	ago := func(d time.Duration) time.Time { return now.Add(-d) }
	for _, c := range []struct {
		st     store.State
		health *container.Health
		want   string
	}{
		{store.State{}, nil, "Created"},
		{store.State{Running: true, StartedAt: ago(5 * time.Second)}, nil, "Up 5 seconds"},
		{store.State{Running: true, StartedAt: ago(time.Hour)}, &container.Health{Status: "starting"}, "Up About an hour (health: starting)"},
		{store.State{Running: true, Paused: true, StartedAt: ago(2 * time.Minute)}, nil, "Up 2 minutes (Paused)"},
		{store.State{Running: true, Restarting: true, ExitCode: 1, FinishedAt: ago(3 * time.Second)}, nil, "Restarting (1) 3 seconds ago"},
		{store.State{ExitCode: 137, StartedAt: ago(time.Hour), FinishedAt: ago(3 * 24 * time.Hour)}, nil, "Exited (137) 3 days ago"},
		{store.State{Dead: true}, nil, "Dead"},
		{store.State{Removing: true}, nil, "Removal In Progress"},
	} {
		if got := statusText(&view{Record: store.Record{State: c.st}, Health: c.health}, now); got != c.want {
			t.Errorf("%q, want %q", got, c.want)
		}
	}
}

func TestIndexPrefix(t *testing.T) {
	x := newIndex()
	for i := range 5000 {
		id := fmt.Sprintf("%064x", i*7919)
		if ok, _ := x.reserve("t", fmt.Sprintf("name%d", i), id); !ok {
			t.Fatal("name taken")
		}
		x.add(newItem(&store.Record{ID: id, Tenant: "t", Name: fmt.Sprintf("name%d", i)}))
	}
	full := fmt.Sprintf("%064x", 1234*7919)
	for ref, want := range map[string]string{
		full: "", "name77": "", "/name77": "", "000": "multiple IDs found with provided prefix: 000",
		"f": "No such container: f", "": `invalid name or ID supplied: ""`,
	} {
		_, err := x.find("t", ref)
		if got := errText(err); got != want {
			t.Errorf("%s: %q, want %q", ref, got, want)
		}
	}
	if _, err := x.find("other", full); err == nil {
		t.Error("another tenant finds it")
	}
}

func errText(err error) string {
	if err == nil {
		return ""
	}
	return err.Error()
}

func TestLogsRequest(t *testing.T) {
	a := newAPI(t)
	a.create("xx", container.Config{Cmd: []string{"echo", "hi"}, Tty: true}, nil)
	if m := message(a.want(400, "GET", "/containers/xx/logs", nil)); m != "must specify at least one of 'stdout' or 'stderr'" {
		t.Error(m)
	}
	a.want(204, "POST", "/containers/xx/start", nil)
	until(t, "it ends", func() bool { return a.inspectOf("xx").State.Status == "exited" })
	if got := a.want(200, "GET", "/containers/xx/logs?stdout=1&follow=1", nil); got != "hi\n" {
		t.Errorf("%q", got)
	}
	if got := a.want(200, "GET", "/containers/xx/logs?stdout=1&since="+fmt.Sprint(time.Now().Unix()+100), nil); got != "" {
		t.Errorf("%q", got)
	}
	a.create("yy", container.Config{}, &container.HostConfig{LogConfig: container.LogConfig{Type: "none"}})
	a.want(501, "GET", "/containers/yy/logs?stdout=1", nil)
}

func TestUpdate(t *testing.T) {
	a := newAPI(t)
	id := a.create("xx", container.Config{}, &container.HostConfig{Resources: container.Resources{Memory: 64 << 20}})
	a.want(204, "POST", "/containers/xx/start", nil)
	a.want(400, "POST", "/containers/xx/update", container.UpdateConfig{Resources: container.Resources{Memory: 1}})
	a.want(200, "POST", "/containers/xx/update", container.UpdateConfig{
		Resources: container.Resources{Memory: 128 << 20}, RestartPolicy: container.RestartPolicy{Name: "always"},
	})
	got := a.inspectOf("xx").HostConfig
	if got.Memory != 128<<20 || got.MemorySwap != 256<<20 || got.RestartPolicy.Name != "always" {
		t.Errorf("%+v", got)
	}
	if l := a.rt.tasks[id].limits; l.Memory != 128<<20 {
		t.Errorf("%+v", l)
	}
}

func TestPrune(t *testing.T) {
	a := newAPI(t)
	a.create("run", container.Config{}, nil)
	a.want(204, "POST", "/containers/run/start", nil)
	keep := a.create("keep", container.Config{Labels: map[string]string{"keep": ""}}, nil)
	gone := a.create("gone", container.Config{}, nil)
	var report container.PruneReport
	text := a.want(200, "POST", "/containers/prune?filters="+url.QueryEscape(`{"label!":["keep"]}`), nil)
	if err := json.Unmarshal([]byte(text), &report); err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff([]string{gone}, report.ContainersDeleted); diff != "" {
		t.Error(diff)
	}
	a.want(200, "POST", "/containers/prune?filters="+url.QueryEscape(`{"until":["1h"]}`), nil)
	a.inspectOf(keep)
	a.want(400, "POST", "/containers/prune?filters="+url.QueryEscape(`{"until":["soon"]}`), nil)
}

func TestStats(t *testing.T) {
	a := newAPI(t)
	a.create("xx", container.Config{}, nil)
	var got container.StatsResponse
	read := func() {
		t.Helper()
		if err := json.Unmarshal([]byte(a.want(200, "GET", "/containers/xx/stats?stream=0&one-shot=1", nil)), &got); err != nil {
			t.Fatal(err)
		}
	}
	read()
	if !got.Read.IsZero() || got.Name != "/xx" {
		t.Errorf("%+v", got)
	}
	a.want(204, "POST", "/containers/xx/start", nil)
	read()
	if got.MemoryStats.Usage != 1<<20 || got.MemoryStats.Limit == 0 || got.CPUStats.SystemUsage == 0 || got.CPUStats.OnlineCPUs == 0 {
		t.Errorf("%+v", got)
	}
	a.want(400, "GET", "/containers/xx/stats?stream=1&one-shot=1", nil)
}

func TestVolumesFrom(t *testing.T) {
	a := newAPI(t)
	a.create("first", container.Config{Volumes: map[string]struct{}{"/anon": {}}}, &container.HostConfig{Binds: []string{"data:/data", "/srv:/srv"}})
	a.create("second", container.Config{}, &container.HostConfig{VolumesFrom: []string{"first:ro"}})
	var got []string
	for _, m := range a.inspectOf("second").Mounts {
		got = append(got, fmt.Sprintf("%s%s %v", m.Type, m.Destination, m.RW))
	}
	slices.Sort(got)
	if diff := cmp.Diff([]string{"bind/srv false", "volume/anon false", "volume/data false"}, got); diff != "" {
		t.Error(diff)
	}
	// SECURITY(T-701): another user of the same tenant gets the volumes, never somebody's binds.
	hc := &container.HostConfig{VolumesFrom: []string{"second"}}
	a.uid = 1001
	if body := a.want(403, "POST", "/containers/create", container.CreateRequest{Config: &container.Config{Image: "busybox"}, HostConfig: hc}); !strings.Contains(body, "bound by another user") {
		t.Error(body)
	}
	a.create("plain", container.Config{}, &container.HostConfig{Binds: []string{"data:/data"}})
	a.create("plainer", container.Config{}, &container.HostConfig{VolumesFrom: []string{"plain"}})
	a.want(204, "DELETE", "/containers/plain", nil)
	a.want(204, "DELETE", "/containers/plainer", nil)
	a.uid = 1000
	a.want(204, "DELETE", "/containers/first?v=1", nil)
	if len(a.f.dropped) != 0 || len(a.f.volumes) != 2 {
		t.Errorf("still used: dropped %v, volumes %v", a.f.dropped, a.f.volumes)
	}
	a.want(204, "DELETE", "/containers/second?v=1", nil)
	if diff := cmp.Diff([]string{"g1"}, a.f.dropped); diff != "" {
		t.Error(diff)
	}
	a.tenant = "bob"
	a.want(400, "POST", "/containers/create", container.CreateRequest{Config: &container.Config{Image: "busybox"}, HostConfig: hc})
}

func TestParsePS(t *testing.T) {
	out := "UID        PID  PPID CMD\nroot         1     0 init foreign\n100000     42     1 sh -c  sleep\n100000      -     - -\nroot        43     1 other\nroot         -     - -\n"
	got, err := parsePS([]byte(out), []int{42})
	if err != nil {
		t.Fatal(err)
	}
	want := [][]string{{"100000", "42", "1", "sh -c sleep"}, {"100000", "-", "-", "-"}}
	if diff := cmp.Diff(want, got.Processes); diff != "" {
		t.Error(diff)
	}
	if _, err := parsePS([]byte("USER CMD\n"), nil); err == nil {
		t.Error("output without pids was accepted")
	}
	if _, err := parsePSArgs("-eo ppid=PID,args"); err == nil {
		t.Error("a renamed column was accepted")
	}
}

func TestTopFromProc(t *testing.T) {
	got, err := topFromProc("/proc", []int{os.Getpid(), 1 << 30})
	if err != nil {
		t.Fatal(err)
	}
	if len(got.Processes) != 1 || got.Processes[0][0] != fmt.Sprint(os.Getuid()) || got.Processes[0][2] != fmt.Sprint(os.Getppid()) {
		t.Errorf("%+v", got)
	}
}

func TestDetachKeys(t *testing.T) {
	for in, want := range map[string]string{"": "", "ctrl-p,ctrl-q": "\x10\x11", "a,ctrl-a": "a\x01", "ctrl-@": "\x00", "ctrl-[": "\x1b", "ctrl-^": "\x1e"} {
		if got, err := detachKeys(in); err != nil || string(got) != want {
			t.Errorf("%q: %q, %v", in, got, err)
		}
	}
	for _, bad := range []string{"ctrl-", "ctrl-ab", "xyz", "ctrl-1", ","} {
		if _, err := detachKeys(bad); err == nil {
			t.Errorf("%q was accepted", bad)
		}
	}
}

func TestParseSignal(t *testing.T) {
	for in, want := range map[string]int{"9": 9, "KILL": 9, "sigterm": 15, "SIGHUP": 1, "RTMIN": 34, "SIGRTMIN+3": 37, "RTMAX-1": 63, "RTMIN+30": 64} {
		if got, err := ParseSignal(in); err != nil || got != want {
			t.Errorf("%s: %d, %v", in, got, err)
		}
	}
	for _, bad := range []string{"", "0", "65", "-1", "NOPE", "RTMIN+31", "RTMAX+1"} {
		if _, err := ParseSignal(bad); err == nil {
			t.Errorf("%q was accepted", bad)
		}
	}
}

func TestUserFilesOfTheImage(t *testing.T) {
	w := newWorld(t)
	defer w.close(t)
	c := w.make(t, container.Config{}, container.HostConfig{})
	etc := filepath.Join(w.data, "store", "rw", c.view().ID, "upper", "etc")
	look := func(opened int) {
		t.Helper()
		a, err := w.account(t.Context(), &c.view().Record, "app")
		if err != nil || a.UID != 1000 || w.rt.rootOpen != opened {
			t.Fatalf("%+v, %v, opened %d times", a, err, w.rt.rootOpen)
		}
	}
	look(1)
	look(1)
	if err := os.MkdirAll(etc, 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(etc, "hosts"), nil, 0o644); err != nil {
		t.Fatal(err)
	}
	look(1) // a mount point changes nothing
	if err := os.WriteFile(filepath.Join(etc, "passwd"), nil, 0o644); err != nil {
		t.Fatal(err)
	}
	look(2)
	if err := os.RemoveAll(etc); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink("/etc", etc); err != nil {
		t.Fatal(err)
	}
	look(3)
}
