package cgroupd

import (
	"errors"
	"fmt"
	"math"
	"slices"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"

	"stockade/api/helper"
	"stockade/priv/peer"
)

// write is one value for one file; name is the limit's, for Skipped.
type write struct {
	controller, file, value, name string
}

// limit sets limits: all of those that the host can hold, or none.
func (t tree) limit(id groupID, l helper.Limits) ([]string, error) {
	var plan []write
	var skipped []string
	var err error
	if t.v2 {
		plan, skipped, err = t.planV2(id, l)
	} else {
		plan, err = t.planV1(id, l)
	}
	if err != nil {
		return nil, err
	}
	more, err := t.apply(id, plan)
	if err != nil {
		return nil, err
	}
	skipped = append(skipped, more...)
	slices.Sort(skipped)
	return slices.Compact(skipped), nil
}

// apply carries out a plan in order. When a write fails, the files written before get their old values back.
func (t tree) apply(id groupID, plan []write) (skipped []string, err error) {
	type old struct {
		h          *hierarchy
		rel, value string
	}
	var undo []old
	for _, w := range plan {
		h := t.by[w.controller]
		if h == nil {
			skipped = append(skipped, w.name)
			continue
		}
		rel := string(id) + "/" + w.file
		before, err := h.read(rel)
		if missing(err) {
			skipped = append(skipped, w.name)
			continue
		}
		if err == nil && before == w.value {
			continue
		}
		if err == nil {
			err = h.write(rel, w.value)
		}
		if missing(err) {
			skipped = append(skipped, w.name)
			continue
		}
		if err != nil {
			err = classed(err, "set %s of control group %s", w.name, id)
			for _, u := range slices.Backward(undo) {
				if uerr := u.h.write(u.rel, u.value); uerr != nil {
					err = errors.Join(err, fmt.Errorf("put back: %w", uerr))
				}
			}
			return nil, err
		}
		undo = append(undo, old{h, rel, before})
	}
	return skipped, nil
}

// missing tells that the host lacks what a file stands for.
func missing(err error) bool {
	return errors.Is(err, unix.ENOENT) || errors.Is(err, unix.EOPNOTSUPP) || errors.Is(err, unix.ENODEV)
}

func itoa[T ~int64 | ~uint64 | ~uint16](n T) string { return fmt.Sprint(n) }

// planV1 orders the writes for cgroup v1.
func (t tree) planV1(id groupID, l helper.Limits) ([]write, error) {
	plan, err := t.planMemoryV1(id, l)
	if err != nil {
		return nil, err
	}
	add := func(on bool, controller, file, value, name string) {
		if on {
			plan = append(plan, write{controller, file, value, name})
		}
	}
	add(l.Reservation != 0, "memory", "memory.soft_limit_in_bytes", itoa(l.Reservation), "reservation")
	if l.Swappiness != nil {
		add(true, "memory", "memory.swappiness", itoa(*l.Swappiness), "swappiness")
	}
	add(l.CPUPeriod != 0, "cpu", "cpu.cfs_period_us", itoa(l.CPUPeriod), "cpuPeriod")
	add(l.CPUQuota != 0, "cpu", "cpu.cfs_quota_us", itoa(l.CPUQuota), "cpuQuota")
	add(l.CPUShares != 0, "cpu", "cpu.shares", itoa(l.CPUShares), "cpuShares")
	add(l.CpusetCPUs != "", "cpuset", "cpuset.cpus", l.CpusetCPUs, "cpusetCpus")
	add(l.CpusetMems != "", "cpuset", "cpuset.mems", l.CpusetMems, "cpusetMems")
	add(l.Pids != 0, "pids", "pids.max", orMax(l.Pids), "pids")
	add(l.BlkioWeight != 0, "blkio", t.blkioWeightFile(id), itoa(l.BlkioWeight), "blkioWeight")
	return plan, nil
}

// blkioWeightFile finds which I/O scheduler's weight this host has.
func (t tree) blkioWeightFile(id groupID) string {
	if h := t.by["blkio"]; h != nil {
		if _, err := h.read(string(id) + "/blkio.bfq.weight"); err == nil {
			return "blkio.bfq.weight"
		}
	}
	return "blkio.weight"
}

// planMemoryV1 orders memory and memory+swap so that the first is never above the second: when growing, memory+swap
// first; when shrinking, memory first.
func (t tree) planMemoryV1(id groupID, l helper.Limits) ([]write, error) {
	mem := write{"memory", "memory.limit_in_bytes", itoa(l.Memory), "memory"}
	memsw := write{"memory", "memory.memsw.limit_in_bytes", itoa(l.MemorySwap), "memorySwap"}
	if l.Memory == 0 && l.MemorySwap == 0 {
		return nil, nil
	}
	if l.MemorySwap == 0 || l.Memory == 0 {
		now, err := t.number(id, "memory.memsw.limit_in_bytes")
		if missing(err) && l.Memory != 0 {
			return []write{mem}, nil
		}
		if err != nil && !missing(err) {
			return nil, err
		}
		if l.Memory == 0 {
			return []write{memsw}, nil
		}
		if uint64(l.Memory) > now {
			return nil, peer.Errorf(helper.Invalid, "Memory limit should be smaller than already set memoryswap limit, update the memoryswap at the same time")
		}
		return []write{mem}, nil
	}
	now, err := t.number(id, "memory.memsw.limit_in_bytes")
	if missing(err) {
		return []write{mem, memsw}, nil // the second one will be skipped
	}
	if err != nil {
		return nil, err
	}
	if l.MemorySwap == -1 || uint64(l.MemorySwap) > now {
		return []write{memsw, mem}, nil
	}
	return []write{mem, memsw}, nil
}

