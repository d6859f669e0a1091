//go:build root

package attack

import (
	"archive/tar"
	"bytes"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"

	"stockade/test/harness"
)

// T-501: no descriptor of the server's is open in a container (CVE-2016-9962, CVE-2024-21626). The control inherits one.
func TestLeakedDescriptors(t *testing.T) {
	s := harness.Get(t)
	withProbe(t, s)
	check := func(name, out string) {
		t.Helper()
		var fds map[string]string
		if err := json.Unmarshal([]byte(out), &fds); err != nil || len(fds) != 0 {
			t.Errorf("%s: %s (%v)", name, out, err)
		}
	}
	check("run", runProbe(t, s, "fds"))
	check("run in a terminal", strings.TrimSpace(runProbe(t, s, "fds", "-t")))
	id := s.Must(t, "run", "-d", "-e", probeEnv+"=fds", probeImage, "sleep", "1000")
	t.Cleanup(func() { s.Must(t, "rm", "-f", id) })
	check("exec", s.Must(t, "exec", id, "probe"))
	check("exec in a terminal", strings.TrimSpace(s.Must(t, "exec", "-t", id, "probe")))

	cmd := s.Command(harness.Context(t), harness.Root, probePath)
	cmd.Env = append(cmd.Env, probeEnv+"=fds")
	f, err := os.Open("/etc")
	must(t, err)
	defer f.Close()
	cmd.ExtraFiles = []*os.File{f}
	out, err := cmd.Output()
	if err != nil || !strings.Contains(string(out), `"3":"/etc"`) {
		t.Errorf("control: %s %v", out, err)
	}
}

// T-501: a working folder that is a descriptor leads nowhere when the image says it (CVE-2024-21626); for the caller's
// own words see TestDescriptorsAsPaths.
func TestWorkingDirectory(t *testing.T) {
	s := harness.Get(t)
	host, err := os.Hostname()
	must(t, err)
	const look = "cd ../../../../../../.. 2>/dev/null; cat etc/hostname; ls -d var/lib/st[a-k]t* 2>/dev/null; pwd"
	escaped := func(r harness.Result) bool {
		return strings.Contains(r.Stdout, harness.Prefix) || strings.Contains(r.Stdout, host+"\n")
	}
	for fd := 6; fd < 10; fd++ {
		image := fmt.Sprintf("attack/workdir:%d", fd)
		a := archive(t, image, map[string]any{"WorkingDir": fmt.Sprintf("/proc/self/fd/%d", fd)})
		if r := s.Exec(t, s.User, bytes.NewReader(a), s.DockerPath(), "load"); r.Code != 0 {
			continue
		}
		if r := s.Docker(t, "run", "--rm", image, "sh", "-c", look); escaped(r) {
			t.Error(r)
		}
		s.Must(t, "rmi", image)
	}
	r := s.Exec(t, harness.Root, nil, "/bin/sh", "-c", "cd "+harness.Data+"; "+look)
	if !escaped(r) {
		t.Errorf("control: %v", r)
	}
}

// T-501: users that an image names in ways that have been read as root (CVE-2016-3697, CVE-2024-40635,
// CVE-2026-46680). The caller's own spelling is refused by the gate; the image's never passes there.
func TestUsersOfImages(t *testing.T) {
	s := harness.Get(t)
	for _, user := range []string{"4294967296", "4294967295", "2147483648", "-1", "65536", "0x0", "1e3", "+0", " 0", "no-such-name", "1000:4294967296", "1000:-1"} {
		a := archive(t, "attack/user:1", map[string]any{"User": user})
		if r := s.Exec(t, s.User, bytes.NewReader(a), s.DockerPath(), "load"); r.Code != 0 {
			continue
		}
		r := s.Docker(t, "run", "--rm", "attack/user:1", "id")
		if r.Code == 0 {
			t.Errorf("user %q: %v", user, r)
		}
		s.Must(t, "rmi", "attack/user:1")
	}
	// A name of digits is a number, not the name that /etc/passwd gives to root; and nobody gets root's groups.
	layer := tarOf(t, entry{Header: tar.Header{Name: "etc/passwd", Mode: 0o644}, body: "root:x:0:0::/:/bin/sh\n1000:x:0:0::/:/bin/sh\nuser:x:1001:100::/:/bin/sh\n"},
		entry{Header: tar.Header{Name: "etc/group", Mode: 0o644}, body: "root:x:0:\nextra:x:77:user\nhuge:x:4294967296:user\nnegative:x:-1:user\n"})
	a := archive(t, "attack/user:2", map[string]any{"User": "1000"}, layer)
	if r := s.Exec(t, s.User, bytes.NewReader(a), s.DockerPath(), "load"); r.Code != 0 {
		t.Fatal(r)
	}
	t.Cleanup(func() { s.Must(t, "rmi", "attack/user:2") })
	if r := s.Docker(t, "run", "--rm", "attack/user:2", "id", "-u"); r.Code == 0 && strings.TrimSpace(r.Stdout) != "1000" {
		t.Errorf("a name of digits: %v", r)
	}
	if r := s.Docker(t, "run", "--rm", "-u", "user", "attack/user:2", "id", "-G"); r.Code == 0 && strings.TrimSpace(r.Stdout) != "100 77" {
		t.Errorf("groups of a user: %v", r)
	}
	if got := s.Must(t, "run", "--rm", "-u", "1000:100", "busybox", "id"); got != "uid=1000(user) gid=100(users) groups=100(users)" {
		t.Errorf("control: %s", got)
	}
}

