//go:build root

package e2e

import (
	"os"
	"strings"
	"testing"

	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"stockade/test/harness"
)

const (
	capEff  = "sed -n 's/^CapEff:\t//p' /proc/self/status"
	windows = "only supported on a Docker daemon running on windows"
	resolv  = "grep -v '^#' /etc/resolv.conf"
)

// runOptions has every option of docker run.
var runOptions = map[string]option{
	"add-host":              row(works("grep other /etc/hosts", "10.1.2.3\tother", "--add-host", "other:10.1.2.3")),
	"annotation":            row(refused("rule annotations", "--annotation", "a=b")),
	"attach":                row(works("echo out; echo err >&2", "", "-a", "stderr"), works("echo out; echo err >&2", "out", "-a", "stdout")),
	"blkio-weight":          row(shown("{{.HostConfig.BlkioWeight}}", "300", "--blkio-weight", "300"), refused("range of blkio weight is from 10 to 1000", "--blkio-weight", "5")),
	"blkio-weight-device":   row(refused("rule block-devices", "--blkio-weight-device", "/dev/null:100")),
	"cap-add":               row(works(capEff, "0000000000000400", "--cap-drop", "ALL", "--cap-add", "NET_BIND_SERVICE"), refused("rule cap-add", "--cap-add", "SYS_ADMIN")),
	"cap-drop":              row(works(capEff, "00000000a80425fa", "--cap-drop", "CHOWN")),
	"cgroup-parent":         row(refused("rule cgroup-parent", "--cgroup-parent", "/other")),
	"cgroupns":              row(shown("{{.HostConfig.CgroupnsMode}}", "private", "--cgroupns", "private"), refused("rule namespaces", "--cgroupns", "host")),
	"cidfile":               row(played(cidFile)),
	"cpu-count":             row(clientRefuses(windows, "--cpu-count", "1")),
	"cpu-percent":           row(clientRefuses(windows, "--cpu-percent", "1")),
	"cpu-period":            row(shown("{{.HostConfig.CpuPeriod}}", "50000", "--cpu-period", "50000")),
	"cpu-quota":             row(shown("{{.HostConfig.CpuQuota}}", "20000", "--cpu-quota", "20000")),
	"cpu-rt-period":         row(refused("rule realtime", "--cpu-rt-period", "100000")),
	"cpu-rt-runtime":        row(refused("rule realtime", "--cpu-rt-runtime", "1000")),
	"cpu-shares":            row(shown("{{.HostConfig.CpuShares}}", "512", "--cpu-shares", "512")),
	"cpus":                  row(shown("{{.HostConfig.NanoCpus}}", "500000000", "--cpus", "0.5"), refused("range of CPUs is from", "--cpus", "4000")),
	"cpuset-cpus":           row(works("nproc", "1", "--cpuset-cpus", "0"), refused("Requested CPUs are not available", "--cpuset-cpus", "4000")),
	"cpuset-mems":           row(works("sed -n 's/^Mems_allowed_list:\t//p' /proc/self/status", "0", "--cpuset-mems", "0")),
	"detach":                row(played(detached)),
	"detach-keys":           row(played(detachKeys)),
	"device":                row(refused("rule devices", "--device", "/dev/null")),
	"device-cgroup-rule":    row(refused("rule devices", "--device-cgroup-rule", "c 1:3 rwm")),
	"device-read-bps":       row(refused("rule block-devices", "--device-read-bps", "/dev/null:1mb")),
	"device-read-iops":      row(refused("rule block-devices", "--device-read-iops", "/dev/null:100")),
	"device-write-bps":      row(refused("rule block-devices", "--device-write-bps", "/dev/null:1mb")),
	"device-write-iops":     row(refused("rule block-devices", "--device-write-iops", "/dev/null:100")),
	"disable-content-trust": {only: "28", samples: []sample{works("echo ok", "ok", "--disable-content-trust=true")}},
	"dns":                   row(works(resolv+" | grep nameserver", "nameserver 10.9.8.7", "--dns", "10.9.8.7")),
	"dns-option":            row(works(resolv+" | grep options", "options ndots:2", "--dns-option", "ndots:2")),
	"dns-search":            row(works(resolv+" | grep search", "search example.org", "--dns-search", "example.org")),
	"domainname":            row(works("cat /proc/sys/kernel/domainname", "example.org", "--domainname", "example.org")),
	"entrypoint":            row(works("x", "sh -c x", "--entrypoint", "/bin/echo")),
	"env":                   row(works(`echo "$A|$B"`, "1 2|", "-e", "A=1 2", "--env", "B=")),
	"env-file":              row(played(envFile)),
	"expose":                row(shown("{{json .Config.ExposedPorts}}", `{"80/tcp":{},"81/udp":{}}`, "--expose", "80", "--expose", "81/udp")),
	"gpus":                  row(refused("rule devices", "--gpus", "all")),
	"group-add":             row(works("id -G", "0 777", "--group-add", "777")),
	"health-cmd":            row(played(healthy)),
	"health-interval":       row(shown("{{.Config.Healthcheck.Interval}}", "2s", "--health-cmd", "true", "--health-interval", "2s"), refused("rule health-interval", "--health-cmd", "true", "--health-interval", "1ms")),
	"health-retries":        row(shown("{{.Config.Healthcheck.Retries}}", "7", "--health-cmd", "true", "--health-retries", "7")),
	"health-start-interval": row(shown("{{.Config.Healthcheck.StartInterval}}", "3s", "--health-cmd", "true", "--health-start-interval", "3s")),
	"health-start-period":   row(shown("{{.Config.Healthcheck.StartPeriod}}", "4s", "--health-cmd", "true", "--health-start-period", "4s")),
	"health-timeout":        row(shown("{{.Config.Healthcheck.Timeout}}", "5s", "--health-cmd", "true", "--health-timeout", "5s")),
	"help":                  row(played(func(t *testing.T, d client) { d.ok("run", "--help") })),
	"hostname":              row(works("hostname", "my-host", "-h", "my-host")),
	"init":                  row(works("tr '\\0' '\\n' </proc/1/cmdline | head -n 1", "/sbin/docker-init", "--init")),
	"interactive":           row(played(interactive)),
	"io-maxbandwidth":       row(clientRefuses(windows, "--io-maxbandwidth", "1")),
	"io-maxiops":            row(clientRefuses(windows, "--io-maxiops", "1")),
	"ip":                    row(refused("rule endpoints", "--ip", "10.231.0.77")),
	"ip6":                   row(refused("rule endpoints", "--ip6", "fd00::77")),
	"ipc":                   row(works("df /dev/shm | tail -n 1 | awk '{print $1}'", "shm", "--ipc", "private"), works("grep -c /dev/shm /proc/mounts || true", "0", "--ipc", "none"), refused("rule namespaces", "--ipc", "host")),
	"isolation":             row(shown("{{.HostConfig.Isolation}}", "default", "--isolation", "default"), refused("rule namespaces", "--isolation", "hyperv")),
	"kernel-memory":         {only: "28", samples: []sample{works("echo ok", "ok", "--kernel-memory", "0")}},
	"label":                 row(shown("{{json .Config.Labels}}", `{"a":"b","c":""}`, "-l", "a=b", "--label", "c")),
	"label-file":            row(played(labelFile)),
	"link":                  row(refused("rule links", "--link", "other:alias")),
	"link-local-ip":         row(refused("rule endpoints", "--link-local-ip", "169.254.3.3")),
	"log-driver":            row(played(logDriver), refused("rule log-driver", "--log-driver", "syslog")),
	"log-opt":               row(shown("{{json .HostConfig.LogConfig.Config}}", `{"max-file":"2","max-size":"1m"}`, "--log-opt", "max-size=1m", "--log-opt", "max-file=2"), refused("rule log-driver", "--log-opt", "nonsense=1")),
	"mac-address":           row(works("cat /sys/class/net/eth0/address", "02:00:5e:00:53:77", "--mac-address", "02:00:5e:00:53:77"), refused("rule mac-address", "--mac-address", "00:1b:21:00:53:77")),
	"memory":                row(shown("{{.HostConfig.Memory}}", "67108864", "-m", "64m"), refused("Minimum memory limit allowed is 6MB", "-m", "1m")),
	"memory-reservation":    row(shown("{{.HostConfig.MemoryReservation}}", "33554432", "--memory-reservation", "32m")),
	"memory-swap":           row(shown("{{.HostConfig.MemorySwap}}", "134217728", "-m", "64m", "--memory-swap", "128m")),
	"memory-swappiness":     row(shown("{{.HostConfig.MemorySwappiness}}", "0", "--memory-swappiness", "0")),
	"mount": row(works("grep -c ' /t tmpfs ' /proc/mounts", "1", "--mount", "type=tmpfs,target=/t"), works("touch /v/x; echo $?", "0", "--mount", "type=volume,target=/v"),
		works("test -x /i/bin/busybox; echo $?", "0", "--mount", "type=image,source=busybox,target=/i"), played(bindMount),
		refused("rule mount-type", "--mount", "type=nonsense,target=/x"), refused("rule mount-type", "--mount", "type=npipe,source=x,target=/x"), refused("rule mount-type", "--mount", "type=cluster,source=x,target=/x")),
	"name": row(played(func(t *testing.T, d client) {
		n := d.name()
		d.ok("create", "--name", n, "busybox")
		d.want("/"+n, "inspect", "-f", "{{.Name}}", n)
	})),
	"network":          row(works("ls /sys/class/net", "lo", "--network", "none"), refused("rule network-mode", "--network", "host")),
	"network-alias":    row(refused("only supported for user-defined networks", "--network-alias", "other")),
	"no-healthcheck":   row(shown("{{json .Config.Healthcheck.Test}}", `["NONE"]`, "--no-healthcheck")),
	"oom-kill-disable": row(refused("rule oom", "--oom-kill-disable")),
	"oom-score-adj":    row(works("cat /proc/self/oom_score_adj", "100", "--oom-score-adj", "100"), refused("rule oom", "--oom-score-adj", "-1")),
	"pid":              row(refused("rule namespaces", "--pid", "host")),
	"pids-limit":       row(shown("{{.HostConfig.PidsLimit}}", "50", "--pids-limit", "50"), refused("rule pids-limit", "--pids-limit", "-1")),
	"platform":         row(works("uname -m", "x86_64", "--platform", "linux/amd64"), refused("its platform (linux/amd64) does not match the specified platform (linux/s390x)", "--pull", "never", "--platform", "linux/s390x")),
	"privileged":       row(refused("rule privileged", "--privileged")),
	"publish":          row(played(publish), refused("rule host-port", "-p", "22:22")),
	"publish-all":      row(played(publishAll)),
	"pull":             row(played(pulled), works("echo ok", "ok", "--pull", "never")),
	"quiet":            row(played(pulled)),
	"read-only":        row(works("touch /x 2>/dev/null || echo no", "no", "--read-only")),
	"restart":          row(played(restarted), refused("cannot specify both --restart and --rm", "--restart", "always")),
	"rm": row(played(func(t *testing.T, d client) {
		n := d.name()
		d.ok("run", "--rm", "--name", n, "busybox", "true")
		d.want("", "ps", "-aq", "--filter", "name="+n)
	})),
	"runtime":        row(works("echo ok", "ok", "--runtime", "crun"), refused("unknown or invalid runtime name: other", "--runtime", "other")),
	"security-opt":   row(works("sed -n 's/^NoNewPrivs:\t//p' /proc/self/status", "1", "--security-opt", "no-new-privileges"), refused("rule security-opt", "--security-opt", "apparmor=unconfined")),
	"shm-size":       row(works("df -k /dev/shm | tail -n 1 | awk '{print $2}'", "2048", "--shm-size", "2m")),
	"sig-proxy":      row(played(noSignalProxy)),
	"stop-signal":    row(played(stopSignal)),
	"stop-timeout":   row(shown("{{.Config.StopTimeout}}", "3", "--stop-timeout", "3")),
	"storage-opt":    row(refused("rule storage-opt", "--storage-opt", "size=1g")),
	"sysctl":         row(works("cat /proc/sys/net/ipv4/ip_unprivileged_port_start", "7", "--sysctl", "net.ipv4.ip_unprivileged_port_start=7"), refused("rule sysctls", "--sysctl", "net.core.somaxconn=7")),
	"tmpfs":          row(works("df -k /t | tail -n 1 | awk '{print $2}'", "1024", "--tmpfs", "/t:size=1m"), refused("rule tmpfs-options", "--tmpfs", "/t:suid")),
	"tty":            row(works("tty", "/dev/pts/0", "-t")),
	"ulimit":         row(works("ulimit -Sn; ulimit -Hn", "123\n456", "--ulimit", "nofile=123:456")),
	"umask":          {only: "29", samples: []sample{works("umask", "0027", "--umask", "0027")}},
	"use-api-socket": row(refused("docker.sock", "--use-api-socket")),
	"user":           row(works("id -u; id -g", "1000\n100", "-u", "user"), works("id -u; id -g", "42\n43", "-u", "42:43"), refused("rule user", "-u", "99999")),
	"userns":         row(refused("rule namespaces", "--userns", "host")),
	"uts":            row(refused("rule namespaces", "--uts", "host")),
	"volume":         row(works("touch /v/x; echo $?", "0", "-v", "/v"), played(bindMount), refused("belongs to the server itself", "-v", harness.Socket+":/x")),
	"volume-driver":  row(works("touch /v/x; echo $?", "0", "--volume-driver", "local", "-v", "/v"), refused("rule volume-driver", "--volume-driver", "other", "-v", "/v")),
	"volumes-from":   row(played(volumesFrom)),
	"workdir":        row(works("pwd", "/new/folder", "-w", "/new/folder")),
}

