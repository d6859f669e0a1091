//go:build root

package e2e

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"stockade/internal/proctable"
	"stockade/test/harness"
)

// TestSurvive kills each process of the server with SIGKILL while containers run: they run on, their logs have every
// line, their exit codes and published ports are right, and what is asked afterwards works.
func TestSurvive(t *testing.T) {
	for _, p := range proctable.Table {
		t.Run(p.Name, func(t *testing.T) {
			d := docker(t)
			dir := d.folder()
			const lines = 150
			// Says a line all the time, and ends when the host says so.
			script := fmt.Sprintf("i=0; while [ $i -lt %d ] || [ ! -e /dir/go ]; do i=$((i+1)); echo line $i; sleep 0.01; done; echo last $i; exit 23", lines)
			talker := d.start("-v", dir+":/dir", "busybox", "sh", "-c", script)
			server := d.start("-p", "127.0.0.1::8080", "--memory", "64m", "stockade/demo")
			port := published(d, server, "8080")
			get(t, "127.0.0.1:"+port)
			before := d.inspect(server).State
			d.logged(talker, "line 1")

			d.s.KillAndWait(t, p.Name)

			after := d.inspect(server).State
			if after.Pid != before.Pid || after.StartedAt != before.StartedAt || !after.Running {
				t.Errorf("the container was %+v, is %+v", before, after)
			}
			get(t, "127.0.0.1:"+port)
			d.want("still here", "exec", server, "echo", "still here")
			if err := os.WriteFile(filepath.Join(dir, "go"), nil, 0o644); err != nil {
				t.Fatal(err)
			}
			d.want("23", "wait", talker)
			checkLines(t, d.ok("logs", talker), lines)
			d.want("works", "run", "--rm", "-p", "127.0.0.1::80", "-v", dir+":/dir", "--memory", "32m", "busybox", "echo", "works")
			d.ok("stop", "-t", "1", server)
			d.ok("start", server)
			get(t, "127.0.0.1:"+published(d, server, "8080"))
			d.ok("rm", "-f", server)
		})
	}
}

// checkLines holds that a talker's log has each line once and in order.
func checkLines(t testing.TB, log string, least int) {
	t.Helper()
	got := strings.Split(log, "\n")
	last := len(got) - 1
	if last < least || got[last] != fmt.Sprintf("last %d", last) {
		t.Fatalf("%d lines, the last is %q", len(got), got[last])
	}
	for i, line := range got[:last] {
		if line != fmt.Sprintf("line %d", i+1) {
			t.Fatalf("line %d is %q", i+1, line)
		}
	}
}

// TestEndWithoutEngine lets a container end while there is no engine.
func TestEndWithoutEngine(t *testing.T) {
	d := docker(t)
	dir := d.folder()
	name := d.start("-v", dir+":/dir", "busybox", "sh", "-c", "echo begin; while [ ! -e /dir/go ]; do sleep 0.01; done; echo end; exit 19")
	again := d.start("--restart", "on-failure:1", "-v", dir+":/dir", "busybox", "sh", "-c", "echo run; while [ ! -e /dir/go ]; do sleep 0.01; done; exit 1")
	d.logged(name, "begin")
	d.logged(again, "run")
	d.s.Kill(t, "engine")
	if err := os.WriteFile(filepath.Join(dir, "go"), nil, 0o644); err != nil {
		t.Fatal(err)
	}
	d.s.PID(t, "supervisor")
	d = docker(t) // waits for a healthy server
	d.want("19", "wait", name)
	d.want("begin\nend", "logs", name)
	d.want("false", "inspect", "-f", "{{.State.Running}}", name)
	harness.Poll(t, "the second run of a container with a restart policy", func() (string, bool) {
		out := d.ok("logs", again)
		return out, strings.HasPrefix(out, "run\nrun") // and one more: the count begins anew with the engine, as in Docker
	})
	// A client that waits while the engine starts again gets its answer.
	d.s.Kill(t, "engine")
	d.want("fine", "run", "--rm", "busybox", "echo", "fine")
	// An attached client does not hang when the gate is gone.
	c := d.begin("run", "--rm", "busybox", "sleep", "1000")
	harness.Poll(t, "the container to run", func() (string, bool) {
		out := d.ok("ps", "--format", "{{.Command}}", "--no-trunc")
		return out, strings.Contains(out, "sleep 1000")
	})
	id := d.ok("ps", "-q", "-n", "1")
	d.s.KillAndWait(t, "gate")
	<-c.done
	d.ok("rm", "-f", id)
}

// TestDownUp takes the whole server down and up again: everything that is on disk is there, and what should run runs.
func TestDownUp(t *testing.T) {
	d := docker(t)
	volume := d.volume()
	always := d.start("--restart", "always", "-p", "127.0.0.1::8080", "-v", volume+":/v", "stockade/demo")
	unless := d.start("--restart", "unless-stopped", "busybox", "sleep", "1000")
	d.ok("stop", "-t", "0", unless)
	once := d.start("busybox", "sh", "-c", "trap 'echo asked to end; exit 3' TERM; echo ready; while :; do sleep 0.05; done")
	d.logged(once, "ready")
	images := d.ok("images", "-q")

	if err := d.s.Down(); err != nil {
		t.Fatal(err)
	}
	if r := d.run("ps"); r.Code == 0 {
		t.Errorf("a server that is down answers: %v", r)
	}
	if err := d.s.Up(); err != nil {
		t.Fatal(err)
	}
	d.want(images, "images", "-q")
	d.want(volume, "volume", "ls", "-q", "-f", "name="+volume)
	d.state(always, "running")
	get(t, "127.0.0.1:"+published(d, always, "8080"))
	d.want("exited", "inspect", "-f", "{{.State.Status}}", unless)
	d.want("exited 3", "inspect", "-f", "{{.State.Status}} {{.State.ExitCode}}", once)
	d.want("ready\nasked to end", "logs", once)
	d.ok("start", once)
	d.state(once, "running")
}
