//go:build root

package e2e

import (
	"context"
	"encoding/json"
	"fmt"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/moby/moby/api/types/container"

	"stockade/test/harness"
)

// client is one docker client of the ordinary user.
type client struct {
	t    testing.TB
	s    *harness.Server
	path string
}

// docker is the distribution's client, the older one of the two.
func docker(t testing.TB) client {
	s := harness.Get(t)
	return client{t: t, s: s, path: s.DockerOldPath()}
}

// newest is the newest client.
func newest(t testing.TB) client {
	s := harness.Get(t)
	return client{t: t, s: s, path: s.DockerPath()}
}

// both runs a test with each client.
func both(t *testing.T, f func(t *testing.T, d client)) {
	t.Run("28", func(t *testing.T) { f(t, docker(t)) })
	t.Run("29", func(t *testing.T) { f(t, newest(t)) })
}

// run runs a command to its end.
func (d client) run(args ...string) harness.Result {
	d.t.Helper()
	return d.s.Exec(d.t, d.s.User, nil, d.path, args...)
}

// feed is run with a standard input.
func (d client) feed(input string, args ...string) harness.Result {
	d.t.Helper()
	return d.s.Exec(d.t, d.s.User, strings.NewReader(input), d.path, args...)
}

// ok runs a command that must succeed and returns its trimmed standard output.
func (d client) ok(args ...string) string {
	d.t.Helper()
	r := d.run(args...)
	if r.Code != 0 {
		d.t.Fatal(r)
	}
	return strings.TrimSpace(r.Stdout)
}

// want runs a command that must succeed and print exactly this.
func (d client) want(output string, args ...string) {
	d.t.Helper()
	r := d.run(args...)
	if r.Code != 0 || strings.TrimSpace(r.Stdout) != output {
		d.t.Errorf("%v\nwant stdout: %s", r, output)
	}
}

// fails runs a command that must end with a code and say something on standard error.
func (d client) fails(code int, text string, args ...string) {
	d.t.Helper()
	r := d.run(args...)
	if r.Code != code || !strings.Contains(r.Stderr, text) {
		d.t.Errorf("%v\nwant exit code %d and %q in stderr", r, code, text)
	}
}

var count atomic.Int64

// unique is a name that no other test has.
func unique() string { return fmt.Sprintf("e2e-%d", count.Add(1)) }

// name is the name of a container that is removed with the test.
func (d client) name() string {
	name := unique()
	d.t.Cleanup(func() {
		r := d.run("rm", "-f", "-v", name)
		if r.Code != 0 && !strings.Contains(r.Stderr, "No such container") {
			d.t.Errorf("clean up: %v", r)
		}
	})
	return name
}

// start runs a container in the background: options, image, command.
func (d client) start(args ...string) string {
	d.t.Helper()
	name := d.name()
	d.ok(append([]string{"run", "-d", "--name", name}, args...)...)
	return name
}

// sleeper starts a busybox that waits and ends at SIGTERM.
func (d client) sleeper(options ...string) string {
	d.t.Helper()
	return d.start(append(options, "busybox", "sh", "-c", "trap 'exit 0' TERM; sleep 1000 & wait")...)
}

// volume is the name of a volume that is removed with the test.
func (d client) volume() string {
	name := unique()
	d.t.Cleanup(func() { d.run("volume", "rm", "-f", name) })
	return name
}

// inspect is a container's description.
func (d client) inspect(name string) container.InspectResponse {
	d.t.Helper()
	var list []container.InspectResponse
	if err := json.Unmarshal([]byte(d.ok("inspect", "--type", "container", name)), &list); err != nil || len(list) != 1 {
		d.t.Fatalf("inspect %s: %d, %v", name, len(list), err)
	}
	return list[0]
}

// state waits for a container's state.
func (d client) state(name, status string) {
	d.t.Helper()
	harness.Poll(d.t, name+" to be "+status, func() (string, bool) {
		r := d.run("inspect", "-f", "{{.State.Status}}", name)
		got := strings.TrimSpace(r.Stdout)
		return got + r.Stderr, got == status
	})
}

// logged waits until a container's log has a text.
func (d client) logged(name, text string) {
	d.t.Helper()
	harness.Poll(d.t, fmt.Sprintf("%q in the log of %s", text, name), func() (string, bool) {
		r := d.run("logs", name)
		return r.Stdout + r.Stderr, strings.Contains(r.Stdout+r.Stderr, text)
	})
}

// host runs a program on the host as the ordinary user and returns its trimmed output.
func (d client) host(name string, args ...string) string {
	d.t.Helper()
	r := d.s.Exec(d.t, d.s.User, nil, name, args...)
	if r.Code != 0 {
		d.t.Fatal(r)
	}
	return strings.TrimSpace(r.Stdout)
}

// folder is a new folder of the ordinary user, removed with the test.
func (d client) folder() string {
	dir := d.host("mktemp", "-d")
	d.t.Cleanup(func() { d.s.Exec(d.t, d.s.User, nil, "rm", "-rf", dir) })
	return dir
}

// background is a context that ends with the test, for commands that run beside it.
func background(t testing.TB) context.Context {
	ctx, cancel := context.WithCancel(context.Background())
	t.Cleanup(cancel)
	return ctx
}
