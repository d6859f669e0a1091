//go:build root

package attack

import (
	"archive/tar"
	"bytes"
	"encoding/binary"
	"os"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"stockade/test/harness"
)

// program is a static amd64 program of the given machine code: it ends with 0 if what the code left in eax is not
// negative, else with 1. A pointer to data is 0x400400.
func program(code []byte, data ...uint32) []byte {
	code = append(code,
		0x31, 0xff, // xor edi, edi
		0x85, 0xc0, // test eax, eax
		0x79, 0x02, // jns over the next
		0xff, 0xc7, // inc edi
		0xb8, 60, 0, 0, 0, // mov eax, exit
		0x0f, 0x05, // syscall
	)
	const base, offset = 0x400000, 0x400
	image := make([]byte, offset+4*len(data))
	le := binary.LittleEndian
	copy(image, "\x7fELF\x02\x01\x01")
	le.PutUint16(image[16:], 2)        // executable
	le.PutUint16(image[18:], 62)       // amd64
	le.PutUint32(image[20:], 1)        //
	le.PutUint64(image[24:], base+120) // entry
	le.PutUint64(image[32:], 64)       // program headers
	le.PutUint16(image[52:], 64)
	le.PutUint16(image[54:], 56)
	le.PutUint16(image[56:], 1)
	le.PutUint32(image[64:], 1) // load
	le.PutUint32(image[68:], 5) // to read and execute
	le.PutUint64(image[80:], base)
	le.PutUint64(image[88:], base)
	le.PutUint64(image[96:], uint64(len(image)))
	le.PutUint64(image[104:], uint64(len(image)))
	le.PutUint64(image[112:], 0x1000)
	copy(image[120:], code)
	for i, d := range data {
		le.PutUint32(image[offset+4*i:], d)
	}
	return image
}

// T-502: the kernel's other doors, 32-bit and x32 calls, are closed in run and exec, so that the filter cannot be gone
// around by socketcall (CVE-2026-112917 class). On the host the same programs work, as far as the kernel has the door.
func TestOtherABIs(t *testing.T) {
	s := harness.Get(t)
	entry32 := func(nr byte) []byte { return []byte{0xb8, nr, 0, 0, 0, 0xcd, 0x80} } // mov eax, nr; int 0x80
	programs := map[string][]byte{
		"native":     program([]byte{0xb8, unix.SYS_GETPID, 0, 0, 0, 0x0f, 0x05}),
		"x32":        program([]byte{0xb8, unix.SYS_GETPID, 0, 0, 0x40, 0x0f, 0x05}),
		"int80":      program(entry32(20)),                                                                                              // getpid
		"socketcall": program(append([]byte{0xbb, 1, 0, 0, 0, 0xb9, 0, 4, 0x40, 0}, entry32(102)...), unix.AF_INET, unix.SOCK_DGRAM, 0), // socket
		"keyctl32":   program(append([]byte{0xbb, 0, 0, 0, 0, 0xb9, 0xfd, 0xff, 0xff, 0xff, 0xba, 0, 0, 0, 0, 0x90, 0x90}, 0xb8, 0x20, 1, 0, 0, 0xcd, 0x80)),
	}
	var entries []entry
	for name, p := range programs {
		entries = append(entries, entry{Header: tar.Header{Name: "bin/" + name, Mode: 0o755}, body: string(p)})
	}
	if r := s.Exec(t, s.User, bytes.NewReader(archive(t, "attack/abi:1", nil, tarOf(t, entries...))), s.DockerPath(), "load"); r.Code != 0 {
		t.Fatal(r)
	}
	t.Cleanup(func() { s.Must(t, "rmi", "attack/abi:1") })
	id := s.Must(t, "run", "-d", "attack/abi:1", "sleep", "1000")
	t.Cleanup(func() { s.Must(t, "rm", "-f", id) })
	dir, works := folder(t), 0
	for name, p := range programs {
		must(t, os.WriteFile(dir+"/"+name, p, 0o755))
		host := s.Exec(t, harness.Root, nil, dir+"/"+name)
		for where, r := range map[string]harness.Result{"run": s.Docker(t, "run", "--rm", "--network=none", "attack/abi:1", name), "exec": s.Docker(t, "exec", id, name)} {
			if name == "native" && r.Code != 0 {
				t.Errorf("control: native in %s: %v", where, r)
			}
			if name != "native" && r.Code != 128+int(unix.SIGSYS) {
				t.Errorf("%s in %s does not end in the filter: %v", name, where, r)
			}
		}
		if host.Code == 0 {
			works++
		}
		t.Logf("%s on the host: %d", name, host.Code)
	}
	if works < 2 {
		t.Error("control: this kernel has no other door at all")
	}
}

