package cgroupd

import (
	"context"
	"os"
	"strconv"
	"strings"

	"stockade/api/helper"
)

// unlimitedV1 is the smallest value that v1's memory.limit_in_bytes shows for "no limit" on any page size.
const unlimitedV1 = 1<<63 - 1<<20

// stat reads the counters. What the host does not record stays zero.
func (s *Server) stat(_ context.Context, q helper.CgroupID, _ []*os.File) (helper.CgroupStat, []*os.File, error) {
	id, err := s.existing(q.ID)
	if err != nil {
		return helper.CgroupStat{}, nil, err
	}
	r := statReader{t: s.tree, id: id}
	var st helper.CgroupStat
	if s.set.V2 {
		st = r.v2()
	} else {
		st = r.v1()
	}
	if r.err != nil {
		return helper.CgroupStat{}, nil, r.err
	}
	st.Frozen, err = s.frozen(id)
	return st, nil, err
}

// statReader reads files of one group and keeps the first error.
type statReader struct {
	t   tree
	id  groupID
	err error
}

func (r *statReader) text(controller, file string) string {
	h := r.t.by[controller]
	if h == nil {
		return ""
	}
	text, err := h.read(string(r.id) + "/" + file)
	if err != nil && !missing(err) && r.err == nil {
		r.err = err
	}
	return text
}

// number reads one number; "max" and anything else count as 0.
func (r *statReader) number(controller, file string) uint64 {
	n, _ := strconv.ParseUint(r.text(controller, file), 10, 64)
	return n
}

func (r *statReader) table(controller, file string) map[string]uint64 {
	return parseTable(r.text(controller, file))
}

func (r *statReader) v1() helper.CgroupStat {
	cpu := r.table("cpu", "cpu.stat")
	st := helper.CgroupStat{
		OOMKills:     r.table("memory", "memory.oom_control")["oom_kill"],
		Memory:       r.number("memory", "memory.usage_in_bytes"),
		MemoryMax:    r.number("memory", "memory.max_usage_in_bytes"),
		MemoryLimit:  r.number("memory", "memory.limit_in_bytes"),
		MemoryStats:  r.table("memory", "memory.stat"),
		Failcnt:      r.number("memory", "memory.failcnt"),
		CPUTotal:     r.number("cpuacct", "cpuacct.usage"),
		CPUUser:      r.number("cpuacct", "cpuacct.usage_user"),
		CPUSystem:    r.number("cpuacct", "cpuacct.usage_sys"),
		Periods:      cpu["nr_periods"],
		Throttled:    cpu["nr_throttled"],
		ThrottledFor: cpu["throttled_time"],
		Pids:         r.number("pids", "pids.current"),
		PidsLimit:    r.number("pids", "pids.max"),
	}
	if st.MemoryLimit >= unlimitedV1 {
		st.MemoryLimit = 0
	}
	for field := range strings.FieldsSeq(r.text("cpuacct", "cpuacct.usage_percpu")) {
		n, _ := strconv.ParseUint(field, 10, 64)
		st.CPUPerCPU = append(st.CPUPerCPU, n)
	}
	for _, file := range []string{"blkio.throttle.io_service_bytes_recursive", "blkio.throttle.io_service_bytes"} {
		if st.Blkio = parseBlkio(r.text("blkio", file)); len(st.Blkio) > 0 {
			break
		}
	}
	return st
}

func (r *statReader) v2() helper.CgroupStat {
	cpu, events := r.table("cpu", "cpu.stat"), r.table("memory", "memory.events")
	return helper.CgroupStat{
		OOMKills:     events["oom_kill"],
		Memory:       r.number("memory", "memory.current"),
		MemoryMax:    r.number("memory", "memory.peak"),
		MemoryLimit:  r.number("memory", "memory.max"),
		MemoryStats:  r.table("memory", "memory.stat"),
		Failcnt:      events["max"],
		CPUTotal:     cpu["usage_usec"] * 1000,
		CPUUser:      cpu["user_usec"] * 1000,
		CPUSystem:    cpu["system_usec"] * 1000,
		Periods:      cpu["nr_periods"],
		Throttled:    cpu["nr_throttled"],
		ThrottledFor: cpu["throttled_usec"] * 1000,
		Pids:         r.number("pids", "pids.current"),
		PidsLimit:    r.number("pids", "pids.max"),
		Blkio:        parseIOStat(r.text("blkio", "io.stat")),
	}
}

// parseTable reads lines "name number".
func parseTable(text string) map[string]uint64 {
	table := map[string]uint64{}
	for line := range strings.Lines(text) {
		name, value, _ := strings.Cut(strings.TrimSpace(line), " ")
		if n, err := strconv.ParseUint(value, 10, 64); err == nil {
			table[name] = n
		}
	}
	return table
}

// parseDevice reads "major:minor".
func parseDevice(text string) (major, minor uint64, ok bool) {
	a, b, ok := strings.Cut(text, ":")
	if !ok {
		return 0, 0, false
	}
	major, err1 := strconv.ParseUint(a, 10, 32)
	minor, err2 := strconv.ParseUint(b, 10, 32)
	return major, minor, err1 == nil && err2 == nil
}

// parseBlkio reads v1's lines "8:0 Read 4096"; the total over all devices is left out.
func parseBlkio(text string) []helper.BlkioEntry {
	var entries []helper.BlkioEntry
	for line := range strings.Lines(text) {
		f := strings.Fields(line)
		if len(f) != 3 {
			continue
		}
		major, minor, ok := parseDevice(f[0])
		n, err := strconv.ParseUint(f[2], 10, 64)
		if ok && err == nil {
			entries = append(entries, helper.BlkioEntry{Major: major, Minor: minor, Op: strings.ToLower(f[1]), Value: n})
		}
	}
	return entries
}

// parseIOStat reads v2's lines "8:0 rbytes=4096 wbytes=0 …".
func parseIOStat(text string) []helper.BlkioEntry {
	var entries []helper.BlkioEntry
	for line := range strings.Lines(text) {
		f := strings.Fields(line)
		if len(f) == 0 {
			continue
		}
		major, minor, ok := parseDevice(f[0])
		for _, pair := range f[1:] {
			name, value, _ := strings.Cut(pair, "=")
			op := map[string]string{"rbytes": "read", "wbytes": "write"}[name]
			n, err := strconv.ParseUint(value, 10, 64)
			if ok && op != "" && err == nil {
				entries = append(entries, helper.BlkioEntry{Major: major, Minor: minor, Op: op, Value: n})
			}
		}
	}
	return entries
}
