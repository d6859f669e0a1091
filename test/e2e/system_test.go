//go:build root

package e2e

import (
	"fmt"
	"net/http"
	"os/user"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"stockade/internal/apiversion"
	"stockade/internal/proctable"
	"stockade/test/harness"
)

func TestVersion(t *testing.T) {
	both(t, func(t *testing.T, d client) {
		d.want(apiversion.Max+" "+apiversion.Min+" linux", "version", "-f", "{{.Server.APIVersion}} {{.Server.MinAPIVersion}} {{.Server.Os}}")
		client := d.ok("version", "-f", "{{.Client.APIVersion}}")
		if client == "" {
			t.Error("the client has no API version")
		}
		if out := d.ok("version"); !strings.Contains(out, "Server: Stockade") {
			t.Errorf("version: %s", out)
		}
	})
}

func TestInfo(t *testing.T) {
	both(t, func(t *testing.T, d client) {
		d.sleeper()
		d.want("overlayfs linux runc json-file true", "info", "-f", "{{.Driver}} {{.OSType}} {{.DefaultRuntime}} {{.LoggingDriver}} {{.LiveRestoreEnabled}}")
		d.want("[name=seccomp,profile=builtin name=userns]", "info", "-f", "{{.SecurityOptions}}")
		r := d.run("info")
		if r.Code != 0 || !strings.Contains(r.Stdout, "Server Version:") || !strings.Contains(r.Stdout, "Running: 1") || strings.Contains(r.Stderr, "ERROR") {
			t.Error(r)
		}
	})
}

// TestVersions speaks each version of the API that the server knows, and some that it does not.
func TestVersions(t *testing.T) {
	s := harness.Get(t)
	var minor int
	if _, err := fmt.Sscanf(apiversion.Max, "1.%d", &minor); err != nil {
		t.Fatal(err)
	}
	for n := 39; n <= minor+1; n++ {
		r := s.API(t, s.User, "GET", fmt.Sprintf("/v1.%d/info", n), nil)
		switch {
		case n == 39 && (r.Status != http.StatusBadRequest || !strings.Contains(r.Body, "too old")),
			n > minor && (r.Status != http.StatusBadRequest || !strings.Contains(r.Body, "too new")),
			n > 39 && n <= minor && r.Status != http.StatusOK:
			t.Errorf("1.%d: %d %s", n, r.Status, r.Body)
		}
	}
	for _, path := range []string{"/_ping", "/v1.41/_ping"} {
		for _, method := range []string{"GET", "HEAD"} {
			r := s.API(t, s.User, method, path, nil)
			if r.Status != http.StatusOK || r.Header.Get("Api-Version") != apiversion.Max || r.Header.Get("Ostype") != "linux" || r.Header.Get("Builder-Version") == "2" {
				t.Errorf("%s %s: %d %v", method, path, r.Status, r.Header)
			}
			if method == "GET" && r.Body != "OK" {
				t.Errorf("ping says %q", r.Body)
			}
		}
	}
}

// TestNotYet holds that what is missing says so, and why.
func TestNotYet(t *testing.T) {
	both(t, func(t *testing.T, d client) {
		for _, c := range []struct {
			why  string
			args []string
		}{
			{"planned", []string{"search", "x"}},
			{"planned", []string{"save", "busybox"}},
			{"planned", []string{"push", plain.host + "/x:1"}},
			{"only the networks bridge and none", []string{"network", "create", "n"}},
			{"only the networks bridge and none", []string{"network", "rm", "bridge"}},
			{"plugins", []string{"plugin", "ls"}},
			{"swarm", []string{"swarm", "init"}},
			{"swarm", []string{"service", "ls"}},
			{"swarm", []string{"node", "ls"}},
			{"swarm", []string{"secret", "ls"}},
		} {
			if c.args[0] == "push" {
				d.ok("tag", "busybox", c.args[1])
				d.forget(c.args[1])
			}
			d.fails(1, c.why, c.args...)
		}
	})
	s := harness.Get(t)
	for _, path := range []string{"/build", "/session", "/swarm/init", "/images/busybox/push", "/networks/create", "/containers/x/checkpoints"} {
		if r := s.API(t, s.User, "POST", path, nil); r.Status != http.StatusNotImplemented || !strings.Contains(r.Body, `"message"`) {
			t.Errorf("%s: %d %s", path, r.Status, r.Body)
		}
	}
}