// status reads fields of /proc/PID/status.
func status(t *testing.T, text string) map[string]string {
	t.Helper()
	fields := map[string]string{}
	for line := range strings.Lines(text) {
		key, value, _ := strings.Cut(strings.TrimRight(line, "\n"), ":")
		fields[key] = strings.Join(strings.Fields(value), " ")
	}
	return fields
}

// T-501: what a process keeps of capabilities and groups (CVE-2022-24769, CVE-2022-29162, CVE-2022-36109).
func TestInheritedRights(t *testing.T) {
	s := harness.Get(t)
	for _, c := range []struct{ user, eff, groups string }{{"0", "00000000a80425fb", "0"}, {"1000", "0000000000000000", "100"}} {
		got := status(t, s.Must(t, "run", "--rm", "-u", c.user, "busybox", "cat", "/proc/self/status"))
		for key, want := range map[string]string{"CapInh": "0000000000000000", "CapAmb": "0000000000000000", "CapEff": c.eff, "CapBnd": "00000000a80425fb", "Groups": c.groups, "Seccomp": "2"} {
			if got[key] != want {
				t.Errorf("user %s: %s is %q, want %q", c.user, key, got[key], want)
			}
		}
	}
	if got := status(t, s.Must(t, "run", "--rm", "--cap-drop=ALL", "--security-opt=no-new-privileges", "busybox", "cat", "/proc/self/status")); got["CapEff"] != "0000000000000000" || got["CapBnd"] != "0000000000000000" || got["NoNewPrivs"] != "1" {
		t.Errorf("without capabilities: %v", got)
	}
	data, err := os.ReadFile("/proc/self/status")
	must(t, err)
	if got := status(t, string(data)); got["Seccomp"] != "0" || got["CapEff"] == "00000000a80425fb" {
		t.Errorf("control: %v", got)
	}
}

// T-502: calls that reach far into the kernel end in the filter. On the host, as root, the kernel itself answers.
func TestSystemCalls(t *testing.T) {
	s := harness.Get(t)
	var inside, exec, outside map[string]int
	must(t, json.Unmarshal([]byte(runProbe(t, s, "syscalls")), &inside))
	id := s.Must(t, "run", "-d", "-e", probeEnv+"=syscalls", probeImage, "sleep", "1000")
	t.Cleanup(func() { s.Must(t, "rm", "-f", id) })
	must(t, json.Unmarshal([]byte(s.Must(t, "exec", id, "probe")), &exec))
	cmd := s.Command(harness.Context(t), harness.Root, probePath)
	cmd.Env = append(cmd.Env, probeEnv+"=syscalls")
	out, err := cmd.Output()
	must(t, err)
	must(t, json.Unmarshal(out, &outside))
	missing := 0
	for name, errno := range outside {
		if strings.Contains(name, "control") {
			if inside[name] != 0 || errno != 0 {
				t.Errorf("%s: %v inside, %v outside", name, syscall.Errno(inside[name]), syscall.Errno(errno))
			}
			continue
		}
		for where, got := range map[string]int{"run": inside[name], "exec": exec[name]} {
			if e := syscall.Errno(got); e != unix.EPERM && e != unix.ENOSYS {
				t.Errorf("%s in %s: %v, not stopped by the filter", name, where, e)
			}
		}
		if e := syscall.Errno(errno); e == unix.ENOSYS || e == unix.EPERM { // this kernel has not got it, or root here may not
			missing++
		}
	}
	if len(outside) < 20 || missing > len(outside)/3 {
		t.Errorf("control: of %d calls %d do not work outside either: %v", len(outside), missing, outside)
	}
}