// number reads a file with one number in the memory hierarchy; "max" is the largest one.
func (t tree) number(id groupID, file string) (uint64, error) {
	h := t.by["memory"]
	if h == nil {
		return 0, unix.ENOENT
	}
	text, err := h.read(string(id) + "/" + file)
	if err != nil {
		return 0, err
	}
	if text == "max" {
		return math.MaxUint64, nil
	}
	return strconv.ParseUint(text, 10, 64)
}

func orMax(n int64) string {
	if n == -1 {
		return "max"
	}
	return itoa(n)
}

// planV2 orders the writes for cgroup v2. Its swap limit is of swap alone, and CPU bandwidth is one file.
func (t tree) planV2(id groupID, l helper.Limits) (plan []write, skipped []string, err error) {
	add := func(on bool, file, value, name string) {
		if on {
			plan = append(plan, write{strings.SplitN(file, ".", 2)[0], file, value, name})
		}
	}
	swap, err := t.swapV2(id, l)
	if err != nil {
		return nil, nil, err
	}
	add(l.Memory != 0, "memory.max", itoa(l.Memory), "memory")
	add(swap != "", "memory.swap.max", swap, "memorySwap")
	add(l.Reservation != 0, "memory.low", itoa(l.Reservation), "reservation")
	if l.Swappiness != nil {
		skipped = append(skipped, "swappiness")
	}
	if l.CPUQuota != 0 || l.CPUPeriod != 0 {
		value, err := t.cpuMax(id, l)
		if err != nil {
			return nil, nil, err
		}
		add(true, "cpu.max", value, "cpuQuota")
	}
	add(l.CPUShares != 0, "cpu.weight", itoa(weightOfShares(l.CPUShares)), "cpuShares")
	add(l.CpusetCPUs != "", "cpuset.cpus", l.CpusetCPUs, "cpusetCpus")
	add(l.CpusetMems != "", "cpuset.mems", l.CpusetMems, "cpusetMems")
	add(l.Pids != 0, "pids.max", orMax(l.Pids), "pids")
	if l.BlkioWeight != 0 {
		file, value := "io.weight", itoa(1+uint64(l.BlkioWeight-10)*9999/990)
		if _, err := t.all[0].read(string(id) + "/io.bfq.weight"); err == nil {
			file, value = "io.bfq.weight", itoa(l.BlkioWeight)
		}
		plan = append(plan, write{"blkio", file, value, "blkioWeight"})
	}
	return plan, skipped, nil
}

// swapV2 computes memory.swap.max from memory and memory+swap; empty means leave it.
func (t tree) swapV2(id groupID, l helper.Limits) (string, error) {
	switch {
	case l.MemorySwap == 0:
		return "", nil
	case l.MemorySwap == -1:
		return "max", nil
	}
	memory := uint64(l.Memory)
	if memory == 0 {
		var err error
		if memory, err = t.number(id, "memory.max"); err != nil && !missing(err) {
			return "", err
		}
	}
	if memory > uint64(l.MemorySwap) {
		return "", peer.Errorf(helper.Invalid, "Minimum memoryswap limit should be larger than memory limit, see usage")
	}
	return itoa(uint64(l.MemorySwap) - memory), nil
}

// cpuMax joins what is asked with what is set: "quota period".
func (t tree) cpuMax(id groupID, l helper.Limits) (string, error) {
	quota, period := "max", "100000"
	text, err := t.all[0].read(string(id) + "/cpu.max")
	if err != nil && !missing(err) {
		return "", err
	}
	if f := strings.Fields(text); len(f) == 2 {
		quota, period = f[0], f[1]
	}
	if l.CPUQuota != 0 {
		quota = orMax(l.CPUQuota)
	}
	if l.CPUPeriod != 0 {
		period = itoa(l.CPUPeriod)
	}
	return quota + " " + period, nil
}

// weightOfShares maps v1 shares (2…262144, default 1024) to v2 weights (1…10000, default 100), with the curve that OCI
// runtimes use since 2025 so that the two defaults meet.
func weightOfShares(shares uint64) uint64 {
	switch {
	case shares <= 2:
		return 1
	case shares >= 262144:
		return 10000
	}
	l := math.Log2(float64(shares))
	return uint64(math.Ceil(math.Pow(10, (l*l+125*l)/612-7.0/34)))
}
