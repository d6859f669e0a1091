package cgroupd

import (
	"context"
	"encoding/json"
	"errors"
	"io"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"stockade/api/helper"
	"stockade/api/setting"
	"stockade/priv/peer"
)

func class(err error) helper.Class {
	var e *peer.Error
	if errors.As(err, &e) {
		return e.Class
	}
	if err != nil {
		return helper.Internal
	}
	return ""
}

func TestParseID(t *testing.T) {
	for id, ok := range map[string]bool{
		"a": true, "0": true, strings.Repeat("a", 64): true, "3f9c": true,
		"": false, strings.Repeat("a", 65): false, "..": false, ".": false, "a/b": false, "../x": false, "A": false,
		"a.b": false, "cgroup.procs": false, "a\x00": false, "a b": false, "-a": false, "é": false,
	} {
		if _, err := parseID(id); (err == nil) != ok {
			t.Errorf("%q: %v", id, err)
		}
	}
}

func TestCheckLimits(t *testing.T) {
	n := func(v int64) *int64 { return &v }
	for name, c := range map[string]struct {
		l  helper.Limits
		ok bool
	}{
		"none":                {helper.Limits{}, true},
		"all":                 {helper.Limits{Memory: 1 << 20, MemorySwap: -1, Reservation: 1, Pids: -1, CPUQuota: -1, CPUPeriod: 1000, CPUShares: 2, CpusetCPUs: "0,2-3", CpusetMems: "0", BlkioWeight: 10, Swappiness: n(0)}, true},
		"oom":                 {helper.Limits{DisableOOM: true}, false},
		"negative memory":     {helper.Limits{Memory: -1}, false},
		"swap below memory":   {helper.Limits{Memory: 10, MemorySwap: 9}, false},
		"negative swap":       {helper.Limits{MemorySwap: -2}, false},
		"pids":                {helper.Limits{Pids: -2}, false},
		"quota":               {helper.Limits{CPUQuota: 999}, false},
		"period":              {helper.Limits{CPUPeriod: 999}, false},
		"shares":              {helper.Limits{CPUShares: 1}, false},
		"weight":              {helper.Limits{BlkioWeight: 9}, false},
		"swappiness":          {helper.Limits{Swappiness: n(101)}, false},
		"cpus injected":       {helper.Limits{CpusetCPUs: "0\n1"}, false},
		"cpus backwards":      {helper.Limits{CpusetCPUs: "3-1"}, false},
		"mems with a trailer": {helper.Limits{CpusetMems: "0,"}, false},
	} {
		if err := checkLimits(c.l); (err == nil) != c.ok {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func TestWeightOfShares(t *testing.T) {
	for shares, want := range map[uint64]uint64{2: 1, 1024: 100, 262144: 10000, 512: 59, 2048: 174} {
		if got := weightOfShares(shares); got != want {
			t.Errorf("%d shares: weight %d, want %d", shares, got, want)
		}
	}
}

func TestParseFDInfo(t *testing.T) {
	for text, want := range map[string]int{
		"pos:\t0\nflags:\t02000002\nmnt_id:\t15\nino:\t7\nPid:\t4242\nNSpid:\t4242\n": 4242,
		"pos:\t0\nPid:\t-1\n":     -1,
		"pos:\t0\nflags:\t0100\n": 0,
		"xPid:\t3\n":              0,
	} {
		if got, err := parseFDInfo(strings.NewReader(text)); err != nil || got != want {
			t.Errorf("%q: %d, %v", text, got, err)
		}
	}
}

func TestParseUIDs(t *testing.T) {
	got, err := parseUIDs(strings.NewReader("Name:\tsh\nUid:\t1\t2\t3\t4\nGid:\t0\t0\t0\t0\n"))
	if err != nil || got != [4]uint32{1, 2, 3, 4} {
		t.Errorf("%v, %v", got, err)
	}
	for _, text := range []string{"", "Uid:\t1\t2\t3\n", "Uid:\t1\t2\t3\t-4\n", "Name:\tUid:\t0\n"} {
		if _, err := parseUIDs(strings.NewReader(text)); err == nil {
			t.Errorf("%q was accepted", text)
		}
	}
}

// fakeV2 is a folder tree that looks like a v2 hierarchy with one group "c1".
func fakeV2(t *testing.T, files map[string]string) (*Server, string) {
	t.Helper()
	root := t.TempDir()
	group := filepath.Join(root, "stkt", "c1")
	if err := os.MkdirAll(group, 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.Mkdir(filepath.Join(root, "stkt", "engine.leaf"), 0o755); err != nil {
		t.Fatal(err)
	}
	for name, text := range files {
		if err := os.WriteFile(filepath.Join(group, name), []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	s, err := New(setting.Cgroupd{EngineUID: 900, Parent: "stkt", Root: root, V2: true, Sub: setting.IDRange{First: 100000, Count: 1 << 20}},
		slog.New(slog.NewTextHandler(io.Discard, nil)))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(s.Close)
	return s, group
}

func TestV2Writes(t *testing.T) {
	// A fake file is not emptied before a write, so each starts empty or shorter than what is written.
	s, group := fakeV2(t, map[string]string{
		"memory.max": "", "memory.swap.max": "", "memory.low": "", "cpu.max": "max 100000\n", "cpu.weight": "", "cpuset.cpus": "",
		"pids.max": "", "io.weight": "",
	})
	n := int64(10)
	done, _, err := s.setLimits(context.Background(), helper.CgroupSet{ID: "c1", Limits: helper.Limits{
		Memory: 64 << 20, MemorySwap: 100 << 20, Reservation: 32 << 20, Pids: -1, CPUQuota: 150000, CPUShares: 1024,
		CpusetCPUs: "0-1", CpusetMems: "0", BlkioWeight: 500, Swappiness: &n,
	}}, nil)
	if err != nil {
		t.Fatal(err)
	}
	if d := cmp.Diff([]string{"cpusetMems", "swappiness"}, done.Skipped); d != "" {
		t.Errorf("skipped: %s", d)
	}
	want := map[string]string{
		"memory.max": "67108864", "memory.swap.max": "37748736", "memory.low": "33554432", "cpu.max": "150000 100000",
		"cpu.weight": "100", "cpuset.cpus": "0-1", "pids.max": "max", "io.weight": "4950",
	}
	for name, value := range want {
		got, err := os.ReadFile(filepath.Join(group, name))
		if err != nil || string(got) != value+"\n" {
			t.Errorf("%s: %q, want %q", name, got, value)
		}
	}
}

func TestV2PutsBack(t *testing.T) {
	s, group := fakeV2(t, map[string]string{"memory.max": "99999999\n", "cpu.weight": "\n"})
	// a folder in the place of a file makes the write fail
	if err := os.Mkdir(filepath.Join(group, "pids.max"), 0o755); err != nil {
		t.Fatal(err)
	}
	_, _, err := s.setLimits(context.Background(), helper.CgroupSet{ID: "c1", Limits: helper.Limits{Memory: 12345678, Pids: 7}}, nil)
	if err == nil {
		t.Fatal("no error")
	}
	got, _ := os.ReadFile(filepath.Join(group, "memory.max"))
	if string(got) != "99999999\n" {
		t.Errorf("memory.max is %q", got)
	}
}

func TestV2Stat(t *testing.T) {
	s, _ := fakeV2(t, map[string]string{
		"memory.current": "4096\n", "memory.max": "max\n", "memory.events": "low 0\nhigh 0\nmax 3\noom 2\noom_kill 1\n", "memory.stat": "anon 10\nfile 20\n",
		"cpu.stat":     "usage_usec 5\nuser_usec 3\nsystem_usec 2\nnr_periods 9\nnr_throttled 1\nthrottled_usec 7\n",
		"pids.current": "2\n", "pids.max": "10\n", "io.stat": "8:0 rbytes=1 wbytes=2 rios=3\n", "cgroup.events": "populated 1\nfrozen 1\n",
	})
	got, _, err := s.stat(context.Background(), helper.CgroupID{ID: "c1"}, nil)
	if err != nil {
		t.Fatal(err)
	}
	want := helper.CgroupStat{OOMKills: 1, Memory: 4096, MemoryStats: map[string]uint64{"anon": 10, "file": 20}, Failcnt: 3,
		CPUTotal: 5000, CPUUser: 3000, CPUSystem: 2000, Periods: 9, Throttled: 1, ThrottledFor: 7000, Pids: 2, PidsLimit: 10,
		Blkio: []helper.BlkioEntry{{Major: 8, Op: "read", Value: 1}, {Major: 8, Op: "write", Value: 2}}, Frozen: true}
	if d := cmp.Diff(want, got); d != "" {
		t.Error(d)
	}
}

func TestV2Groups(t *testing.T) {
	s, group := fakeV2(t, map[string]string{"cgroup.procs": "12\n0\n13\n", "cgroup.kill": ""})
	ctx := context.Background()
	if _, _, err := s.create(ctx, helper.CgroupCreate{ID: "c2"}, nil); err != nil {
		t.Fatal(err)
	}
	list, _, err := s.list(ctx, helper.None{}, nil)
	if err != nil {
		t.Fatal(err)
	}
	if d := cmp.Diff([]string{"c1", "c2"}, list.IDs); d != "" {
		t.Error(d)
	}
	pids, _, err := s.pids(ctx, helper.CgroupID{ID: "c1"}, nil)
	if d := cmp.Diff([]int{12, 13}, pids.Pids); d != "" || err != nil {
		t.Error(d, err)
	}
	if _, _, err := s.kill(ctx, helper.CgroupID{ID: "c1"}, nil); err != nil {
		t.Error(err)
	}
	if got, _ := os.ReadFile(filepath.Join(group, "cgroup.kill")); string(got) != "1\n" {
		t.Errorf("cgroup.kill: %q", got)
	}
	if _, _, err := s.remove(ctx, helper.CgroupID{ID: "c1"}, nil); class(err) != helper.Conflict {
		t.Errorf("remove of a full folder: %v", err)
	}
	if _, _, err := s.remove(ctx, helper.CgroupID{ID: "c2"}, nil); err != nil {
		t.Error(err)
	}
	for _, id := range []string{"c2", "gone"} {
		if _, _, err := s.stat(ctx, helper.CgroupID{ID: id}, nil); class(err) != helper.NotFound {
			t.Errorf("stat %s: %v", id, err)
		}
	}
}

// TestLinkInTree: a link in the place of a group's file is never followed.
func TestLinkInTree(t *testing.T) {
	s, group := fakeV2(t, nil)
	target := filepath.Join(t.TempDir(), "target")
	if err := os.WriteFile(target, []byte("old"), 0o644); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink(target, filepath.Join(group, "pids.max")); err != nil {
		t.Fatal(err)
	}
	if _, _, err := s.setLimits(context.Background(), helper.CgroupSet{ID: "c1", Limits: helper.Limits{Pids: 5}}, nil); err == nil {
		t.Error("a link was followed")
	}
	if got, _ := os.ReadFile(target); string(got) != "old" {
		t.Errorf("target is %q", got)
	}
}

func TestNewRefuses(t *testing.T) {
	for name, set := range map[string]setting.Cgroupd{
		"zero":        {},
		"no parent":   {EngineUID: 1, Root: "/"},
		"dots":        {EngineUID: 1, Root: "/", Parent: ".."},
		"two parts":   {EngineUID: 1, Root: "/", Parent: "a/b"},
		"root in sub": {EngineUID: 1, Root: "/", Parent: "proc", V2: true, Sub: setting.IDRange{Count: 5}},
		"missing":     {EngineUID: 1, Root: "/", Parent: "doesnotexist"},
	} {
		if s, err := New(set, slog.Default()); err == nil {
			s.Close()
			t.Errorf("%s was accepted", name)
		}
	}
}

// FuzzBodies feeds every operation that writes nothing outside a fake tree with arbitrary bodies.
func FuzzBodies(f *testing.F) {
	f.Add("set", `{"id":"c1","limits":{"memory":1048576,"memorySwap":-1}}`)
	f.Add("create", `{"id":"../x","limits":{}}`)
	f.Add("stat", `{"id":"c1"}`)
	f.Add("remove", `{"id":"."}`)
	f.Fuzz(func(t *testing.T, op, body string) {
		s, group := fakeV2(t, map[string]string{"pids.max": "max\n"})
		entry, ok := s.Table()[op]
		if !ok || entry.FDs != 0 || op == "freeze" {
			return
		}
		_, _, _ = entry.Do(context.Background(), json.RawMessage(body), nil)
		entries, err := os.ReadDir(filepath.Dir(filepath.Dir(group)))
		if err != nil || len(entries) != 1 {
			t.Errorf("wrote outside of the subtree: %v", entries)
		}
	})
}
