//go:build root

package attack

import (
	"encoding/json"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"stockade/test/harness"
)

// confined makes and starts a container whose first process looks at its own confinement and stays. It returns the id and
// what the process saw.
func confined(t *testing.T, s *harness.Server, config, hostConfig string) (id string, seen map[string]string) {
	t.Helper()
	withProbe(t, s)
	r := s.API(t, s.User, "POST", "/v1.51/containers/create",
		`{"Image":"`+probeImage+`","Cmd":["probe","stay"],"Env":["`+probeEnv+`=confinement"]`+config+`,"HostConfig":{`+hostConfig+`}}`)
	if r.Status != 201 {
		t.Fatalf("%+v", r)
	}
	id = field(t, r.Body, "Id")
	t.Cleanup(func() { s.Must(t, "rm", "-f", "-v", id) })
	s.Must(t, "start", id)
	harness.Poll(t, "the first process", func() (string, bool) {
		out := s.Must(t, "logs", id)
		return out, json.Unmarshal([]byte(out), &seen) == nil
	})
	return id, seen
}

// differences tells each attribute of which two processes have something else, but those of which two containers do.
func differences(want, got map[string]string, otherContainer bool) map[string]string {
	found := map[string]string{}
	for _, key := range slices.Sorted(maps.Keys(want)) {
		if strings.HasPrefix(key, "stream ") {
			continue // what is at the other end of them is not the same; see foreign
		}
		if otherContainer && (strings.HasPrefix(key, "namespace ") || strings.HasPrefix(key, "folder ") || slices.Contains([]string{"mountinfo", "uid_map", "gid_map"}, key)) {
			continue
		}
		if want[key] != got[key] {
			found[key] = fmt.Sprintf("%q, not %q", got[key], want[key])
		}
	}
	for key := range got {
		if _, ok := want[key]; !ok && !strings.HasPrefix(key, "stream ") {
			found[key] = fmt.Sprintf("%q, not absent", got[key])
		}
	}
	return found
}

// foreign tells which of a process's files are none of the container's.
func foreign(seen map[string]string) map[string]string {
	found := map[string]string{}
	for key, value := range seen {
		if strings.HasPrefix(key, "descriptor ") || strings.HasPrefix(key, "stream ") && strings.HasPrefix(value, "/") && !strings.Contains(value, "a mount of its own") {
			found[key] = value
		}
	}
	return found
}

