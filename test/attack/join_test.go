//go:build root

package attack

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"stockade/test/harness"
)

// sleeper starts a container that is removed with the test.
func sleeper(t *testing.T, s *harness.Server, args ...string) string {
	t.Helper()
	id := s.Must(t, append(append([]string{"run", "-d"}, args...), "busybox", "sleep", "1000")...)
	t.Cleanup(func() { s.Must(t, "rm", "-f", id) })
	return id
}

// ids is the range of a running container, as the host sees it.
func ids(t *testing.T, s *harness.Server, id string) string {
	t.Helper()
	data, err := os.ReadFile("/proc/" + s.Must(t, "inspect", "-f", "{{.State.Pid}}", id) + "/uid_map")
	must(t, err)
	return strings.Join(strings.Fields(string(data)), " ")
}

// asGate sends a create request to the engine as the gate does, for a tenant.
func asGate(t *testing.T, tenant, body string) (int, string) {
	t.Helper()
	conn, err := harness.DialAs(harness.Run+"/engine.sock", harness.Lookup(t, "stockade-gate"))
	must(t, err)
	defer conn.Close()
	return askOn(t, conn, fmt.Sprintf("POST /containers/create HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\nStockade-Tenant: %s\r\nStockade-Caller: 1\r\n"+
		"Stockade-Version: 1.51\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n%s", tenant, len(body), body))
}

// T-204, T-302: another tenant's container cannot be joined, by no spelling, and nothing tells that it exists. The
// control asks for the tenant that has it.
func TestJoinForeign(t *testing.T) {
	s := harness.Get(t)
	target := sleeper(t, s, "--ipc=shareable", "--name", "join-foreign")
	for _, mode := range []string{"NetworkMode", "PidMode", "IpcMode"} {
		for _, ref := range []string{target, "join-foreign", target[:12]} {
			body := fmt.Sprintf(`{"Image":"busybox","HostConfig":{%q:"container:%s"}}`, mode, ref)
			status, answer := asGate(t, "other", body)
			var got struct{ Message string }
			if err := json.Unmarshal([]byte(answer), &got); err != nil || status != 400 || got.Message != "No such container: "+ref {
				t.Errorf("%s: %d %s", body, status, answer)
			}
			status, answer = asGate(t, "default", body)
			if status != 201 {
				t.Errorf("control: %s: %d %s", body, status, answer)
				continue
			}
			s.Must(t, "rm", field(t, answer, "Id"))
		}
	}
}

// T-302, T-503: what was not joined is out of reach, also for a container that has the other's ids; what nobody joined has
// ids of its own. The control joins.
func TestJoinGivesOnlyWhatIsJoined(t *testing.T) {
	s := harness.Get(t)
	target := sleeper(t, s, "--ipc=shareable", "--tmpfs", "/secret")
	s.Must(t, "exec", target, "sh", "-c", "echo secret >/secret/file; echo secret >/dev/shm/file")
	stranger := sleeper(t, s)
	network := sleeper(t, s, "--network=container:"+target)
	processes := sleeper(t, s, "--pid=container:"+target)
	memory := sleeper(t, s, "--ipc=container:"+target)
	if a, b := ids(t, s, target), ids(t, s, stranger); a == b {
		t.Errorf("a container that joined nothing has the ids %s of another", a)
	}
	for _, id := range []string{network, processes, memory} {
		if a, b := ids(t, s, target), ids(t, s, id); a != b {
			t.Errorf("control: a joiner has the ids %s, its target %s", b, a)
		}
	}
	// Processes like the containers' own, files of the target's through them, shared memory.
	const look = `for p in /proc/[0-9]*; do
		[ "$(tr '\0' ' ' <$p/cmdline)" = "sleep 1000 " ] && echo process && cat $p/root/secret/file
	done 2>/dev/null | sort; cat /dev/shm/file 2>/dev/null`
	for _, c := range []struct{ name, id, want string }{
		{"a stranger", stranger, "process"}, {"with the network", network, "process"}, {"with the memory", memory, "process\nsecret"},
		{"control: with the processes", processes, "process\nprocess\nsecret"},
	} {
		if out := s.Docker(t, "exec", c.id, "sh", "-c", look); strings.TrimSpace(out.Stdout) != c.want {
			t.Errorf("%s: %v", c.name, out)
		}
	}
	// A joiner of the network cannot end the target; one of the processes can.
	s.Docker(t, "exec", network, "sh", "-c", "kill -9 -1")
	if got := s.Must(t, "inspect", "-f", "{{.State.Running}}", target); got != "true" {
		t.Error("a joiner of the network ended the target")
	}
	s.Docker(t, "exec", processes, "sh", "-c", "kill -9 -1")
	if got := s.Must(t, "wait", processes); got != "137" {
		t.Errorf("control: exit code %s", got)
	}
	for _, id := range []string{target, stranger, network, memory} {
		if got := s.Must(t, "inspect", "-f", "{{.State.Running}}", id); got != "true" {
			t.Errorf("%s does not run", id)
		}
	}
}