// T-502: files of the kernel that tell of the host, or change it.
func TestKernelFiles(t *testing.T) {
	s := harness.Get(t)
	id := s.Must(t, "run", "-d", "busybox", "sleep", "1000")
	t.Cleanup(func() { s.Must(t, "rm", "-f", id) })
	shown := 0
	for _, path := range []string{"/proc/acpi", "/proc/interrupts", "/proc/kcore", "/proc/keys", "/proc/latency_stats", "/proc/sched_debug", "/proc/scsi", "/proc/timer_list", "/proc/timer_stats", "/sys/firmware", "/sys/devices/virtual/powercap"} {
		r := s.Docker(t, "exec", id, "sh", "-c", "test -d "+path+" && ls -A "+path+" || head -c 200 "+path)
		if r.Stdout != "" {
			t.Errorf("%s: %v", path, r)
		}
		if fi, err := os.Stat(path); err == nil {
			if entries, err := os.ReadDir(path); !fi.IsDir() || err == nil && len(entries) > 0 {
				shown++
			}
		}
	}
	if shown < 3 {
		t.Errorf("control: only %d of these files exist on the host", shown)
	}
	for _, script := range []string{
		"echo x >/proc/sys/kernel/domainname", "echo 1 >/proc/sys/vm/drop_caches", "echo x >/proc/sysrq-trigger", "echo 1 >/proc/irq/default_smp_affinity", "echo 1 >/sys/kernel/mm/ksm/run",
		"mount -o remount,rw /proc/sys", "umount /proc/sys", "umount /proc/interrupts", "mount -t proc none /tmp", "mount -t sysfs none /tmp", "mount -t tmpfs none /tmp", "mknod /tmp/m c 1 1", "echo 0 >/proc/1/oom_score_adj && echo -1000 >/proc/1/oom_score_adj",
		"mkdir /sys/fs/cgroup/x", "chroot /proc/1/root true && cat /proc/1/root/etc/hostname | grep -q st[a-k]t", "dmesg", "hostname x", "swapoff -a && swapon /bin/busybox", "ip link add x type dummy", "sysctl -w kernel.core_pattern=x",
	} {
		if r := s.Docker(t, "exec", id, "sh", "-c", script); r.Code == 0 {
			t.Errorf("%s worked", script)
		}
	}
	if r := s.Docker(t, "exec", id, "sh", "-c", "echo 10 >/proc/self/oom_score_adj && cat /proc/uptime >/tmp/control"); r.Code != 0 {
		t.Errorf("control: %v", r)
	}
	if r := s.Exec(t, harness.Root, nil, "/bin/sh", "-c", `d=$(cat /proc/sys/kernel/domainname) && echo "$d" >/proc/sys/kernel/domainname`); r.Code != 0 {
		t.Errorf("control: %v", r)
	}
}

// T-503: on the host, a container's processes are ids that own nothing outside of it, and no other container's.
func TestIDsOfProcesses(t *testing.T) {
	s := harness.Get(t)
	seen := map[uint64]string{}
	for i := range 3 {
		id := s.Must(t, "run", "-d", "busybox", "sh", "-c", "sleep 1000 & sleep 1000")
		t.Cleanup(func() { s.Must(t, "rm", "-f", id) })
		main := s.Must(t, "inspect", "-f", "{{.State.Pid}}", id)
		s.Must(t, "exec", "-d", "-u", "user", id, "sleep", "1000")
		var pids []string
		harness.Poll(t, "three processes", func() (string, bool) {
			pids = nil
			ns, err := os.Readlink("/proc/" + main + "/ns/pid")
			must(t, err)
			entries, err := filepath.Glob("/proc/[0-9]*/ns/pid")
			must(t, err)
			for _, e := range entries {
				if link, err := os.Readlink(e); err == nil && link == ns {
					pids = append(pids, strings.Split(e, "/")[2])
				}
			}
			return fmt.Sprint(pids), len(pids) == 3
		})
		blocks := map[uint64]bool{}
		for _, pid := range pids {
			data, err := os.ReadFile("/proc/" + pid + "/status")
			must(t, err)
			st := status(t, string(data))
			for _, text := range append(strings.Fields(st["Uid"]), strings.Fields(st["Gid"])...) {
				n, err := strconv.ParseUint(text, 10, 32)
				must(t, err)
				if !harness.IDs.Contains(uint32(n)) {
					t.Errorf("container %d: process %s has id %d of the host", i, pid, n)
				}
				block := (n - uint64(harness.IDs.First)) / 65536
				if block == 0 {
					t.Errorf("container %d: process %s has id %d, which owns files of the store", i, pid, n)
				}
				blocks[block] = true
			}
		}
		if len(blocks) != 1 {
			t.Errorf("container %d has ids of blocks %v", i, blocks)
		}
		for b := range blocks {
			if other, ok := seen[b]; ok {
				t.Errorf("containers %s and %s share ids", other, id)
			}
			seen[b] = id
		}
		s.Must(t, "exec", id, "sh", "-c", "echo x >/root/mine; echo x >/tmp/mine; chown 1000 /tmp/mine")
	}
	// Nothing on any disk belongs to an id of a running container: files carry ids of the store (block 0).
	found, mine := 0, 0
	for _, dir := range []string{harness.Data, "/etc", "/home", "/var/tmp", "/srv"} {
		must(t, filepath.Walk(dir, func(path string, fi os.FileInfo, err error) error {
			if err != nil {
				return nil // removed meanwhile
			}
			st := fi.Sys().(*syscall.Stat_t)
			for _, id := range []uint32{st.Uid, st.Gid} {
				if harness.IDs.Contains(id) && id >= harness.IDs.First+65536 {
					t.Errorf("%s belongs to %d", path, id)
				}
			}
			if harness.IDs.Contains(st.Uid) {
				found++
				if fi.Name() == "mine" {
					mine++
				}
			}
			return nil
		}))
	}
	if found == 0 || mine != 6 {
		t.Errorf("control: %d files of the store, %d of the 6 new ones", found, mine)
	}
}
