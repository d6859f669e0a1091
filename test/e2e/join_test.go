//go:build root

package e2e

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"stockade/test/harness"
)

// TestJoinNetwork holds that two containers have one localhost, one address and one set of files in /etc, and everything
// else for themselves.
func TestJoinNetwork(t *testing.T) {
	both(t, func(t *testing.T, d client) {
		target := d.start("-p", "127.0.0.1::8080", "--hostname", "target", "--add-host", "somebody:10.1.2.3", "stockade/demo")
		id := d.inspect(target).ID
		mode := "--network=container:" + target
		d.want(strings.TrimSpace(page), "run", "--rm", mode, "busybox", "sh", "-c", "until wget -q -O - http://127.0.0.1:8080; do usleep 10000; done 2>/dev/null")
		joiner := d.start(mode, "-m", "64m", "busybox", "sh", "-c", "echo mine >/file; nc -l -p 9000 -e echo from the joiner; sleep 1000")
		v := d.inspect(joiner)
		if string(v.HostConfig.NetworkMode) != "container:"+id || len(v.NetworkSettings.Networks) != 0 || len(v.NetworkSettings.Ports) != 0 || v.Config.Hostname != "target" {
			t.Errorf("mode %s, networks %v, ports %v, host name %s", v.HostConfig.NetworkMode, v.NetworkSettings.Networks, v.NetworkSettings.Ports, v.Config.Hostname)
		}
		for _, file := range []string{"/etc/hosts", "/etc/hostname", "/etc/resolv.conf"} {
			d.want(d.ok("exec", target, "cat", file), "exec", joiner, "cat", file)
		}
		d.want("target", "exec", joiner, "hostname")
		if data, err := os.ReadFile(v.HostsPath); err != nil || strings.TrimSpace(string(data)) != d.ok("exec", target, "cat", "/etc/hosts") {
			t.Errorf("HostsPath %q: %q, %v", v.HostsPath, data, err)
		}
		// It is one file, as with Docker.
		d.ok("exec", "--user=0", target, "sh", "-c", "echo 10.9.9.9 later >>/etc/hosts")
		d.ok("exec", joiner, "grep", "-q", "10.9.9.9 later", "/etc/hosts")
		harness.Poll(t, "the joiner's server to answer the target", func() (string, bool) {
			r := d.run("exec", target, "nc", "127.0.0.1", "9000")
			return r.String(), strings.TrimSpace(r.Stdout) == "from the joiner"
		})
		// Not joined: processes, files, IPC.
		if out := d.ok("exec", joiner, "ps"); strings.Contains(out, "httpd") {
			t.Errorf("processes of the target: %s", out)
		}
		d.fails(1, "No such file", "exec", target, "cat", "/file")
		if a, b := d.ok("exec", joiner, "readlink", "/proc/self/ns/ipc"), d.ok("exec", target, "readlink", "/proc/self/ns/ipc"); a == b {
			t.Error("one IPC namespace")
		}
		if out := d.ok("stats", "--no-stream", "--format", "{{.MemUsage}}", joiner); !strings.Contains(out, "64MiB") {
			t.Errorf("limits: %s", out)
		}
		if out := d.ok("top", joiner); !strings.Contains(out, "sleep 1000") || strings.Contains(out, "httpd") {
			t.Errorf("top: %s", out)
		}
		d.want("joined", "exec", "-i", joiner, "sh", "-c", "echo joined")
		dir := d.folder()
		d.ok("cp", joiner+":/file", filepath.Join(dir, "copy"))
		if data, err := os.ReadFile(filepath.Join(dir, "copy")); err != nil || string(data) != "mine\n" {
			t.Errorf("cp: %q %v", data, err)
		}
		// A third joins the second: it gets what that one has.
		d.ok("run", "--rm", "--network=container:"+joiner, "busybox", "wget", "-q", "-O", "/dev/null", "http://127.0.0.1:8080")
		// The target goes: the other one stays, without an address.
		d.ok("rm", "-f", target)
		d.want("running", "inspect", "-f", "{{.State.Status}}", joiner)
		harness.Poll(t, "the address to go", func() (string, bool) {
			out := d.ok("exec", joiner, "ip", "addr")
			return out, !strings.Contains(out, "eth0") && strings.Contains(out, "127.0.0.1")
		})
		d.ok("exec", joiner, "cat", "/etc/hosts")
		d.fails(1, "No such container: "+id, "restart", "-t", "0", joiner)
	})
}

