package confine

import (
	"testing"

	"github.com/elastic/go-seccomp-bpf/arch"
)

func exported() map[string][]Calls {
	return map[string][]Calls{
		"runtime": runtimeCalls(), "UnixServer": UnixServer, "UnixClient": UnixClient, "Internet": Internet, "Netlink": Netlink,
		"Streams": Streams, "ReadFiles": ReadFiles, "WriteFiles": WriteFiles, "Pidfds": Pidfds, "Namespaces": Namespaces, "Child": Child,
	}
}

func TestListsAssemble(t *testing.T) {
	for name, list := range exported() {
		p, err := policyOf(list)
		if err != nil {
			t.Errorf("%s: %v", name, err)
			continue
		}
		if _, err := p.Assemble(); err != nil {
			t.Errorf("%s: %v", name, err)
		}
	}
	var all []Calls
	for _, list := range exported() {
		all = append(all, list...)
	}
	p, err := policyOf(all)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := p.Assemble(); err != nil {
		t.Fatal(err)
	}
}

func TestListsNeverAllow(t *testing.T) {
	never := []string{"execve", "execveat", "fork", "vfork", "clone3", "ptrace", "mount", "move_mount", "setns", "unshare", "bpf",
		"init_module", "finit_module", "kexec_load", "io_uring_setup", "process_vm_writev", "keyctl", "add_key", "tkill", "open_by_handle_at",
		"seccomp", "capset", "setuid", "setresuid", "chroot", "pivot_root", "userfaultfd", "perf_event_open"}
	for list, calls := range exported() {
		for _, c := range calls {
			for _, name := range c.Names {
				for _, bad := range never {
					if name == bad {
						t.Errorf("%s allows %s", list, name)
					}
				}
			}
		}
	}
}

func TestPolicyRefuses(t *testing.T) {
	if _, err := policyOf([]Calls{{Why: "x", Names: []string{"opennat"}}}); err == nil {
		t.Error("an unknown system call was accepted")
	}
	if _, err := policyOf([]Calls{{Names: []string{"read"}}}); err == nil {
		t.Error("a list without a reason was accepted")
	}
}

func TestOtherArchitectureLeftOut(t *testing.T) {
	here, err := arch.GetInfo("")
	if err != nil {
		t.Fatal(err)
	}
	p, err := policyOf([]Calls{{Why: "x", Names: []string{"epoll_wait", "epoll_pwait"}}})
	if err != nil {
		t.Fatal(err)
	}
	for _, n := range p.Syscalls[0].Names {
		if _, ok := here.SyscallNames[n]; !ok {
			t.Errorf("%s is not of this architecture", n)
		}
	}
}

func TestUnknownProcess(t *testing.T) {
	if err := Process(Spec{}); err == nil {
		t.Error("the zero Spec was accepted")
	}
}

func TestCapSet(t *testing.T) {
	if _, err := capSet([]string{"CAP_EVERYTHING"}); err == nil {
		t.Error("an unknown capability was accepted")
	}
	if got, err := capSet([]string{"CAP_SYS_ADMIN", "CAP_SETGID"}); err != nil || got != 1<<21|1<<6 {
		t.Errorf("capSet = %#x, %v", got, err)
	}
}
