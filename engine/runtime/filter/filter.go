// Package filter compiles the seccomp part of an OCI configuration to the program that the kernel runs, for processes
// that are added to a container without its OCI runtime. The result decides as the one that runc loads for the
// container's first process: the same default, the same answer to unknown and foreign system calls.
//
// Trust: the profile was made by package spec. Invariants: what cannot be compiled faithfully is refused with
// ErrUnsupported, never approximated.
package filter

import (
	"errors"
	"fmt"
	"maps"
	"slices"

	"github.com/elastic/go-seccomp-bpf/arch"
	specs "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/net/bpf"
	"golang.org/x/sys/unix"
)

// ErrUnsupported is wrapped by the refusal of a profile that only the OCI runtime can load.
var ErrUnsupported = errors.New("seccomp profile beyond this compiler")

// Offsets in the kernel's struct seccomp_data, and the size of its words as a BPF program reads them.
const (
	offNr   = 0
	offArch = 4
	offArgs = 16
	word    = 4
)

// x32Bit marks system calls of the x32 ABI, which are no calls of the native one.
const x32Bit = 0x40000000

// Known tells which system calls the library in the OCI runtime knows by name; it ignores rules about others.
type Known func(number int) bool

// KnownTo returns what a version of libseccomp knows, as far as it matters: 2.5 as distributions have it ends with the calls of Linux 6.7.
func KnownTo(major, minor int) Known {
	if major > 2 || major == 2 && minor >= 6 {
		return func(int) bool { return true }
	}
	const last, uretprobe = 456, 335
	return func(n int) bool { return n <= last && n != uretprobe }
}

// rule is one way for a system call to get an action other than the default.
type rule struct {
	action uint32
	when   []specs.LinuxSeccompArg // all must hold
}

// Compile returns the program and the flags of seccomp(2) for a profile; nil for none.
func Compile(p *specs.LinuxSeccomp, known Known) ([]bpf.RawInstruction, uint32, error) {
	if p == nil || p.DefaultAction == "" && len(p.Syscalls) == 0 {
		return nil, 0, nil
	}
	native, err := arch.GetInfo("")
	if err != nil {
		return nil, 0, err
	}
	if err := onlyNative(p.Architectures, native); err != nil {
		return nil, 0, err
	}
	flags, err := flagsOf(p)
	if err != nil {
		return nil, 0, err
	}
	def, err := action(p.DefaultAction, p.DefaultErrnoRet)
	if err != nil {
		return nil, 0, err
	}
	rules, last, err := collect(p, def, native, known)
	if err != nil {
		return nil, 0, err
	}
	program, err := assemble(rules, def, last, native)
	if err != nil {
		return nil, 0, err
	}
	raw, err := bpf.Assemble(program)
	if err == nil && len(raw) > 4096 { // BPF_MAXINSNS
		err = fmt.Errorf("%w: %d instructions", ErrUnsupported, len(raw))
	}
	return raw, flags, err
}

func onlyNative(list []specs.Arch, native *arch.Info) error {
	want := map[string]specs.Arch{arch.X86_64.Name: specs.ArchX86_64, arch.AARCH64.Name: specs.ArchAARCH64}[native.Name]
	for _, a := range list {
		if a != want {
			return fmt.Errorf("%w: architecture %s", ErrUnsupported, a)
		}
	}
	if want == "" {
		return fmt.Errorf("%w: this machine's architecture", ErrUnsupported)
	}
	return nil
}

func flagsOf(p *specs.LinuxSeccomp) (uint32, error) {
	if p.Flags == nil {
		return unix.SECCOMP_FILTER_FLAG_SPEC_ALLOW, nil // what runc takes when nothing is said
	}
	var flags uint32
	for _, f := range p.Flags {
		switch f {
		case specs.LinuxSeccompFlagLog:
			flags |= unix.SECCOMP_FILTER_FLAG_LOG
		case specs.LinuxSeccompFlagSpecAllow:
			flags |= unix.SECCOMP_FILTER_FLAG_SPEC_ALLOW
		case "SECCOMP_FILTER_FLAG_TSYNC": // one thread only
		default:
			return 0, fmt.Errorf("%w: flag %s", ErrUnsupported, f)
		}
	}
	return flags, nil
}

// Values of a filter (seccomp(2)); x/sys has no names for them.
const (
	retKillProcess = 0x80000000
	retKillThread  = 0
	retTrap        = 0x00030000
	retErrno       = 0x00050000
	retTrace       = 0x7ff00000
	retLog         = 0x7ffc0000
	retAllow       = 0x7fff0000
)