// TestJoinProcesses holds that two containers see one another's processes, and what ends with whom.
func TestJoinProcesses(t *testing.T) {
	both(t, func(t *testing.T, d client) {
		target := d.start("busybox", "sh", "-c", "sleep 1111")
		joiner := d.start("--init", "--pid=container:"+target, "busybox", "sh", "-c", "sleep 2222 & exec sleep 3333")
		for _, name := range []string{target, joiner} {
			out := d.ok("exec", name, "ps")
			for _, want := range []string{"sleep 1111", "sleep 2222", "sleep 3333"} {
				if !strings.Contains(out, want) {
					t.Errorf("%s: no %s in %s", name, want, out)
				}
			}
		}
		if out := d.ok("top", joiner); strings.Contains(out, "sleep 1111") || !strings.Contains(out, "sleep 2222") {
			t.Errorf("top: %s", out)
		}
		// Its own network, with an address.
		if out := d.ok("exec", joiner, "ip", "addr"); !strings.Contains(out, d.inspect(joiner).NetworkSettings.Networks["bridge"].IPAddress.String()) {
			t.Errorf("address: %s", out)
		}
		// The joiner's first process ends: nothing of it is left, the target goes on.
		d.ok("kill", joiner)
		d.want("137", "wait", joiner)
		if out := d.ok("exec", target, "ps"); strings.Contains(out, "sleep 2222") || !strings.Contains(out, "sleep 1111") {
			t.Errorf("after the joiner's end: %s", out)
		}
		d.ok("start", joiner)
		// The target's first process ends: so does the joiner.
		d.ok("restart", "-t", "0", target)
		d.want("137", "wait", joiner)
		d.want("exited", "inspect", "-f", "{{.State.Status}}", joiner)
		d.ok("start", joiner)
		if out := d.ok("exec", joiner, "ps"); !strings.Contains(out, "sleep 1111") {
			t.Errorf("after both began again: %s", out)
		}
		d.ok("rm", "-f", target)
		d.want("137", "wait", joiner)
		// What it leaves may hold its streams, and fork.
		target = d.start("busybox", "sleep", "1000")
		d.want("begun", "run", "--rm", "--pid=container:"+target, "busybox", "sh", "-c", "(while :; do sleep 1000 & usleep 1000; done) & echo begun")
		harness.Poll(t, "the rest to end", func() (string, bool) {
			out := d.ok("exec", target, "ps")
			return out, !strings.Contains(out, "usleep 1000") // [usleep] has ended, and its new parent does not ask for it
		})
	})
}

// TestJoinIPC holds that two containers share memory when the first one allows it.
func TestJoinIPC(t *testing.T) {
	both(t, func(t *testing.T, d client) {
		target := d.start("--ipc=shareable", "busybox", "sleep", "1000")
		mode := "--ipc=container:" + target
		joiner := d.start(mode, "busybox", "sh", "-c", "echo x >/dev/shm/file; sleep 1000")
		harness.Poll(t, "the file in shared memory", func() (string, bool) {
			r := d.run("exec", target, "cat", "/dev/shm/file")
			return r.String(), r.Stdout == "x\n"
		})
		d.want(d.ok("exec", target, "readlink", "/proc/self/ns/ipc"), "exec", joiner, "readlink", "/proc/self/ns/ipc")
		d.want("x", "run", "--rm", "--ipc=container:"+joiner, "busybox", "cat", "/dev/shm/file")
		d.want("y", "run", "--rm", mode, "--tmpfs", "/dev/shm", "busybox", "sh", "-c", "ls /dev/shm; echo y")
		// All three at once, and each of another container's that shares its ids.
		d.want("x", "run", "--rm", mode, "--pid=container:"+joiner, "--network=container:"+target, "busybox", "sh", "-c", "ps | grep -q 'sleep 1000' && cat /dev/shm/file")
		d.ok("rm", "-f", target)
		d.want("x", "exec", joiner, "cat", "/dev/shm/file")

		private := d.start("busybox", "sleep", "1000")
		const text = "non-shareable IPC (hint: use IpcMode:shareable for the donor container)"
		d.fails(125, text, "run", "--rm", "--ipc=container:"+private, "busybox", "true")
		none := d.start("--ipc=none", "busybox", "sleep", "1000")
		d.fails(125, text, "run", "--rm", "--ipc=container:"+none, "busybox", "true")
		d.fails(125, "a container cannot join two that do not share ids", "run", "--rm", "--network=container:"+none, "--pid=container:"+private, "busybox", "true")
	})
}

// TestJoinErrors compares with what Docker says.
func TestJoinErrors(t *testing.T) {
	both(t, func(t *testing.T, d client) {
		target := d.name()
		d.ok("create", "--name", target, "--ipc=shareable", "busybox", "sleep", "1000")
		id := d.inspect(target).ID
		for option, text := range map[string]string{
			"--network": "cannot join network of a non running container: " + id,
			"--pid":     "failed to join PID namespace: container " + id + " is not running",
			"--ipc":     "failed to join IPC namespace: container " + id + " is not running",
		} {
			d.fails(125, text, "run", "--rm", option+"=container:"+target, "busybox", "true")
			d.fails(125, "No such container: e2e-nobody", "run", "--rm", option+"=container:e2e-nobody", "busybox", "true")
		}
		mode := "--network=container:" + target
		for option, text := range map[string]string{
			"--hostname=x":          "hostname and the network mode",
			"--dns=10.1.1.1":        "dns and the network mode",
			"--add-host=a:10.1.1.1": "custom host-to-IP mapping and the network mode",
			"--publish=8080":        "port publishing and the container type network mode",
			"--publish-all":         "port publishing and the container type network mode",
			"--expose=80":           "port exposing and the container type network mode",
		} {
			d.fails(125, "conflicting options: "+text, "run", "--rm", mode, option, "busybox", "true")
		}
		d.fails(125, "mac-address and the network mode", "run", "--rm", mode, "--mac-address=02:00:00:00:00:01", "busybox", "true")
		// A name is looked up once.
		joiner := d.name()
		d.ok("create", "--name", joiner, mode, "busybox", "echo", "well")
		other := d.name()
		d.ok("rename", target, other)
		d.ok("start", other)
		d.want("well", "start", "-a", joiner)
	})
}
