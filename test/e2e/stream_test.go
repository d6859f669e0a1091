//go:build root

package e2e

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"stockade/test/harness"
)

func TestLogs(t *testing.T) {
	both(t, func(t *testing.T, d client) {
		name := d.start("busybox", "sh", "-c", "for i in 1 2 3; do echo out$i; done; echo err >&2; printf unfinished")
		d.ok("wait", name)
		r := d.run("logs", name)
		if r.Stdout != "out1\nout2\nout3\nunfinished" || r.Stderr != "err\n" {
			t.Error(r)
		}
		d.want("unfinished", "logs", "-n", "1", name)
		d.want("", "logs", "--tail", "0", name)
		d.want("out1\nout2\nout3\nunfinished", "logs", "--tail", "all", name)
		stamp, rest, _ := strings.Cut(d.ok("logs", "-t", name), " ")
		when, err := time.Parse(time.RFC3339Nano, stamp)
		if err != nil || !strings.HasPrefix(rest, "out1\n") {
			t.Fatalf("logs -t: %q %q %v", stamp, rest, err)
		}
		d.want("", "logs", "--since", when.Add(time.Hour).Format(time.RFC3339Nano), name)
		d.want("", "logs", "--until", when.Add(-time.Second).Format(time.RFC3339Nano), name)
		d.want("out1\nout2\nout3\nunfinished", "logs", "--since", when.Add(-time.Second).Format(time.RFC3339Nano), "--until", when.Add(time.Hour).Format(time.RFC3339Nano), name)
		d.want("out1\nout2\nout3\nunfinished", "logs", "-f", name) // ends, as the container has
	})
}

func TestLogsFollow(t *testing.T) {
	d := docker(t)
	name := d.start("busybox", "sh", "-c", "echo first; while [ ! -e /go ]; do sleep 0.05; done; echo last")
	c := d.begin("logs", "-f", name)
	c.sees("first")
	d.ok("exec", name, "touch", "/go")
	c.sees("last")
	c.ends(0)
	silent := d.start("--log-driver", "none", "busybox", "echo", "x")
	d.ok("wait", silent)
	d.fails(1, "does not support reading", "logs", silent)
}

func TestLogRotation(t *testing.T) {
	d := docker(t)
	name := d.start("--log-opt", "max-size=10k", "--log-opt", "max-file=2", "busybox", "sh", "-c", "seq 1 20000")
	d.ok("wait", name)
	lines := strings.Fields(d.ok("logs", name))
	if len(lines) == 0 || len(lines) > 15000 || lines[len(lines)-1] != "20000" {
		t.Errorf("%d lines are kept", len(lines))
	}
}

func TestAttach(t *testing.T) {
	both(t, func(t *testing.T, d client) {
		t.Run("streams", func(t *testing.T) {
			d := client{t: t, s: d.s, path: d.path}
			name := d.name()
			d.ok("create", "-i", "--name", name, "busybox", "sh", "-c", "read x; echo got $x; cat >/dev/null; exit 6")
			d.ok("start", name)
			c := d.begin("attach", name)
			c.send("line\n")
			c.sees("got line")
			c.stdin.Close() // the end of our input is the end of the container's
			c.ends(6)
		})
		t.Run("detach keys", func(t *testing.T) {
			d := client{t: t, s: d.s, path: d.path}
			name := d.start("-it", "busybox", "sh")
			c := d.terminal(24, 80, "attach", name)
			c.send("echo at-$((40+2))\n")
			c.sees("at-42")
			c.send("\x10\x11")
			c.ends(1) // "read escape sequence", as with Docker
			d.state(name, "running")
			c = d.terminal(24, 80, "attach", "--detach-keys", "ctrl-x,q", name)
			c.send("echo again-$((40+2))\n")
			c.sees("again-42")
			c.send("\x18q")
			c.ends(1)
			d.state(name, "running")
		})
		t.Run("detach keys of run", func(t *testing.T) {
			d := client{t: t, s: d.s, path: d.path}
			name := d.name()
			c := d.terminal(24, 80, "run", "--name", name, "-it", "busybox", "sh")
			c.sees("# ")
			c.send("\x10\x11")
			c.ends(0)
			d.state(name, "running")
		})
		t.Run("signal proxy", func(t *testing.T) {
			d := client{t: t, s: d.s, path: d.path}
			name := d.start("busybox", "sh", "-c", "trap 'echo got; exit 9' TERM; while :; do sleep 0.1; echo on; done")
			c := d.begin("attach", name)
			c.sees("on")
			if err := c.cmd.Process.Signal(unix.SIGTERM); err != nil {
				t.Fatal(err)
			}
			c.sees("got")
			c.ends(9)
			d.fails(1, "stopped container", "attach", name)
		})
		t.Run("two at once", func(t *testing.T) {
			d := client{t: t, s: d.s, path: d.path}
			name := d.start("-i", "busybox", "cat")
			one, two := d.begin("attach", name), d.begin("attach", "--no-stdin", name)
			harness.Poll(t, "both to see the output", func() (string, bool) {
				one.send("x\n")
				return one.String() + two.String(), strings.Contains(one.out.String(), "x") && strings.Contains(two.out.String(), "x")
			})
			d.ok("kill", name)
			one.ends(137)
			two.ends(137)
		})
	})
}

