package policy

import (
	"fmt"
	"math"
	"regexp"
	"slices"
	"strconv"
	"strings"

	"github.com/moby/moby/api/types/container"
)

// defaultCaps is Docker's default set: it exists only inside the container's user namespace.
var defaultCaps = []string{"CAP_AUDIT_WRITE", "CAP_CHOWN", "CAP_DAC_OVERRIDE", "CAP_FOWNER", "CAP_FSETID", "CAP_KILL", "CAP_MKNOD",
	"CAP_NET_BIND_SERVICE", "CAP_NET_RAW", "CAP_SETFCAP", "CAP_SETGID", "CAP_SETPCAP", "CAP_SETUID", "CAP_SYS_CHROOT"}

// safeSysctls are those of Kubernetes' baseline profile; each belongs to a namespace of the container.
var safeSysctls = []string{"kernel.shm_rmid_forced", "net.ipv4.ip_local_port_range", "net.ipv4.ip_local_reserved_ports",
	"net.ipv4.ip_unprivileged_port_start", "net.ipv4.ping_group_range", "net.ipv4.tcp_fin_timeout", "net.ipv4.tcp_keepalive_intvl",
	"net.ipv4.tcp_keepalive_probes", "net.ipv4.tcp_keepalive_time", "net.ipv4.tcp_rmem", "net.ipv4.tcp_syncookies", "net.ipv4.tcp_wmem"}

// logOptions are the options of each log driver that stays on this machine. "" is the default driver.
var logOptions = map[string][]string{
	"":          fileLog,
	"json-file": fileLog,
	"local":     {"compress", "max-file", "max-size", "max-buffer-size", "mode"},
	"none":      {},
}

var fileLog = []string{"compress", "env", "env-regex", "labels", "labels-regex", "max-buffer-size", "max-file", "max-size", "mode", "tag"}

var limitNames = []string{"core", "cpu", "data", "fsize", "locks", "memlock", "msgqueue", "nice", "nofile", "nproc", "rss", "rtprio", "rttime", "sigpending", "stack"}

var (
	capRe    = regexp.MustCompile(`^(CAP_[A-Z_]{1,30}|ALL)$`)
	cpuSet   = regexp.MustCompile(`^[0-9,-]{0,256}$`)
	sysctlRe = regexp.MustCompile(`^[0-9 \t-]{1,64}$`)
)

// hostRules are about what surrounds the container.
var hostRules = slices.Concat(namespaceRules, privilegeRules, resourceRules, networkRules)

// containerRef matches a mode that takes another container's namespace, by name or id.
//
// SECURITY(T-302): whether there is such a container, of this tenant, decides the engine's look-up.
var containerRef = regexp.MustCompile(`^container:/?[a-zA-Z0-9][a-zA-Z0-9_.-]{0,254}$`)

// ownOrJoined allows only these values, and another container's namespace.
func ownOrJoined(field, v string, allowed ...string) (string, string) {
	if containerRef.MatchString(v) {
		return "", ""
	}
	return oneOf(field, v, allowed...)
}

// SECURITY(T-302): every namespace is the container's own, or another container's of the same owner.
var namespaceRules = []rule{
	{
		id: "namespaces", threat: "T-302", fields: []string{"HostConfig.PidMode", "HostConfig.IpcMode", "HostConfig.UTSMode", "HostConfig.UsernsMode", "HostConfig.CgroupnsMode", "HostConfig.Cgroup", "HostConfig.Isolation"},
		remedy: "leave it out: each container has its own namespaces and ids; pid, ipc and network may be container:NAME of a container of yours",
		bad: func(s *subject) (string, string) {
			h := s.host
			return first(pair(ownOrJoined("HostConfig.PidMode", string(h.PidMode), "")),
				pair(ownOrJoined("HostConfig.IpcMode", string(h.IpcMode), "", "private", "shareable", "none")),
				pair(isSet("HostConfig.UTSMode", string(h.UTSMode))),
				pair(isSet("HostConfig.UsernsMode", string(h.UsernsMode))),
				pair(oneOf("HostConfig.CgroupnsMode", string(h.CgroupnsMode), "", "private")),
				pair(isSet("HostConfig.Cgroup", string(h.Cgroup))),
				pair(oneOf("HostConfig.Isolation", string(h.Isolation), "", "default")))
		},
	},
	{
		id: "cgroup-parent", threat: "T-305", fields: []string{"HostConfig.CgroupParent"},
		remedy: "leave it out: the server chooses the cgroup",
		bad:    func(s *subject) (string, string) { return isSet("HostConfig.CgroupParent", s.host.CgroupParent) },
	},
}

