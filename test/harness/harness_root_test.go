//go:build root

package harness_test

import (
	"strings"
	"testing"

	"stockade/test/harness"
)

func TestMain(m *testing.M) { harness.Main(m) }

// TestServer uses everything that the harness offers once.
func TestServer(t *testing.T) {
	s := harness.Get(t)
	before := s.Settled(t)
	if got := s.Must(t, "run", "--rm", "busybox", "echo", "hello"); got != "hello" {
		t.Errorf("got %q", got)
	}
	if r := s.Exec(t, s.User, nil, s.DockerOldPath(), "version"); r.Code != 0 {
		t.Error(r)
	}
	if r := s.DockerAs(t, s.Outsider, "ps"); r.Code == 0 || !strings.Contains(r.Stderr, "permission denied") {
		t.Errorf("an outsider: %v", r)
	}
	if r := s.API(t, s.User, "GET", "/_ping", nil); r.Status != 200 || r.Body != "OK" {
		t.Errorf("ping: %+v", r)
	}
	if _, err := s.Dial(s.Outsider); err == nil {
		t.Error("an outsider could connect")
	}
	s.NoLeaks(t, before)
}

// TestKill kills each process with a container running, and the container must still run.
func TestKill(t *testing.T) {
	s := harness.Get(t)
	id := s.Must(t, "run", "-d", "busybox", "sleep", "1000")
	t.Cleanup(func() { s.Must(t, "rm", "-f", id) })
	pid := s.Must(t, "inspect", "-f", "{{.State.Pid}}", id)
	for _, name := range []string{"gate", "engine", "mountd", "grantd", "netd", "cgroupd"} {
		s.KillAndWait(t, name)
	}
	s.Kill(t, "supervisor")
	if err := s.Up(); err != nil {
		t.Fatal(err)
	}
	if got := s.Must(t, "inspect", "-f", "{{.State.Running}} {{.State.Pid}}", id); got != "true "+pid {
		t.Errorf("got %s, want true %s", got, pid)
	}
	if got := s.Must(t, "exec", id, "echo", "still here"); got != "still here" {
		t.Errorf("got %q", got)
	}
}