func action(a specs.LinuxSeccompAction, errno *uint) (uint32, error) {
	data := uint32(unix.EPERM)
	if errno != nil {
		data = uint32(uint16(*errno))
	}
	switch a {
	case specs.ActAllow:
		return retAllow, nil
	case specs.ActErrno:
		return retErrno | data, nil
	case specs.ActKill, specs.ActKillThread:
		return retKillThread, nil
	case specs.ActKillProcess:
		return retKillProcess, nil
	case specs.ActTrap:
		return retTrap, nil
	case specs.ActTrace:
		return retTrace | data, nil
	case specs.ActLog:
		return retLog, nil
	}
	return 0, fmt.Errorf("%w: action %s", ErrUnsupported, a)
}

// collect sorts the rules by system call. last is the highest number that the profile names.
func collect(p *specs.LinuxSeccomp, def uint32, native *arch.Info, known Known) (map[uint32][]rule, uint32, error) {
	rules, last := map[uint32][]rule{}, uint32(0)
	for _, s := range p.Syscalls {
		act, err := action(s.Action, s.ErrnoRet)
		if err != nil {
			return nil, 0, err
		}
		for _, name := range s.Names {
			n, ok := native.SyscallNames[name]
			if !ok || !known(n) {
				continue
			}
			nr := uint32(n)
			last = max(last, nr)
			if act == def {
				continue
			}
			for _, when := range split(s.Args) {
				rules[nr] = append(rules[nr], rule{act, when})
			}
		}
	}
	for nr, list := range rules {
		for i, r := range list {
			// Which of several actions wins is a matter of the library's insides.
			if r.action != list[0].action {
				return nil, 0, fmt.Errorf("%w: several actions for system call %s", ErrUnsupported, native.SyscallNumbers[int(nr)])
			}
			if len(r.when) == 0 && i > 0 {
				list[0] = r
			}
		}
		if len(list[0].when) == 0 {
			rules[nr] = list[:1]
		}
	}
	return rules, last, nil
}

// split is runc's reading of conditions: all must hold, unless two are about the same argument; then any suffices.
func split(args []specs.LinuxSeccompArg) [][]specs.LinuxSeccompArg {
	seen := map[uint]bool{}
	for _, a := range args {
		if seen[a.Index] {
			var each [][]specs.LinuxSeccompArg
			for _, a := range args {
				each = append(each, []specs.LinuxSeccompArg{a})
			}
			return each
		}
		seen[a.Index] = true
	}
	return [][]specs.LinuxSeccompArg{args}
}

// part is a range of system call numbers with one fate.
type part struct {
	first uint32
	code  []bpf.Instruction // ends by returning
}

func assemble(rules map[uint32][]rule, def, last uint32, native *arch.Info) ([]bpf.Instruction, error) {
	ret := func(v uint32) []bpf.Instruction { return []bpf.Instruction{bpf.RetConstant{Val: v}} }
	parts := []part{{0, ret(def)}}
	next := uint32(0) // first number after the last rule
	for _, nr := range slices.Sorted(maps.Keys(rules)) {
		if nr > next && nr > 0 {
			parts = add(parts, part{next, ret(def)})
		}
		code := ret(rules[nr][0].action)
		if len(rules[nr][0].when) > 0 {
			var err error
			if code, err = conditional(rules[nr], def); err != nil {
				return nil, err
			}
		}
		parts = add(parts, part{nr, code})
		next = nr + 1
	}
	parts = add(parts, part{next, ret(def)})
	// A program that gets "not implemented" takes another way; "not permitted" would be the end of it.
	if def != retAllow && def != retLog && def&0xffff0000 != retTrace && last > 0 {
		parts = slices.DeleteFunc(parts, func(p part) bool { return p.first > last })
		parts = add(parts, part{last + 1, ret(retErrno | uint32(unix.ENOSYS))})
	}
	if native.ID == arch.X86_64.ID {
		parts = add(parts, part{x32Bit, ret(retKillThread)})
	}
	head := []bpf.Instruction{
		bpf.LoadAbsolute{Off: offArch, Size: word},
		bpf.JumpIf{Cond: bpf.JumpEqual, Val: uint32(native.ID), SkipTrue: 1},
		bpf.RetConstant{Val: retKillThread},
		bpf.LoadAbsolute{Off: offNr, Size: word},
	}
	return append(head, tree(parts)...), nil
}

// add appends a range, or nothing if it continues the one before.
func add(parts []part, p part) []part {
	if n := len(parts) - 1; parts[n].first == p.first {
		parts = parts[:n]
	}
	if n := len(parts) - 1; n >= 0 && slices.Equal(parts[n].code, p.code) {
		return parts
	}
	return append(parts, p)
}

