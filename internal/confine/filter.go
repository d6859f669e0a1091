package confine

import (
	"errors"
	"fmt"
	"os"

	"github.com/elastic/go-seccomp-bpf"
	"github.com/elastic/go-seccomp-bpf/arch"
	"golang.org/x/sys/unix"
)

// filterCalls installs the allow-list on all threads. Everything else answers EPERM; another architecture's calls too.
func filterCalls(lists []Calls) error {
	policy, err := policyOf(lists)
	if err != nil {
		return fmt.Errorf("seccomp: %w", err)
	}
	f := seccomp.Filter{Flag: seccomp.FilterFlagTSync, Policy: policy}
	if err := seccomp.LoadFilter(f); err != nil {
		return fmt.Errorf("seccomp: %w", err)
	}
	// A thread that could not be synchronised is reported as a success with its id, so ask every thread.
	if err := allThreads(unix.SYS_PRCTL, unix.PR_GET_SECCOMP, 0); err != nil {
		return fmt.Errorf("seccomp: read back: %w", err)
	}
	if mode, err := unix.PrctlRetInt(unix.PR_GET_SECCOMP, 0, 0, 0, 0); err != nil || mode != unix.SECCOMP_MODE_FILTER {
		return fmt.Errorf("seccomp: mode is %d (%v), want a filter", mode, err)
	}
	return nil
}

// policyOf merges the lists. Names that only another architecture has are left out; unknown ones are an error.
func policyOf(lists []Calls) (seccomp.Policy, error) {
	here, err := arch.GetInfo("")
	if err != nil {
		return seccomp.Policy{}, err
	}
	always := map[string]bool{}
	for _, list := range lists {
		if list.Why == "" {
			return seccomp.Policy{}, errors.New("a list of system calls without a reason")
		}
		if len(list.If) == 0 {
			for _, name := range list.Names {
				always[name] = true
			}
		}
	}
	group := seccomp.SyscallGroup{Action: seccomp.ActionAllow}
	seen := map[string]bool{}
	for _, list := range lists {
		for _, name := range list.Names {
			if _, ok := here.SyscallNames[name]; !ok {
				if !known(name) {
					return seccomp.Policy{}, fmt.Errorf("unknown system call %q", name)
				}
				continue
			}
			switch {
			case always[name] && !seen[name]:
				seen[name] = true
				group.Names = append(group.Names, name)
			case !always[name]:
				group.NamesWithCondtions = append(group.NamesWithCondtions, seccomp.NameWithConditions{Name: name, Conditions: conditions(list.If)})
			}
		}
	}
	return seccomp.Policy{DefaultAction: seccomp.ActionErrno, Syscalls: []seccomp.SyscallGroup{group}}, nil
}

func conditions(conds []Cond) seccomp.ArgumentConditions {
	var out seccomp.ArgumentConditions
	for _, c := range conds {
		op := seccomp.Equal
		if c.Bits {
			op = seccomp.BitsSet
		}
		out = append(out, seccomp.Condition{Argument: c.Arg, Operation: op, Value: c.Value})
	}
	return out
}

func known(name string) bool {
	_, amd := arch.X86_64.SyscallNames[name]
	_, arm := arch.AARCH64.SyscallNames[name]
	return amd || arm
}

func self() uint64 { return uint64(os.Getpid()) }
