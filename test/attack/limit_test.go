//go:build root

package attack

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	"stockade/test/harness"
)

// group is the folder of a process's cgroup in the hierarchy of a controller, or of the parent of all containers.
func group(t *testing.T, pid, controller string) (own, parent string) {
	t.Helper()
	data, err := os.ReadFile("/proc/" + pid + "/cgroup")
	must(t, err)
	for line := range strings.Lines(string(data)) {
		f := strings.SplitN(strings.TrimSpace(line), ":", 3)
		for name := range strings.SplitSeq(f[1], ",") {
			if name == controller || f[1] == "" && own == "" {
				own = filepath.Join("/sys/fs/cgroup", f[1], f[2])
			}
		}
	}
	parent = filepath.Dir(own)
	if filepath.Base(parent) != harness.Prefix {
		t.Fatalf("process %s has %s", pid, own)
	}
	return own, parent
}

// value reads the first of files that is there, as a number; "max" is the largest.
func value(t *testing.T, dir string, files ...string) (path string, n uint64) {
	t.Helper()
	for _, f := range files {
		path = filepath.Join(dir, f)
		data, err := os.ReadFile(path)
		if os.IsNotExist(err) {
			continue
		}
		must(t, err)
		text := strings.TrimSpace(string(data))
		if text == "max" {
			return path, 1<<64 - 1
		}
		n, err = strconv.ParseUint(text, 10, 64)
		must(t, err)
		return path, n
	}
	t.Fatalf("%s has none of %v", dir, files)
	return "", 0
}

// lower gives a limit another value until the test is over.
func lower(t *testing.T, path string, to uint64) {
	t.Helper()
	before, err := os.ReadFile(path)
	must(t, err)
	must(t, os.WriteFile(path, []byte(strconv.FormatUint(to, 10)), 0))
	t.Cleanup(func() { must(t, os.WriteFile(path, before, 0)) })
}

var (
	memoryMax = []string{"memory.limit_in_bytes", "memory.max"}
	memoryNow = []string{"memory.usage_in_bytes", "memory.current"}
)

// T-305: containers that name no limit have some: of memory and processes each, of memory, processes and CPU all together. The
// limits of all are lowered here to show that they hold; before that, the same load is carried, which is the control.
func TestWithoutLimits(t *testing.T) {
	s := harness.Get(t)
	var ids []string
	for range 2 {
		id := s.Must(t, "run", "-d", "busybox", "sleep", "1000")
		t.Cleanup(func() { s.Must(t, "rm", "-f", id) })
		ids = append(ids, id)
	}
	pid := s.Must(t, "inspect", "-f", "{{.State.Pid}}", ids[0])
	info, err := os.ReadFile("/proc/meminfo")
	must(t, err)
	total, err := strconv.ParseUint(strings.Fields(string(info))[1], 10, 64)
	must(t, err)
	own, all := group(t, pid, "memory")
	limit, max := value(t, all, memoryMax...)
	if max > total<<10/100*91 {
		t.Errorf("all containers may have %d of %d bytes", max, total<<10)
	}
	if _, own := value(t, own, memoryMax...); own >= max || own < total<<9 {
		t.Errorf("a container may have %d of the %d bytes that all may have", own, max)
	}
	ownPids, allPids := group(t, pid, "pids")
	if _, n := value(t, ownPids, "pids.max"); n != 4096 {
		t.Errorf("a container may have %d processes", n)
	}
	threads, err := os.ReadFile("/proc/sys/kernel/pid_max")
	must(t, err)
	most, err := strconv.ParseUint(strings.TrimSpace(string(threads)), 10, 64)
	must(t, err)
	pidsLimit, n := value(t, allPids, "pids.max")
	if n > most/100*76 {
		t.Errorf("all containers may have %d of %d processes", n, most)
	}
	_, allCPU := group(t, pid, "cpu")
	if path, n := value(t, allCPU, "cpu.shares", "cpu.weight"); n > map[bool]uint64{true: 1024, false: 100}[strings.HasSuffix(path, "shares")] {
		t.Errorf("all containers weigh %d", n)
	}

	fill := func(id string) harness.Result {
		return s.Docker(t, "exec", id, "sh", "-c", "head -c 268435456 /dev/zero | tail -c 268435456 | wc -c") // tail keeps all of it
	}
	if r := fill(ids[0]); !strings.HasPrefix(r.Stdout, "268435456") {
		t.Errorf("control: %v", r)
	}
	fork := "for i in $(seq 60); do sleep 2000 & done; sleep 2000"
	s.Must(t, "exec", "-d", ids[0], "sh", "-c", fork)
	harness.Poll(t, "control: 60 processes", func() (string, bool) {
		_, n := value(t, ownPids, "pids.current")
		return fmt.Sprint(n), n >= 62
	})
	_, used := value(t, all, memoryNow...)
	lower(t, limit, used+96<<20)
	if r := fill(ids[0]); strings.HasPrefix(r.Stdout, "268435456") {
		t.Errorf("more memory than all containers may have: %v", r)
	}
	for range 4 { // more than wait prepared: some of those may have been ended, too
		healthy(t, s)
	}
	_, running := value(t, allPids, "pids.current")
	lower(t, pidsLimit, running+30)
	r := s.Docker(t, "exec", ids[1], "sh", "-c", strings.TrimSuffix(fork, "; sleep 2000"))
	if !strings.Contains(r.Stderr, "can't fork") {
		t.Errorf("more processes than all containers may have: %v", r)
	}
}

