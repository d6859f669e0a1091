//go:build root

package attack

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"stockade/test/harness"
)

// T-301, T-701: the whole host, bound into a container that a person runs as root, shows what this person may see and
// changes what this person may change. The controls do the same as root on the host, and what the person may.
func TestBindOfTheHost(t *testing.T) {
	s := harness.Get(t)
	dir := folder(t)
	for name, mode := range map[string]os.FileMode{"rootonly": 0o600, "open": 0o666, "readable": 0o644} {
		must(t, os.WriteFile(filepath.Join(dir, name), []byte("secret"), mode))
		must(t, os.Chmod(filepath.Join(dir, name), mode))
	}
	own := filepath.Join(s.User.Home, "attack-own")
	must(t, os.WriteFile(own, []byte("mine"), 0o600))
	must(t, os.Chown(own, int(s.User.UID), int(s.User.GID)))
	t.Cleanup(func() { must(t, os.Remove(own)) })
	other := s.Must(t, "run", "-d", "-v", "attack-other:/v", "busybox", "sh", "-c", "echo theirs | tee /mark /v/mark; chmod 666 /mark /v/mark; sleep 1000")
	t.Cleanup(func() { s.Must(t, "rm", "-f", other); s.Must(t, "volume", "rm", "attack-other") })
	harness.Poll(t, "the other container", func() (string, bool) { return "", s.Must(t, "logs", other) == "theirs" })

	id := s.Must(t, "run", "-d", "-v", "/:/host", "busybox", "sleep", "1000")
	t.Cleanup(func() { s.Must(t, "rm", "-f", id) })
	in := "/host" + dir
	mark := filepath.Join(harness.Data, "engine/store/rw", other, "upper/mark")
	for _, c := range []struct {
		name, script string
		works        bool
		control      string // the same as root on the host; must work
	}{
		{"read shadow", "cat /host/etc/shadow", false, "cat /etc/shadow"},
		{"list root's home", "ls /host/root/", false, "ls /root/"},
		{"read another's file", "cat " + in + "/rootonly", false, "cat " + dir + "/rootonly"},
		{"write to /etc", "echo x >/host/etc/stkt-attack", false, "echo x >/etc/stkt-attack && rm /etc/stkt-attack"},
		{"write another's file", "echo x >>" + in + "/readable", false, "true >>" + dir + "/readable"},
		{"take another's file", "chown 0 " + in + "/rootonly", false, "chown 0 " + dir + "/rootonly"},
		{"open another's file up", "chmod 666 " + in + "/rootonly", false, "chmod 600 " + dir + "/rootonly"},
		{"become another's", "cp /bin/busybox " + in + "/sh; chown 1000 " + in + "/sh", false, "cp /bin/busybox " + dir + "/sh0 && chown 1000 " + dir + "/sh0"},
		{"make a device", "mknod " + in + "/null c 1 3", false, "mknod " + dir + "/null0 c 1 3"},
		{"list containers", "ls /host" + harness.Data + "/engine", false, "ls " + harness.Data + "/engine"},
		{"another container's file", "cat /host" + mark, false, "cat " + mark},
		{"another container's volume", "cat /host" + harness.Data + "/engine/store/volumes/*/data/mark", false, "cat " + harness.Data + "/engine/store/volumes/*/data/mark"},
		{"the server's records", "ls /host" + harness.Data + "/grantd", false, "ls " + harness.Data + "/grantd"},
		{"the audit log", "cat /host" + harness.Data + "/log/audit.jsonl", false, "cat " + harness.Data + "/log/audit.jsonl"},
		{"the server's configuration", "true >>/host" + harness.Config, false, "true >>" + harness.Config},
		{"processes of the host", "cat /host/proc/1/cmdline", false, "cat /proc/1/cmdline"},
		{"settings of the kernel", "echo x >/host/proc/sys/kernel/domainname", false, `d=$(cat /proc/sys/kernel/domainname) && echo "$d" >/proc/sys/kernel/domainname`},
		{"a device of the host", "head -c 1 </host/dev/urandom", false, "head -c 1 /dev/urandom"},
		{"remount", "mount -o remount,suid,dev /host", false, "true"},
		{"control: own file", "cat /host" + own, true, ""},
		{"control: own new file", "echo x >" + in + "/new", true, ""},
		{"control: a file for everybody", "echo x >" + in + "/open", true, ""},
		{"control: read what everybody may", "cat " + in + "/readable /host/etc/passwd", true, ""},
	} {
		r := s.Docker(t, "exec", id, "sh", "-c", c.script)
		if works := r.Code == 0; works != c.works {
			t.Errorf("%s: %v", c.name, r)
		}
		if c.control != "" {
			if r := s.Exec(t, harness.Root, nil, "/bin/sh", "-c", c.control); r.Code != 0 {
				t.Errorf("%s: control: %v", c.name, r)
			}
		}
	}
	var st unix.Stat_t
	if err := unix.Stat(filepath.Join(dir, "new"), &st); err != nil || st.Uid != s.User.UID || st.Gid != s.User.GID {
		t.Errorf("the new file belongs to %d:%d (%v)", st.Uid, st.Gid, err)
	}
	// A program with the bit of its owner is, on the host, the caller's; in the container the bit counts for nothing.
	s.Must(t, "exec", id, "sh", "-c", "cp /bin/busybox "+in+"/busybox && chmod 4755 "+in+"/busybox")
	if err := unix.Stat(filepath.Join(dir, "busybox"), &st); err != nil || st.Uid != s.User.UID {
		t.Errorf("a setuid program belongs to %d (%v)", st.Uid, err)
	}
	if got := s.Must(t, "exec", "-u", "1000", id, in+"/busybox", "id", "-u"); got != "1000" {
		t.Errorf("a setuid program on the host's file system ran as %s", got)
	}
}