// execOptions has every option of docker exec.
var execOptions = map[string]option{
	"detach":      row(played(execDetached)),
	"detach-keys": row(played(execDetachKeys)),
	"env":         row(works(`echo "$A"`, "1 2", "-e", "A=1 2")),
	"env-file":    row(played(execEnvFile)),
	"interactive": row(played(func(t *testing.T, d client) {
		if r := d.feed("typed", "exec", "-i", d.sleeper(), "cat"); r.Stdout != "typed" {
			t.Error(r)
		}
	})),
	"privileged": row(refused("rule exec-privileged", "--privileged")),
	"tty":        row(works("test -t 1; echo $?", "0", "-t")),
	"user":       row(works("id -u; id -g", "1000\n100", "-u", "user"), refused("rule exec-user", "-u", "99999")),
	"workdir":    row(works("pwd", "/tmp", "-w", "/tmp")),
}

// updateOptions has every option of docker update.
var updateOptions = map[string]option{
	"blkio-weight":       row(shown("{{.HostConfig.BlkioWeight}}", "300", "--blkio-weight", "300")),
	"cpu-period":         row(shown("{{.HostConfig.CpuPeriod}}", "50000", "--cpu-period", "50000")),
	"cpu-quota":          row(shown("{{.HostConfig.CpuQuota}}", "20000", "--cpu-quota", "20000")),
	"cpu-rt-period":      row(refused("rule realtime", "--cpu-rt-period", "100000")),
	"cpu-rt-runtime":     row(refused("rule realtime", "--cpu-rt-runtime", "1000")),
	"cpu-shares":         row(shown("{{.HostConfig.CpuShares}}", "512", "-c", "512")),
	"cpus":               row(shown("{{.HostConfig.NanoCpus}}", "500000000", "--cpus", "0.5")),
	"cpuset-cpus":        row(shown("{{.HostConfig.CpusetCpus}}", "0", "--cpuset-cpus", "0"), refused("Requested CPUs are not available", "--cpuset-cpus", "4000")),
	"cpuset-mems":        row(shown("{{.HostConfig.CpusetMems}}", "0", "--cpuset-mems", "0")),
	"memory":             row(shown("{{.HostConfig.Memory}}", "50331648", "-m", "48m")),
	"memory-reservation": row(shown("{{.HostConfig.MemoryReservation}}", "33554432", "--memory-reservation", "32m")),
	"memory-swap":        row(shown("{{.HostConfig.MemorySwap}}", "100663296", "--memory-swap", "96m")),
	"pids-limit":         row(shown("{{.HostConfig.PidsLimit}}", "50", "--pids-limit", "50"), refused("rule pids-limit", "--pids-limit", "-1")),
	"restart":            row(shown("{{.HostConfig.RestartPolicy.Name}}", "on-failure", "--restart", "on-failure:2")),
}