// T-501, T-502: whatever starts another process in a running container, exec in all its variants or a health check, confines
// it exactly as the first one: namespaces, ids, capabilities, filter call by call, limits, cgroup, signals, descriptors.
// The control joins the container's namespaces as somebody would who forgot the rest.
func TestConfinementOfExec(t *testing.T) {
	s := harness.Get(t)
	profile, err := json.Marshal(`seccomp={"defaultAction":"SCMP_ACT_ALLOW","syscalls":[{"names":["getpriority","mkdir"],"action":"SCMP_ACT_ERRNO"}]}`)
	must(t, err)
	const check = `,"Healthcheck":{"Test":["CMD","probe","/tmp/health.json"],"Interval":1000000000}`
	plain, first := confined(t, s, check, "")
	_, terminal := confined(t, s, `,"Tty":true`, "")
	user, asUser := confined(t, s, `,"User":"1000:100"`, "")
	hard, hardFirst := confined(t, s, check+`,"WorkingDir":"/tmp","User":"7:8"`, `"CapDrop":["ALL"],"CapAdd":["CHOWN"],"SecurityOpt":["no-new-privileges",`+string(profile)+`],
		"ReadonlyRootfs":true,"Tmpfs":{"/tmp":"mode=1777"},"Ulimits":[{"Name":"nofile","Soft":100,"Hard":200},{"Name":"core","Soft":0,"Hard":0},{"Name":"stack","Soft":4194304,"Hard":4194304}],
		"OomScoreAdj":500,"Umask":63,"CpusetCpus":"0","PidsLimit":60,"Memory":134217728,"GroupAdd":["33"],"NetworkMode":"none"`)

	ask := func(args ...string) map[string]string {
		t.Helper()
		var seen map[string]string
		out := s.Must(t, args...)
		if err := json.Unmarshal([]byte(out), &seen); err != nil {
			t.Fatalf("%v: %q", args, out)
		}
		return seen
	}
	file := func(id, path string) (seen map[string]string) {
		t.Helper()
		harness.Poll(t, path, func() (string, bool) {
			r := s.Docker(t, "exec", id, "cat", path)
			return r.Stderr, r.Code == 0 && json.Unmarshal([]byte(r.Stdout), &seen) == nil
		})
		return seen
	}
	for _, id := range []string{plain, hard} {
		s.Must(t, "exec", "-d", id, "probe", "/tmp/detached.json")
	}
	for _, c := range []struct {
		name      string
		want, got map[string]string
		other     bool
	}{
		{"exec", first, ask("exec", plain, "probe"), false},
		{"exec with input", first, ask("exec", "-i", plain, "probe"), false},
		{"exec again", first, ask("exec", "-u", "0:0", "-w", "/", plain, "probe"), false},
		{"detached exec", first, file(plain, "/tmp/detached.json"), false},
		{"health check", first, file(plain, "/tmp/health.json"), false},
		{"exec with a terminal", terminal, ask("exec", "-t", plain, "probe"), true},
		{"exec as another user", asUser, ask("exec", "-u", "1000:100", plain, "probe"), true},
		{"exec as the container's user", asUser, ask("exec", user, "probe"), false},
		{"exec as root where the user is another", first, ask("exec", "-u", "0", user, "probe"), true},
		{"exec, all confined", hardFirst, ask("exec", hard, "probe"), false},
		{"detached exec, all confined", hardFirst, file(hard, "/tmp/detached.json"), false},
		{"health check, all confined", hardFirst, file(hard, "/tmp/health.json"), false},
	} {
		for key, text := range differences(c.want, c.got, c.other) {
			t.Errorf("%s: %s is %s", c.name, key, text)
		}
		for _, seen := range []map[string]string{c.want, c.got} {
			if f := foreign(seen); len(f) > 0 || seen["stream 2"] == "" {
				t.Errorf("%s: a file of the host is open: %v", c.name, f)
			}
		}
	}

	// What the comparison is worth: all of this was seen, and is as it should be.
	for key, want := range map[string]string{
		"CapInh": "0000000000000000", "CapPrm": "00000000a80425fb", "CapEff": "00000000a80425fb", "CapBnd": "00000000a80425fb", "CapAmb": "0000000000000000", "Uid": "0 0 0 0", "Gid": "0 0 0 0",
		"Groups": "0", "NoNewPrivs": "0", "Seccomp": "2", "Umask": "0022", "SigBlk": "0000000000000000", "SigIgn": "0000000000000000", "securebits": "0 <nil>", "keepcaps": "0 <nil>",
		"parent": "0", "leads group and session": "true true", "has terminal": "false", "setgroups": "allow", "oom_score_adj": "0", "TracerPid": "0",
		"call 39": "reaches the kernel", "call 165": "EPERM", "call 425": "EPERM", "call 435": "ENOSYS",
	} {
		if first[key] != want {
			t.Errorf("%s is %q, want %q", key, first[key], want)
		}
	}
	for key, want := range map[string]string{
		"CapInh": "0000000000000000", "CapPrm": "0000000000000000", "CapEff": "0000000000000000", "CapBnd": "0000000000000001", "Uid": "7 7 7 7", "Gid": "8 8 8 8", "Groups": "8 33", "NoNewPrivs": "1", "Umask": "0077",
		"oom_score_adj": "500", "Cpus_allowed": "1", "call 83": "EPERM", "call 140": "EPERM", "call 39": "reaches the kernel",
	} {
		if hardFirst[key] != want {
			t.Errorf("all confined: %s is %q, want %q", key, hardFirst[key], want)
		}
	}
	if terminal["has terminal"] != "true" || asUser["Uid"] != "1000 1000 1000 1000" {
		t.Errorf("with a terminal: %q; as a user: %q", terminal["has terminal"], asUser["Uid"])
	}
	pid := s.Must(t, "inspect", "-f", "{{.State.Pid}}", plain)
	cmd := s.Command(harness.Context(t), harness.Root, "/usr/bin/nsenter", "-t", pid, "-U", "-m", "-u", "-i", "-n", "-p", "-C", "-r", "-w", "/bin/probe")
	cmd.Env = append(cmd.Env, probeEnv+"=confinement")
	leak, err := os.Open("/etc")
	must(t, err)
	defer leak.Close()
	cmd.ExtraFiles = []*os.File{leak}
	out, err := cmd.Output()
	must(t, err)
	var naive map[string]string
	must(t, json.Unmarshal(out, &naive))
	d := differences(first, naive, false)
	for _, key := range []string{"Seccomp", "Seccomp_filters", "CapEff", "CapBnd", "cgroup", "descriptor 3", "leads group and session", "call 165", "call 425", "call 435", "call unshare with 0x10000000"} {
		if d[key] == "" {
			t.Errorf("control: the same %s, %q, without any confinement", key, naive[key])
		}
	}
	if calls := len(d); calls < 100 {
		t.Errorf("control: %d differences only: %v", calls, d)
	}
	if f := foreign(naive); f["descriptor 3"] == "" || f["stream 0"] == "" {
		t.Errorf("control: no file of the host is open: %v", f)
	}
}

