//go:build root

package e2e

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"stockade/test/harness"
)

// cgroupFile reads a file of a process's control group, by its names in version 1 and 2.
func cgroupFile(t testing.TB, pid int, controller, v1, v2 string) string {
	t.Helper()
	data, err := os.ReadFile(fmt.Sprintf("/proc/%d/cgroup", pid))
	if err != nil {
		t.Fatal(err)
	}
	path := ""
	for line := range strings.Lines(string(data)) {
		parts := strings.SplitN(strings.TrimSpace(line), ":", 3)
		for c := range strings.SplitSeq(parts[1], ",") {
			if c == controller {
				path = filepath.Join("/sys/fs/cgroup", controller, parts[2], v1)
			}
		}
		if parts[0] == "0" && path == "" {
			path = filepath.Join("/sys/fs/cgroup", parts[2], v2)
		}
	}
	value, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return strings.TrimSpace(string(value))
}

func TestMemoryLimit(t *testing.T) {
	both(t, func(t *testing.T, d client) {
		name := d.name()
		// One block of 256 MiB in a container of 32.
		d.fails(137, "", "run", "--name", name, "--memory", "32m", "busybox", "dd", "if=/dev/zero", "of=/dev/null", "bs=256M", "count=1")
		d.want("137 true", "inspect", "-f", "{{.State.ExitCode}} {{.State.OOMKilled}}", name)
		name = d.name()
		d.fails(137, "", "run", "--name", name, "busybox", "sh", "-c", "sh -c 'kill -9 $$'; exit 137")
		d.want("137 false", "inspect", "-f", "{{.State.ExitCode}} {{.State.OOMKilled}}", name)
		d.fails(125, "", "run", "--rm", "--memory", "1m", "busybox", "true") // less than a container needs
	})
	d := docker(t)
	name := d.sleeper("--memory", "64m", "--memory-reservation", "32m")
	pid := d.inspect(name).State.Pid
	if got := cgroupFile(t, pid, "memory", "memory.limit_in_bytes", "memory.max"); got != "67108864" {
		t.Errorf("limit %s", got)
	}
}

func TestPidsLimit(t *testing.T) {
	d := docker(t)
	name := d.start("--pids-limit", "20", "busybox", "sh", "-c", "bomb() { bomb | bomb & }; bomb; sleep 1000")
	d.logged(name, "can't fork")
	pid := d.inspect(name).State.Pid
	if pid > 0 {
		if got := cgroupFile(t, pid, "pids", "pids.max", "pids.max"); got != "20" {
			t.Errorf("limit %s", got)
		}
	}
	d.want("hello", "run", "--rm", "busybox", "echo", "hello") // others are not touched
	d.ok("rm", "-f", name)
	// Everybody has a limit.
	name = d.sleeper()
	if got := cgroupFile(t, d.inspect(name).State.Pid, "pids", "pids.max", "pids.max"); got == "max" {
		t.Error("a container without options may fork without end")
	}
}

func TestCPULimit(t *testing.T) {
	d := docker(t)
	name := d.sleeper("--cpus", "0.25", "--cpu-shares", "512")
	pid := d.inspect(name).State.Pid
	quota := cgroupFile(t, pid, "cpu", "cpu.cfs_quota_us", "cpu.max")
	if quota != "25000" && quota != "25000 100000" {
		t.Errorf("quota %s", quota)
	}
	if v1 := cgroupFile(t, pid, "cpu", "cpu.shares", "cpu.weight"); v1 != "512" && v1 != "20" && v1 != "59" {
		t.Errorf("shares %s", v1)
	}
}

// TestUpdate changes limits of a running container.
func TestUpdate(t *testing.T) {
	both(t, func(t *testing.T, d client) {
		name := d.sleeper("--memory", "64m")
		d.want(name, "update", "--memory", "128m", "--memory-swap", "128m", "--pids-limit", "77", "--cpus", "0.5", "--restart", "on-failure:3", name)
		c := d.inspect(name)
		if c.HostConfig.Memory != 128<<20 || *c.HostConfig.PidsLimit != 77 || c.HostConfig.RestartPolicy.MaximumRetryCount != 3 {
			t.Errorf("inspect says %+v", c.HostConfig.Resources)
		}
		if got := cgroupFile(t, c.State.Pid, "memory", "memory.limit_in_bytes", "memory.max"); got != "134217728" {
			t.Errorf("limit %s", got)
		}
		if got := cgroupFile(t, c.State.Pid, "pids", "pids.max", "pids.max"); got != "77" {
			t.Errorf("limit %s", got)
		}
	})
}

// TestManyContainers starts more containers at once than there are prepared slots.
func TestManyContainers(t *testing.T) {
	d := docker(t)
	const n = 12
	var list []*session
	for i := range n {
		list = append(list, d.begin("run", "--rm", "busybox", "sh", "-c", fmt.Sprintf("echo number-%d; exit %d", i, i+1)))
	}
	for i, c := range list {
		c.ends(i + 1)
		if got := c.out.String(); got != fmt.Sprintf("number-%d\n", i) {
			t.Errorf("%d: %v", i, c)
		}
	}
}

// TestNothingIsLeft holds that a container takes everything along that was made for it.
func TestNothingIsLeft(t *testing.T) {
	d := docker(t)
	s := harness.Get(t)
	before := s.Settled(t)
	dir := d.folder()
	name := d.start("-p", "127.0.0.1::8080", "-v", "/anonymous", "-v", dir+":/bind", "--memory", "64m", "stockade/demo")
	d.ok("exec", name, "true")
	d.ok("rm", "-f", "-v", name)
	d.ok("run", "--rm", "--network", "none", "busybox", "true")
	s.NoLeaks(t, before)
}
