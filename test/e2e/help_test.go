//go:build root

package e2e

import (
	"bytes"
	"regexp"
	"strings"
	"testing"

	"stockade/test/harness"
)

// sample is one use of an option: it works, with an effect that can be seen, or it is refused.
type sample struct {
	opts   []string                     // options before the image
	script string                       // run by a shell inside
	want   string                       // what it prints
	shown  string                       // instead of a script: the container is only created, and this template of inspect gives want
	fails  string                       // in the refusal: a rule's name or Docker's words; exit code 125
	client bool                         // the refusal is the client's own; exit code 1
	play   func(t *testing.T, d client) // anything else
}

// option is a row of a table: an option of a command and its samples.
type option struct {
	samples []sample
	only    string // "28", "29": the one client that has it
}

func works(script, want string, opts ...string) sample {
	return sample{opts: opts, script: script, want: want}
}
func shown(template, want string, opts ...string) sample {
	return sample{opts: opts, shown: template, want: want}
}
func refused(text string, opts ...string) sample { return sample{opts: opts, fails: text} }
func clientRefuses(text string, opts ...string) sample {
	return sample{opts: opts, fails: text, client: true}
}
func played(play func(t *testing.T, d client)) sample { return sample{play: play} }
func row(samples ...sample) option                    { return option{samples: samples} }

// helpLine is where an option begins in a command's help; what describes it stands further to the right.
var helpLine = regexp.MustCompile(`(?m)^ {2,6}(?:-[a-zA-Z], )?--([a-z0-9-]+)`)

// helpOf returns the options that a command's help names. Without a server, as the client hides those of other systems then.
func (d client) helpOf(command string) map[string]bool {
	d.t.Helper()
	cmd := d.s.Command(harness.Context(d.t), d.s.User, d.path, command, "--help")
	cmd.Env = append(cmd.Env, "DOCKER_HOST=unix:///nonexistent/docker.sock")
	var out bytes.Buffer
	cmd.Stdout = &out
	if err := cmd.Run(); err != nil {
		d.t.Fatal(err)
	}
	options := map[string]bool{}
	for _, m := range helpLine.FindAllStringSubmatch(out.String(), -1) {
		options[m[1]] = true
	}
	if len(options) < 5 {
		d.t.Fatalf("help of %s: %s", command, out.String())
	}
	return options
}

// known holds that a table has every option of a client's help, and nothing else but what only the other client has.
func known(t *testing.T, d client, version, command string, table map[string]option) {
	t.Helper()
	options := d.helpOf(command)
	for name := range options {
		if o, ok := table[name]; !ok || o.only != "" && o.only != version {
			t.Errorf("docker %s --%s: not in the table", command, name)
		}
	}
	for name, o := range table {
		if !options[name] && (o.only == "" || o.only == version) {
			t.Errorf("docker %s has no --%s", command, name)
		}
	}
}

// bothVersions is both with the clients' versions.
func bothVersions(t *testing.T, f func(t *testing.T, d client, version string)) {
	both(t, func(t *testing.T, d client) {
		f(t, d, t.Name()[strings.LastIndexByte(t.Name(), '/')+1:])
	})
}

// TestEveryRunOption plays every option that "docker run --help" names; "docker create" has most of them, too.
func TestEveryRunOption(t *testing.T) {
	bothVersions(t, func(t *testing.T, d client, version string) {
		known(t, d, version, "run", runOptions)
		created := map[string]option{}
		for name, o := range runOptions {
			if name != "detach" && name != "detach-keys" && name != "sig-proxy" {
				created[name] = o
			}
		}
		known(t, d, version, "create", created)
		for name, o := range runOptions {
			if o.only != "" && o.only != version {
				continue
			}
			if len(o.samples) == 0 {
				t.Errorf("--%s has no sample", name)
			}
			t.Run(name, func(t *testing.T) {
				for _, s := range o.samples {
					client{t: t, s: d.s, path: d.path}.try(t, s)
				}
			})
		}
	})
}

func (d client) try(t *testing.T, s sample) {
	switch {
	case s.play != nil:
		s.play(t, d)
	case s.client:
		d.fails(1, s.fails, append(append([]string{"run", "--rm"}, s.opts...), "busybox", "true")...)
	case s.fails != "":
		d.fails(125, s.fails, append(append([]string{"run", "--rm"}, s.opts...), "busybox", "true")...)
	case s.shown != "":
		name := d.name()
		d.ok(append(append([]string{"create", "--name", name}, s.opts...), "busybox", "true")...)
		d.want(s.want, "inspect", "-f", s.shown, name)
	default:
		d.want(s.want, append(append([]string{"run", "--rm"}, s.opts...), "busybox", "sh", "-c", s.script)...)
	}
}

// TestEveryExecOption plays every option that "docker exec --help" names.
func TestEveryExecOption(t *testing.T) {
	bothVersions(t, func(t *testing.T, d client, version string) {
		known(t, d, version, "exec", execOptions)
		name := d.sleeper()
		for option, o := range execOptions {
			t.Run(option, func(t *testing.T) {
				d := client{t: t, s: d.s, path: d.path}
				for _, s := range o.samples {
					args := append([]string{"exec"}, s.opts...)
					switch {
					case s.play != nil:
						s.play(t, d)
					case s.fails != "":
						d.fails(1, s.fails, append(args, name, "true")...)
					default:
						d.want(s.want, append(args, name, "sh", "-c", s.script)...)
					}
				}
			})
		}
	})
}

// TestEveryUpdateOption plays every option that "docker update --help" names.
func TestEveryUpdateOption(t *testing.T) {
	bothVersions(t, func(t *testing.T, d client, version string) {
		known(t, d, version, "update", updateOptions)
		for option, o := range updateOptions {
			t.Run(option, func(t *testing.T) {
				d := client{t: t, s: d.s, path: d.path}
				name := d.sleeper("--memory", "64m", "--memory-swap", "128m")
				for _, s := range o.samples {
					args := append(append([]string{"update"}, s.opts...), name)
					if s.fails != "" {
						d.fails(1, s.fails, args...)
						continue
					}
					d.want(name, args...)
					d.want(s.want, "inspect", "-f", s.shown, name)
				}
			})
		}
	})
}
