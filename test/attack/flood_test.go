//go:build root

package attack

import (
	"fmt"
	"net"
	"os"
	"strconv"
	"strings"
	"sync"
	"testing"

	"stockade/test/harness"
)

// memory is the resident memory of a process, in bytes.
func memory(t *testing.T, pid int) int64 {
	t.Helper()
	data, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	must(t, err)
	n, err := strconv.ParseInt(strings.TrimSuffix(status(t, string(data))["VmRSS"], " kB"), 10, 64)
	must(t, err)
	return n << 10
}

// T-801, T-102: one user's idle and half-said connections end at that user's share; others are served. Afterwards the user is,
// too.
func TestFloodOfConnections(t *testing.T) {
	s := harness.Get(t)
	const share = 512 // gate.maxConnsPerUID
	var conns []net.Conn
	closeAll := func() {
		for _, c := range conns {
			c.Close()
		}
	}
	defer closeAll()
	for i := range share + 100 {
		conn, err := s.Dial(s.User)
		must(t, err)
		conns = append(conns, conn)
		text := ""
		switch i % 3 { // idle, a head that never ends, a body that never comes
		case 1:
			text = "GET /v1.51/containers/json HTTP/1.1\r\nHost: localhost\r\nX: "
		case 2:
			text = "POST /v1.51/containers/create HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nContent-Length: 1000\r\n\r\n{"
		}
		_, _ = conn.Write([]byte(text)) // refused ones are closed already
	}
	for range 20 {
		if r := s.API(t, harness.Root, "GET", "/v1.51/containers/json", nil); r.Status != 200 {
			t.Errorf("another user during the flood: %+v", r)
		}
	}
	if r := s.DockerAs(t, harness.Root, "run", "--rm", "busybox", "echo", "served"); strings.TrimSpace(r.Stdout) != "served" {
		t.Errorf("another user during the flood: %v", r)
	}
	// Control: the share is really used up.
	if conn, err := s.Dial(s.User); err == nil {
		if status, body := askOn(t, conn, "GET /_ping HTTP/1.1\r\nHost: localhost\r\n\r\n"); status != 0 && status != 503 {
			t.Errorf("control: the flooding user is served: %d %s", status, body)
		}
		conn.Close()
	}
	closeAll()
	harness.Poll(t, "the user's share to be free again", func() (string, bool) {
		r := s.Docker(t, "ps")
		return r.String(), r.Code == 0
	})
}

// T-801: many creations at once all succeed or say why, and leave nothing.
func TestFloodOfCreates(t *testing.T) {
	s := harness.Get(t)
	before := s.Settled(t)
	const many = 50
	var wg sync.WaitGroup
	results := make([]harness.Response, many)
	for i := range many {
		wg.Go(func() {
			results[i] = s.API(t, s.User, "POST", "/v1.51/containers/create", `{"Image":"busybox","Cmd":["true"]}`)
			if results[i].Status == 201 {
				id := field(t, results[i].Body, "Id")
				if r := s.API(t, s.User, "POST", "/v1.51/containers/"+id+"/start", nil); r.Status != 204 {
					t.Errorf("start: %+v", r)
				}
				if r := s.API(t, s.User, "POST", "/v1.51/containers/"+id+"/wait", nil); r.Status != 200 || !strings.Contains(r.Body, `"StatusCode":0`) {
					t.Errorf("wait: %+v", r)
				}
				if r := s.API(t, s.User, "DELETE", "/v1.51/containers/"+id, nil); r.Status != 204 {
					t.Errorf("remove: %+v", r)
				}
			}
		})
	}
	wg.Wait()
	for i, r := range results {
		if r.Status != 201 {
			t.Errorf("create %d: %+v", i, r)
		}
	}
	s.NoLeaks(t, before)
}

// T-801: clients that follow logs, attach or watch events and never read cost the server little, and others nothing.
func TestClientsThatNeverRead(t *testing.T) {
	s := harness.Get(t)
	id := s.Must(t, "run", "-d", "--log-opt", "max-size=4m", "busybox", "sh", "-c", "yes stockade-stockade-stockade-stockade")
	// Who attaches holds the container's output back when not reading, as with Docker; that is this one's lot.
	attached := s.Must(t, "run", "-d", "--log-opt", "max-size=4m", "busybox", "sh", "-c", "yes stockade-stockade-stockade-stockade")
	t.Cleanup(func() { s.Must(t, "rm", "-f", id, attached) })
	harness.Poll(t, "output", func() (string, bool) {
		return "", s.Must(t, "logs", "-n", "1", id) != "" && s.Must(t, "logs", "-n", "1", attached) != ""
	})
	gate, engine := s.PID(t, "gate"), s.PID(t, "engine")
	memGate, memEngine := memory(t, gate), memory(t, engine)
	var conns []net.Conn
	defer func() {
		for _, c := range conns {
			c.Close()
		}
	}()
	for i := range 60 {
		conn, err := s.Dial(s.User)
		must(t, err)
		conns = append(conns, conn)
		text := []string{
			"GET /v1.51/containers/" + id + "/logs?stdout=1&follow=1 HTTP/1.1\r\nHost: localhost\r\n\r\n",
			"POST /v1.51/containers/" + attached + "/attach?stream=1&stdout=1&logs=1 HTTP/1.1\r\nHost: localhost\r\nConnection: Upgrade\r\nUpgrade: tcp\r\nContent-Length: 0\r\n\r\n",
			"GET /v1.51/events HTTP/1.1\r\nHost: localhost\r\n\r\n",
		}[i%3]
		_, err = conn.Write([]byte(text))
		must(t, err)
	}
	for range 10 { // events for those who watch and do not read
		if got := s.Must(t, "run", "--rm", "busybox", "echo", "served"); got != "served" {
			t.Errorf("got %q", got)
		}
	}
	goesOn := func(id string) {
		t.Helper()
		first := s.Must(t, "logs", "-t", "-n", "1", id)
		harness.Poll(t, "the log to go on", func() (string, bool) {
			now := s.Must(t, "logs", "-t", "-n", "1", id)
			return now, now != first
		})
	}
	goesOn(id) // those who read its log slowly do not hold it up
	for name, grown := range map[string]int64{"gate": memory(t, gate) - memGate, "engine": memory(t, engine) - memEngine} {
		if grown > 192<<20 {
			t.Errorf("the %s grew by %d MiB", name, grown>>20)
		}
	}
	if got := [2]int{s.PID(t, "gate"), s.PID(t, "engine")}; got != [2]int{gate, engine} {
		t.Errorf("a process was restarted: %v", got)
	}
	for _, c := range conns {
		c.Close()
	}
	goesOn(attached) // nothing is held up by those who are gone
}