// T-503: the ids of a container that has ended are nobody else's while one that joined it runs. The control: afterwards
// they are.
func TestIDsOfAnEndedTarget(t *testing.T) {
	s := harness.Get(t)
	target := s.Must(t, "run", "-d", "busybox", "sleep", "1000")
	joiner := s.Must(t, "run", "-d", "--network=container:"+target, "busybox", "sleep", "1000")
	last := s.Must(t, "run", "-d", "--pid=container:"+joiner, "busybox", "sleep", "1000")
	taken := ids(t, s, target)
	s.Must(t, "rm", "-f", target)
	use := func() (found bool) {
		for range 6 { // prepared slots have theirs already
			id := s.Must(t, "run", "-d", "busybox", "sleep", "1000")
			defer s.Must(t, "rm", "-f", id)
			found = found || ids(t, s, id) == taken
		}
		return found
	}
	if use() {
		t.Errorf("%s belongs to two containers, one of whose owners asked for nothing", taken)
	}
	s.KillAndWait(t, "engine")
	if use() {
		t.Errorf("%s belongs to two containers after a start of the engine", taken)
	}
	s.Must(t, "rm", "-f", joiner)
	if got := s.Must(t, "wait", last); got != "137" { // its pid namespace was the joiner's
		t.Errorf("exit code %s", got)
	}
	s.Must(t, "rm", "-f", last)
	harness.Poll(t, "control: the ids to be used again", func() (string, bool) { return taken, use() })
}

// T-701: who shares ids with another container reaches its binds; so nobody shares them with another person's container
// when there are binds. The controls do the same as one person, and without binds.
func TestJoinAndBinds(t *testing.T) {
	s := harness.Get(t)
	dir := folder(t)
	must(t, os.WriteFile(filepath.Join(dir, "file"), []byte("own"), 0o644))
	with := sleeper(t, s, "-v", dir+":/b")
	without := sleeper(t, s)
	run := func(u harness.User, args ...string) harness.Result {
		return s.DockerAs(t, u, append([]string{"run", "--rm"}, args...)...)
	}
	for _, mode := range []string{"--network", "--pid"} {
		if r := run(harness.Root, mode+"=container:"+with, "busybox", "true"); r.Code != 125 || !strings.Contains(r.Stderr, "made by different users, and one of them has a bind mount") {
			t.Error(r)
		}
		if r := run(harness.Root, mode+"=container:"+without, "busybox", "true"); r.Code != 0 {
			t.Errorf("control: %v", r)
		}
		if r := run(s.User, mode+"=container:"+with, "-v", dir+":/c", "busybox", "cat", "/c/file"); r.Code != 0 || r.Stdout != "own" {
			t.Errorf("control: %v", r)
		}
	}
	// Not by a third one in between, either: root's container has no bind, and shares ids with one that would get one.
	between := strings.TrimSpace(run(harness.Root, "-d", "--network=container:"+without, "busybox", "sleep", "1000").Stdout)
	t.Cleanup(func() { s.Docker(t, "rm", "-f", between) })
	if r := run(s.User, "--network=container:"+without, "-v", dir+":/b", "busybox", "true"); r.Code != 125 || !strings.Contains(r.Stderr, "made by different users") {
		t.Error(r)
	}
}
