package spec

import (
	"fmt"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"

	"github.com/moby/moby/api/types/container"
	"github.com/moby/profiles/seccomp"
	specs "github.com/opencontainers/runtime-spec/specs-go"
)

// DefaultMasked are paths hidden from containers (SECURITY T-502).
var DefaultMasked = append([]string{
	"/proc/acpi", "/proc/asound", "/proc/interrupts", "/proc/kcore", "/proc/keys", "/proc/latency_stats",
	"/proc/sched_debug", "/proc/scsi", "/proc/timer_list", "/proc/timer_stats", "/sys/devices/virtual/powercap", "/sys/firmware",
}, thermal("/sys/devices/system/cpu")...)

// thermal are the counters of each CPU's heat, which tell what others compute; Docker hides those of the CPUs that there
// are, too.
func thermal(cpus string) []string {
	found, err := filepath.Glob(cpus + "/cpu[0-9]*/thermal_throttle")
	if err != nil { // cpus has no pattern in it
		return nil
	}
	return found
}

// DefaultReadonly are paths that containers cannot write.
var DefaultReadonly = []string{"/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger"}

// security is what HostConfig.SecurityOpt says.
type security struct {
	noNewPrivileges bool
	seccomp         string // "", "unconfined", or a profile
}

func parseSecurity(opts []string) (security, error) {
	var s security
	for _, o := range opts {
		if o == "no-new-privileges" {
			s.noNewPrivileges = true
			continue
		}
		i := strings.IndexAny(o, "=:")
		if i < 0 {
			return s, invalid("invalid --security-opt 1: %q", o)
		}
		key, value := o[:i], o[i+1:]
		switch key {
		case "no-new-privileges":
			b, err := strconv.ParseBool(value)
			if err != nil {
				return s, invalid("invalid --security-opt 2: %q", o)
			}
			s.noNewPrivileges = b
		case "seccomp":
			s.seccomp = value
		case "apparmor", "label": // neither is in use here
		default:
			return s, invalid("invalid --security-opt 2: %q", o)
		}
	}
	return s, nil
}

var profiles sync.Map // sorted capabilities → *specs.LinuxSeccomp

// Seccomp returns the filter for a container with the given bounding set: moby's default profile, which follows the
// capabilities. The result is shared and must not be changed. SECURITY(T-502)
func Seccomp(caps []string) (*specs.LinuxSeccomp, error) {
	sorted := slices.Sorted(slices.Values(caps))
	key := strings.Join(sorted, ",")
	if p, ok := profiles.Load(key); ok {
		return p.(*specs.LinuxSeccomp), nil
	}
	p, err := seccomp.GetDefaultProfile(&specs.Spec{Process: &specs.Process{Capabilities: &specs.LinuxCapabilities{Bounding: sorted}}})
	if err != nil {
		return nil, fmt.Errorf("default seccomp profile: %w", err)
	}
	profiles.Store(key, p)
	return p, nil
}

func seccompFor(hc *container.HostConfig, s security, caps []string, abi32 bool) (*specs.LinuxSeccomp, error) {
	switch {
	case s.seccomp == "unconfined":
		return nil, nil
	case s.seccomp == "" && hc.Privileged:
		return nil, nil
	}
	p, err := Seccomp(caps)
	if err == nil && s.seccomp != "" && s.seccomp != "builtin" {
		p, err = Narrow(p, s.seccomp, caps)
	}
	if err != nil {
		return nil, err
	}
	return closeABI32(p, abi32), nil
}

// CheckSecurity tells whether the security options of a container can be had.
func CheckSecurity(hc *container.HostConfig) error {
	sec, err := parseSecurity(hc.SecurityOpt)
	if err != nil {
		return err
	}
	caps, err := Capabilities(hc.CapAdd, hc.CapDrop, hc.Privileged)
	if err != nil {
		return err
	}
	_, err = seccompFor(hc, sec, caps, false)
	return err
}

// closeABI32 leaves the native architecture alone in a filter, whose first it is: a 32-bit system call ends the program.
//
// SECURITY(T-502): the 32-bit entries of the kernel (socketcall among them) are attack surface that images hardly use.
// It also spares the OCI runtime two thirds of compiling the filter, a good part of a start (docs/adr/0004-native-abi.md).
func closeABI32(p *specs.LinuxSeccomp, abi32 bool) *specs.LinuxSeccomp {
	if p == nil || abi32 || len(p.Architectures) < 2 {
		return p
	}
	native := *p
	native.Architectures = p.Architectures[:1]
	return &native
}