func TestExec(t *testing.T) {
	both(t, func(t *testing.T, d client) {
		name := d.sleeper("-e", "A=container", "-w", "/tmp", "--hostname", "inside")
		d.want("container /tmp 0 inside", "exec", name, "sh", "-c", "echo $A $(pwd) $(id -u) $(hostname)")
		d.want("exec /var 33", "exec", "-e", "A=exec", "-w", "/var", "-u", "www-data", name, "sh", "-c", "echo $A $(pwd) $(id -u)")
		if r := d.feed("typed", "exec", "-i", name, "sh", "-c", "cat; echo err >&2; exit 11"); r.Code != 11 || r.Stdout != "typed" || r.Stderr != "err\n" {
			t.Error(r)
		}
		for program, code := range map[string]int{"no-such-program": 127, "/no/such/program": 127, "/etc/passwd": 126} {
			if r := d.run("exec", name, program); r.Code != code || !strings.Contains(r.Stdout, "OCI runtime exec failed") {
				t.Error(r)
			}
		}
		d.fails(137, "", "exec", name, "sh", "-c", "kill -9 $$")
		d.ok("exec", "-d", name, "sh", "-c", "echo detached >/tmp/file")
		harness.Poll(t, "the detached process", func() (string, bool) {
			r := d.run("exec", name, "cat", "/tmp/file")
			return r.String(), r.Stdout == "detached\n"
		})
		// A further process is confined like the first.
		const same = "grep -E 'Cap|NoNewPrivs|Seccomp:' /proc/%s/status; for n in user pid cgroup ipc mnt net uts; do readlink /proc/%[1]s/ns/$n; done"
		d.want(d.ok("exec", name, "sh", "-c", fmt.Sprintf(same, "1")), "exec", name, "sh", "-c", fmt.Sprintf(same, "self"))
		d.ok("stop", name)
		d.fails(1, "is not running", "exec", name, "true")
		d.fails(1, "No such container", "exec", "no-such-container", "true")
	})
}

func TestExecTerminal(t *testing.T) {
	both(t, func(t *testing.T, d client) {
		name := d.sleeper()
		c := d.terminal(31, 71, "exec", "-it", name, "sh")
		c.sees("# ")
		harness.Poll(t, "the size of the window", func() (string, bool) {
			c.send("stty size\n")
			return c.out.String(), strings.Contains(c.out.String(), "31 71")
		})
		c.resize(41, 81)
		harness.Poll(t, "the new size of the window", func() (string, bool) {
			c.send("stty size\n")
			return c.out.String(), strings.Contains(c.out.String(), "41 81")
		})
		c.send("exit 12\n")
		c.ends(12)
		c = d.terminal(24, 80, "exec", "-it", name, "sh")
		c.sees("# ")
		c.send("\x10\x11")
		c.ends(1) // "read escape sequence", as with Docker
	})
}

func TestTopAndStats(t *testing.T) {
	both(t, func(t *testing.T, d client) {
		name := d.sleeper("--memory", "64m")
		if out := d.ok("top", name); !strings.Contains(out, "PID") || !strings.Contains(out, "sleep 1000") {
			t.Errorf("top: %s", out)
		}
		if out := d.ok("top", name, "-o", "pid,comm"); !strings.HasPrefix(out, "PID") || !strings.Contains(out, "sleep") {
			t.Errorf("top -o: %s", out)
		}
		row := strings.Split(d.ok("stats", "--no-stream", "--format", "{{.Name}}|{{.MemUsage}}|{{.PIDs}}|{{.CPUPerc}}|{{.NetIO}}", name), "|")
		if len(row) != 5 || row[0] != name || !strings.HasSuffix(row[1], "/ 64MiB") || row[2] != "2" || !strings.HasSuffix(row[3], "%") {
			t.Errorf("stats: %q", row)
		}
		c := d.begin("stats", "--format", "{{.Name}} {{.PIDs}}", name)
		c.sees(name + " 2")
	})
}

func TestEvents(t *testing.T) {
	both(t, func(t *testing.T, d client) {
		live := d.begin("events", "--format", "{{.Type}} {{.Action}} {{.Actor.Attributes.name}}", "--filter", "type=container")
		name := d.name()
		begin := fmt.Sprint(time.Now().Add(-time.Second).Unix())
		d.fails(8, "", "run", "--name", name, "--label", "a=b", "busybox", "sh", "-c", "exit 8")
		d.ok("rm", name)
		live.sees("container destroy " + name)
		end := fmt.Sprint(time.Now().Add(time.Second).Unix())
		past := d.ok("events", "--since", begin, "--until", end, "--filter", "container="+name, "--format", "{{.Action}} {{.Actor.Attributes.exitCode}}")
		if want := "create <no value>\nattach <no value>\nstart <no value>\ndie 8\ndestroy <no value>"; past != want {
			t.Errorf("past events:\n%s\nwant:\n%s", past, want)
		}
		if out := d.ok("events", "--since", begin, "--until", end, "--filter", "event=die", "--filter", "label=a=b", "--format", "{{json .}}"); !strings.Contains(out, `"exitCode":"8"`) {
			t.Errorf("event: %s", out)
		}
	})
}
