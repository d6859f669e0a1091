package event

import (
	"bufio"
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/moby/moby/api/types/events"

	"stockade/api/scope"
	"stockade/engine/httpapi"
)

func server(t *testing.T, b *Bus) *httptest.Server {
	t.Helper()
	rt := httpapi.NewRouter(slog.New(slog.DiscardHandler))
	b.Register(rt)
	srv := httptest.NewServer(rt)
	t.Cleanup(srv.Close)
	return srv
}

func get(t *testing.T, srv *httptest.Server, tenant, version, query string) *http.Response {
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), "GET", srv.URL+"/events?"+query, nil)
	if err != nil {
		t.Fatal(err)
	}
	scope.Scope{Tenant: tenant, Version: version}.Set(req.Header)
	res, err := srv.Client().Do(req)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { res.Body.Close() })
	return res
}

func TestPast(t *testing.T) {
	at := time.Unix(1000, 0)
	b := New(func() time.Time { return at })
	b.Publish("", events.DaemonEventType, events.ActionReload, "d", nil)
	b.Publish("a", events.ContainerEventType, events.ActionCreate, "c1", map[string]string{"image": "busybox:1", "name": "web"})
	b.Publish("a", events.ContainerEventType, "exec_start: sh", "c1", map[string]string{"image": "busybox:1", "name": "web", "k": "v"})
	b.Publish("b", events.ContainerEventType, events.ActionDie, "c2", nil)
	at = time.Unix(1010, 0)
	b.Publish("a", events.VolumeEventType, events.ActionCreate, "vol", nil)
	b.Publish("a", events.NetworkEventType, events.ActionConnect, "net", map[string]string{"container": "c1", "name": "bridge"})
	at = time.Unix(1020, 0)

	srv := server(t, b)
	for _, c := range []struct {
		name, query, filters string
		want                 []string
	}{
		{"all of the tenant and the daemon", "until=1015", "", []string{"daemon d", "container c1", "container c1", "volume vol", "network net"}},
		{"since", "since=1005.5&until=1015", "", []string{"volume vol", "network net"}},
		{"type", "until=1015", `{"type":["volume"]}`, []string{"volume vol"}},
		{"event", "until=1015", `{"event":{"create":true}}`, []string{"container c1", "volume vol"}},
		{"exec_start without details", "until=1015", `{"event":["exec_start"]}`, []string{"container c1"}},
		{"action", "until=1015", `{"action":["connect"]}`, []string{"network net"}},
		{"container by name", "until=1015", `{"container":["web"]}`, []string{"container c1", "container c1"}},
		{"container by id, with its networks", "until=1015", `{"container":["c1"]}`, []string{"container c1", "container c1", "network net"}},
		{"image without tag", "until=1015", `{"image":["busybox"]}`, []string{"container c1", "container c1"}},
		{"label", "until=1015", `{"label":["k=v"]}`, []string{"container c1"}},
		{"network", "until=1015", `{"network":["bridge"]}`, []string{"network net"}},
		{"volume", "until=1015", `{"volume":["vol"]}`, []string{"volume vol"}},
		{"scope", "until=1015", `{"scope":["swarm"]}`, nil},
		{"daemon", "until=1015", `{"daemon":["d"]}`, []string{"daemon d"}},
	} {
		t.Run(c.name, func(t *testing.T) {
			res := get(t, srv, "a", "1.51", c.query+"&filters="+url.QueryEscape(c.filters))
			if res.StatusCode != 200 {
				t.Fatalf("status %d", res.StatusCode)
			}
			var got []string
			d := json.NewDecoder(res.Body)
			for {
				var m events.Message
				if err := d.Decode(&m); err == io.EOF {
					break
				} else if err != nil {
					t.Fatal(err)
				}
				got = append(got, string(m.Type)+" "+m.Actor.ID)
			}
			if diff := cmp.Diff(c.want, got); diff != "" {
				t.Error(diff)
			}
		})
	}
	for _, q := range []string{"since=5&until=4", "since=x", "until=1.0000000001", "filters=" + url.QueryEscape(`{"nope":["x"]}`)} {
		if res := get(t, srv, "a", "1.51", q); res.StatusCode != 400 {
			t.Errorf("%s: status %d", q, res.StatusCode)
		}
	}
}

func TestLegacyFields(t *testing.T) {
	m := events.Message{Type: events.ContainerEventType, Action: "die", Actor: events.Actor{ID: "x", Attributes: map[string]string{"image": "i"}}}
	old, err := encode(m, "1.51")
	if err != nil || !strings.HasPrefix(string(old), `{"status":"die","id":"x","from":"i","Type":"container"`) {
		t.Errorf("1.51: %s %v", old, err)
	}
	now, err := encode(m, "1.52")
	if err != nil || strings.Contains(string(now), "status") {
		t.Errorf("1.52: %s %v", now, err)
	}
}