// written makes a file of the user's.
func (d client) written(text string) string {
	d.t.Helper()
	path := d.folder() + "/file"
	if r := d.s.Exec(d.t, d.s.User, strings.NewReader(text), "tee", path); r.Code != 0 {
		d.t.Fatal(r)
	}
	return path
}

func cidFile(t *testing.T, d client) {
	path, name := d.folder()+"/cid", d.name()
	id := d.ok("create", "--name", name, "--cidfile", path, "busybox")
	if data, err := os.ReadFile(path); err != nil || string(data) != id {
		t.Errorf("%q, %v", data, err)
	}
	d.fails(1, "container ID file found", "create", "--cidfile", path, "busybox")
}

func detached(t *testing.T, d client) {
	name := d.name()
	if id := d.ok("run", "-d", "--name", name, "busybox", "sleep", "1000"); len(id) != 64 {
		t.Errorf("id %q", id)
	}
	d.state(name, "running")
}

func detachKeys(t *testing.T, d client) {
	name := d.name()
	c := d.terminal(24, 80, "run", "-it", "--name", name, "--detach-keys", "ctrl-e,x", "busybox", "sh")
	c.sees("# ")
	c.send("\x05x")
	c.ends(0)
	d.state(name, "running")
}

func envFile(t *testing.T, d client) {
	path := d.written("# a comment\nA=1 2\nHOME\n")
	d.want("1 2 "+d.s.User.Home, "run", "--rm", "--env-file", path, "busybox", "sh", "-c", `echo "$A $HOME"`)
	d.fails(125, "no such file", "run", "--rm", "--env-file", path+".none", "busybox", "true")
}

