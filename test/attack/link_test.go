//go:build root

package attack

import (
	"archive/tar"
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"stockade/test/harness"
)

// look tells what a container must not have: the host's secret where its links lead, kernel files that are hidden or
// read-only elsewhere, and mounts on them. It prints a line for each.
func look(secret string) string {
	return `
	for f in /dev /dev/null /dev/console /dev/shm /proc /sys /etc/hosts /etc/hostname /etc/resolv.conf /vol /vol/x /vol/y /vol/deep /link /usr/link ` + secret + `; do
		for g in $f $f/f $f/x/f $f/y/f; do test -f $g && grep -sq "secret of the host" $g && echo "reads $g"; done
		test -d $f && touch $f/stkt-planted 2>/dev/null
	done
	for f in kcore keys timer_list interrupts; do test -n "$(head -c 1 /proc/$f 2>/dev/null)" && echo "shows /proc/$f"; done
	(echo x >/proc/sys/kernel/domainname) 2>/dev/null && echo "writes /proc/sys"
	(echo h >/proc/sysrq-trigger) 2>/dev/null && echo "writes /proc/sysrq-trigger"
	(: >>/proc/sys/kernel/core_pattern) 2>/dev/null && echo "opens core_pattern"
	awk '{if ($5 ~ "^/proc/" && $0 ~ " - devpts ") print "a terminal on " $5}' /proc/self/mountinfo
	echo looked`
}

// T-501: links in images where the runtime mounts, makes or hides things: /dev and what is in it (CVE-2026-41579,
// CVE-2025-31133, CVE-2025-52565), /proc and /sys (CVE-2025-52881), files that the server puts into /etc, and places for volumes
// (CVE-2021-30465). Whether the container starts or not, the host stays as it is. The control follows the same links as a
// program without care does.
func TestLinksInImages(t *testing.T) {
	s := harness.Get(t)
	secret, before := secretFolder(t)
	names := []string{"dev", "proc", "sys", "etc/hosts", "etc/hostname", "etc/resolv.conf", "dev/null", "dev/console", "dev/shm", "dev/pts", "sbin/docker-init", "vol", "link", "sbin", "etc"}
	up := strings.Repeat("../", 30)
	var probes []string
	for i, name := range names {
		for j, target := range []string{secret, up + secret[1:] + "/f", "/proc/self/root" + secret, "/proc/sys/kernel/core_pattern"} {
			if strings.HasPrefix(name, "etc/") && j == 0 {
				target += "/f"
			}
			if (i+j)%2 == 1 && i > 2 {
				continue // each name with two of the targets, the more important with all
			}
			layer := tarOf(t, entry{Header: tar.Header{Name: name, Typeflag: tar.TypeSymlink, Linkname: target}})
			image := fmt.Sprintf("attack/link:%d-%d", i, j)
			if r := s.Exec(t, s.User, bytes.NewReader(archive(t, image, nil, layer)), s.DockerPath(), "load"); r.Code != 0 {
				continue
			}
			probes = append(probes, image)
		}
	}
	started := 0
	for i, image := range probes {
		args := []string{"run", "--rm", "--network=none"}
		if i%2 == 0 {
			args = append(args, "-t")
		}
		r := s.Docker(t, append(args, "--init", "-v", "/vol", "-v", "/link/deep", "--tmpfs", "/vol/tmp", image, "/bin/sh", "-c", look(secret))...)
		if out := strings.TrimSpace(strings.ReplaceAll(r.Stdout, "\r", "")); out == "looked" {
			started++
		} else if r.Code == 0 || strings.Contains(out, "looked") {
			t.Errorf("%s: %v", image, r)
		}
		if after := tree(t, secret); after != before {
			t.Fatalf("%s changed the host's folder: %s", image, after)
		}
	}
	s.Must(t, append([]string{"rmi"}, probes...)...)
	if started < len(probes)/3 {
		t.Errorf("only %d of %d images start", started, len(probes))
	}

	root := folder(t)
	must(t, os.Symlink(secret, root+"/dev"))
	must(t, os.MkdirAll(root+"/etc", 0o755))
	must(t, os.Symlink(secret+"/f", root+"/etc/hosts"))
	must(t, os.WriteFile(root+"/dev/null", nil, 0o666))
	must(t, os.WriteFile(root+"/etc/hosts", []byte("127.0.0.1 localhost"), 0o644))
	if after := tree(t, secret); !strings.Contains(after, "/null ") || !strings.Contains(after, "localhost") {
		t.Errorf("control: %s", after)
	}
}