// tree finds a number's range by halving.
func tree(parts []part) []bpf.Instruction {
	if len(parts) == 1 {
		return parts[0].code
	}
	mid := len(parts) / 2
	low, high := tree(parts[:mid]), tree(parts[mid:])
	jump := []bpf.Instruction{bpf.JumpIf{Cond: bpf.JumpGreaterOrEqual, Val: parts[mid].first, SkipTrue: uint8(min(len(low), 255))}}
	if len(low) > 255 {
		jump = []bpf.Instruction{bpf.JumpIf{Cond: bpf.JumpLessThan, Val: parts[mid].first, SkipTrue: 1}, bpf.Jump{Skip: uint32(len(low))}}
	}
	return slices.Concat(jump, low, high)
}

// conditional returns the action of the first rule whose conditions all hold.
func conditional(rules []rule, def uint32) ([]bpf.Instruction, error) {
	var out []bpf.Instruction
	for _, r := range rules {
		// From the end: a condition that fails skips what follows it in this rule.
		code := []bpf.Instruction{bpf.RetConstant{Val: r.action}}
		for _, a := range slices.Backward(r.when) {
			c, err := condition(a, len(code))
			if err != nil {
				return nil, err
			}
			code = append(c, code...)
		}
		out = append(out, code...)
	}
	return append(out, bpf.RetConstant{Val: def}), nil
}

// condition falls through if it holds, and else skips rest instructions more.
func condition(a specs.LinuxSeccompArg, rest int) ([]bpf.Instruction, error) {
	if a.Index > 5 || rest > 200 {
		return nil, fmt.Errorf("%w: condition on argument %d", ErrUnsupported, a.Index)
	}
	fail := uint8(rest)
	low := bpf.LoadAbsolute{Off: offArgs + 8*uint32(a.Index), Size: word} // little-endian machines only, see onlyNative
	high := bpf.LoadAbsolute{Off: low.Off + word, Size: word}
	hi, lo := uint32(a.Value>>32), uint32(a.Value)
	// order compares the high words, and the low ones if those are equal.
	order := func(beyond, decides bpf.JumpTest) []bpf.Instruction {
		return []bpf.Instruction{
			high,
			bpf.JumpIf{Cond: beyond, Val: hi, SkipTrue: 3},
			bpf.JumpIf{Cond: bpf.JumpNotEqual, Val: hi, SkipTrue: fail + 2},
			low,
			bpf.JumpIf{Cond: decides, Val: lo, SkipFalse: fail},
		}
	}
	switch a.Op {
	case specs.OpEqualTo:
		return []bpf.Instruction{
			high, bpf.JumpIf{Cond: bpf.JumpNotEqual, Val: hi, SkipTrue: fail + 2},
			low, bpf.JumpIf{Cond: bpf.JumpNotEqual, Val: lo, SkipTrue: fail},
		}, nil
	case specs.OpNotEqual:
		return []bpf.Instruction{
			high, bpf.JumpIf{Cond: bpf.JumpNotEqual, Val: hi, SkipTrue: 2},
			low, bpf.JumpIf{Cond: bpf.JumpEqual, Val: lo, SkipTrue: fail},
		}, nil
	case specs.OpMaskedEqual:
		if a.ValueTwo&^a.Value != 0 {
			return nil, fmt.Errorf("%w: value outside of its mask", ErrUnsupported)
		}
		return []bpf.Instruction{
			high, bpf.ALUOpConstant{Op: bpf.ALUOpAnd, Val: hi}, bpf.JumpIf{Cond: bpf.JumpNotEqual, Val: uint32(a.ValueTwo >> 32), SkipTrue: fail + 3},
			low, bpf.ALUOpConstant{Op: bpf.ALUOpAnd, Val: lo}, bpf.JumpIf{Cond: bpf.JumpNotEqual, Val: uint32(a.ValueTwo), SkipTrue: fail},
		}, nil
	case specs.OpGreaterThan:
		return order(bpf.JumpGreaterThan, bpf.JumpGreaterThan), nil
	case specs.OpGreaterEqual:
		return order(bpf.JumpGreaterThan, bpf.JumpGreaterOrEqual), nil
	case specs.OpLessThan:
		return order(bpf.JumpLessThan, bpf.JumpLessThan), nil
	case specs.OpLessEqual:
		return order(bpf.JumpLessThan, bpf.JumpLessOrEqual), nil
	}
	return nil, fmt.Errorf("%w: operator %s", ErrUnsupported, a.Op)
}
