//go:build root

package e2e

import (
	"strings"
	"testing"

	"stockade/test/harness"
)

// TestSecondRuntime holds that a container of another OCI runtime does what one of runc does.
func TestSecondRuntime(t *testing.T) {
	both(t, func(t *testing.T, d client) {
		run := func(args ...string) []string { return append([]string{"run", "--rm", "--runtime", "crun"}, args...) }
		d.want("hello", run("busybox", "echo", "hello")...)
		d.want("0 0\n1000 100", run("busybox", "sh", "-c", `echo $(id -u) $(id -g); su user -c 'echo $(id -u) $(id -g)'`)...)
		d.fails(42, "", run("busybox", "sh", "-c", "exit 42")...)
		d.fails(137, "", run("busybox", "sh", "-c", "sh -c 'kill -9 $$'; exit $?")...)
		d.fails(127, "executable file", run("busybox", "no-such-program")...)
		d.fails(127, "/no/such/program", run("busybox", "/no/such/program")...)
		d.fails(126, "permission denied", run("busybox", "/etc/passwd")...)
		if r := d.feed("some input", "run", "--rm", "-i", "--runtime", "crun", "busybox", "sh", "-c", "cat; echo err >&2"); r.Code != 0 || r.Stdout != "some input" || r.Stderr != "err\n" {
			t.Error(r)
		}
		// The same confinement.
		d.want("Seccomp:\t2", run("busybox", "grep", "Seccomp:", "/proc/self/status")...)
		d.want("CapEff:\t00000000a80425fb", run("busybox", "grep", "CapEff", "/proc/self/status")...)
		d.fails(1, "", run("busybox", "mount", "-t", "tmpfs", "none", "/mnt")...)
		d.fails(1, "Read-only file system", run("--read-only", "busybox", "touch", "/x")...)

		name := d.sleeper("--runtime", "crun", "--init", "-v", "/data", "--memory", "64m", "--pids-limit", "50")
		d.want("crun", "inspect", "-f", "{{.HostConfig.Runtime}}", name)
		if r := d.run("stats", "--no-stream", "--format", "{{.MemUsage}} {{.PIDs}}", name); !strings.Contains(r.Stdout, "/ 64MiB") {
			t.Errorf("limits: %v", r)
		}
		d.want("inside", "exec", name, "echo", "inside")
		d.fails(7, "", "exec", name, "sh", "-c", "exit 7")
		d.fails(127, "", "exec", name, "no-such-program")
		d.want("1000 100", "exec", "-u", "user", "-w", "/tmp", "-e", "A=b", name, "sh", "-c", `[ $PWD$A = /tmpb ] && echo $(id -u) $(id -g)`)
		if r := d.feed("typed", "exec", "-i", name, "cat"); r.Code != 0 || r.Stdout != "typed" {
			t.Error(r)
		}
		c := d.terminal(33, 77, "exec", "-it", name, "sh")
		c.sees("# ")
		c.send("tty; echo size-$(stty size)\n")
		c.sees("size-33 77")
		c.send("exit 5\n")
		c.ends(5)
		c = d.terminal(30, 70, "run", "--rm", "-it", "--runtime", "crun", "busybox", "sh")
		c.sees("# ")
		c.send("exit 6\n")
		c.ends(6)
		d.ok("pause", name)
		d.ok("unpause", name)
		d.ok("kill", "-s", "USR2", name)
		d.ok("stop", "-t", "30", name)
		d.state(name, "exited")
		d.ok("start", name)
		d.want("again", "exec", name, "echo", "again")
		// The engine finds it again and can still enter it.
		d.s.KillAndWait(t, "engine")
		d.want("found", "exec", name, "echo", "found")
		d.ok("kill", name)
		d.want("137", "wait", name)
		d.ok("rm", name)
	})
}

// TestRuntimeWithOwnUserns holds that a runtime that makes the user namespace itself gives the container no other ids.
func TestRuntimeWithOwnUserns(t *testing.T) {
	d := newest(t)
	volume := d.volume()
	name := d.sleeper("--runtime", "crun-userns", "--network", "none", "-v", volume+":/v")
	d.want("0", "exec", name, "sh", "-c", "touch /v/f && stat -c %u /v/f")
	d.want("0", "run", "--rm", "-v", volume+":/v", "busybox", "stat", "-c", "%u", "/v/f")
	first := strings.Fields(d.ok("exec", name, "cat", "/proc/self/uid_map"))
	if len(first) != 3 || first[0] != "0" || first[1] == "0" || first[2] != "65536" {
		t.Errorf("id map %v", first)
	}
	second := d.ok("run", "--rm", "--runtime", "crun-userns", "--network", "none", "busybox", "cat", "/proc/self/uid_map")
	if strings.Join(strings.Fields(second), " ") == strings.Join(first, " ") {
		t.Errorf("two containers have the same ids: %v", first)
	}
	d.fails(9, "", "exec", name, "sh", "-c", "exit 9")
}

// TestUnknownRuntime holds that nobody but the administrator names a program.
func TestUnknownRuntime(t *testing.T) {
	both(t, func(t *testing.T, d client) {
		for _, name := range []string{"runsc", "io.containerd.runc.v2", "/usr/bin/runc", "../runc"} {
			d.fails(125, "unknown or invalid runtime name: "+name, "run", "--rm", "--runtime", name, "busybox", "true")
		}
	})
}

// TestSecondRuntimeLeavesNothing holds that a runtime's own state goes with its container.
func TestSecondRuntimeLeavesNothing(t *testing.T) {
	s := harness.Get(t)
	d := docker(t)
	d.ok("run", "--rm", "--runtime", "crun", "busybox", "true")
	before := s.Settled(t)
	for range 3 {
		d.ok("run", "--rm", "--runtime", "crun", "busybox", "true")
		d.fails(127, "", "run", "--rm", "--runtime", "crun", "busybox", "/missing")
	}
	s.NoLeaks(t, before)
}
