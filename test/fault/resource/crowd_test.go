//go:build root

package resource

import (
	"fmt"
	"io"
	"net/http"
	"os"
	"strings"
	"sync"
	"syscall"
	"testing"

	"stockade/test/harness"
)

// resetPeak lets a process's peak of memory begin anew, and peak reads it, in bytes.
func resetPeak(t *testing.T, pid int) {
	t.Helper()
	must(t, os.WriteFile(fmt.Sprintf("/proc/%d/clear_refs", pid), []byte("5"), 0))
}

func peak(t *testing.T, pid int) int64 { return status(t, pid, "VmHWM") << 10 }

// T-801: 5000 idle connections of ten users. They end at the users' shares, cost a bounded number of bytes each, and
// others are served meanwhile.
func TestIdleConnections(t *testing.T) {
	s := harness.Get(t)
	info, err := os.Stat(harness.Socket)
	must(t, err)
	group := info.Sys().(*syscall.Stat_t).Gid
	gate := s.PID(t, "gate")
	before := memory(t, gate)
	var crowd conns
	defer func() { crowd.close() }()
	const users, each = 10, 500
	taken := map[uint32]int{}
	all := 0
	for i := range users * each {
		u := harness.User{Name: "stkt-crowd", UID: uint32(59900 + i/each), GID: group}
		if answer(crowd.dial(t, s, u, ping), harness.Patience) == 200 { // idle from now on
			taken[u.UID]++
			all++
		}
	}
	// Control: those who were first have their share, and it is not everything.
	if taken[59900] != each || all < 3*each || all > 2048 {
		t.Errorf("%d of %d connections were taken: %v", all, users*each, taken)
	}
	for i := range users {
		if taken[uint32(59900+i)] == 0 {
			t.Errorf("user %d of %d got nothing", i, users)
		}
	}
	perConnection := (memory(t, gate) - before) / int64(all)
	t.Logf("%d connections, %d bytes each", all, perConnection)
	if perConnection > 64<<10 {
		t.Errorf("an idle connection costs the gate %d bytes", perConnection)
	}
	served(t, s)
	if got := s.Must(t, "run", "--rm", "busybox", "echo", "served"); got != "served" {
		t.Errorf("got %q", got)
	}
	crowd.close()
	harness.Poll(t, "the gate to close its ends", func() (string, bool) {
		n := descriptors(t, gate)
		return fmt.Sprint(n), n < 200
	})
	if s.PID(t, "gate") != gate {
		t.Error("the gate was started again")
	}
}

// T-801: 500 creates at once, then 100 starts at once. All succeed or are refused by a limit that says so; exactly the
// acknowledged containers exist.
func TestManyAtOnce(t *testing.T) {
	s := harness.Get(t)
	before := s.Settled(t)
	gate, engine := s.PID(t, "gate"), s.PID(t, "engine")
	start := map[string]int64{"gate": memory(t, gate), "engine": memory(t, engine)}
	resetPeak(t, gate)
	resetPeak(t, engine)
	const creates, starts = 500, 100
	client := s.Client(t, s.User)
	ask := func(method, path, body string) (out harness.Response) {
		req, err := http.NewRequestWithContext(harness.Context(t), method, "http://localhost/v1.51"+path, strings.NewReader(body))
		if err == nil && body != "" {
			req.Header.Set("Content-Type", "application/json")
		}
		var resp *http.Response
		if err == nil {
			resp, err = client.Do(req)
		}
		if err == nil {
			defer resp.Body.Close()
			var data []byte
			data, err = io.ReadAll(resp.Body)
			out.Status, out.Body = resp.StatusCode, string(data)
		}
		if err != nil {
			t.Errorf("%s %s: %v", method, path, err)
		}
		return out
	}
	atOnce := func(n int, request func(i int) (method, path, body string)) []harness.Response {
		results := make([]harness.Response, n)
		var wg sync.WaitGroup
		for i := range n {
			wg.Go(func() {
				method, path, body := request(i)
				results[i] = ask(method, path, body)
			})
		}
		wg.Wait()
		return results
	}
	made := map[string]bool{}
	refused := 0
	for i, r := range atOnce(creates, func(i int) (string, string, string) {
		return "POST", fmt.Sprintf("/containers/create?name=many-%d", i), `{"Image":"busybox","Cmd":["sleep","1000"]}`
	}) {
		switch r.Status {
		case http.StatusCreated:
			made[fmt.Sprintf("many-%d", i)] = true
		case http.StatusServiceUnavailable, http.StatusTooManyRequests:
			message(t, r)
			refused++
		default:
			t.Errorf("create %d: %+v", i, r)
		}
	}
	t.Logf("%d made, %d refused", len(made), refused)
	if len(made) < starts {
		t.Fatalf("only %d were made", len(made))
	}
	there := map[string]bool{}
	for _, name := range strings.Fields(s.Must(t, "ps", "-a", "--format", "{{.Names}}", "-f", "name=many-")) {
		there[name] = true
		if !made[name] {
			t.Errorf("%s was not acknowledged and is there", name)
		}
	}
	var names []string
	for name := range made {
		names = append(names, name)
		if !there[name] {
			t.Errorf("%s was acknowledged and is lost", name)
		}
	}
	running := 0
	for i, r := range atOnce(starts, func(i int) (string, string, string) { return "POST", "/containers/" + names[i] + "/start", "" }) {
		switch r.Status {
		case http.StatusNoContent:
			running++
		case http.StatusServiceUnavailable, http.StatusTooManyRequests:
			message(t, r)
		default:
			t.Errorf("start %d: %+v", i, r)
		}
	}
	if got := len(strings.Fields(s.Must(t, "ps", "-q", "-f", "name=many-"))); got != running {
		t.Errorf("%d run, %d starts were acknowledged", got, running)
	}
	for name, pid := range map[string]int{"gate": gate, "engine": engine} {
		grown := peak(t, pid) - start[name]
		t.Logf("%s: at most %d MiB more", name, grown>>20)
		if grown > 160<<20 {
			t.Errorf("the %s grew by %d MiB", name, grown>>20)
		}
	}
	for i, r := range atOnce(len(names), func(i int) (string, string, string) {
		return "DELETE", "/containers/" + names[i] + "?force=1", ""
	}) {
		if r.Status != http.StatusNoContent {
			t.Errorf("remove %s: %+v", names[i], r)
		}
	}
	if s.PID(t, "gate") != gate || s.PID(t, "engine") != engine {
		t.Error("a process was started again")
	}
	s.NoLeaks(t, before)
}