// T-305: limits that are negative, too large or another's are refused when a container is made and when it is changed; what
// is not, the kernel bounds. The control is the same field with an allowed value.
func TestStrangeLimits(t *testing.T) {
	s := harness.Get(t)
	id := s.Must(t, "run", "-d", "busybox", "sleep", "1000")
	t.Cleanup(func() { s.Must(t, "rm", "-f", id) })
	before := objects(t, s)
	for _, c := range []struct {
		field, bad string
		create     bool // cannot be changed later
	}{
		{"Memory", "-1", false}, {"Memory", "1", false}, {"MemorySwap", "-2", false}, {"MemoryReservation", "-1", false}, {"NanoCpus", "-1", false}, {"NanoCpus", "9223372036854775807", false}, {"CpuShares", "-1", false}, {"CpuShares", "262145", false},
		{"CpuQuota", "-2", false}, {"CpuPeriod", "-1", false}, {"CpuPeriod", "1", false}, {"BlkioWeight", "1001", false}, {"CpusetCpus", `"0-1000000"`, false}, {"CpusetCpus", `"../0"`, false}, {"PidsLimit", "-1", false}, {"PidsLimit", "-9223372036854775808", false},
		{"CpuRealtimeRuntime", "950000", false}, {"OomKillDisable", "true", false},
		{"ShmSize", "-1", true}, {"OomScoreAdj", "-1", true}, {"OomScoreAdj", "-1000", true}, {"OomScoreAdj", "1001", true}, {"CgroupParent", `"/"`, true}, {"CgroupParent", `"../.."`, true}, {"CgroupParent", `"system.slice"`, true}, {"CgroupParent", `"` + harness.Prefix + `"`, true},
		{"StorageOpt", `{"size":"-1"}`, true}, {"StorageOpt", `{"size":"1000T"}`, true}, {"Ulimits", `[{"Name":"nofile","Soft":-2,"Hard":-2}]`, true}, {"Ulimits", `[{"Name":"nofile","Soft":2,"Hard":1}]`, true}, {"Ulimits", `[{"Name":"as","Soft":1,"Hard":1}]`, true},
		{"RestartPolicy", `{"Name":"on-failure","MaximumRetryCount":-1}`, true}, {"RestartPolicy", `{"Name":"sometimes"}`, true},
	} {
		r := s.API(t, s.User, "POST", "/v1.51/containers/create", `{"Image":"busybox","HostConfig":{"`+c.field+`":`+c.bad+`}}`)
		if r.Status < 400 || r.Status >= 500 {
			t.Errorf("%s %s: %+v", c.field, c.bad, r)
		}
		if !c.create {
			r := s.API(t, s.User, "POST", "/v1.51/containers/"+id+"/update", `{"`+c.field+`":`+c.bad+`}`)
			if r.Status < 400 || r.Status >= 500 {
				t.Errorf("update of %s to %s: %+v", c.field, c.bad, r)
			}
		}
	}
	if after := objects(t, s); after != before {
		t.Errorf("a refusal had an effect: %s", after)
	}
	pid := s.Must(t, "inspect", "-f", "{{.State.Pid}}", id)
	pids, _ := group(t, pid, "pids")
	for body, status := range map[string]int{`{"PidsLimit":0}`: 403, `{"PidsLimit":100}`: 200} { // the first is Docker's word for no limit
		if r := s.API(t, s.User, "POST", "/v1.51/containers/"+id+"/update", body); r.Status != status {
			t.Errorf("%s: %+v", body, r)
		}
	}
	if _, n := value(t, pids, "pids.max"); n != 100 {
		t.Errorf("control: %d processes", n)
	}

	// Limits of a process: never above what this server has itself.
	server := hardLimits(t, strconv.Itoa(s.PID(t, "engine")))
	lowered := 0
	for _, u := range []string{"nofile=1073741816:1073741816", "nofile=-1:-1", "rtprio=99:99", "nice=40:40", "nproc=-1:-1", "memlock=-1:-1", "msgqueue=-1:-1", "sigpending=-1:-1", "nofile=20:30"} {
		r := s.Docker(t, "run", "--rm", "--network=none", "--ulimit", u, "busybox", "cat", "/proc/self/limits")
		if r.Code != 0 {
			continue // refused, or the kernel did
		}
		for name, n := range parseLimits(r.Stdout) {
			if n > server[name] {
				t.Errorf("with %s: %s is %d, the server has %d", u, name, n, server[name])
			}
			if n < server[name] {
				lowered++
			}
		}
	}
	if len(server) < 10 || lowered == 0 {
		t.Errorf("control: nothing was lowered: %v", server)
	}
}

