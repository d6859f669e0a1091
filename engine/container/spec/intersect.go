package spec

import (
	"cmp"
	"encoding/json"
	"maps"
	"reflect"
	"runtime"
	"slices"

	"github.com/moby/profiles/seccomp"
	specs "github.com/opencontainers/runtime-spec/specs-go"
)

// eperm is what the kernel answers where a profile names no error number.
const eperm = 1

// verdict is all that a profile says about one system call.
type verdict struct {
	explicit bool // a rule names the call; else the default action speaks
	action   specs.LinuxSeccompAction
	errno    *uint
	when     []specs.LinuxSyscall // the rules, each about this call alone, if all depend on arguments; else nil
	mixed    bool                 // rules of several actions of which one depends on arguments
}

func (v verdict) allows() bool { return v.action == specs.ActAllow && !v.mixed }

// Narrow makes a filter that allows a system call only where both the default profile and the client's allow it.
//
// SECURITY(T-502): the result is built from the default profile's allowances alone; what the client's profile says can
// take one away or bind it to arguments, never add one. Where both profiles look at arguments, the call stays only if
// the client repeats rules of the default profile word by word; any other combination refuses the call.
func Narrow(base *specs.LinuxSeccomp, profile string, caps []string) (*specs.LinuxSeccomp, error) {
	var probe seccomp.Seccomp
	if err := json.Unmarshal([]byte(profile), &probe); err != nil {
		return nil, invalid("Decoding seccomp profile failed: %v", err)
	}
	if slices.Contains(probe.Syscalls, nil) { // LoadProfile would not survive it
		return nil, invalid("invalid seccomp profile: a rule is null")
	}
	user, err := seccomp.LoadProfile(profile, &specs.Spec{Process: &specs.Process{Capabilities: &specs.LinuxCapabilities{Bounding: caps}}})
	if err != nil {
		return nil, invalid("%v", err)
	}
	if user == nil { // it says nothing
		return base, nil
	}
	if err := checkProfile(user); err != nil {
		return nil, err
	}
	out := &specs.LinuxSeccomp{DefaultAction: base.DefaultAction, DefaultErrnoRet: base.DefaultErrnoRet, Architectures: base.Architectures}
	if user.DefaultAction != specs.ActAllow {
		out.DefaultAction, out.DefaultErrnoRet = user.DefaultAction, user.DefaultErrnoRet
	}
	if len(user.Architectures) > 0 {
		if out.Architectures = slices.DeleteFunc(slices.Clone(base.Architectures), func(a specs.Arch) bool { return !slices.Contains(user.Architectures, a) }); len(out.Architectures) == 0 || out.Architectures[0] != base.Architectures[0] {
			return nil, invalid("invalid seccomp profile: it leaves no system call of this machine's architecture (%s)", runtime.GOARCH)
		}
	}
	have, want := verdicts(base), verdicts(user)
	names := map[string]bool{}
	for n := range have {
		names[n] = true
	}
	for n := range want {
		names[n] = true
	}
	refuse := map[denial][]string{}
	var allow []string
	for _, n := range slices.Sorted(maps.Keys(names)) {
		b, u := of(have, base, n), of(want, user, n)
		switch {
		case !b.allows():
			if d := denied(b, u); !d.is(out) {
				refuse[d] = append(refuse[d], n)
			}
		case !u.allows():
			if rule, ok := inverted(n, b, u, user); ok {
				out.Syscalls = append(out.Syscalls, rule)
			} else if d := denied(u, u); !d.is(out) {
				refuse[d] = append(refuse[d], n)
			}
		case b.when == nil && u.when == nil:
			allow = append(allow, n)
		case b.when == nil:
			out.Syscalls = append(out.Syscalls, u.when...)
		case u.when == nil:
			out.Syscalls = append(out.Syscalls, b.when...)
		case within(u.when, b.when):
			out.Syscalls = append(out.Syscalls, u.when...)
		}
	}
	if len(allow) > 0 {
		out.Syscalls = append(out.Syscalls, specs.LinuxSyscall{Names: allow, Action: specs.ActAllow})
	}
	for _, d := range slices.SortedFunc(maps.Keys(refuse), func(a, b denial) int { return cmp.Or(cmp.Compare(a.action, b.action), cmp.Compare(a.errno, b.errno)) }) {
		out.Syscalls = append(out.Syscalls, d.rule(refuse[d]))
	}
	return out, nil
}