// SECURITY(T-303) and SECURITY(T-304).
var privilegeRules = []rule{
	{
		id: "privileged", threat: "T-303", fields: []string{"HostConfig.Privileged"},
		remedy: "run it without --privileged; root in a container already is root of its own user namespace",
		bad:    func(s *subject) (string, string) { return isTrue("HostConfig.Privileged", s.host.Privileged) },
	},
	{
		id: "cap-add", threat: "T-303", fields: []string{"HostConfig.CapAdd"},
		remedy: "only Docker's default capabilities exist here; they are there without --cap-add",
		bad: func(s *subject) (string, string) {
			for i, c := range s.host.CapAdd {
				if !slices.Contains(defaultCaps, capName(c)) {
					return fmt.Sprintf("HostConfig.CapAdd[%d]", i), quote(c)
				}
			}
			return "", ""
		},
	},
	{
		id: "cap-drop", threat: "T-303", fields: []string{"HostConfig.CapDrop"},
		remedy: "use the names of capabilities, or ALL",
		bad: func(s *subject) (string, string) {
			for i, c := range s.host.CapDrop {
				if !capRe.MatchString(capName(c)) {
					return fmt.Sprintf("HostConfig.CapDrop[%d]", i), quote(c)
				}
			}
			return "", ""
		},
	},
	{
		id: "security-opt", threat: "T-303", fields: []string{"HostConfig.SecurityOpt"},
		remedy: "use no-new-privileges, seccomp=builtin or seccomp=FILE: a profile takes away from the default one, which cannot be switched off",
		bad: func(s *subject) (string, string) {
			for i, o := range s.host.SecurityOpt {
				if securityOpt(o) == "" {
					return fmt.Sprintf("HostConfig.SecurityOpt[%d]", i), quote(o)
				}
			}
			return "", ""
		},
	},
	{
		id: "masked-paths", threat: "T-303", fields: []string{"HostConfig.MaskedPaths", "HostConfig.ReadonlyPaths"},
		remedy: "leave it out (null): the server's own list of hidden kernel files applies",
		bad: func(s *subject) (string, string) {
			switch {
			case s.host.MaskedPaths != nil: // SECURITY(T-303): an empty list is not null and would hide nothing
				return "HostConfig.MaskedPaths", fmt.Sprintf("%d paths", len(s.host.MaskedPaths))
			case s.host.ReadonlyPaths != nil:
				return "HostConfig.ReadonlyPaths", fmt.Sprintf("%d paths", len(s.host.ReadonlyPaths))
			}
			return "", ""
		},
	},
	{
		id: "devices", threat: "T-304", fields: []string{"HostConfig.Devices", "HostConfig.DeviceRequests", "HostConfig.DeviceCgroupRules"},
		remedy: "run it without --device and --gpus",
		bad: func(s *subject) (string, string) {
			switch h := s.host; {
			case len(h.Devices) > 0:
				return "HostConfig.Devices[0]", quote(h.Devices[0].PathOnHost)
			case len(h.DeviceRequests) > 0:
				return "HostConfig.DeviceRequests[0]", quote(h.DeviceRequests[0].Driver)
			case len(h.DeviceCgroupRules) > 0:
				return "HostConfig.DeviceCgroupRules[0]", quote(h.DeviceCgroupRules[0])
			}
			return "", ""
		},
	},
	{
		id: "annotations", threat: "T-303", fields: []string{"HostConfig.Annotations"},
		remedy: "use labels: annotations are instructions to the runtime",
		bad: func(s *subject) (string, string) {
			for _, k := range sortedKeys(s.host.Annotations) {
				return "HostConfig.Annotations", quote(k)
			}
			return "", ""
		},
	},
	{
		id: "runtime", threat: "T-303", fields: []string{"HostConfig.Runtime"},
		remedy: "use a runtime that the administrator configured, or leave it out",
		docker: "unknown or invalid runtime name: ",
		bad: func(s *subject) (string, string) {
			if r := s.host.Runtime; r != "" && !slices.Contains(s.cfg.Runtimes, r) {
				return "HostConfig.Runtime", quote(r)
			}
			return "", ""
		},
	},
	{
		id: "sysctls", threat: "T-303", fields: []string{"HostConfig.Sysctls"},
		remedy: "only Kubernetes' safe sysctls with numbers are allowed",
		bad: func(s *subject) (string, string) {
			for _, k := range sortedKeys(s.host.Sysctls) {
				if v := s.host.Sysctls[k]; !slices.Contains(safeSysctls, k) || !sysctlRe.MatchString(v) {
					return "HostConfig.Sysctls", quote(k + "=" + v)
				}
			}
			return "", ""
		},
	},
	{
		id: "group-add", threat: "T-303", fields: []string{"HostConfig.GroupAdd"},
		remedy: "use names, or ids up to 65535",
		bad: func(s *subject) (string, string) {
			for i, g := range s.host.GroupAdd {
				if f, v := badUser(g); f != "" || strings.Contains(g, ":") || g == "" {
					return fmt.Sprintf("HostConfig.GroupAdd[%d]", i), v
				}
			}
			return "", ""
		},
	},
	{
		id: "umask", threat: "T-303", fields: []string{"HostConfig.Umask"},
		remedy: "use a number from 0 to 0777",
		bad: func(s *subject) (string, string) {
			if u := s.host.Umask; u != nil && *u > 0o777 {
				return "HostConfig.Umask", strconv.FormatUint(uint64(*u), 8)
			}
			return "", ""
		},
	},
	{
		// SECURITY(T-307): no driver that makes the server dial out.
		id: "log-driver", threat: "T-307", fields: []string{"HostConfig.LogConfig.Type", "HostConfig.LogConfig.Config"},
		remedy: "use json-file, local or none with their size options",
		bad: func(s *subject) (string, string) {
			l := s.host.LogConfig
			allowed, ok := logOptions[l.Type]
			if !ok {
				return "HostConfig.LogConfig.Type", quote(l.Type)
			}
			for _, k := range sortedKeys(l.Config) {
				if !slices.Contains(allowed, k) {
					return "HostConfig.LogConfig.Config", quote(k)
				}
			}
			return "", ""
		},
	},
}