// T-301, T-701: what nobody may bind, and what a swapped link leads to.
func TestBindSources(t *testing.T) {
	s := harness.Get(t)
	home := filepath.Join(s.User.Home, "attack-binds")
	must(t, os.Mkdir(home, 0o755))
	must(t, os.Chown(home, int(s.User.UID), int(s.User.GID)))
	t.Cleanup(func() { must(t, os.RemoveAll(home)) })
	for name, target := range map[string]string{"toshadow": "/etc/shadow", "todata": harness.Data, "tosocket": harness.Socket, "toroot": "/proc/1/root", "todev": "/dev", "tofd": "/proc/self/fd"} {
		must(t, os.Symlink(target, filepath.Join(home, name)))
	}
	before := objects(t, s)
	for _, source := range []string{
		harness.Data, harness.Data + "/engine", harness.Run, harness.Socket, harness.Run + "/engine.sock", harness.Run + "/priv",
		"/proc/1/root", "/proc/self/cwd", "/root/x",
		home + "/todata", home + "/tosocket", home + "/toroot",
		"/proc", "/proc/sys", "/proc/version", "/sys", "/sys/kernel", "/dev/null", "/dev/pts", home + "/tofd",
	} {
		r := s.API(t, s.User, "POST", "/v1.51/containers/create", `{"Image":"busybox","HostConfig":{"Binds":["`+source+`:/x"]}}`)
		if r.Status < 400 || r.Status >= 500 {
			t.Errorf("%s: %d %s", source, r.Status, r.Body)
		}
		if after := objects(t, s); after != before {
			t.Fatalf("%s had an effect", source)
		}
	}
	for _, source := range []string{"/dev", home + "/todev"} {
		if r := s.Docker(t, "run", "--rm", "-v", source+":/x", "busybox", "ls", "/x"); r.Code == 0 {
			t.Error(r)
		}
	}
	if r := s.Docker(t, "create", "-v", "/sys:/x", "busybox"); r.Code == 0 || !strings.Contains(r.Stderr, "bind of /sys: the kernel cannot show files of this file system") {
		t.Error(r)
	}
	// A file that the caller can only name is shown, and stays closed.
	if r := s.Docker(t, "run", "--rm", "-v", home+"/toshadow:/x", "busybox", "cat", "/x"); r.Code == 0 {
		t.Error(r)
	}
	// Root's own binds are the administrator's list.
	if r := s.DockerAs(t, harness.Root, "create", "-v", "/etc:/x", "busybox"); r.Code == 0 || !strings.Contains(r.Stderr, "bind-root") && !strings.Contains(r.Stderr, "rule grant") {
		t.Error(r)
	}

	// The folder is swapped for a link to what the caller may not have after the container was made.
	must(t, os.Mkdir(filepath.Join(home, "work"), 0o755))
	must(t, os.Chown(filepath.Join(home, "work"), int(s.User.UID), int(s.User.GID)))
	must(t, os.WriteFile(filepath.Join(home, "work", "mark"), []byte("mine"), 0o644))
	id := s.Must(t, "create", "-v", home+"/work:/x", "busybox", "sh", "-c", "ls /x; cat /x/*")
	t.Cleanup(func() { s.Must(t, "rm", "-f", id) })
	if got := s.Must(t, "start", "-a", id); got != "mark\nmine" {
		t.Fatalf("control: %s", got)
	}
	must(t, os.Rename(filepath.Join(home, "work"), filepath.Join(home, "old")))
	for target, secret := range map[string]string{harness.Data: "engine", "/root": "", "/proc/1": "environ", harness.Run: "docker.sock"} {
		must(t, os.Symlink(target, filepath.Join(home, "work")))
		r := s.Docker(t, "start", "-a", id)
		if r.Code == 0 || secret != "" && strings.Contains(r.Stdout, secret) {
			t.Errorf("swapped for %s: %v", target, r)
		}
		must(t, os.Remove(filepath.Join(home, "work")))
	}
	must(t, os.Rename(filepath.Join(home, "old"), filepath.Join(home, "work")))
	if got := s.Must(t, "start", "-a", id); got != "mark\nmine" {
		t.Errorf("control: %s", got)
	}
}

