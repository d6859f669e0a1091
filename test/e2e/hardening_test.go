//go:build root

package e2e

import (
	"fmt"
	"os"
	"strconv"
	"strings"
	"testing"

	"stockade/test/harness"
)

// defaultCaps is Docker's default set: CHOWN, DAC_OVERRIDE, FOWNER, FSETID, KILL, SETGID, SETUID, SETPCAP,
// NET_BIND_SERVICE, NET_RAW, SYS_CHROOT, MKNOD, AUDIT_WRITE, SETFCAP.
const defaultCaps = "00000000a80425fb"

// TestConfinement is what a container without options sees of its own confinement.
func TestConfinement(t *testing.T) {
	for _, c := range []struct{ name, script, want string }{
		{"capabilities", "grep -E 'Cap(Inh|Prm|Eff|Bnd|Amb)' /proc/self/status | tr -d '\\t' | tr '\\n' ' '",
			"CapInh:0000000000000000 CapPrm:" + defaultCaps + " CapEff:" + defaultCaps + " CapBnd:" + defaultCaps + " CapAmb:0000000000000000"},
		{"seccomp", "grep ^Seccomp: /proc/self/status | tr -d '\\t'", "Seccomp:2"},
		{"no_new_privs only if asked for", "grep NoNewPrivs /proc/self/status | tr -d '\\t'", "NoNewPrivs:0"},
		{"signals", "grep -E 'Sig(Blk|Ign)' /proc/self/status | tr -d '\\t'", "SigBlk:0000000000000000\nSigIgn:0000000000000000"},
		{"uid map", "awk '{print $1, $3}' /proc/self/uid_map; awk '{print $1, $3}' /proc/self/gid_map", "0 65536\n0 65536"},
		{"root is nobody", "awk '{exit $2 < 65536}' /proc/self/uid_map && echo high", "high"},
		{"control group", "cut -d: -f3 /proc/self/cgroup | sort -u", "/"},
		{"pid 1", "cat /proc/1/comm", "cat"},
		{"devices", "ls /dev | tr '\\n' ' '", "fd full mqueue null ptmx pts random shm stderr stdin stdout tty urandom zero"},
		{"block devices", "find / -xdev -type b | wc -l; find /dev -type b | wc -l", "0\n0"},
		{"masked", "cat /proc/kcore /proc/keys /proc/timer_list 2>/dev/null | wc -c; ls /proc/acpi /proc/scsi /sys/firmware 2>/dev/null | grep -v : | grep . | wc -l", "0\n0"},
		{"read-only", "for f in /proc/sys/kernel/domainname /proc/sysrq-trigger /proc/irq/x /proc/bus/x /sys/x; do (echo x >$f) 2>&1; done | grep -c -e 'Read-only' -e 'Permission denied' -e 'nonexistent directory'", "5"},
		{"no mounts", "mount -t tmpfs none /mnt 2>&1 | grep -o 'denied\\|not permitted' | head -1; mount -o remount,rw /proc/sys 2>&1 | grep -o 'denied\\|not permitted' | head -1", "denied\ndenied"},
		{"no namespaces", "unshare -U true 2>&1 | grep -o 'not permitted'", "not permitted"},
		{"no device nodes", "mknod /tmp/disk b 8 0 2>&1 | grep -o 'not permitted'", "not permitted"},
		{"no clock", "date -s 2020-01-01 2>&1 | grep -o 'not permitted'", "not permitted"},
		{"no kernel log", "dmesg 2>&1 | grep -o 'not permitted'", "not permitted"},
		{"open files", "ls /proc/self/fd | wc -l", "4"}, // three and the folder's own
		{"processes", "set -- /proc/[0-9]*; echo $#", "1"},
		{"root mount", "awk '$2 == \"/\" {print $3}' /proc/mounts", "overlay"},
	} {
		t.Run(c.name, func(t *testing.T) {
			docker(t).want(c.want, "run", "--rm", "busybox", "sh", "-c", c.script)
		})
	}
}

func TestConfinementByOption(t *testing.T) {
	d := docker(t)
	d.want("NoNewPrivs:1", "run", "--rm", "--security-opt", "no-new-privileges", "busybox", "sh", "-c", "grep NoNewPrivs /proc/self/status | tr -d '\\t'")
	d.want("CapEff:0000000000000000", "run", "--rm", "-u", "1000", "busybox", "sh", "-c", "grep CapEff /proc/self/status | tr -d '\\t'")
	for _, c := range []struct{ rule, option string }{
		{"privileged", "--privileged"},
		{"security-opt", "--security-opt=seccomp=unconfined"},
		{"cap-add", "--cap-add=SYS_ADMIN"},
		{"cap-add", "--cap-add=ALL"},
		{"namespaces", "--pid=host"},
		{"namespaces", "--ipc=host"},
		{"namespaces", "--uts=host"},
		{"namespaces", "--userns=host"},
		{"namespaces", "--cgroupns=host"},
		{"network-mode", "--network=host"},
		{"devices", "--device=/dev/null"},
		{"sysctls", "--sysctl=net.ipv4.ip_forward=1"},
		{"cgroup-parent", "--cgroup-parent=/x"},
	} {
		r := d.run("run", "--rm", c.option, "busybox", "true")
		if r.Code != 125 || !strings.Contains(r.Stderr, "(rule ") {
			t.Errorf("%s is not refused by a rule: %v", c.option, r)
		} else if !strings.Contains(r.Stderr, "(rule "+c.rule) {
			t.Logf("%s: %s", c.option, r.Stderr)
		}
	}
}

// TestSeparateIDs holds that two containers never share a uid of the host, nor with a person.
func TestSeparateIDs(t *testing.T) {
	d := docker(t)
	seen := map[int]string{}
	for range 3 {
		name := d.sleeper()
		for _, field := range strings.Fields(status(t, d.inspect(name).State.Pid, "Uid")) {
			uid, err := strconv.Atoi(field)
			if err != nil {
				t.Fatal(err)
			}
			block := (uid - int(harness.IDs.First)) / 65536
			if uid < int(harness.IDs.First) || block == 0 || block >= int(harness.IDs.Count/65536) {
				t.Errorf("uid %d is none of a container", uid)
			}
			if other := seen[block]; other != "" && other != name {
				t.Errorf("%s and %s share block %d", name, other, block)
			}
			seen[block] = name
		}
	}
}

// status is a line of /proc/PID/status.
func status(t testing.TB, pid int, key string) string {
	t.Helper()
	data, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	if err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(string(data)) {
		if value, ok := strings.CutPrefix(line, key+":"); ok {
			return strings.TrimSpace(value)
		}
	}
	t.Fatalf("/proc/%d/status has no %s", pid, key)
	return ""
}
