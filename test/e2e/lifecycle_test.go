//go:build root

package e2e

import (
	"encoding/json"
	"os"
	"strings"
	"testing"
	"time"

	"stockade/test/harness"
)

func TestCreateStart(t *testing.T) {
	both(t, func(t *testing.T, d client) {
		name := d.name()
		id := d.ok("create", "-i", "--name", name, "busybox", "sh", "-c", "cat; exit 4")
		d.want("created false", "inspect", "-f", "{{.State.Status}} {{.State.Running}}", id)
		r := d.feed("typed", "start", "-a", "-i", name)
		if r.Code != 4 || r.Stdout != "typed" {
			t.Error(r)
		}
		d.want("exited 4", "inspect", "-f", "{{.State.Status}} {{.State.ExitCode}}", name)
		r = d.feed("again", "start", "-a", "-i", id[:12]) // a prefix of the id is enough
		if r.Code != 4 || r.Stdout != "again" {
			t.Error(r)
		}
		d.fails(1, "is already in use by container", "create", "--name", name, "busybox")
		d.fails(1, "No such container", "start", "no-such-container")
	})
}

func TestStop(t *testing.T) {
	both(t, func(t *testing.T, d client) {
		for _, c := range []struct {
			name, trap string
			options    []string
			stop       []string
			code       string
		}{
			{"handles SIGTERM", "TERM", nil, []string{"-t", "30"}, "7"},
			{"own stop signal", "USR1", []string{"--stop-signal", "USR1"}, []string{"-t", "30"}, "7"},
			{"signal of the request", "HUP", nil, []string{"-s", "HUP", "-t", "30"}, "7"},
			{"heeds nothing", "USR2", nil, []string{"-t", "1"}, "137"},
			{"own stop time", "USR2", []string{"--stop-timeout", "1"}, nil, "137"},
		} {
			name := d.start(append(c.options, "busybox", "sh", "-c", "trap 'exit 7' "+c.trap+"; echo ready; while :; do sleep 0.1; done")...)
			d.logged(name, "ready")
			d.ok(append(append([]string{"stop"}, c.stop...), name)...)
			if got := d.ok("inspect", "-f", "{{.State.ExitCode}}", name); got != c.code {
				t.Errorf("%s: exit code %s, want %s", c.name, got, c.code)
			}
			d.ok("stop", name) // of a stopped container is fine
		}
	})
}

func TestRestartKillWait(t *testing.T) {
	both(t, func(t *testing.T, d client) {
		name := d.sleeper()
		before := d.inspect(name)
		d.ok("restart", "-t", "30", name)
		after := d.inspect(name)
		if !after.State.Running || after.State.Pid == before.State.Pid || after.State.StartedAt == before.State.StartedAt {
			t.Errorf("after a restart: %+v", after.State)
		}
		waiter := d.begin("wait", name)
		d.ok("kill", "-s", "KILL", name)
		waiter.ends(0)
		if got := strings.TrimSpace(waiter.out.String()); got != "137" {
			t.Errorf("wait says %q", got)
		}
		d.fails(1, "is not running", "kill", name)
		d.ok("start", name)
		harness.Poll(t, "the end by SIGTERM", func() (string, bool) { // which the shell ignores until it has set its trap
			r := d.run("kill", "-s", "15", name)
			return r.Stderr, r.Code != 0
		})
		d.want("0", "wait", name)
	})
}

func TestRemove(t *testing.T) {
	d := docker(t)
	name := d.start("-v", "/anonymous", "busybox", "sleep", "1000")
	volume := d.inspect(name).Mounts[0].Name
	d.fails(1, "container is running", "rm", name)
	d.ok("rm", "-f", name)
	d.fails(1, "No such container", "inspect", "--type", "container", name)
	d.want(volume, "volume", "ls", "-q", "--filter", "name="+volume)
	d.ok("volume", "rm", volume)
	name = d.start("-v", "/anonymous", "busybox", "sleep", "1000")
	volume = d.inspect(name).Mounts[0].Name
	d.ok("rm", "-f", "-v", name)
	d.want("", "volume", "ls", "-q", "--filter", "name="+volume)
	d.fails(1, "No such container", "rm", name)
}

func TestRename(t *testing.T) {
	both(t, func(t *testing.T, d client) {
		one, two, three := d.name(), d.name(), d.name()
		d.ok("create", "--name", one, "busybox")
		d.ok("create", "--name", two, "busybox")
		d.fails(1, "already in use", "rename", one, two)
		d.ok("rename", one, three)
		d.want("/"+three, "inspect", "-f", "{{.Name}}", three)
		d.fails(1, "No such container", "inspect", "--type", "container", one)
	})
}