// T-502: a process has, in the kernel's own books, the cgroups and ids of the container's first one: seen from outside,
// where it cannot lie. The control is a process that joined the namespaces only.
func TestCgroupOfExec(t *testing.T) {
	s := harness.Get(t)
	id := s.Must(t, "run", "-d", "--pids-limit", "20", "--health-cmd", "sleep 1001", "--health-interval", "1s", "busybox", "sleep", "1000")
	t.Cleanup(func() { s.Must(t, "rm", "-f", id) })
	main := s.Must(t, "inspect", "-f", "{{.State.Pid}}", id)
	s.Must(t, "exec", "-d", id, "sleep", "1002")
	s.Must(t, "exec", "-d", "-t", "-u", "user", id, "sleep", "1003")
	books := func(pid, name string) string {
		data, err := os.ReadFile(filepath.Join("/proc", pid, name))
		must(t, err)
		return string(data)
	}
	found := map[string]string{} // last argument → pid
	harness.Poll(t, "four processes", func() (string, bool) {
		clear(found)
		ns, err := os.Readlink("/proc/" + main + "/ns/pid")
		must(t, err)
		links, err := filepath.Glob("/proc/[0-9]*/ns/pid")
		must(t, err)
		for _, l := range links {
			pid := strings.Split(l, "/")[2]
			if link, err := os.Readlink(l); err != nil || link != ns {
				continue
			}
			if line, err := os.ReadFile("/proc/" + pid + "/cmdline"); err == nil {
				if f := strings.Split(strings.TrimRight(string(line), "\x00"), "\x00"); f[0] == "sleep" {
					found[f[len(f)-1]] = pid
				}
			}
		}
		return fmt.Sprint(found), len(found) == 4
	})
	for what, pid := range found {
		for _, name := range []string{"cgroup", "oom_score_adj", "limits", "uid_map"} {
			if got, want := books(pid, name), books(main, name); got != want {
				t.Errorf("sleep %s: %s is %s, not %s", what, name, got, want)
			}
		}
	}
	if own := books("self", "cgroup"); own == books(main, "cgroup") {
		t.Errorf("control: the test is in the container's cgroup: %s", own)
	}
}