func TestDiskUsage(t *testing.T) {
	both(t, func(t *testing.T, d client) {
		d.ok("volume", "prune", "-a", "-f") // what other tests left
		name := d.sleeper("-v", "/anonymous")
		d.ok("exec", name, "dd", "if=/dev/zero", "of=/file", "bs=1M", "count=3")
		d.ok("exec", name, "dd", "if=/dev/zero", "of=/anonymous/file", "bs=1M", "count=2")
		out := d.ok("system", "df", "--format", "{{.Type}} {{.TotalCount}} {{.Active}}")
		if !strings.HasPrefix(out, "Images 2 1\nContainers 1 1\nLocal Volumes 1 1\nBuild Cache 0 0") {
			t.Errorf("df: %s", out)
		}
		if out := d.ok("system", "df", "-v"); !strings.Contains(out, "3.1") || !strings.Contains(out, "2.0") {
			t.Errorf("df -v: %s", out)
		}
	})
}

// TestOutsider holds that who is not in the group gets nothing.
func TestOutsider(t *testing.T) {
	s := harness.Get(t)
	r := s.Exec(t, s.Outsider, nil, s.DockerOldPath(), "ps")
	if r.Code != 1 || !strings.Contains(r.Stderr, "permission denied") {
		t.Error(r)
	}
}

// TestProcessTable compares internal/proctable with the running processes.
func TestProcessTable(t *testing.T) {
	s := harness.Get(t)
	numbers := map[string]uint{"CAP_SYS_ADMIN": unix.CAP_SYS_ADMIN, "CAP_SETUID": unix.CAP_SETUID, "CAP_SETGID": unix.CAP_SETGID, "CAP_NET_ADMIN": unix.CAP_NET_ADMIN}
	v1 := unix.Access("/sys/fs/cgroup/cgroup.controllers", unix.F_OK) != nil
	var ours, its unix.Stat_t
	if err := unix.Stat("/proc/self/ns/user", &ours); err != nil {
		t.Fatal(err)
	}
	for _, p := range proctable.Table {
		t.Run(p.Name, func(t *testing.T) {
			pid := s.PID(t, p.Name)
			account, err := user.Lookup(p.UserOn(v1))
			if err != nil {
				t.Fatal(err)
			}
			caps := uint64(0)
			for _, name := range p.Caps {
				n, ok := numbers[name]
				if !ok {
					t.Fatalf("this test does not know %s", name)
				}
				caps |= 1 << n
			}
			want := map[string]string{
				"Uid":    strings.Join([]string{account.Uid, account.Uid, account.Uid, account.Uid}, "\t"),
				"Gid":    strings.Join([]string{account.Gid, account.Gid, account.Gid, account.Gid}, "\t"),
				"Groups": "", "NoNewPrivs": "0", "Seccomp": "0",
			}
			if p.NoNew {
				want["NoNewPrivs"] = "1"
			}
			if p.Seccomp {
				want["Seccomp"] = "2"
			}
			if !p.InU { // a process in U shows its capabilities there
				for _, set := range []string{"CapPrm", "CapEff", "CapBnd"} {
					want[set] = fmt.Sprintf("%016x", caps)
				}
			}
			for key, value := range want {
				if got := status(t, pid, key); got != value {
					t.Errorf("%s: %q, want %q", key, got, value)
				}
			}
			if err := unix.Stat(fmt.Sprintf("/proc/%d/ns/user", pid), &its); err != nil {
				t.Fatal(err)
			}
			if inU := its.Ino != ours.Ino; inU != p.InU {
				t.Errorf("in another user namespace: %v, want %v", inU, p.InU)
			}
		})
	}
}