func labelFile(t *testing.T, d client) {
	name := d.name()
	d.ok("create", "--name", name, "--label-file", d.written("a=b\nc=d\n"), "busybox")
	d.want(`{"a":"b","c":"d"}`, "inspect", "-f", "{{json .Config.Labels}}", name)
}

func healthy(t *testing.T, d client) {
	name := d.sleeper("--health-cmd", "test -e /etc/passwd", "--health-interval", "200ms")
	harness.Poll(t, "a healthy container", func() (string, bool) {
		got := d.ok("inspect", "-f", "{{.State.Health.Status}}", name)
		return got, got == "healthy"
	})
}

func interactive(t *testing.T, d client) {
	if r := d.feed("typed", "run", "--rm", "-i", "busybox", "cat"); r.Stdout != "typed" {
		t.Error(r)
	}
	d.want("", "run", "--rm", "busybox", "cat")
}

func logDriver(t *testing.T, d client) {
	name := d.name()
	d.want("hello", "run", "--name", name, "--log-driver", "none", "busybox", "echo", "hello")
	d.fails(1, "configured logging driver does not support reading", "logs", name)
	for _, driver := range []string{"json-file", "local"} {
		name = d.name()
		d.ok("run", "--name", name, "--log-driver", driver, "busybox", "echo", "hello")
		d.want("hello", "logs", name)
	}
}

