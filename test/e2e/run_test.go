//go:build root

package e2e

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"stockade/test/harness"
)

// TestRunOptions is docker run, an option a row: what a shell inside sees.
func TestRunOptions(t *testing.T) {
	for _, c := range []struct {
		name    string
		options []string
		script  string
		want    string
	}{
		{"nothing", nil, "echo hello", "hello"},
		{"environment", []string{"-e", "A=1 2", "-e", "B="}, `echo "$A|$B|${PATH:+path}|$HOME"`, "1 2||path|/root"},
		{"working folder", []string{"-w", "/new/folder"}, "pwd", "/new/folder"},
		{"user by name", []string{"-u", "user"}, "echo $(id -u) $(id -g) $HOME", "1000 100 /home/user"},
		{"user by number", []string{"-u", "4242:4343"}, "id -u; id -g", "4242\n4343"},
		{"more groups", []string{"-u", "user", "--group-add", "www-data", "--group-add", "777"}, "id -G", "100 33 777"},
		{"hostname", []string{"--hostname", "my-host"}, "hostname; cat /etc/hostname; grep -c my-host /etc/hosts", "my-host\nmy-host\n1"},
		{"domain name", []string{"--hostname", "h", "--domainname", "example.org"}, "cat /proc/sys/kernel/domainname", "example.org"},
		{"read-only root", []string{"--read-only"}, "touch /x 2>&1; touch /dev/shm/x && echo shm", "touch: /x: Read-only file system\nshm"},
		{"tmpfs", []string{"--read-only", "--tmpfs", "/scratch:size=1m,mode=1777"}, "grep ' /scratch ' /proc/mounts | grep -o 'nosuid,nodev,noexec'; df -k /scratch | tail -1 | awk '{print $2}'; touch /scratch/x && echo ok", "nosuid,nodev,noexec\n1024\nok"},
		{"shm size", []string{"--shm-size", "2m"}, "df -k /dev/shm | tail -1 | awk '{print $2}'", "2048"},
		{"ulimit", []string{"--ulimit", "nofile=123:456", "--ulimit", "core=0"}, "ulimit -Sn; ulimit -Hn; ulimit -c", "123\n456\n0"},
		{"sysctl", []string{"--sysctl", "net.ipv4.ip_unprivileged_port_start=1"}, "cat /proc/sys/net/ipv4/ip_unprivileged_port_start", "1"},
		{"capability less", []string{"--cap-drop", "CHOWN"}, "chown 1 /tmp 2>&1 || true", "chown: /tmp: Operation not permitted"},
		{"no capability", []string{"--cap-drop", "ALL"}, "grep CapEff /proc/self/status | awk '{print $2}'", "0000000000000000"},
		{"one capability", []string{"--cap-drop", "all", "--cap-add", "net_bind_service"}, "grep CapEff /proc/self/status | awk '{print $2}'", "0000000000000400"},
		{"no network", []string{"--network", "none"}, "ls /sys/class/net", "lo"},
		{"bridge", []string{"--network", "bridge"}, "ls /sys/class/net", "eth0\nlo"},
		{"cpus", []string{"--cpus", "0.5"}, "echo ok", "ok"},
		{"oom score", []string{"--oom-score-adj", "100"}, "cat /proc/self/oom_score_adj", "100"},
		{"cpu set", []string{"--cpuset-cpus", "0"}, "nproc", "1"},
		{"extra host", []string{"--add-host", "other:10.1.2.3"}, "grep other /etc/hosts", "10.1.2.3\tother"},
		{"dns", []string{"--dns", "10.9.8.7", "--dns-search", "example.org", "--dns-option", "ndots:2"}, "grep -v '^#' /etc/resolv.conf | sort", "nameserver 10.9.8.7\noptions ndots:2\nsearch example.org"},
		{"standard error", nil, "echo out; echo err >&2", "out"},
	} {
		t.Run(c.name, func(t *testing.T) {
			d := docker(t)
			args := append([]string{"run", "--rm"}, c.options...)
			d.want(c.want, append(args, "busybox", "sh", "-c", c.script)...)
		})
	}
}

func TestRunImageDefaults(t *testing.T) {
	both(t, func(t *testing.T, d client) {
		d.want("www-data /www stockade", "run", "--rm", "stockade/demo", "sh", "-c", "echo $(whoami) $(pwd) $DEMO")
		d.want("--entry -x", "run", "--rm", "--entrypoint", "echo", "stockade/demo", "--entry", "-x")
		d.want("", "run", "--rm", "--entrypoint", "", "busybox", "true")
		name := d.start("--label", "a=b", "--label", "c", "stockade/demo")
		d.want("b demo", "inspect", "-f", `{{.Config.Labels.a}} {{index .Config.Labels "org.opencontainers.image.title"}}`, name)
	})
}

