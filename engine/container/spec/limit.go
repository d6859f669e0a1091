package spec

import (
	"os"
	"runtime"
	"strconv"
	"strings"

	"github.com/moby/moby/api/types/container"
	specs "github.com/opencontainers/runtime-spec/specs-go"

	"stockade/api/helper"
)

const (
	minMemory = 6 << 20
	minShares = 2
	maxShares = 262144
	cfsPeriod = 100000 // microseconds
)

// CheckResources refuses limits that contradict themselves, with Docker's texts.
func CheckResources(r *container.Resources) error {
	switch {
	case r.Memory < 0 || (r.Memory != 0 && r.Memory < minMemory):
		return invalid("Minimum memory limit allowed is 6MB")
	case r.Memory > 0 && r.MemorySwap > 0 && r.MemorySwap < r.Memory:
		return invalid("Minimum memoryswap limit should be larger than memory limit, see usage")
	case r.Memory == 0 && r.MemorySwap > 0:
		return invalid("You should always set the Memory limit when using Memoryswap limit, see usage")
	case r.MemorySwap < -1:
		return invalid("invalid memory swap limit: %d", r.MemorySwap)
	case r.MemorySwappiness != nil && (*r.MemorySwappiness < -1 || *r.MemorySwappiness > 100):
		return invalid("invalid value: %d, valid memory swappiness range is 0-100", *r.MemorySwappiness)
	case r.MemoryReservation != 0 && r.MemoryReservation < minMemory:
		return invalid("Minimum memory reservation allowed is 6MB")
	case r.Memory > 0 && r.MemoryReservation > r.Memory:
		return invalid("Minimum memory limit can not be less than memory reservation limit, see usage")
	case r.NanoCPUs > 0 && r.CPUPeriod > 0:
		return invalid("Conflicting options: Nano CPUs and CPU Period cannot both be set.")
	case r.NanoCPUs > 0 && r.CPUQuota > 0:
		return invalid("Conflicting options: Nano CPUs and CPU Quota cannot both be set.")
	case r.NanoCPUs < 0 || r.NanoCPUs > int64(runtime.NumCPU())*1e9:
		return invalid("range of CPUs is from 0.01 to %d.00, as there are only %d CPUs available", runtime.NumCPU(), runtime.NumCPU())
	case r.CPUShares < 0:
		return invalid("invalid CPU shares (%d): value must be a positive integer", r.CPUShares)
	case r.CPUPeriod != 0 && (r.CPUPeriod < 1000 || r.CPUPeriod > 1000000):
		return invalid("CPU cfs period can not be less than 1ms (i.e. 1000) or larger than 1s (i.e. 1000000)")
	case r.CPUQuota > 0 && r.CPUQuota < 1000:
		return invalid("CPU cfs quota can not be less than 1ms (i.e. 1000)")
	case r.BlkioWeight > 0 && (r.BlkioWeight < 10 || r.BlkioWeight > 1000):
		return invalid("range of blkio weight is from 10 to 1000")
	case !cpuList(r.CpusetCpus):
		return invalid("Invalid value %s for cpuset cpus", r.CpusetCpus)
	case !cpuList(r.CpusetMems):
		return invalid("Invalid value %s for cpuset mems", r.CpusetMems)
	}
	if have, ok := online(r.CpusetCpus, "/sys/devices/system/cpu/online"); !ok {
		return invalid("Requested CPUs are not available - requested %s, available: %s", r.CpusetCpus, have)
	}
	if have, ok := online(r.CpusetMems, "/sys/devices/system/node/online"); !ok {
		return invalid("Requested memory nodes are not available - requested %s, available: %s", r.CpusetMems, have)
	}
	return nil
}

// online tells whether the kernel's list in a file has all that is wanted. What cannot be read refuses nothing: the
// control group will.
func online(want, file string) (have string, ok bool) {
	if want == "" {
		return "", true
	}
	data, err := os.ReadFile(file)
	if err != nil {
		return "", true
	}
	have = strings.TrimSpace(string(data))
	there := numbers(have)
	for n := range numbers(want) {
		if !there[n] {
			return have, false
		}
	}
	return have, true
}

