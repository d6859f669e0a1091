package filter

import (
	"encoding/binary"
	"errors"
	"math/rand/v2"
	"slices"
	"testing"

	"github.com/elastic/go-seccomp-bpf/arch"
	"github.com/moby/profiles/seccomp"
	specs "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/net/bpf"
	"golang.org/x/sys/unix"
)

// machine interprets a program. The interpreter reads big-endian words; the kernel reads those of its machine.
type machine struct {
	t  *testing.T
	vm *bpf.VM
}

func newMachine(t *testing.T, raw []bpf.RawInstruction) machine {
	t.Helper()
	program, ok := bpf.Disassemble(raw)
	if !ok {
		t.Fatal("not disassembled")
	}
	vm, err := bpf.NewVM(program)
	if err != nil {
		t.Fatal(err)
	}
	return machine{t, vm}
}

func (m machine) verdict(arch, nr uint32, args [6]uint64) uint32 {
	m.t.Helper()
	data := make([]byte, 64)
	binary.BigEndian.PutUint32(data[offNr:], nr)
	binary.BigEndian.PutUint32(data[offArch:], arch)
	for i, a := range args {
		binary.BigEndian.PutUint32(data[offArgs+8*i:], uint32(a))
		binary.BigEndian.PutUint32(data[offArgs+8*i+4:], uint32(a>>32))
	}
	v, err := m.vm.Run(data)
	if err != nil {
		m.t.Fatal(err)
	}
	return uint32(v)
}

// meaning is what a profile says in plain terms: the reference that programs are compared with.
func meaning(p *specs.LinuxSeccomp, known Known, nr int, args [6]uint64) uint32 {
	native, _ := arch.GetInfo("")
	def, _ := action(p.DefaultAction, p.DefaultErrnoRet)
	last, result := 0, def
	for _, s := range p.Syscalls {
		for _, name := range s.Names {
			n, ok := native.SyscallNames[name]
			if !ok || !known(n) {
				continue
			}
			last = max(last, n)
			if n != nr {
				continue
			}
			act, _ := action(s.Action, s.ErrnoRet)
			for _, all := range split(s.Args) {
				holds := true
				for _, a := range all {
					v := args[a.Index]
					switch a.Op {
					case specs.OpEqualTo:
						holds = holds && v == a.Value
					case specs.OpNotEqual:
						holds = holds && v != a.Value
					case specs.OpMaskedEqual:
						holds = holds && v&a.Value == a.ValueTwo
					case specs.OpGreaterThan:
						holds = holds && v > a.Value
					case specs.OpGreaterEqual:
						holds = holds && v >= a.Value
					case specs.OpLessThan:
						holds = holds && v < a.Value
					case specs.OpLessEqual:
						holds = holds && v <= a.Value
					}
				}
				if holds && act != def {
					result = act
				}
			}
		}
	}
	if nr > last && def != retAllow && def != retLog {
		return retErrno | uint32(unix.ENOSYS)
	}
	return result
}

func native(t *testing.T) *arch.Info {
	t.Helper()
	info, err := arch.GetInfo("")
	if err != nil {
		t.Fatal(err)
	}
	return info
}

// defaults is the profile that containers get.
func defaults(t testing.TB) *specs.LinuxSeccomp {
	t.Helper()
	p, err := seccomp.GetDefaultProfile(&specs.Spec{Process: &specs.Process{Capabilities: &specs.LinuxCapabilities{Bounding: []string{"CAP_CHOWN"}}}})
	if err != nil {
		t.Fatal(err)
	}
	p.Architectures = p.Architectures[:1]
	return p
}

// compare looks at every system call with arguments at and around every value that the profile names, and at random.
func compare(t *testing.T, p *specs.LinuxSeccomp, known Known) {
	t.Helper()
	raw, _, err := Compile(p, known)
	if err != nil {
		t.Fatal(err)
	}
	m := newMachine(t, raw)
	values := []uint64{0, 1, 1 << 32, 1<<32 - 1, ^uint64(0)}
	for _, s := range p.Syscalls {
		for _, a := range s.Args {
			for _, v := range []uint64{a.Value, a.ValueTwo} {
				values = append(values, v, v-1, v+1, v|1<<32, v&^1, v|1<<63)
			}
		}
	}
	slices.Sort(values)
	values = slices.Compact(values)
	random := rand.New(rand.NewPCG(1, 2))
	for nr := range 500 {
		for _, v := range values {
			args := [6]uint64{v, v, v, v, v, v}
			for i := range args {
				if random.IntN(2) == 0 {
					args[i] = values[random.IntN(len(values))]
				}
			}
			if got, want := m.verdict(uint32(native(t).ID), uint32(nr), args), meaning(p, known, nr, args); got != want {
				t.Fatalf("system call %d (%s) with %x: %#x, want %#x", nr, native(t).SyscallNumbers[nr], args, got, want)
			}
		}
	}
}

