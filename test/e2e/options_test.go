//go:build root

package e2e

import (
	"net/http"
	"os"
	"strings"
	"testing"

	"github.com/coder/websocket"

	"stockade/test/harness"
)

// TestSystemPruneEndsWell holds that it ends well although there is no build cache.
func TestSystemPruneEndsWell(t *testing.T) {
	both(t, func(t *testing.T, d client) {
		kept := d.sleeper()
		if out := d.ok("system", "prune", "-f", "--filter", "label=e2e-none"); !strings.Contains(out, "Total reclaimed space: 0B") {
			t.Errorf("system prune: %s", out)
		}
		d.state(kept, "running")
	})
}

// TestVolumeSubpath holds that a part of a volume is shown and nothing outside of it.
func TestVolumeSubpath(t *testing.T) {
	both(t, func(t *testing.T, d client) {
		volume := d.volume()
		d.ok("run", "--rm", "-v", volume+":/v", "busybox", "sh", "-c", "mkdir -p /v/a/b; echo inner >/v/a/b/file; echo outer >/v/file; ln -s / /v/out; ln -s a/b /v/in")
		mount := func(sub string) string { return "type=volume,source=" + volume + ",target=/s,volume-subpath=" + sub }
		d.want("inner", "run", "--rm", "--mount", mount("a/b"), "busybox", "cat", "/s/file")
		d.want("inner", "run", "--rm", "--mount", mount("in"), "busybox", "cat", "/s/file")
		d.want("outer", "run", "--rm", "--mount", mount("file"), "busybox", "cat", "/s") // a file, too
		d.fails(1, "Read-only file system", "run", "--rm", "--mount", mount("a/b")+",readonly", "busybox", "touch", "/s/x")
		d.ok("run", "--rm", "--mount", mount("a"), "busybox", "touch", "/s/made")
		d.want("a/made", "run", "--rm", "-v", volume+":/v", "-w", "/v", "busybox", "ls", "a/made")
		d.fails(127, "cannot access path missing", "run", "--rm", "--mount", mount("missing"), "busybox", "true")
		d.fails(125, "leads out of the volume", "run", "--rm", "--mount", mount("out/etc"), "busybox", "true")
		d.fails(125, "volume-subpath", "run", "--rm", "--mount", mount("../x"), "busybox", "true")
		// A copy sees what the container sees, running or not.
		name := d.name()
		d.ok("run", "--name", name, "--mount", mount("a/b"), "busybox", "true")
		dir := d.folder()
		d.ok("cp", name+":/s/file", dir+"/file")
		d.want("", "cp", dir+"/file", name+":/s/copied")
		d.want("inner", "run", "--rm", "-v", volume+":/v", "busybox", "cat", "/v/a/b/copied")
	})
}

func TestBindForms(t *testing.T) {
	both(t, func(t *testing.T, d client) {
		dir := d.folder()
		bind := "type=bind,source=" + dir + ",target=/w"
		for _, o := range []string{"bind-propagation=private", "bind-propagation=rprivate", "bind-recursive=disabled", "bind-recursive=enabled"} {
			d.ok("run", "--rm", "--mount", bind+","+o, "busybox", "touch", "/w/x")
		}
		d.fails(1, "Read-only file system", "run", "--rm", "--mount", bind+",readonly,bind-propagation=rprivate,bind-recursive=readonly", "busybox", "touch", "/w/y")
		for _, p := range []string{"shared", "rshared", "slave", "rslave"} {
			d.fails(125, "private propagation", "run", "--rm", "--mount", bind+",bind-propagation="+p, "busybox", "true")
		}
	})
	// Only newer clients have the option.
	d := newest(t)
	dir := d.folder()
	d.ok("run", "--rm", "--mount", "type=bind,source="+dir+"/made/deep,target=/w,bind-create-src", "busybox", "touch", "/w/x")
	if got := d.owner(dir + "/made/deep/x"); !strings.HasPrefix(got, "stockade-demo:") {
		t.Errorf("made inside: %s", got)
	}
	if _, err := os.Lstat(dir + "/missing"); err == nil {
		t.Error("a folder exists that nobody made")
	}
}