func bindMount(t *testing.T, d client) {
	dir := d.folder()
	d.ok("run", "--rm", "-v", dir+":/a", "--mount", "type=bind,source="+dir+",target=/b,readonly", "busybox", "sh", "-c", "echo x >/a/f && cmp /a/f /b/f && ! touch /b/f 2>/dev/null")
	if got := d.owner(dir + "/f"); !strings.HasPrefix(got, d.s.User.Name+":") {
		t.Errorf("made inside: %s", got)
	}
}

func publish(t *testing.T, d client) {
	name := d.start("-p", "127.0.0.1::80", "busybox", "sh", "-c", "mkdir /w && echo served >/w/index.html && exec httpd -f -h /w")
	address := d.ok("port", name, "80/tcp")
	harness.Poll(t, "an answer from "+address, func() (string, bool) {
		r := d.s.Exec(t, d.s.User, nil, "curl", "-s", "--max-time", "5", "http://"+address+"/")
		return r.Stdout, r.Stdout == "served\n"
	})
}

func publishAll(t *testing.T, d client) {
	name := d.sleeper("-P", "--expose", "80", "--expose", "81/udp")
	if ports := d.ok("port", name); !strings.Contains(ports, "80/tcp -> 0.0.0.0:") || !strings.Contains(ports, "81/udp -> 0.0.0.0:") {
		t.Errorf("ports:\n%s", ports)
	}
}