func hardLimits(t *testing.T, pid string) map[string]uint64 {
	t.Helper()
	data, err := os.ReadFile("/proc/" + pid + "/limits")
	must(t, err)
	return parseLimits(string(data))
}

func parseLimits(text string) map[string]uint64 {
	found := map[string]uint64{}
	for line := range strings.Lines(text) {
		if len(line) < 47 || strings.HasPrefix(line, "Limit") {
			continue
		}
		hard := strings.Fields(line[26:])[1]
		n, err := strconv.ParseUint(hard, 10, 64)
		if err != nil {
			n = 1<<64 - 1 // unlimited
		}
		found[strings.TrimSpace(line[:26])] = n
	}
	return found
}

// T-305: the space for shared memory is 64 MiB unless said otherwise, and whatever is said counts as the container's memory.
func TestSharedMemory(t *testing.T) {
	s := harness.Get(t)
	const fill = "dd if=/dev/zero of=/dev/shm/fill bs=1M count=200; s=$?; ls -l /dev/shm/fill; exit $s"
	if r := s.Docker(t, "run", "--rm", "busybox", "sh", "-c", fill); r.Code == 0 || !strings.Contains(r.Stderr, "No space left") || !strings.Contains(r.Stdout, " 67108864 ") {
		t.Errorf("without a size: %v", r)
	}
	if r := s.Docker(t, "run", "--rm", "--shm-size", "8000g", "--memory", "64m", "--memory-swap", "64m", "busybox", "sh", "-c", fill); r.Code == 0 {
		t.Errorf("more than the container's memory: %v", r)
	}
	if r := s.Docker(t, "run", "--rm", "--tmpfs", "/dev/shm", "--memory", "64m", "--memory-swap", "64m", "busybox", "sh", "-c", fill); r.Code == 0 {
		t.Errorf("more than the container's memory: %v", r)
	}
	if r := s.Docker(t, "run", "--rm", "--shm-size", "300m", "busybox", "sh", "-c", fill); r.Code != 0 {
		t.Errorf("control: %v", r)
	}
}

// T-305: a container that ends at once and is always started again waits twice as long each time. The control: without the
// wait it would be started far more often, for each run is far shorter than the wait.
func TestRestartLoop(t *testing.T) {
	s := harness.Get(t)
	since := s.Must(t, "info", "-f", "{{.SystemTime}}")
	id := s.Must(t, "run", "-d", "--network=none", "--restart=always", "busybox", "false")
	t.Cleanup(func() { s.Must(t, "rm", "-f", id) })
	harness.Poll(t, "five restarts", func() (string, bool) {
		n := s.Must(t, "inspect", "-f", "{{.RestartCount}}", id)
		return n, n >= "5"
	})
	out := s.Must(t, "events", "--since", since, "--until", s.Must(t, "info", "-f", "{{.SystemTime}}"), "--filter", "container="+id, "--format", "{{json .}}")
	var starts, ends []int64
	for line := range strings.Lines(out) {
		var e struct {
			Action   string
			TimeNano int64 `json:"timeNano"`
		}
		must(t, json.Unmarshal([]byte(line), &e))
		switch e.Action {
		case "start":
			starts = append(starts, e.TimeNano)
		case "die":
			ends = append(ends, e.TimeNano)
		}
	}
	if len(starts) < 5 || len(ends) < 5 {
		t.Fatalf("%d starts and %d ends: %s", len(starts), len(ends), out)
	}
	wait := int64(100e6)
	for i := 1; i < len(starts); i++ {
		// The end is announced a moment after the wait has begun.
		if waited := starts[i] - ends[i-1]; waited < wait*8/10 {
			t.Errorf("restart %d came after %d ms, want %d", i, waited/1e6, wait/1e6)
		}
		wait *= 2
	}
	if run := ends[4] - starts[4]; run > wait/2 {
		t.Errorf("control: a run of %d ms is as long as the wait", run/1e6)
	}
}