// TestVolumesFrom holds that volumes and binds come along, and that a grant lives as long as any container with it.
func TestVolumesFrom(t *testing.T) {
	both(t, func(t *testing.T, d client) {
		volume, dir := d.volume(), d.folder()
		first := d.name()
		d.ok("create", "--name", first, "-v", volume+":/v", "-v", dir+":/b", "-v", "/anonymous", "busybox", "true")
		second := d.name()
		d.ok("run", "-d", "--name", second, "--volumes-from", first, "busybox", "sh", "-c", "echo x >/v/file; echo y >/b/file; echo z >/anonymous/file; sleep 1000")
		harnessFile(t, dir+"/file")
		d.fails(1, "Read-only file system", "run", "--rm", "--volumes-from", first+":ro", "busybox", "touch", "/b/new")
		d.fails(1, "Read-only file system", "run", "--rm", "--volumes-from", first+":ro", "busybox", "touch", "/v/new")
		d.ok("rm", "-v", first)
		d.want("x\ny\nz", "run", "--rm", "--volumes-from", second, "busybox", "cat", "/v/file", "/b/file", "/anonymous/file")
		d.ok("restart", "-t", "0", second) // the grant is still there
		d.want("x\nz", "run", "--rm", "--volumes-from", second, "--tmpfs", "/b", "busybox", "cat", "/v/file", "/anonymous/file")
		d.fails(125, "No such container", "run", "--rm", "--volumes-from", "e2e-nobody", "busybox", "true")
	})
}

// harnessFile waits for a file.
func harnessFile(t testing.TB, path string) {
	t.Helper()
	harness.Poll(t, path, func() (string, bool) {
		_, err := os.Stat(path)
		return "not there", err == nil
	})
}

// TestSeccompProfile holds that a profile takes calls away and gives none.
func TestSeccompProfile(t *testing.T) {
	both(t, func(t *testing.T, d client) {
		dir := d.folder()
		profile := func(text string) string {
			if r := d.s.Exec(t, d.s.User, strings.NewReader(text), "tee", dir+"/profile.json"); r.Code != 0 {
				t.Fatal(r)
			}
			return "seccomp=" + dir + "/profile.json"
		}
		noMkdir := profile(`{"defaultAction":"SCMP_ACT_ALLOW","syscalls":[{"names":["mkdir","mkdirat"],"action":"SCMP_ACT_ERRNO"}]}`)
		d.fails(1, "Operation not permitted", "run", "--rm", "--security-opt", noMkdir, "busybox", "mkdir", "/x")
		d.want("2", "run", "--rm", "--security-opt", noMkdir, "busybox", "sed", "-n", "s/^Seccomp:\t//p", "/proc/self/status")
		all := profile(`{"defaultAction":"SCMP_ACT_ALLOW"}`)
		d.ok("run", "--rm", "--security-opt", all, "busybox", "mkdir", "/x")
		d.fails(1, "Operation not permitted", "run", "--rm", "--security-opt", all, "busybox", "unshare", "-U", "true")
		d.fails(1, "", "run", "--rm", "--security-opt", all, "busybox", "mount", "-t", "tmpfs", "none", "/mnt")
		d.fails(125, "not supported", "run", "--rm", "--security-opt", profile(`{"defaultAction":"SCMP_ACT_LOG"}`), "busybox", "true")
		d.fails(125, "security-opt", "run", "--rm", "--security-opt", "seccomp=unconfined", "busybox", "true")
	})
}