// pulled holds that an image is pulled when it is missing or always, and never when that is asked for; quietly, too.
func pulled(t *testing.T, d client) {
	repo := unique()
	newImage(t, ocispec.ImageConfig{}).push(t, plain, repo, "latest")
	ref := plain.host + "/" + repo
	t.Cleanup(func() { d.run("rmi", "-f", ref) })
	d.fails(125, "No such image", "run", "--rm", "--pull", "never", ref, "true")
	if r := d.run("run", "--rm", "--pull", "always", ref, "echo", "hello"); r.Stdout != "hello\n" || !strings.Contains(r.Stderr, "Status: Downloaded newer image") {
		t.Error(r)
	}
	if r := d.run("run", "--rm", "-q", "--pull", "always", ref, "echo", "hello"); r.Stdout != "hello\n" || strings.Contains(r.Stderr, "Status:") {
		t.Error(r)
	}
	d.ok("rmi", ref)
	d.want("hello", "run", "--rm", "--pull", "missing", ref, "echo", "hello")
}

func restarted(t *testing.T, d client) {
	name := d.start("--restart", "on-failure:1", "busybox", "false")
	harness.Poll(t, "the end after one restart", func() (string, bool) {
		got := d.ok("inspect", "-f", "{{.State.Status}} {{.RestartCount}}", name)
		return got, got == "exited 1"
	})
}

func noSignalProxy(t *testing.T, d client) {
	name := d.name()
	c := d.begin("run", "--name", name, "--sig-proxy=false", "busybox", "sh", "-c", "trap 'echo got; exit 9' TERM; echo ready; while :; do sleep 0.1; done")
	c.sees("ready")
	if err := c.cmd.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	<-c.done
	d.state(name, "running")
	d.want("ready", "logs", name)
}

func stopSignal(t *testing.T, d client) {
	name := d.start("--stop-signal", "USR1", "busybox", "sh", "-c", "trap 'exit 33' USR1; echo ready; while :; do sleep 0.1; done")
	d.logged(name, "ready")
	d.ok("stop", "-t", "50", name)
	d.want("33", "inspect", "-f", "{{.State.ExitCode}}", name)
}

func volumesFrom(t *testing.T, d client) {
	name := d.name()
	d.ok("run", "--name", name, "-v", "/v", "busybox", "touch", "/v/made")
	d.want("made", "run", "--rm", "--volumes-from", name, "busybox", "ls", "/v")
}

func execDetached(t *testing.T, d client) {
	name := d.sleeper()
	d.want("", "exec", "-d", name, "touch", "/made")
	harness.Poll(t, "what the exec makes", func() (string, bool) {
		r := d.run("exec", name, "ls", "/made")
		return r.Stderr, r.Code == 0
	})
}

func execDetachKeys(t *testing.T, d client) {
	name := d.sleeper()
	c := d.terminal(24, 80, "exec", "-it", "--detach-keys", "ctrl-e,x", name, "sh")
	c.sees("# ")
	c.send("\x05x")
	<-c.done
	d.state(name, "running")
	if out := d.ok("top", name); strings.Count(out, "sh\n")+strings.Count(out, " sh") < 2 {
		t.Errorf("the shell is gone:\n%s", out)
	}
}

func execEnvFile(t *testing.T, d client) {
	d.want("1 2", "exec", "--env-file", d.written("A=1 2\n"), d.sleeper(), "sh", "-c", `echo "$A"`)
}