func TestPause(t *testing.T) {
	both(t, func(t *testing.T, d client) {
		name := d.start("busybox", "sh", "-c", "while :; do echo tick; sleep 0.05; done")
		d.logged(name, "tick")
		d.ok("pause", name)
		d.want("paused true", "inspect", "-f", "{{.State.Status}} {{.State.Paused}}", name)
		if before := d.ok("logs", name); before != d.ok("logs", name) {
			t.Error("a paused container writes")
		}
		d.fails(1, "is paused", "exec", name, "true")
		d.fails(1, "is already paused", "pause", name)
		d.ok("unpause", name)
		paused := strings.Count(d.ok("logs", name), "tick")
		harness.Poll(t, "a further tick", func() (string, bool) {
			return "", strings.Count(d.ok("logs", name), "tick") > paused
		})
		d.fails(1, "is not paused", "unpause", name)
		d.ok("pause", name)
		d.ok("rm", "-f", name)
	})
}

func TestPs(t *testing.T) {
	both(t, func(t *testing.T, d client) {
		label := unique()
		run := d.sleeper("--label", "set="+label, "-p", "127.0.0.1::80")
		ended := d.start("--label", "set="+label, "--label", "x=y", "busybox", "sh", "-c", "exit 3")
		d.want("3", "wait", ended)
		made := d.name()
		d.ok("create", "--label", "set="+label, "--name", made, "--volume", "/somewhere", "busybox")
		for _, c := range []struct {
			args []string
			want []string
		}{
			{nil, []string{run}},
			{[]string{"-a"}, []string{made, ended, run}},
			{[]string{"-a", "-n", "100"}, []string{made, ended, run}},
			{[]string{"-f", "status=exited"}, []string{ended}},
			{[]string{"-f", "status=created", "-f", "status=running"}, []string{made, run}},
			{[]string{"-a", "-f", "exited=3"}, []string{ended}},
			{[]string{"-a", "-f", "label=x"}, []string{ended}},
			{[]string{"-a", "-f", "label=x=z"}, nil},
			{[]string{"-a", "-f", "name=" + made}, []string{made}},
			{[]string{"-a", "-f", "before=" + ended}, []string{run}},
			{[]string{"-a", "-f", "since=" + ended}, []string{made}},
			{[]string{"-a", "-f", "ancestor=busybox"}, []string{made, ended, run}},
			{[]string{"-a", "-f", "ancestor=stockade/demo"}, nil},
			{[]string{"-a", "-f", "volume=/somewhere"}, []string{made}},
			{[]string{"-a", "-f", "network=bridge", "-f", "status=running"}, []string{run}},
			{[]string{"-f", "publish=80"}, nil},
			{[]string{"-f", "expose=80"}, []string{run}},
		} {
			args := append([]string{"ps", "--format", "{{.Names}}", "-f", "label=set=" + label}, c.args...)
			if got := d.ok(args...); got != strings.Join(c.want, "\n") {
				t.Errorf("%v: %q, want %q", args, got, c.want)
			}
		}
		port := d.ok("port", run, "80")
		row := d.ok("ps", "--no-trunc", "-f", "name="+run, "--format", "{{.Image}}|{{.Ports}}|{{.State}}|{{.Command}}")
		if want := `busybox|` + port + `->80/tcp|running|"sh -c 'trap 'exit 0' TERM; sleep 1000 & wait'"`; row != want {
			t.Errorf("row %s, want %s", row, want)
		}
		if got := d.ok("ps", "-a", "-f", "name="+ended, "--format", "{{.Status}}"); !strings.HasPrefix(got, "Exited (3) ") {
			t.Errorf("status %q", got)
		}
		if got := d.ok("ps", "-s", "-f", "name="+run, "--format", "{{.Size}}"); !strings.Contains(got, "virtual") {
			t.Errorf("size %q", got)
		}
		d.fails(1, "invalid filter", "ps", "-f", "nonsense=1")
	})
}

