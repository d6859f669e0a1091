package cgroupd

import (
	"strconv"
	"strings"

	"stockade/api/helper"
	"stockade/priv/peer"
)

// groupID is the checked name of a group: one path component. Only parseID makes it.
type groupID string

// parseID checks an id against [a-z0-9]{1,64}.
func parseID(s string) (groupID, error) {
	// SECURITY(T-704): no '/', no dot, so that the name is one component and no file of cgroupfs ("cgroup.procs").
	other := func(c rune) bool { return (c < 'a' || c > 'z') && (c < '0' || c > '9') }
	if len(s) < 1 || len(s) > 64 || strings.ContainsFunc(s, other) {
		return "", peer.Errorf(helper.Invalid, "control group name must be 1 to 64 of [a-z0-9]")
	}
	return groupID(s), nil
}

// checkLimits refuses values that no kernel takes or that mean something else than their name says.
func checkLimits(l helper.Limits) error {
	bad := func(what string) error { return peer.Errorf(helper.Invalid, "invalid %s", what) }
	switch {
	case l.DisableOOM:
		return peer.Errorf(helper.Invalid, "disabling the OOM killer of a control group is not supported")
	case l.Memory < 0:
		return bad("memory limit")
	case l.MemorySwap < -1:
		return bad("memory and swap limit")
	case l.MemorySwap > 0 && l.MemorySwap < l.Memory:
		return peer.Errorf(helper.Invalid, "Minimum memoryswap limit should be larger than memory limit, see usage")
	case l.Reservation < 0:
		return bad("memory reservation")
	case l.Pids < -1:
		return bad("pids limit")
	case l.CPUQuota < -1 || (l.CPUQuota > 0 && l.CPUQuota < 1000):
		return bad("CPU quota: at least 1000 microseconds")
	case l.CPUPeriod != 0 && (l.CPUPeriod < 1000 || l.CPUPeriod > 1000000):
		return bad("CPU period: 1000 to 1000000 microseconds")
	case l.CPUShares != 0 && (l.CPUShares < 2 || l.CPUShares > 262144):
		return bad("CPU shares: 2 to 262144")
	case l.BlkioWeight != 0 && (l.BlkioWeight < 10 || l.BlkioWeight > 1000):
		return bad("block I/O weight: 10 to 1000")
	case l.Swappiness != nil && (*l.Swappiness < 0 || *l.Swappiness > 100):
		return bad("swappiness: 0 to 100")
	case !validList(l.CpusetCPUs):
		return bad("cpuset CPUs")
	case !validList(l.CpusetMems):
		return bad("cpuset memory nodes")
	}
	return nil
}

// validList checks cpuset(7)'s list format: numbers and ranges, comma-separated; empty is valid.
func validList(s string) bool {
	if s == "" {
		return true
	}
	if len(s) > 1024 {
		return false
	}
	for part := range strings.SplitSeq(s, ",") {
		lo, hi, ranged := strings.Cut(part, "-")
		a, err := strconv.ParseUint(lo, 10, 16)
		if err != nil {
			return false
		}
		if !ranged {
			continue
		}
		if b, err := strconv.ParseUint(hi, 10, 16); err != nil || b < a {
			return false
		}
	}
	return true
}

// parsePids reads cgroup.procs; more than maxPids are cut off. Pid 0 (another pid namespace's) is left out.
func parsePids(text string) ([]int, error) {
	pids := []int{}
	for line := range strings.FieldsSeq(text) {
		pid, err := strconv.Atoi(line)
		if err != nil {
			return nil, err
		}
		if pid > 0 && len(pids) < maxPids {
			pids = append(pids, pid)
		}
	}
	return pids, nil
}