// checkProfile refuses what is no filter: actions that hand a call to somebody else, and settings of the filter itself.
func checkProfile(p *specs.LinuxSeccomp) error {
	if p.ListenerPath != "" || p.ListenerMetadata != "" || len(p.Flags) > 0 {
		return invalid("invalid seccomp profile: flags and listeners are not supported")
	}
	actions := []specs.LinuxSeccompAction{p.DefaultAction}
	for _, s := range p.Syscalls {
		actions = append(actions, s.Action)
		for _, a := range s.Args {
			if a.Index > 5 {
				return invalid("invalid seccomp profile: a system call has no argument %d", a.Index)
			}
		}
	}
	for _, a := range actions {
		switch a {
		case specs.ActAllow, specs.ActErrno, specs.ActKill, specs.ActKillProcess, specs.ActKillThread, specs.ActTrap:
		default:
			return invalid("invalid seccomp profile: action %q is not supported", a)
		}
	}
	return nil
}

// verdicts gathers a profile's rules by system call.
func verdicts(p *specs.LinuxSeccomp) map[string]verdict {
	out := map[string]verdict{}
	for _, s := range p.Syscalls {
		for _, n := range s.Names {
			one := specs.LinuxSyscall{Names: []string{n}, Action: s.Action, ErrnoRet: s.ErrnoRet, Args: s.Args}
			v, seen := out[n]
			same := v.action == s.Action && errno(v.errno) == errno(s.ErrnoRet)
			switch {
			case !seen:
				v = verdict{explicit: true, action: s.Action, errno: s.ErrnoRet}
				if len(s.Args) > 0 {
					v.when = []specs.LinuxSyscall{one}
				}
			case !same:
				v.mixed = true
			case len(s.Args) == 0:
				v.when = nil // it holds whatever the arguments are
			case v.when != nil:
				v.when = append(v.when, one)
			}
			out[n] = v
		}
	}
	// Rules that depend on arguments leave the rest to the default action; with the same action they say nothing.
	for n, v := range out {
		if v.when != nil && v.action == p.DefaultAction && errno(v.errno) == errno(p.DefaultErrnoRet) {
			v.when = nil
			out[n] = v
		}
		if v.mixed {
			v.when = nil
			out[n] = v
		}
	}
	return out
}

// of is what a profile says about a call.
func of(all map[string]verdict, p *specs.LinuxSeccomp, name string) verdict {
	if v, ok := all[name]; ok {
		return v
	}
	return verdict{action: p.DefaultAction, errno: p.DefaultErrnoRet}
}

// inverted turns one refusal that depends on one argument, in a profile that allows the rest, into an allowance: the
// filter's own default refuses, so it cannot say "all but".
func inverted(name string, base, user verdict, p *specs.LinuxSeccomp) (specs.LinuxSyscall, bool) {
	opposite := map[specs.LinuxSeccompOperator]specs.LinuxSeccompOperator{
		specs.OpEqualTo: specs.OpNotEqual, specs.OpNotEqual: specs.OpEqualTo, specs.OpLessThan: specs.OpGreaterEqual,
		specs.OpGreaterEqual: specs.OpLessThan, specs.OpLessEqual: specs.OpGreaterThan, specs.OpGreaterThan: specs.OpLessEqual,
	}
	if user.mixed || p.DefaultAction != specs.ActAllow || base.when != nil || len(user.when) != 1 || len(user.when[0].Args) != 1 {
		return specs.LinuxSyscall{}, false
	}
	arg := user.when[0].Args[0]
	op, ok := opposite[arg.Op]
	if !ok {
		return specs.LinuxSyscall{}, false
	}
	arg.Op = op
	return specs.LinuxSyscall{Names: []string{name}, Action: specs.ActAllow, Args: []specs.LinuxSeccompArg{arg}}, true
}

// within tells whether each rule of a stands in b, too.
func within(a, b []specs.LinuxSyscall) bool {
	return !slices.ContainsFunc(a, func(r specs.LinuxSyscall) bool {
		return !slices.ContainsFunc(b, func(o specs.LinuxSyscall) bool { return reflect.DeepEqual(r.Args, o.Args) })
	})
}

// denial is how a call is refused.
type denial struct {
	action specs.LinuxSeccompAction
	errno  uint
}

// denied is the client's way to refuse a call if it has a rule for it, else the default profile's: programs depend on
// some error numbers, as the C library on ENOSYS of clone3.
func denied(base, user verdict) denial {
	v := base
	if user.explicit && user.action != specs.ActAllow || !base.explicit && user.action != specs.ActAllow {
		v = user
	}
	if v.mixed || v.action == specs.ActAllow {
		return denial{action: specs.ActErrno, errno: eperm}
	}
	return denial{action: v.action, errno: errno(v.errno)}
}

// is tells whether a filter's default does the same.
func (d denial) is(p *specs.LinuxSeccomp) bool {
	return d.action == p.DefaultAction && (d.action != specs.ActErrno || d.errno == errno(p.DefaultErrnoRet))
}

func (d denial) rule(names []string) specs.LinuxSyscall {
	r := specs.LinuxSyscall{Names: names, Action: d.action}
	if d.action == specs.ActErrno {
		r.ErrnoRet = &d.errno
	}
	return r
}

func errno(e *uint) uint {
	if e == nil {
		return eperm
	}
	return *e
}
