//go:build root

package attack

import (
	"fmt"
	"strings"
	"testing"

	"stockade/test/harness"
)

// T-601: what is published to 127.0.0.1 is reached from the host alone, and what is not published not at all, not even
// by a neighbour that routes to the pool. The control is a port that is published to every address. Forged packets and
// the rules themselves are tried in priv/netd.
func TestPublishedToLoopback(t *testing.T) {
	s := harness.Get(t)
	id := s.Must(t, "run", "-d", "-p", "127.0.0.1::8080", "stockade/demo")
	t.Cleanup(func() { s.Must(t, "rm", "-f", id) })
	open := s.Must(t, "run", "-d", "-p", "8080", "stockade/demo")
	t.Cleanup(func() { s.Must(t, "rm", "-f", open) })
	port := func(id string) string {
		_, p, ok := strings.Cut(strings.Fields(s.Must(t, "port", id, "8080"))[0], ":")
		if !ok {
			t.Fatal("no port")
		}
		return p
	}
	address := s.Must(t, "inspect", "-f", "{{.NetworkSettings.Networks.bridge.IPAddress}}", id)
	gateway := s.Must(t, "inspect", "-f", "{{.NetworkSettings.Networks.bridge.Gateway}}", id)
	closed, all := port(id), port(open)

	// A neighbour on a network of its own, which sends everything to the host.
	const ns, near, far = "stkt-attack", "10.99.77.1", "10.99.77.2"
	ip := func(args ...string) {
		t.Helper()
		if r := s.Exec(t, harness.Root, nil, "/usr/bin/env", append([]string{"ip"}, args...)...); r.Code != 0 {
			t.Fatal(r)
		}
	}
	ip("netns", "add", ns)
	t.Cleanup(func() { ip("netns", "delete", ns) })
	ip("link", "add", "attack0", "type", "veth", "peer", "name", "eth0", "netns", ns)
	ip("address", "add", near+"/30", "dev", "attack0")
	ip("link", "set", "attack0", "up")
	ip("-n", ns, "address", "add", far+"/30", "dev", "eth0")
	ip("-n", ns, "link", "set", "eth0", "up")
	ip("-n", ns, "route", "add", "default", "via", near)
	fetch := []string{"/usr/bin/env", "timeout", "5", "busybox", "wget", "-q", "-O", "-"} // connecting has no limit of its own
	neighbour := append([]string{"/usr/bin/env", "ip", "netns", "exec", ns}, fetch[1:]...)

	const page = "Hello from a container"
	for _, c := range []struct {
		name, address string
		as            []string
		works         bool
	}{
		{"host, loopback", "127.0.0.1:" + closed, fetch, true},
		{"host, another address", near + ":" + closed, fetch, false},
		{"neighbour", near + ":" + closed, neighbour, false},
		{"neighbour, the bridge's address", gateway + ":" + closed, neighbour, false},
		{"neighbour, the container's own port", address + ":8080", neighbour, false},
		{"control: neighbour, published everywhere", near + ":" + all, neighbour, true},
		{"control: host, the container's own port", address + ":8080", fetch, true},
	} {
		attempt := func() harness.Result {
			return s.Exec(t, harness.Root, nil, c.as[0], append(c.as[1:len(c.as):len(c.as)], "http://"+c.address+"/")...)
		}
		if !c.works {
			if r := attempt(); r.Code == 0 {
				t.Errorf("%s: %v", c.name, r)
			}
			continue
		}
		harness.Poll(t, c.name, func() (string, bool) { // the page's server needs its time
			r := attempt()
			return r.String(), strings.Contains(r.Stdout, page)
		})
	}
	if r := s.Docker(t, "run", "--rm", "busybox", "timeout", "5", "wget", "-q", "-O", "-", fmt.Sprintf("http://%s:%s/", gateway, closed)); r.Code == 0 {
		t.Errorf("another container: %v", r)
	}
	if got := s.Must(t, "run", "--rm", "busybox", "timeout", "30", "wget", "-q", "-O", "-", fmt.Sprintf("http://%s:%s/", gateway, all)); !strings.Contains(got, page) {
		t.Errorf("control: another container: %s", got)
	}
}

// T-305, T-801: a container that forks without end stays within its limit; others are served, and it can be removed.
func TestForkBomb(t *testing.T) {
	s := harness.Get(t)
	before := s.Settled(t)
	id := s.Must(t, "run", "-d", "--pids-limit", "64", "--memory", "64m", "--cpus", "0.5", "busybox", "sh", "-c", "b() { b | b & b; }; b")
	harness.Poll(t, "the bomb to meet its limit", func() (string, bool) {
		r := s.Docker(t, "logs", "-n", "200", id)
		return r.String(), strings.Contains(r.Stdout+r.Stderr, "can't fork")
	})
	for range 5 {
		healthy(t, s)
	}
	s.Must(t, "rm", "-f", id)
	s.NoLeaks(t, before)
}