// T-101, T-103: no control socket can be reached from inside a container, neither by a bind of the folder above it
// nor over the network (CVE-2025-9074). The control is the same program on the host.
func TestSocketsFromInside(t *testing.T) {
	s := harness.Get(t)
	withProbe(t, s)
	for _, name := range []string{"docker.sock", "engine.sock", "priv/mountd.sock", "priv/grantd-gate.sock", "priv/netd.sock", "priv/cgroupd.sock"} {
		path := filepath.Join(harness.Run, name)
		out := s.Docker(t, "run", "--rm", "-v", "/:/host", "-e", probeEnv+"=dial", probeImage, "probe", "/host"+path)
		if out.Code != 0 || strings.Contains(out.Stdout, "connected") {
			t.Errorf("%s: %v", name, out)
		}
		cmd := s.Command(harness.Context(t), harness.Root, probePath, path)
		cmd.Env = append(cmd.Env, probeEnv+"=dial")
		want := "connected"
		if strings.HasPrefix(name, "priv/") {
			want = "wrong type" // of socket: there is one
		}
		if out, err := cmd.CombinedOutput(); err != nil || !strings.Contains(string(out), want) {
			t.Errorf("control: %s: %v %s", name, err, out)
		}
	}
	gateway := s.Must(t, "run", "--rm", "busybox", "sh", "-c", "ip route | sed -n 's/^default via \\([0-9.]*\\).*/\\1/p'")
	for _, port := range []int{2375, 2376, 4243} {
		if r := s.Docker(t, "run", "--rm", "busybox", "nc", "-z", "-w", "2", gateway, fmt.Sprint(port)); r.Code == 0 {
			t.Errorf("%s:%d answers", gateway, port)
		}
	}
}