// hidden are files of the kernel that tell of the host, or through which it can be changed.
const hidden = `
	show() { test -e "$1" || return; if test -d "$1"; then test -z "$(ls -A "$1" 2>/dev/null)" || echo "shows $1"; else test -z "$(head -c 1 "$1" 2>/dev/null | od -An -c)" || echo "shows $1"; fi; }
	for f in /proc/acpi /proc/asound /proc/interrupts /proc/kcore /proc/keys /proc/latency_stats /proc/sched_debug /proc/scsi /proc/timer_list /proc/timer_stats /proc/kmsg /proc/vmallocinfo /proc/slabinfo /proc/pagetypeinfo /proc/kpagecount /proc/kpageflags \
		/sys/firmware /sys/devices/virtual/powercap /sys/kernel/debug /sys/kernel/tracing /sys/kernel/security /sys/kernel/config /sys/fs/bpf /sys/fs/pstore /sys/devices/system/cpu/cpu*/thermal_throttle; do show $f; done
	change() { if (echo "$2" >"$1") 2>/dev/null; then echo "changes $1"; fi; }
	for f in /proc/sysrq-trigger /proc/sys/kernel/core_pattern /proc/sys/kernel/domainname /proc/sys/kernel/modprobe /proc/sys/vm/drop_caches /proc/sys/fs/binfmt_misc/register /proc/irq/default_smp_affinity /proc/mtrr \
		/sys/kernel/uevent_helper /sys/kernel/mm/ksm/run /sys/power/state /sys/kernel/profiling /sys/fs/cgroup/cgroup.procs /sys/fs/cgroup/memory/memory.limit_in_bytes /sys/fs/cgroup/devices/devices.allow; do test -e $f && change $f x; done
	true`

// T-502: files of the kernel are hidden and cannot be written in a first process, an exec, as another user, in a
// terminal and in a health check. The control shows some of them on the host.
func TestHiddenFilesEverywhere(t *testing.T) {
	s := harness.Get(t)
	check := `{ ` + hidden + `
	} >/tmp/new 2>&1; mv /tmp/new /tmp/health`
	id := s.Must(t, "run", "-d", "--health-cmd", check, "--health-interval", "1s", "busybox", "sleep", "1000")
	t.Cleanup(func() { s.Must(t, "rm", "-f", id) })
	for name, r := range map[string]harness.Result{
		"run": s.Docker(t, "run", "--rm", "busybox", "sh", "-c", hidden), "run as a user": s.Docker(t, "run", "--rm", "-u", "1000", "busybox", "sh", "-c", hidden), "run in a terminal": s.Docker(t, "run", "--rm", "-t", "busybox", "sh", "-c", hidden),
		"run with --init": s.Docker(t, "run", "--rm", "--init", "busybox", "sh", "-c", hidden),
		"exec":            s.Docker(t, "exec", id, "sh", "-c", hidden), "exec as a user": s.Docker(t, "exec", "-u", "1000", id, "sh", "-c", hidden), "exec in a terminal": s.Docker(t, "exec", "-t", id, "sh", "-c", hidden),
	} {
		if r.Code != 0 || r.Stdout != "" {
			t.Errorf("%s: %v", name, r)
		}
	}
	harness.Poll(t, "a health check", func() (string, bool) {
		r := s.Docker(t, "exec", id, "cat", "/tmp/health")
		if r.Code == 0 && r.Stdout != "" {
			t.Fatalf("health check: %v", r)
		}
		return r.String(), r.Code == 0
	})
	show, _, _ := strings.Cut(hidden, "change()") // the host's files are left as they are
	if r := s.Exec(t, harness.Root, nil, "/bin/sh", "-c", show); strings.Count(r.Stdout, "shows") < 5 {
		t.Errorf("control: %v", r)
	}
	if r := s.Exec(t, harness.Root, nil, "/bin/sh", "-c", `d=$(cat /proc/sys/kernel/domainname) && echo "$d" >/proc/sys/kernel/domainname`); r.Code != 0 {
		t.Errorf("control: %v", r)
	}
}

// T-502: a container cannot trace, read or signal processes of another one, of the host or of the server. The control is the
// same call of root's on the host, and the container's on its own process.
func TestProcessesOfOthers(t *testing.T) {
	s := harness.Get(t)
	withProbe(t, s)
	other := s.Must(t, "run", "-d", "busybox", "sleep", "1000")
	id := s.Must(t, "run", "-d", "-e", probeEnv+"=trace", probeImage, "sleep", "1000")
	t.Cleanup(func() { s.Must(t, "rm", "-f", id, other) })
	victim := s.Must(t, "inspect", "-f", "{{.State.Pid}}", other)
	for _, pid := range []string{victim, "2147483646"} {
		if out := s.Must(t, "exec", id, "probe", pid); !strings.Contains(out, `"attach":"no such process"`) || !strings.Contains(out, `"read":"no such process"`) || !strings.Contains(out, `"signal":"no such process"`) {
			t.Errorf("process %s: %s", pid, out)
		}
	}
	if out := s.Must(t, "exec", id, "probe", "1"); !strings.Contains(out, `"signal":"ok"`) || !strings.Contains(out, `"attach":"ok"`) {
		t.Errorf("control: the container's own process: %s", out)
	}
	cmd := s.Command(harness.Context(t), harness.Root, probePath, victim)
	cmd.Env = append(cmd.Env, probeEnv+"=trace")
	if out, err := cmd.Output(); err != nil || !strings.Contains(string(out), `"attach":"ok"`) || !strings.Contains(string(out), `"read":"ok"`) {
		t.Errorf("control: root on the host: %s %v", out, err)
	}
}
