package spec

import (
	"encoding/json"
	"slices"
	"strings"
	"testing"

	"github.com/moby/profiles/seccomp"
	specs "github.com/opencontainers/runtime-spec/specs-go"
)

// decide is a filter's answer to one call with these arguments: the rules' meaning, written down once more.
func decide(p *specs.LinuxSeccomp, name string, args ...uint64) specs.LinuxSeccompAction {
	for _, r := range p.Syscalls {
		if !slices.Contains(r.Names, name) {
			continue
		}
		holds := true
		for _, a := range r.Args {
			v := uint64(0)
			if int(a.Index) < len(args) {
				v = args[a.Index]
			}
			switch a.Op {
			case specs.OpEqualTo:
				holds = holds && v == a.Value
			case specs.OpNotEqual:
				holds = holds && v != a.Value
			case specs.OpGreaterThan:
				holds = holds && v > a.Value
			case specs.OpGreaterEqual:
				holds = holds && v >= a.Value
			case specs.OpLessThan:
				holds = holds && v < a.Value
			case specs.OpLessEqual:
				holds = holds && v <= a.Value
			case specs.OpMaskedEqual:
				holds = holds && v&a.Value == a.ValueTwo
			}
		}
		if holds {
			return r.Action
		}
	}
	return p.DefaultAction
}

func base(t *testing.T) *specs.LinuxSeccomp {
	t.Helper()
	p, err := Seccomp(DefaultCapabilities)
	if err != nil {
		t.Fatal(err)
	}
	return p
}

func narrow(t *testing.T, profile string) *specs.LinuxSeccomp {
	t.Helper()
	p, err := Narrow(base(t), profile, DefaultCapabilities)
	if err != nil {
		t.Fatalf("%s: %v", profile, err)
	}
	return p
}

// SECURITY(T-502)
func TestNarrow(t *testing.T) {
	const allowAll = `{"defaultAction":"SCMP_ACT_ALLOW"`
	type call struct {
		name string
		args []uint64
		want specs.LinuxSeccompAction
	}
	allow, eperm, kill := specs.ActAllow, specs.ActErrno, specs.ActKillProcess
	for _, tc := range []struct {
		name, profile string
		calls         []call
	}{
		{"nothing said", `{}`, []call{{"read", nil, allow}, {"mount", nil, eperm}}},
		{"everything allowed", allowAll + `}`, []call{{"read", nil, allow}, {"mount", nil, eperm}, {"keyctl", nil, eperm}, {"bpf", nil, eperm}, {"personality", []uint64{1}, eperm}, {"personality", []uint64{0}, allow}}},
		{"more allowed by name", allowAll + `,"syscalls":[{"names":["mount","unshare","add_key"],"action":"SCMP_ACT_ALLOW"}]}`, []call{{"mount", nil, eperm}, {"add_key", nil, eperm}}},
		{"all but one", allowAll + `,"syscalls":[{"name":"mkdir","action":"SCMP_ACT_ERRNO","errnoRet":38}]}`, []call{{"mkdir", nil, eperm}, {"read", nil, allow}}},
		{"a deadly one", allowAll + `,"syscalls":[{"names":["mkdir","mount"],"action":"SCMP_ACT_KILL_PROCESS"}]}`, []call{{"mkdir", nil, kill}, {"mount", nil, kill}, {"read", nil, allow}}},
		{"a list", `{"defaultAction":"SCMP_ACT_KILL_PROCESS","syscalls":[{"names":["read","mount"],"action":"SCMP_ACT_ALLOW"}]}`, []call{{"read", nil, allow}, {"write", nil, kill}, {"add_key", nil, kill}}},
		{"by argument", `{"defaultAction":"SCMP_ACT_ERRNO","syscalls":[{"names":["kill"],"action":"SCMP_ACT_ALLOW","args":[{"index":1,"value":15,"op":"SCMP_CMP_EQ"}]}]}`,
			[]call{{"kill", []uint64{1, 15}, allow}, {"kill", []uint64{1, 9}, eperm}}},
		{"all but one argument", allowAll + `,"syscalls":[{"names":["kill"],"action":"SCMP_ACT_ERRNO","args":[{"index":1,"value":9,"op":"SCMP_CMP_EQ"}]}]}`,
			[]call{{"kill", []uint64{1, 15}, allow}, {"kill", []uint64{1, 9}, eperm}}},
		{"all but two arguments", allowAll + `,"syscalls":[{"names":["kill"],"action":"SCMP_ACT_ERRNO","args":[{"index":1,"value":9,"op":"SCMP_CMP_EQ"}]},{"names":["kill"],"action":"SCMP_ACT_ERRNO","args":[{"index":1,"value":8,"op":"SCMP_CMP_EQ"}]}]}`,
			[]call{{"kill", []uint64{1, 15}, eperm}, {"kill", []uint64{1, 9}, eperm}}},
		{"mixed", `{"defaultAction":"SCMP_ACT_ERRNO","syscalls":[{"names":["kill"],"action":"SCMP_ACT_ALLOW"},{"names":["kill"],"action":"SCMP_ACT_KILL","args":[{"index":1,"value":9,"op":"SCMP_CMP_EQ"}]}]}`,
			[]call{{"kill", []uint64{1, 15}, eperm}}},
		{"arguments in both", `{"defaultAction":"SCMP_ACT_ERRNO","syscalls":[{"names":["personality"],"action":"SCMP_ACT_ALLOW","args":[{"index":0,"value":262144,"op":"SCMP_CMP_EQ"}]}]}`,
			[]call{{"personality", []uint64{262144}, eperm}, {"personality", []uint64{0}, eperm}}},
		{"one of the default's arguments", `{"defaultAction":"SCMP_ACT_ERRNO","syscalls":[{"names":["personality"],"action":"SCMP_ACT_ALLOW","args":[{"index":0,"value":0,"op":"SCMP_CMP_EQ"}]}]}`,
			[]call{{"personality", []uint64{0}, allow}, {"personality", []uint64{8}, eperm}}},
	} {
		p := narrow(t, tc.profile)
		for _, c := range tc.calls {
			if got := decide(p, c.name, c.args...); got != c.want {
				t.Errorf("%s: %s%v: %s, want %s", tc.name, c.name, c.args, got, c.want)
			}
		}
	}
	// The C library takes another way only after this error.
	if i := slices.IndexFunc(narrow(t, allowAll+`}`).Syscalls, func(r specs.LinuxSyscall) bool { return slices.Contains(r.Names, "clone3") }); i < 0 {
		t.Error("clone3 has no rule")
	} else if r := narrow(t, allowAll+`}`).Syscalls[i]; r.ErrnoRet == nil || *r.ErrnoRet != 38 {
		t.Errorf("clone3: %+v", r)
	}
}