func TestCompileDefault(t *testing.T) {
	p := defaults(t)
	compare(t, p, KnownTo(2, 5))
	compare(t, p, KnownTo(2, 6))
	raw, flags, err := Compile(p, KnownTo(2, 5))
	if err != nil || flags != unix.SECCOMP_FILTER_FLAG_SPEC_ALLOW {
		t.Errorf("flags %#x, %v", flags, err)
	}
	m, names := newMachine(t, raw), native(t).SyscallNames
	for _, c := range []struct {
		name     string
		arch, nr uint32
		want     uint32
	}{
		{"read", uint32(native(t).ID), uint32(names["read"]), retAllow},
		{"mount", uint32(native(t).ID), uint32(names["mount"]), retErrno | uint32(unix.EPERM)},
		{"clone3", uint32(native(t).ID), uint32(names["clone3"]), retErrno | uint32(unix.ENOSYS)},
		{"one that does not exist yet", uint32(native(t).ID), 1000, retErrno | uint32(unix.ENOSYS)},
		{"another architecture", uint32(arch.I386.ID), 3, retKillThread},
		{"x32", uint32(arch.X86_64.ID), x32Bit | 1, retKillThread},
	} {
		if got := m.verdict(c.arch, c.nr, [6]uint64{}); got != c.want {
			t.Errorf("%s: %#x, want %#x", c.name, got, c.want)
		}
	}
}

func TestCompileOperators(t *testing.T) {
	errno := uint(unix.ENOTTY)
	arg := func(i uint, op specs.LinuxSeccompOperator, v, w uint64) specs.LinuxSeccompArg {
		return specs.LinuxSeccompArg{Index: i, Op: op, Value: v, ValueTwo: w}
	}
	for _, def := range []specs.LinuxSeccompAction{specs.ActErrno, specs.ActAllow, specs.ActKillProcess, specs.ActLog} {
		p := &specs.LinuxSeccomp{DefaultAction: def, Syscalls: []specs.LinuxSyscall{
			{Names: []string{"read", "nosuchcall"}, Action: specs.ActErrno, ErrnoRet: &errno, Args: []specs.LinuxSeccompArg{arg(0, specs.OpEqualTo, 5<<32|7, 0), arg(3, specs.OpNotEqual, 9<<32|1, 0)}},
			{Names: []string{"read"}, Action: specs.ActErrno, ErrnoRet: &errno, Args: []specs.LinuxSeccompArg{arg(5, specs.OpMaskedEqual, 0xff000000ff, 0x1100000022)}},
			{Names: []string{"write"}, Action: specs.ActTrap, Args: []specs.LinuxSeccompArg{arg(1, specs.OpGreaterThan, 3<<32|4, 0), arg(2, specs.OpLessThan, 3<<32|4, 0)}},
			{Names: []string{"open"}, Action: specs.ActKill, Args: []specs.LinuxSeccompArg{arg(1, specs.OpGreaterEqual, 3<<32|4, 0), arg(2, specs.OpLessEqual, 3<<32|4, 0)}},
			{Names: []string{"close"}, Action: specs.ActTrap, Args: []specs.LinuxSeccompArg{arg(0, specs.OpEqualTo, 1, 0), arg(0, specs.OpEqualTo, 2, 0)}},
			{Names: []string{"stat"}, Action: specs.ActTrap, Args: []specs.LinuxSeccompArg{arg(0, specs.OpEqualTo, 1, 0)}},
			{Names: []string{"stat"}, Action: specs.ActTrap},
		}}
		compare(t, p, KnownTo(2, 5))
	}
}

func TestCompileRefuses(t *testing.T) {
	for name, change := range map[string]func(*specs.LinuxSeccomp){
		"architecture": func(p *specs.LinuxSeccomp) { p.Architectures = append(p.Architectures, specs.ArchMIPS) },
		"flag":         func(p *specs.LinuxSeccomp) { p.Flags = []specs.LinuxSeccompFlag{"x"} },
		"action":       func(p *specs.LinuxSeccomp) { p.DefaultAction = specs.ActNotify },
		"several actions": func(p *specs.LinuxSeccomp) {
			p.Syscalls = append(p.Syscalls, specs.LinuxSyscall{Names: []string{"read"}, Action: specs.ActTrap})
		},
		"operator": func(p *specs.LinuxSeccomp) {
			p.Syscalls = append(p.Syscalls, specs.LinuxSyscall{Names: []string{"mount"}, Action: specs.ActAllow, Args: []specs.LinuxSeccompArg{{Op: "x"}}})
		},
		"argument": func(p *specs.LinuxSeccomp) {
			p.Syscalls = append(p.Syscalls, specs.LinuxSyscall{Names: []string{"mount"}, Action: specs.ActAllow, Args: []specs.LinuxSeccompArg{{Index: 6, Op: specs.OpEqualTo}}})
		},
	} {
		p := defaults(t)
		change(p)
		if _, _, err := Compile(p, KnownTo(2, 5)); !errors.Is(err, ErrUnsupported) {
			t.Errorf("%s: %v", name, err)
		}
	}
	if raw, _, err := Compile(nil, KnownTo(2, 5)); raw != nil || err != nil {
		t.Errorf("no profile: %v, %v", raw, err)
	}
}

func BenchmarkCompile(b *testing.B) {
	p := defaults(b)
	for b.Loop() {
		if _, _, err := Compile(p, KnownTo(2, 5)); err != nil {
			b.Fatal(err)
		}
	}
}