// numbers reads a list such as 0-2,7. Of a range only the beginning and the end are looked at, whatever its length.
func numbers(list string) map[int]bool {
	const most = 4096
	out := map[int]bool{}
	for part := range strings.SplitSeq(list, ",") {
		from, to, ranged := strings.Cut(part, "-")
		if !ranged {
			to = from
		}
		a, errA := strconv.Atoi(from)
		b, errB := strconv.Atoi(to)
		if errA != nil || errB != nil {
			continue
		}
		out[a], out[b] = true, true
		for n := a; n < b && n < a+most; n++ {
			out[n] = true
		}
	}
	return out
}

func cpuList(s string) bool {
	return strings.IndexFunc(s, func(c rune) bool { return (c < '0' || c > '9') && c != ',' && c != '-' }) < 0
}

// AdaptResources fills in what Docker derives: twice the memory as memory and swap, shares within the kernel's range.
func AdaptResources(r *container.Resources) {
	if r.Memory > 0 && r.MemorySwap == 0 {
		r.MemorySwap = 2 * r.Memory
	}
	if r.CPUShares > 0 {
		r.CPUShares = min(max(r.CPUShares, minShares), maxShares)
	}
	// The CLI's spellings of "not named".
	if r.MemorySwappiness != nil && *r.MemorySwappiness == -1 {
		r.MemorySwappiness = nil
	}
	if r.PidsLimit != nil && *r.PidsLimit == 0 {
		r.PidsLimit = nil
	}
	if r.PidsLimit != nil && *r.PidsLimit < 0 {
		unlimited := int64(-1)
		r.PidsLimit = &unlimited
	}
}

// defaultPids is how many processes and threads a container may have that names no number.
//
// SECURITY(T-305): without it one container could take all of the host's.
const defaultPids = 4096

// Limits translates limits for the container's cgroup.
func Limits(r *container.Resources) helper.Limits {
	l := helper.Limits{
		Memory: r.Memory, MemorySwap: r.MemorySwap, Reservation: r.MemoryReservation, CPUQuota: r.CPUQuota,
		CPUPeriod: uint64(r.CPUPeriod), CPUShares: uint64(r.CPUShares), CpusetCPUs: r.CpusetCpus, CpusetMems: r.CpusetMems,
		BlkioWeight: r.BlkioWeight, Pids: defaultPids,
	}
	if r.NanoCPUs > 0 {
		l.CPUPeriod = cfsPeriod
		l.CPUQuota = r.NanoCPUs * cfsPeriod / 1e9
	}
	if r.PidsLimit != nil && *r.PidsLimit != 0 {
		l.Pids = *r.PidsLimit
	}
	if r.MemorySwappiness != nil && *r.MemorySwappiness >= 0 {
		v := *r.MemorySwappiness
		l.Swappiness = &v
	}
	if r.OomKillDisable != nil {
		l.DisableOOM = *r.OomKillDisable
	}
	return l
}

// rlimits translates ulimits. The number of open files is held below what this server may give: nothing here has the
// capability to go over its own hard limit.
func rlimits(r *container.Resources, nofileHard uint64) ([]specs.POSIXRlimit, error) {
	var out []specs.POSIXRlimit
	seen := false
	for _, u := range r.Ulimits {
		if u == nil {
			continue
		}
		if _, err := u.GetRlimit(); err != nil {
			return nil, invalid("%v", err)
		}
		l := specs.POSIXRlimit{Type: "RLIMIT_" + strings.ToUpper(u.Name), Soft: uint64(u.Soft), Hard: uint64(u.Hard)}
		if u.Name == "nofile" {
			seen = true
			if nofileHard > 0 {
				l.Hard, l.Soft = min(l.Hard, nofileHard), min(l.Soft, nofileHard)
			}
		}
		out = append(out, l)
	}
	if !seen && nofileHard > 0 {
		out = append(out, specs.POSIXRlimit{Type: "RLIMIT_NOFILE", Soft: min(1024, nofileHard), Hard: nofileHard})
	}
	return out, nil
}