func TestFuture(t *testing.T) {
	b := New(time.Now)
	srv := server(t, b)
	res := get(t, srv, "a", "1.52", "")
	if ct := res.Header.Get("Content-Type"); ct != "application/jsonl" {
		t.Errorf("content type %q", ct)
	}
	await(t, func() bool { return b.Listeners() == 1 })
	b.Publish("b", events.VolumeEventType, events.ActionCreate, "other", nil)
	b.Publish("a", events.VolumeEventType, events.ActionCreate, "mine", nil)
	line, err := bufio.NewReader(res.Body).ReadString('\n')
	if err != nil || !strings.Contains(line, `"ID":"mine"`) {
		t.Errorf("%q %v", line, err)
	}
	end := fmt.Sprintf("until=%d", time.Now().Unix()+1)
	if rest, err := io.ReadAll(get(t, srv, "a", "1.52", end).Body); err != nil || strings.Count(string(rest), "\n") != 1 {
		t.Errorf("until: %q %v", rest, err)
	}
}

// T-801: a clock that is set back or forward loses no event and does not change their order, for those who listen and for
// those who ask for the past.
func TestClockJumps(t *testing.T) {
	at := time.Unix(100_000, 0)
	b := New(func() time.Time { return at })
	all := func(events.Message) bool { return true }
	_, live := b.subscribe("a", 0, 0, all, func() {})
	var want []string
	for i, jump := range []time.Duration{0, time.Second, -time.Hour, time.Second, 2 * time.Hour, -3 * time.Hour} {
		at = at.Add(jump)
		b.Publish("a", events.VolumeEventType, events.ActionCreate, fmt.Sprint(i), nil)
		want = append(want, fmt.Sprint(i))
	}
	past, _ := b.subscribe("a", 1, 0, all, func() {})
	var heard, told []string
	last := int64(0)
	for _, m := range past {
		told = append(told, m.Actor.ID)
		if m.TimeNano <= last {
			t.Errorf("event %s is not after the one before", m.Actor.ID)
		}
		last = m.TimeNano
	}
	for range want {
		heard = append(heard, (<-live.ch).Actor.ID)
	}
	if diff := cmp.Diff(want, told); diff != "" {
		t.Error("the past: ", diff)
	}
	if diff := cmp.Diff(want, heard); diff != "" {
		t.Error("live: ", diff)
	}
	// Before the jumps nothing is added to, and what came after is not mixed in.
	if old, _ := b.subscribe("a", 1, time.Unix(100_000, 0).UnixNano(), all, func() {}); len(old) != 1 || old[0].Actor.ID != "0" {
		t.Errorf("until the first event: %+v", old)
	}
}

func TestHistoryIsBounded(t *testing.T) {
	b := New(time.Now)
	for i := range history + 10 {
		b.Publish("a", events.VolumeEventType, events.ActionCreate, fmt.Sprint(i), nil)
	}
	old, _ := b.subscribe("a", 1, 0, func(events.Message) bool { return true }, func() {})
	if len(old) != history || old[0].Actor.ID != "10" {
		t.Errorf("%d events, first %s", len(old), old[0].Actor.ID)
	}
}

func TestSilentClientIsDropped(t *testing.T) {
	b := New(time.Now)
	srv := server(t, b)
	get(t, srv, "a", "1.52", "") // never read
	await(t, func() bool { return b.Listeners() == 1 })
	_, reader := b.subscribe("a", 0, 0, func(events.Message) bool { return true }, func() {})
	seen := make(chan int)
	go func() {
		n := 0
		for range reader.ch {
			n++
		}
		seen <- n
	}()
	sent := 0
	big := map[string]string{"x": strings.Repeat("x", 8<<10)}
	for b.Listeners() == 2 {
		for range perReads / 2 {
			b.Publish("a", events.VolumeEventType, events.ActionCreate, "v", big)
			sent++
		}
		await(t, func() bool { return len(reader.ch) == 0 })
		if sent > 1<<20 {
			t.Fatal("client was never dropped")
		}
	}
	b.unsubscribe(reader)
	close(reader.ch)
	if n := <-seen; n != sent {
		t.Errorf("the other client saw %d of %d events", n, sent)
	}
}

func await(t *testing.T, ok func() bool) {
	t.Helper()
	for end := time.Now().Add(30 * time.Second); !ok(); time.Sleep(time.Millisecond) {
		if time.Now().After(end) {
			t.Fatal("condition never held")
		}
	}
}