func TestRunExitCodes(t *testing.T) {
	both(t, func(t *testing.T, d client) {
		for _, c := range []struct {
			name   string
			code   int
			stderr string
			args   []string
		}{
			{"zero", 0, "", []string{"busybox", "true"}},
			{"own", 42, "", []string{"busybox", "sh", "-c", "exit 42"}},
			{"signal", 128 + 15, "", []string{"--init", "busybox", "sh", "-c", "kill -TERM $$"}},
			{"killed", 137, "", []string{"busybox", "sh", "-c", "sh -c 'kill -9 $$'; exit $?"}},
			{"cannot be found", 127, "executable file not found", []string{"busybox", "no-such-program"}},
			{"path does not exist", 127, "no such file or directory", []string{"busybox", "/no/such/program"}},
			{"cannot be run", 126, "permission denied", []string{"busybox", "/etc/passwd"}},
			{"is a folder", 126, "", []string{"busybox", "/etc"}},
			{"no such image", 125, "", []string{"--pull", "never", "no-such-image", "true"}},
			{"no such user", 125, "unable to find user nobody-knows", []string{"-u", "nobody-knows", "busybox", "true"}},
			{"refused by policy", 125, "privileged", []string{"--privileged", "busybox", "true"}},
			{"bad option", 125, "unknown flag", []string{"--no-such-option", "busybox"}},
		} {
			t.Run(c.name, func(t *testing.T) {
				client{t: t, s: d.s, path: d.path}.fails(c.code, c.stderr, append([]string{"run", "--rm"}, c.args...)...)
			})
		}
	})
}

func TestRunStreams(t *testing.T) {
	both(t, func(t *testing.T, d client) {
		r := d.feed("some input", "run", "--rm", "-i", "busybox", "sh", "-c", "cat; echo err >&2; exit 3")
		if r.Code != 3 || r.Stdout != "some input" || r.Stderr != "err\n" {
			t.Error(r)
		}
		big := strings.Repeat("0123456789abcdef", 1<<16)
		if r := d.feed(big, "run", "--rm", "-i", "busybox", "cat"); r.Stdout != big {
			t.Errorf("%d bytes came back of %d", len(r.Stdout), len(big))
		}
		// Without -i there is no input; with -d only the id comes back.
		d.want("", "run", "--rm", "busybox", "cat")
		name := d.name()
		if id := d.ok("run", "-d", "--name", name, "busybox", "echo", "in the log"); len(id) != 64 {
			t.Errorf("id: %q", id)
		}
		d.want("0", "wait", name)
		d.want("in the log", "logs", name)
		r = d.run("run", "--rm", "-a", "stderr", "busybox", "sh", "-c", "echo out; echo err >&2")
		if r.Stdout != "" || r.Stderr != "err\n" {
			t.Error(r)
		}
	})
}

func TestRunTerminal(t *testing.T) {
	both(t, func(t *testing.T, d client) {
		c := d.terminal(33, 77, "run", "--rm", "-it", "busybox", "sh")
		c.sees("# ")
		harness.Poll(t, "the size of the window", func() (string, bool) {
			c.send("stty size\n")
			return c.out.String(), strings.Contains(c.out.String(), "33 77")
		})
		c.resize(44, 99)
		harness.Poll(t, "the new size of the window", func() (string, bool) {
			c.send("stty size\n")
			return c.out.String(), strings.Contains(c.out.String(), "44 99")
		})
		c.send("tty; echo $TERM\n")
		c.sees("/dev/pts/0")
		c.sees("xterm")
		c.send("sh -c 'echo up-$((1+1)); exec sleep 1000'\n")
		c.sees("up-2")
		c.send("\x03") // the terminal's interrupt reaches the foreground process
		c.send("echo code-$?\n")
		c.sees("code-130")
		c.send("exit 5\n")
		c.ends(5)
	})
}

func TestRunSignalProxy(t *testing.T) {
	d := docker(t)
	for _, sig := range []unix.Signal{unix.SIGTERM, unix.SIGUSR1} {
		c := d.begin("run", "--rm", "busybox", "sh", "-c", "trap 'echo got; exit 9' TERM USR1; echo ready; while :; do sleep 0.1; done")
		c.sees("ready")
		if err := c.cmd.Process.Signal(sig); err != nil {
			t.Fatal(err)
		}
		c.sees("got")
		c.ends(9)
	}
}

func TestRunRemoves(t *testing.T) {
	d := docker(t)
	name := d.name()
	d.ok("run", "--rm", "--name", name, "-v", "/anonymous", "busybox", "true")
	harness.Poll(t, "the container to be removed", func() (string, bool) {
		out := d.ok("ps", "-aq", "--filter", "name="+name)
		return out, out == ""
	})
}

func TestRunInit(t *testing.T) {
	d := docker(t)
	name := d.start("--init", "busybox", "sh", "-c", "(sleep 0 &); exec sleep 1000")
	d.want("/sbin/docker-init", "exec", name, "sh", "-c", "tr '\\0' '\\n' </proc/1/cmdline | head -1")
	began := time.Now()
	d.ok("stop", "-t", "50", name)
	if time.Since(began) > 40*time.Second {
		t.Error("the init does not forward SIGTERM")
	}
	d.want("143", "inspect", "-f", "{{.State.ExitCode}}", name)
}

func TestRunCidFile(t *testing.T) {
	d := docker(t)
	file := filepath.Join(d.folder(), "cid")
	name := d.name()
	d.ok("run", "--name", name, "--cidfile", file, "busybox", "true")
	id, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	d.want(string(id), "inspect", "-f", "{{.Id}}", name)
}