// SECURITY(T-305).
var resourceRules = []rule{
	{
		id: "resources", threat: "T-305", fields: []string{"HostConfig.CpuShares", "HostConfig.Memory", "HostConfig.NanoCpus", "HostConfig.BlkioWeight", "HostConfig.CpuPeriod", "HostConfig.CpuQuota",
			"HostConfig.MemoryReservation", "HostConfig.MemorySwap", "HostConfig.MemorySwappiness", "HostConfig.ShmSize", "HostConfig.CpusetCpus", "HostConfig.CpusetMems"},
		remedy: "use a number in the range that docker run --help gives",
		bad: func(s *subject) (string, string) {
			h := s.host
			swappiness := int64(-1)
			if h.MemorySwappiness != nil {
				swappiness = *h.MemorySwappiness
			}
			field, value := first(pair(within("HostConfig.CpuShares", h.CPUShares, 0, 262144)),
				pair(within("HostConfig.Memory", h.Memory, 0, math.MaxInt64)),
				pair(within("HostConfig.NanoCpus", h.NanoCPUs, 0, math.MaxInt64)),
				pair(within("HostConfig.BlkioWeight", int64(h.BlkioWeight), 0, 1000)),
				pair(within("HostConfig.CpuPeriod", h.CPUPeriod, 0, 1000000)),
				pair(within("HostConfig.CpuQuota", h.CPUQuota, -1, math.MaxInt64)),
				pair(within("HostConfig.MemoryReservation", h.MemoryReservation, 0, math.MaxInt64)),
				pair(within("HostConfig.MemorySwap", h.MemorySwap, -1, math.MaxInt64)),
				pair(within("HostConfig.MemorySwappiness", swappiness, -1, 100)),
				pair(within("HostConfig.ShmSize", h.ShmSize, 0, math.MaxInt64)))
			switch {
			case field != "":
				return field, value
			case !cpuSet.MatchString(h.CpusetCpus):
				return "HostConfig.CpusetCpus", quote(h.CpusetCpus)
			case !cpuSet.MatchString(h.CpusetMems):
				return "HostConfig.CpusetMems", quote(h.CpusetMems)
			}
			return "", ""
		},
	},
	{
		id: "realtime", threat: "T-305", fields: []string{"HostConfig.CpuRealtimePeriod", "HostConfig.CpuRealtimeRuntime"},
		remedy: "leave it out: real-time scheduling can starve the host",
		bad: func(s *subject) (string, string) {
			return first(pair(within("HostConfig.CpuRealtimePeriod", s.host.CPURealtimePeriod, 0, 0)),
				pair(within("HostConfig.CpuRealtimeRuntime", s.host.CPURealtimeRuntime, 0, 0)))
		},
	},
	{
		id: "block-devices", threat: "T-304", fields: []string{"HostConfig.BlkioWeightDevice", "HostConfig.BlkioDeviceReadBps", "HostConfig.BlkioDeviceWriteBps", "HostConfig.BlkioDeviceReadIOps", "HostConfig.BlkioDeviceWriteIOps"},
		remedy: "leave it out: it names devices of the host",
		bad: func(s *subject) (string, string) {
			h := s.host
			for _, l := range []struct {
				field string
				n     int
			}{{"BlkioWeightDevice", len(h.BlkioWeightDevice)}, {"BlkioDeviceReadBps", len(h.BlkioDeviceReadBps)}, {"BlkioDeviceWriteBps", len(h.BlkioDeviceWriteBps)},
				{"BlkioDeviceReadIOps", len(h.BlkioDeviceReadIOps)}, {"BlkioDeviceWriteIOps", len(h.BlkioDeviceWriteIOps)}} {
				if l.n > 0 {
					return "HostConfig." + l.field, fmt.Sprintf("%d devices", l.n)
				}
			}
			return "", ""
		},
	},
	{
		id: "oom", threat: "T-305", fields: []string{"HostConfig.OomScoreAdj", "HostConfig.OomKillDisable"},
		remedy: "a container may not survive the host's own processes: use a score from 0 to 1000 and leave the OOM killer on",
		bad: func(s *subject) (string, string) {
			if k := s.host.OomKillDisable; k != nil && *k {
				return "HostConfig.OomKillDisable", "true"
			}
			return within("HostConfig.OomScoreAdj", int64(s.host.OomScoreAdj), 0, 1000)
		},
	},
	{
		id: "pids-limit", threat: "T-305", fields: []string{"HostConfig.PidsLimit"}, admin: true,
		remedy: "leave it out for the server's default, or use a positive number",
		bad: func(s *subject) (string, string) {
			if p := s.host.PidsLimit; p != nil && *p < 0 {
				return "HostConfig.PidsLimit", strconv.FormatInt(*p, 10)
			}
			return "", ""
		},
	},
	{
		id: "ulimits", threat: "T-305", fields: []string{"HostConfig.Ulimits", "HostConfig.Ulimits.Name", "HostConfig.Ulimits.Hard", "HostConfig.Ulimits.Soft"},
		remedy: "use a limit that docker run --ulimit knows, soft ≤ hard",
		bad: func(s *subject) (string, string) {
			for i, u := range s.host.Ulimits {
				if u == nil || !slices.Contains(limitNames, u.Name) || u.Hard < -1 || u.Soft < -1 ||
					u.Hard != -1 && (u.Soft == -1 || u.Soft > u.Hard) {
					field := fmt.Sprintf("HostConfig.Ulimits[%d]", i)
					if u == nil {
						return field, "null"
					}
					return field, quote(fmt.Sprintf("%s=%d:%d", u.Name, u.Soft, u.Hard))
				}
			}
			return "", ""
		},
	},
	{
		id: "windows", threat: "T-305", fields: []string{"HostConfig.CpuCount", "HostConfig.CpuPercent", "HostConfig.IOMaximumIOps", "HostConfig.IOMaximumBandwidth"},
		remedy: "leave it out: it exists on Windows only",
		bad: func(s *subject) (string, string) {
			h := s.host
			return first(pair(within("HostConfig.CpuCount", h.CPUCount, 0, 0)), pair(within("HostConfig.CpuPercent", h.CPUPercent, 0, 0)),
				pair(within("HostConfig.IOMaximumIOps", int64(h.IOMaximumIOps), 0, 0)), pair(within("HostConfig.IOMaximumBandwidth", int64(h.IOMaximumBandwidth), 0, 0)))
		},
	},
	{
		id: "restart-policy", threat: "T-305", fields: []string{"HostConfig.RestartPolicy.Name", "HostConfig.RestartPolicy.MaximumRetryCount"},
		remedy: "use no, always, unless-stopped or on-failure[:N]",
		bad: func(s *subject) (string, string) {
			if err := container.ValidateRestartPolicy(s.host.RestartPolicy); err != nil {
				return "HostConfig.RestartPolicy", quote(fmt.Sprintf("%s:%d", s.host.RestartPolicy.Name, s.host.RestartPolicy.MaximumRetryCount))
			}
			return "", ""
		},
	},
	{
		id: "storage-opt", threat: "T-305", fields: []string{"HostConfig.StorageOpt"},
		remedy: "leave it out: the server's storage has no options per container",
		bad: func(s *subject) (string, string) {
			for _, k := range sortedKeys(s.host.StorageOpt) {
				return "HostConfig.StorageOpt", quote(k)
			}
			return "", ""
		},
	},
}