func TestNetworkOptions(t *testing.T) {
	both(t, func(t *testing.T, d client) {
		const mac = "02:00:5e:00:53:01"
		name := d.sleeper("--mac-address", mac, "--add-host", "gate:host-gateway")
		d.want(mac, "exec", name, "cat", "/sys/class/net/eth0/address")
		d.want(mac, "inspect", "-f", "{{.NetworkSettings.Networks.bridge.MacAddress}}", name)
		gateway := d.ok("inspect", "-f", "{{.NetworkSettings.Networks.bridge.Gateway}}", name)
		if hosts := d.ok("exec", name, "cat", "/etc/hosts"); !strings.Contains(hosts, gateway+"\tgate\n") {
			t.Errorf("gateway %s, hosts:\n%s", gateway, hosts)
		}
		d.ok("restart", "-t", "0", name)
		d.want(mac, "exec", name, "cat", "/sys/class/net/eth0/address")
		d.fails(125, "in use", "run", "--rm", "--mac-address", mac, "busybox", "true")
		d.fails(125, "mac-address", "run", "--rm", "--mac-address", "00:1b:21:00:53:01", "busybox", "true")
		d.fails(125, "links", "run", "--rm", "--link", name+":x", "busybox", "true")
	})
}

// TestUpdate holds that limits reach the kernel, and that what it refuses is not recorded.
func TestUpdateRefused(t *testing.T) {
	both(t, func(t *testing.T, d client) {
		name := d.sleeper("--memory", "64m", "--cpus", "1")
		limits := func() string {
			d.t.Helper()
			return d.ok("inspect", "-f", "{{.HostConfig.Memory}} {{.HostConfig.NanoCpus}} {{.HostConfig.RestartPolicy.Name}}", name)
		}
		d.want(name, "update", "--memory", "48m", "--memory-swap", "96m", "--cpus", "0.5", "--restart", "on-failure:2", name)
		if got := limits(); got != "50331648 500000000 on-failure" {
			t.Errorf("after the update: %s", got)
		}
		if r := d.run("stats", "--no-stream", "--format", "{{.MemUsage}}", name); !strings.Contains(r.Stdout, "/ 48MiB") {
			t.Errorf("the kernel's limit: %v", r)
		}
		d.fails(1, "", "update", "--memory", "96m", "--memory-swap", "64m", name)
		d.fails(1, "", "update", "--cpuset-cpus", "4000", name)
		if got := limits(); got != "50331648 500000000 on-failure" {
			t.Errorf("after refused updates: %s", got)
		}
		d.state(name, "running")
	})
}

// TestAttachWebSocket goes through the whole server: standard input in, unmarked output back, an end.
func TestAttachWebSocket(t *testing.T) {
	d := docker(t)
	name := d.name()
	d.ok("create", "-i", "--name", name, "busybox", "sh", "-c", "read line; echo got $line; echo err >&2")
	url := "http://localhost/v1.47/containers/" + name + "/attach/ws?stream=1&stdin=1&stdout=1&stderr=1"
	client := d.s.Client(t, d.s.User)
	conn, _, err := websocket.Dial(t.Context(), url, &websocket.DialOptions{HTTPClient: client})
	if err != nil {
		t.Fatal(err)
	}
	d.ok("start", name)
	if err := conn.Write(t.Context(), websocket.MessageText, []byte("hello\n")); err != nil {
		t.Fatal(err)
	}
	var out strings.Builder
	for err == nil {
		var data []byte
		_, data, err = conn.Read(t.Context())
		out.Write(data)
	}
	if websocket.CloseStatus(err) != websocket.StatusNormalClosure || !strings.Contains(out.String(), "got hello\n") || !strings.Contains(out.String(), "err\n") {
		t.Errorf("%q, %v", out.String(), err)
	}
	// SECURITY(T-101): a page in a browser cannot.
	_, resp, err := websocket.Dial(t.Context(), url, &websocket.DialOptions{HTTPClient: client, HTTPHeader: http.Header{"Origin": {"http://localhost"}}})
	if err == nil || resp == nil || resp.StatusCode != http.StatusForbidden {
		t.Errorf("with an Origin: %v, %v", resp, err)
	}
}
