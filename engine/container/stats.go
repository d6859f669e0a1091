package container

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"net/http"
	"os"
	"runtime"
	"strconv"
	"strings"
	"time"

	"github.com/moby/moby/api/types/container"

	"stockade/api/helper"
	"stockade/api/scope"
	"stockade/engine/httpapi"
)

func (s *Service) handleStats(w http.ResponseWriter, r *http.Request, sc scope.Scope) error {
	q := r.URL.Query()
	stream := q.Get("stream") == "" || boolOf(q.Get("stream"))
	oneShot := boolOf(q.Get("one-shot"))
	if stream && oneShot {
		return invalid("cannot have stream=true and one-shot=true")
	}
	c, err := s.index.find(sc.Tenant, r.PathValue("id"))
	if err != nil {
		return err
	}
	if !stream && !c.view().State.Running {
		return httpapi.WriteJSON(w, http.StatusOK, &container.StatsResponse{ID: c.view().ID, Name: "/" + c.view().Name, OSType: "linux"})
	}
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(http.StatusOK)
	flush := http.NewResponseController(w)
	if err := flush.Flush(); err != nil {
		return fmt.Errorf("flush: %w", err)
	}
	var last *container.StatsResponse
	if !oneShot {
		// A first sample, so that the client can compute a rate from what it gets.
		if last, err = s.sample(r.Context(), c); err != nil {
			return err
		}
		if !pause(r.Context(), s.ctx, time.Second) {
			return nil
		}
	}
	for {
		now, err := s.sample(r.Context(), c)
		if err != nil {
			return err
		}
		if last != nil {
			now.PreRead, now.PreCPUStats = last.Read, last.CPUStats
		}
		if err := encode(w, now); err != nil {
			return closed(err)
		}
		if err := flush.Flush(); err != nil {
			return closed(err)
		}
		last = now
		if !stream || !pause(r.Context(), s.ctx, time.Second) {
			return nil
		}
	}
}

// pause waits, and tells false when either context has ended.
func pause(a, b context.Context, d time.Duration) bool {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return true
	case <-a.Done():
	case <-b.Done():
	}
	return false
}

// sample reads what a container uses. One that does not run uses nothing.
func (s *Service) sample(ctx context.Context, c *item) (*container.StatsResponse, error) {
	v := c.view()
	out := &container.StatsResponse{ID: v.ID, Name: "/" + v.Name, OSType: "linux"}
	if !v.State.Running || v.Task == nil {
		return out, nil
	}
	st, err := v.Task.Stats(ctx)
	if err != nil {
		select {
		case <-v.Task.Done():
			return out, nil
		default:
			return nil, fmt.Errorf("read usage: %w", err)
		}
	}
	system, err := systemCPU()
	if err != nil {
		return nil, err
	}
	out.Read = time.Now().UTC()
	fillStats(out, st, system)
	if v.Task.Endpoint() != nil {
		if out.Networks, err = networkStats(v.Task.PID()); err != nil && !errors.Is(err, os.ErrNotExist) {
			return nil, err
		}
	}
	return out, nil
}

func fillStats(out *container.StatsResponse, st helper.CgroupStat, system uint64) {
	out.CPUStats = container.CPUStats{
		CPUUsage:    container.CPUUsage{TotalUsage: st.CPUTotal, PercpuUsage: st.CPUPerCPU, UsageInKernelmode: st.CPUSystem, UsageInUsermode: st.CPUUser},
		SystemUsage: system, OnlineCPUs: uint32(runtime.NumCPU()),
		ThrottlingData: container.ThrottlingData{Periods: st.Periods, ThrottledPeriods: st.Throttled, ThrottledTime: st.ThrottledFor},
	}
	out.MemoryStats = container.MemoryStats{
		Usage: st.Memory, MaxUsage: st.MemoryMax, Stats: st.MemoryStats, Failcnt: st.Failcnt, Limit: st.MemoryLimit,
	}
	if total := totalMemory(); out.MemoryStats.Limit == 0 || total > 0 && out.MemoryStats.Limit > total {
		out.MemoryStats.Limit = total
	}
	out.PidsStats = container.PidsStats{Current: st.Pids, Limit: st.PidsLimit}
	for _, e := range st.Blkio {
		out.BlkioStats.IoServiceBytesRecursive = append(out.BlkioStats.IoServiceBytesRecursive,
			container.BlkioStatEntry{Major: e.Major, Minor: e.Minor, Op: strings.ToLower(e.Op), Value: e.Value})
	}
}

// userHz is the kernel's USER_HZ, which is 100 on every architecture that Linux containers run on.
const userHz = 100

// systemCPU is the time that all processors of the host have spent, in nanoseconds.
func systemCPU() (uint64, error) {
	b, err := os.ReadFile("/proc/stat")
	if err != nil {
		return 0, err
	}
	first, _, _ := strings.Cut(string(b), "\n")
	f := strings.Fields(first)
	if len(f) < 8 || f[0] != "cpu" {
		return 0, errors.New("unexpected /proc/stat")
	}
	var ticks uint64
	for _, v := range f[1:8] {
		n, err := strconv.ParseUint(v, 10, 64)
		if err != nil {
			return 0, fmt.Errorf("/proc/stat: %w", err)
		}
		ticks += n
	}
	return ticks * (1e9 / userHz), nil
}

// totalMemory is the host's memory in bytes, 0 if unknown.
func totalMemory() uint64 {
	b, err := os.ReadFile("/proc/meminfo")
	if err != nil {
		return 0
	}
	for line := range strings.Lines(string(b)) {
		if f := strings.Fields(line); len(f) >= 2 && f[0] == "MemTotal:" {
			n, err := strconv.ParseUint(f[1], 10, 64)
			if err == nil {
				return n << 10
			}
		}
	}
	return 0
}

// networkStats reads the counters of a container's interfaces, as seen by its first process.
func networkStats(pid int) (map[string]container.NetworkStats, error) {
	f, err := os.Open(fmt.Sprintf("/proc/%d/net/dev", pid))
	if err != nil {
		return nil, err
	}
	defer f.Close()
	out := map[string]container.NetworkStats{}
	sc := bufio.NewScanner(f)
	for sc.Scan() {
		name, rest, ok := strings.Cut(sc.Text(), ":")
		name = strings.TrimSpace(name)
		if !ok || name == "lo" {
			continue
		}
		var n [16]uint64
		for i, v := range strings.Fields(rest) {
			if i < len(n) {
				n[i], _ = strconv.ParseUint(v, 10, 64) // the kernel prints numbers
			}
		}
		out[name] = container.NetworkStats{
			RxBytes: n[0], RxPackets: n[1], RxErrors: n[2], RxDropped: n[3], TxBytes: n[8], TxPackets: n[9], TxErrors: n[10], TxDropped: n[11],
		}
	}
	return out, sc.Err()
}
