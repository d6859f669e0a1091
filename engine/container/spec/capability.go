package spec

import (
	"fmt"
	"slices"
	"strings"
	"sync"

	"github.com/moby/sys/capability"
	specs "github.com/opencontainers/runtime-spec/specs-go"
)

// DefaultCapabilities is Docker's default set.
var DefaultCapabilities = []string{
	"CAP_CHOWN", "CAP_DAC_OVERRIDE", "CAP_FSETID", "CAP_FOWNER", "CAP_MKNOD", "CAP_NET_RAW", "CAP_SETGID", "CAP_SETUID",
	"CAP_SETFCAP", "CAP_SETPCAP", "CAP_NET_BIND_SERVICE", "CAP_SYS_CHROOT", "CAP_KILL", "CAP_AUDIT_WRITE",
}

var allCapabilities = sync.OnceValue(func() []string {
	list, err := capability.ListSupported()
	if err != nil {
		list = capability.ListKnown()
	}
	var out []string
	for _, c := range list {
		out = append(out, "CAP_"+strings.ToUpper(c.String()))
	}
	return out
})

func normalizeCapabilities(in []string) ([]string, error) {
	var out []string
	for _, c := range in {
		c = strings.ToUpper(c)
		if c == "ALL" || c == "CAP_ALL" {
			out = append(out, "ALL")
			continue
		}
		if !strings.HasPrefix(c, "CAP_") {
			c = "CAP_" + c
		}
		if !slices.Contains(allCapabilities(), c) {
			return nil, invalid("unknown capability: %q", c)
		}
		out = append(out, c)
	}
	return out, nil
}

// Capabilities returns the default set with add and drop applied as Docker does: dropping ALL leaves what is added,
// adding ALL gives everything but what is dropped by name.
func Capabilities(add, drop []string, privileged bool) ([]string, error) {
	if privileged {
		return slices.Clone(allCapabilities()), nil
	}
	a, err := normalizeCapabilities(add)
	if err != nil {
		return nil, fmt.Errorf("invalid CapAdd: %w", err)
	}
	d, err := normalizeCapabilities(drop)
	if err != nil {
		return nil, fmt.Errorf("invalid CapDrop: %w", err)
	}
	var base []string
	switch {
	case slices.Contains(a, "ALL"):
		base = slices.Clone(allCapabilities())
		d = slices.DeleteFunc(d, func(c string) bool { return c == "ALL" })
		return without(base, d), nil
	case slices.Contains(d, "ALL"):
		for _, c := range a {
			if !slices.Contains(base, c) {
				base = append(base, c)
			}
		}
		return base, nil
	}
	base = without(DefaultCapabilities, d)
	for _, c := range a {
		if !slices.Contains(base, c) {
			base = append(base, c)
		}
	}
	return base, nil
}

func without(list, remove []string) []string {
	var out []string
	for _, c := range list {
		if !slices.Contains(remove, c) {
			out = append(out, c)
		}
	}
	return out
}

// ociCapabilities gives a process of uid its sets: another user than root has a bounding set only, as after execve.
// SECURITY(T-501): inheritable and ambient sets stay empty (CVE-2022-24769).
func ociCapabilities(set []string, uid uint32) *specs.LinuxCapabilities {
	if uid != 0 {
		return &specs.LinuxCapabilities{Bounding: set}
	}
	return &specs.LinuxCapabilities{Bounding: set, Effective: set, Permitted: set}
}