// A client's copy of Docker's own profile changes nothing.
func TestNarrowByTheDefaultItself(t *testing.T) {
	data, err := json.Marshal(seccomp.DefaultProfile())
	if err != nil {
		t.Fatal(err)
	}
	want, got := base(t), narrow(t, string(data))
	for _, r := range want.Syscalls {
		for _, n := range r.Names {
			for _, args := range [][]uint64{nil, {0, 0, 0}, {8}, {131072}, {1, 3, 0}, {2, 1, 0}, {16, 3, 16}, {40, 1, 0}, {0x7E020000}} {
				if w, g := decide(want, n, args...), decide(got, n, args...); w != g {
					t.Errorf("%s%v: %s, want %s", n, args, g, w)
				}
			}
		}
	}
}

func TestNarrowRefuses(t *testing.T) {
	for text, want := range map[string]string{
		`x`:                                   "Decoding seccomp profile failed",
		`{"defaultAction":"SCMP_ACT_NOTIFY"}`: "not supported",
		`{"defaultAction":"SCMP_ACT_TRACE"}`:  "not supported",
		`{"defaultAction":"SCMP_ACT_LOG"}`:    "not supported",
		`{"syscalls":[{"name":"read"}]}`:      "not supported",
		`{"defaultAction":"SCMP_ACT_ERRNO","syscalls":[null]}`:                                                 "null",
		`{"defaultAction":"SCMP_ACT_ERRNO","listenerPath":"/x"}`:                                               "listeners",
		`{"defaultAction":"SCMP_ACT_ERRNO","flags":["SECCOMP_FILTER_FLAG_SPEC_ALLOW"]}`:                        "flags",
		`{"defaultAction":"SCMP_ACT_ERRNO","architectures":["SCMP_ARCH_S390"]}`:                                "architecture",
		`{"defaultAction":"SCMP_ACT_ERRNO","syscalls":[{"name":"a","names":["b"],"action":"SCMP_ACT_ALLOW"}]}`: "both 'name' and 'names'",
	} {
		if _, err := Narrow(base(t), text, DefaultCapabilities); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v, want %q", text, err, want)
		}
	}
}

// SECURITY(T-502): whatever the client sends, no call is allowed that the default profile refuses.
func FuzzNarrow(f *testing.F) {
	f.Add(`{"defaultAction":"SCMP_ACT_ALLOW","syscalls":[{"names":["mount","clone"],"action":"SCMP_ACT_ALLOW","args":[{"index":0,"value":1,"op":"SCMP_CMP_MASKED_EQ"}]}]}`, uint64(1))
	want, err := Seccomp(DefaultCapabilities)
	if err != nil {
		f.Fatal(err)
	}
	f.Fuzz(func(t *testing.T, text string, arg uint64) {
		got, err := Narrow(want, text, DefaultCapabilities)
		if err != nil {
			return
		}
		for _, r := range got.Syscalls {
			for _, n := range r.Names {
				if decide(got, n, arg, arg, arg) == specs.ActAllow && decide(want, n, arg, arg, arg) != specs.ActAllow {
					t.Fatalf("%s(%d) became allowed by %s", n, arg, text)
				}
			}
		}
	})
}