// T-501: links in volumes where the runtime mounts or hides things, and a container that swaps them for folders while others
// start (CVE-2021-30465, CVE-2025-31133, CVE-2025-52565, CVE-2025-52881). The control for the race is that of copies: the same container
// beats a program that looks before it opens; see TestCopyWhileLinksSwap.
func TestLinksInVolumes(t *testing.T) {
	s := harness.Get(t)
	withProbe(t, s)
	secret, before := secretFolder(t)
	volume := s.Must(t, "volume", "create")
	t.Cleanup(func() { s.Must(t, "volume", "rm", volume) })
	id := s.Must(t, "run", "-d", "-e", probeEnv+"=swap", "-v", volume+":/v", probeImage, "sleep", "1000")
	t.Cleanup(func() { s.Must(t, "rm", "-f", id) })
	core, err := os.ReadFile("/proc/sys/kernel/core_pattern")
	must(t, err)
	s.Must(t, "exec", id, "sh", "-c", `cd /v
	mkdir -p s/x dev proc/x/self/attr proc/sys/net/ipv4 proc/self/attr sys
	mkdir s/deep; ln -s `+secret+` s/deep/l; ln -s `+secret+` s/y; echo inside >s/x/f
	for n in null console pts ptmx shm mqueue fd stdin stdout stderr zero full tty random urandom; do ln -s /proc/sys/kernel/core_pattern dev/$n; done
	for n in exec keycreate current; do ln -s `+secret+`/f proc/self/attr/$n; done
	for n in ip_unprivileged_port_start ping_group_range; do ln -s `+secret+`/f proc/sys/net/ipv4/$n; done
	mkdir sw; mkdir sw/x; ln -s /proc/sys/kernel/core_pattern sw/x/null; ln -s /proc/sysrq-trigger sw/x/console; mkdir sw/x/pts
	ln -s `+secret+` sw/y`)
	s.Must(t, "exec", "-d", id, "probe", "/v/s", "/v/sw")
	part := func(sub, target string) string {
		return "--mount=type=volume,src=" + volume + ",dst=" + target + ",volume-subpath=" + sub
	}
	for _, args := range [][]string{
		{"-v", volume + ":/vol", "--tmpfs", "/vol/s/deep/l"},
		{"-v", volume + ":/vol", "--tmpfs", "/vol/s/deep/l/new"},
		{part("dev", "/dev")}, {"-t", part("dev", "/dev")},
		{part("dev", "/dev"), "--tmpfs", "/dev/null"},
		{part("proc", "/proc")}, {part("proc", "/proc"), "--sysctl", "net.ipv4.ping_group_range=0 1"}, {"--tmpfs", "/proc"}, {"--tmpfs", "/proc/sys"}, {part("proc", "/proc/sys/kernel")}, {part("proc", "/proc/self/attr")}, {part("proc", "/proc/1")},
		{"--tmpfs", "/sys"}, {part("sys", "/sys/firmware")}, {"--tmpfs", "/sys/fs/cgroup"}, {part("sys", "/sys/fs/cgroup")},
	} {
		r := s.Docker(t, append(append([]string{"run", "--rm"}, args...), "busybox", "sh", "-c", look(secret))...)
		if out := strings.TrimSpace(strings.ReplaceAll(r.Stdout, "\r", "")); out != "looked" && (r.Code == 0 || strings.Contains(out, "looked")) {
			t.Errorf("%v: %v", args, r)
		}
		if after := tree(t, secret); after != before {
			t.Fatalf("%v changed the host's folder: %s", args, after)
		}
	}
	started := 0
	for i := range 24 {
		args := [][]string{
			{"-v", volume + ":/vol", "--tmpfs", "/vol/s/x"},
			{"-v", volume + ":/vol", "-v", "/vol/s/x/deep"},
			{part("s/x", "/vol")},
			{"-t", "-v", volume + ":/vol", part("sw/x", "/dev")},
			{part("s", "/vol"), "--tmpfs", "/vol/x/new"},
			{part("sw/x", "/dev"), "-v", "/dev/pts"},
		}[i%6]
		r := s.Docker(t, append(append([]string{"run", "--rm", "--network=none"}, args...), "busybox", "sh", "-c", look(secret))...)
		if out := strings.TrimSpace(strings.ReplaceAll(r.Stdout, "\r", "")); out == "looked" {
			started++
		} else if r.Code == 0 || strings.Contains(out, "looked") {
			t.Errorf("race, %v: %v", args, r)
		}
		if after := tree(t, secret); after != before {
			t.Fatalf("race, %v changed the host's folder: %s", args, after)
		}
	}
	if started == 0 {
		t.Error("control: no container started during the race")
	}
	if now, err := os.ReadFile("/proc/sys/kernel/core_pattern"); err != nil || string(now) != string(core) {
		t.Errorf("core_pattern is %s (%v)", now, err)
	}
	// The links are hostile: what follows them on the host reaches the secret.
	found, err := filepath.Glob(harness.Data + "/engine/store/volumes/*/data/s/deep/l/f")
	if data, rerr := os.ReadFile(strings.Join(found, "")); err != nil || rerr != nil || string(data) != "secret of the host" {
		t.Errorf("control: %v %v %v", found, err, rerr)
	}
}