func TestInspect(t *testing.T) {
	d := docker(t)
	name := d.start("--hostname", "h", "-e", "A=b", "-w", "/tmp", "--memory", "64m", "--cpus", "0.5", "--pids-limit", "50", "--restart", "on-failure:2",
		"-v", "/anonymous", "--tmpfs", "/scratch", "busybox", "sleep", "1000")
	c := d.inspect(name)
	image := d.ok("image", "inspect", "-f", "{{.Id}}", "busybox")
	for what, ok := range map[string]bool{
		"id":       len(c.ID) == 64,
		"image":    c.Image == image && c.Config.Image == "busybox",
		"name":     c.Name == "/"+name,
		"hostname": c.Config.Hostname == "h",
		"folder":   c.Config.WorkingDir == "/tmp",
		"path":     c.Path == "sleep" && len(c.Args) == 1,
		"state":    c.State.Running && c.State.Status == "running" && c.State.Pid > 1,
		"memory":   c.HostConfig.Memory == 64<<20,
		"cpus":     c.HostConfig.NanoCPUs == 5e8,
		"pids":     *c.HostConfig.PidsLimit == 50,
		"restart":  c.HostConfig.RestartPolicy.Name == "on-failure" && c.HostConfig.RestartPolicy.MaximumRetryCount == 2,
		"mounts":   len(c.Mounts) == 1 && c.Mounts[0].Destination == "/anonymous" && c.Mounts[0].RW,
		"network":  c.NetworkSettings.Networks["bridge"].IPAddress.IsPrivate() && c.NetworkSettings.Networks["bridge"].Gateway.IsPrivate(),
		"driver":   c.Driver != "" && c.Platform == "linux",
	} {
		if !ok {
			t.Errorf("%s: %s", what, d.ok("inspect", name))
		}
	}
	if made, err := time.Parse(time.RFC3339Nano, c.Created); err != nil || time.Since(made).Abs() > time.Hour {
		t.Errorf("created %s", c.Created)
	}
	if _, err := os.Stat("/proc/" + d.ok("inspect", "-f", "{{.State.Pid}}", name)); err != nil {
		t.Errorf("the pid is none of the host: %v", err)
	}
	var sized map[string]any
	if err := json.Unmarshal([]byte(d.ok("inspect", "-s", "-f", "{{json .}}", name)), &sized); err != nil || sized["SizeRootFs"] == nil || sized["SizeRw"] == nil {
		t.Errorf("inspect -s: %v %v %v", err, sized["SizeRw"], sized["SizeRootFs"])
	}
}

func TestContainerPrune(t *testing.T) {
	d := docker(t)
	label := unique()
	run := d.sleeper("--label", label)
	ended := d.start("--label", label, "busybox", "true")
	d.ok("wait", ended)
	id := d.ok("inspect", "-f", "{{.Id}}", ended)
	if out := d.ok("container", "prune", "-f", "--filter", "label="+label); !strings.Contains(out, id) {
		t.Errorf("prune: %s", out)
	}
	d.want(run, "ps", "-a", "-f", "label="+label, "--format", "{{.Names}}")
}

func TestRestartPolicy(t *testing.T) {
	d := docker(t)
	name := d.start("--restart", "on-failure:2", "busybox", "sh", "-c", "echo try; exit 1")
	harness.Poll(t, "the last try", func() (string, bool) {
		out := d.ok("inspect", "-f", "{{.RestartCount}} {{.State.Status}}", name)
		return out, out == "2 exited"
	})
	d.want("try\ntry\ntry", "logs", name)
	always := d.start("--restart", "always", "busybox", "sleep", "1000")
	d.ok("stop", "-t", "0", always)
	d.state(always, "exited")
	d.want("0", "inspect", "-f", "{{.RestartCount}}", always)
}

func TestHealth(t *testing.T) {
	d := docker(t)
	name := d.sleeper("--health-cmd", "test -e /well", "--health-interval", "100ms", "--health-retries", "2", "--health-timeout", "5s")
	health := func(want string) {
		harness.Poll(t, name+" to be "+want, func() (string, bool) {
			out := d.ok("inspect", "-f", "{{.State.Health.Status}}", name)
			return out, out == want
		})
		d.want(name, "ps", "--filter", "health="+want, "--filter", "name="+name, "--format", "{{.Names}}")
	}
	health("unhealthy")
	d.ok("exec", name, "touch", "/well")
	health("healthy")
	if out := d.ok("ps", "--filter", "name="+name, "--format", "{{.Status}}"); !strings.HasSuffix(out, "(healthy)") {
		t.Errorf("status %q", out)
	}
}

func TestSystemPrune(t *testing.T) {
	both(t, func(t *testing.T, d client) {
		volume := d.ok("volume", "create")
		t.Cleanup(func() { d.run("volume", "rm", "-f", volume) })
		ended := d.start("busybox", "true")
		d.ok("wait", ended)
		id := d.ok("inspect", "-f", "{{.Id}}", ended)
		if out := d.ok("system", "prune", "-f", "--volumes"); !strings.Contains(out, id) || !strings.Contains(out, volume) || !strings.Contains(out, "Total reclaimed space:") {
			t.Errorf("prune: %s", out)
		}
	})
}