// T-305: health checks that never end or never stop talking do not add up, and what they say is cut. The control says the same by
// exec.
func TestHealthCheckLoop(t *testing.T) {
	s := harness.Get(t)
	if r := s.API(t, s.User, "POST", "/v1.51/containers/create", `{"Image":"busybox","Healthcheck":{"Test":["CMD","true"],"Interval":1000000}}`); r.Status != 403 {
		t.Errorf("a check each millisecond: %+v", r)
	}
	hang := s.Must(t, "run", "-d", "--network=none", "--health-cmd", "sleep 3000", "--health-interval", "1s", "--health-timeout", "1s", "busybox", "sleep", "1000")
	const say = "yes stockade | head -c 3000000"
	talk := s.Must(t, "run", "-d", "--network=none", "--health-cmd", say, "--health-interval", "1s", "busybox", "sleep", "1000")
	t.Cleanup(func() { s.Must(t, "rm", "-f", hang, talk) })
	type health struct {
		FailingStreak int
		Log           []struct{ Output string }
	}
	state := func(id string) (h health) {
		must(t, json.Unmarshal([]byte(s.Must(t, "inspect", "-f", "{{json .State.Health}}", id)), &h))
		return h
	}
	harness.Poll(t, "checks", func() (string, bool) {
		h, k := state(hang), state(talk)
		return fmt.Sprint(h.FailingStreak, len(k.Log)), h.FailingStreak >= 2 && len(k.Log) >= 2
	})
	pids, _ := group(t, s.Must(t, "inspect", "-f", "{{.State.Pid}}", hang), "pids")
	if _, n := value(t, pids, "pids.current"); n > 3 { // the first process and one check, which may be a shell and its child
		t.Errorf("%d processes are left of checks", n)
	}
	for _, l := range state(talk).Log {
		if len(l.Output) > 5000 || !strings.HasPrefix(l.Output, "stockade\n") {
			t.Errorf("a check's output has %d bytes", len(l.Output))
		}
	}
	if n := len(s.Must(t, "exec", talk, "sh", "-c", say)); n < 2900000 {
		t.Errorf("control: %d bytes", n)
	}
}

// T-305: a log that names no size does not grow without end. The control is one that names a larger size.
func TestLogGrowth(t *testing.T) {
	s := harness.Get(t)
	size := func(id string) (sum int64) {
		found, err := filepath.Glob(harness.Data + "/engine/*/" + id + "*/*-json.log*")
		must(t, err)
		more, err := filepath.Glob(harness.Data + "/engine/*/" + id + "*/*.log*")
		must(t, err)
		seen := map[string]bool{}
		for _, path := range append(found, more...) {
			if fi, err := os.Stat(path); err == nil && !seen[path] {
				sum += fi.Size()
				seen[path] = true
			}
		}
		return sum
	}
	const say = "yes stockade-stockade-stockade-stockade-stockade-stockade | head -c 24000000; echo; echo the end"
	free := s.Must(t, "run", "-d", "--network=none", "busybox", "sh", "-c", say)
	named := s.Must(t, "run", "-d", "--network=none", "--log-opt", "max-size=200m", "busybox", "sh", "-c", say)
	t.Cleanup(func() { s.Must(t, "rm", "-f", free, named) })
	s.Must(t, "wait", free, named)
	if n := size(free); n > (logMiB+1)<<20 || n == 0 {
		t.Errorf("the log has %d bytes", n)
	}
	if n := size(named); n < 24000000 {
		t.Errorf("control: %d bytes", n)
	}
	for _, id := range []string{free, named} {
		if got := s.Must(t, "logs", "-n", "1", id); got != "the end" {
			t.Errorf("the log ends with %q", got)
		}
	}
}

// T-305: neither a caller nor an image has any number of volumes made. The control has as many as are allowed to.
func TestManyVolumes(t *testing.T) {
	s := harness.Get(t)
	volumes := func(n int) map[string]any {
		list := map[string]any{}
		for i := range n {
			list[fmt.Sprintf("/v/%d", i)] = struct{}{}
		}
		return list
	}
	before := objects(t, s)
	if r := s.API(t, s.User, "POST", "/v1.51/containers/create", map[string]any{"Image": "busybox", "Volumes": volumes(20000)}); r.Status != 400 {
		t.Errorf("%d %.300s", r.Status, r.Body)
	}
	if r := s.Exec(t, s.User, strings.NewReader(string(archive(t, "attack/volumes:1", map[string]any{"Volumes": volumes(5000)}))), s.DockerPath(), "load"); r.Code != 0 {
		t.Fatal(r)
	}
	if r := s.Docker(t, "create", "attack/volumes:1"); r.Code == 0 {
		t.Errorf("by an image: %v", r)
	}
	s.Must(t, "rmi", "attack/volumes:1")
	if after := objects(t, s); after != before {
		t.Errorf("objects were made: %.500s", after)
	}
	healthy(t, s)
	r := s.API(t, s.User, "POST", "/v1.51/containers/create", map[string]any{"Image": "busybox", "Volumes": volumes(50)})
	if r.Status != 201 {
		t.Fatalf("control: %+v", r)
	}
	s.Must(t, "rm", "-v", field(t, r.Body, "Id"))
}
