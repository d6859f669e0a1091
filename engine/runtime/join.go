package runtime

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"time"

	"github.com/moby/sys/capability"
	specs "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/net/bpf"
	"golang.org/x/sys/unix"

	"stockade/engine/runtime/filter"
	"stockade/engine/shim"
	"stockade/engine/shim/join"
)

// errNeedsRuntime tells that only the container's OCI runtime can add a process.
var errNeedsRuntime = errors.New("exec by the OCI runtime")

// waitingTime is how long a process waits for the next exec before it is given up.
const waitingTime = 10 * time.Second

// joiner is what a task keeps for execs without the OCI runtime.
type joiner struct {
	once  sync.Once
	base  join.Process // what all execs have in common
	err   error
	mu    sync.Mutex
	spare *waiting
}

// waiting is a process in the container's cgroup that makes execs. To put one there takes the kernel milliseconds (it
// waits for all processors, and nothing on the machine forks meanwhile), so it is done while the client prepares its next
// request, and once for execs that follow one another.
type waiting struct {
	name  string
	ready chan struct{}
	pid   int       // 0 until it is known
	used  time.Time // last; guarded by joiner.mu, as pid
	err   error     // valid after ready
}

// joinable translates a process, or says errNeedsRuntime: for a runtime that makes no ordinary namespaces, or a process
// with something that package join does not do.
func (t *task) joinable(p *specs.Process) (join.Process, error) {
	if t.options().OwnCommands {
		return join.Process{}, errNeedsRuntime
	}
	if p.ApparmorProfile != "" || p.SelinuxLabel != "" || p.IOPriority != nil || p.Scheduler != nil || p.ExecCPUAffinity != nil {
		return join.Process{}, errNeedsRuntime
	}
	t.joiner.once.Do(func() {
		if t.joiner.base, t.joiner.err = t.joinBase(); t.joiner.err != nil {
			t.r.log.Info("execs of this container are run by its OCI runtime", "container", t.id, "reason", t.joiner.err)
		}
	})
	if t.joiner.err != nil {
		return join.Process{}, errNeedsRuntime
	}
	out := t.joiner.base
	out.Args, out.Env, out.Cwd = p.Args, lastOfEach(p.Env), p.Cwd
	out.UID, out.GID, out.Groups = p.User.UID, p.User.GID, p.User.AdditionalGids
	if p.User.Umask != nil {
		out.Umask = *p.User.Umask
	}
	out.NoNewPrivs = p.NoNewPrivileges
	if c := p.Capabilities; c != nil {
		for _, set := range []struct {
			names []string
			mask  *uint64
		}{{c.Bounding, &out.Bounding}, {c.Effective, &out.Effective}, {c.Permitted, &out.Permitted}, {c.Inheritable, &out.Inheritable}, {c.Ambient, &out.Ambient}} {
			mask, err := capabilityMask(set.names)
			if err != nil {
				return out, err
			}
			*set.mask = mask
		}
	}
	for _, l := range p.Rlimits {
		n, ok := rlimits[l.Type]
		if !ok {
			return out, fmt.Errorf("unknown resource limit %s", l.Type)
		}
		out.Limits = append(out.Limits, join.Limit{Resource: n, Soft: l.Soft, Hard: l.Hard})
	}
	return out, nil
}

// joinBase reads what the container's first process was started with.
func (t *task) joinBase() (join.Process, error) {
	var config specs.Spec
	data, err := os.ReadFile(filepath.Join(t.slot.bundle, shim.ConfigFile))
	if err == nil {
		err = json.Unmarshal(data, &config)
	}
	if err != nil || config.Process == nil || config.Linux == nil {
		return join.Process{}, fmt.Errorf("configuration of the container: %w", errors.Join(err, os.ErrInvalid))
	}
	p := join.Process{Umask: 0o022, Keyring: "_ses." + t.slot.id}
	if u := config.Process.User.Umask; u != nil {
		p.Umask = *u
	}
	known, err := t.r.libseccomp()
	if err != nil {
		return p, err
	}
	var program []bpf.RawInstruction
	program, p.FilterFlags, err = filter.Compile(config.Linux.Seccomp, known)
	p.Filter = program
	return p, err
}

// libseccomp tells which system calls runc's library knows.
func (r *Runtime) libseccomp() (filter.Known, error) {
	r.mu.Lock()
	known := r.known
	r.mu.Unlock()
	if known != nil {
		return known, nil
	}
	out, err := exec.Command(r.cfg.Runtimes["runc"], "--version").Output()
	if err != nil {
		return nil, fmt.Errorf("version of runc: %w", err)
	}
	var major, minor int
	if _, rest, ok := strings.Cut(string(out), "libseccomp: "); ok {
		_, _ = fmt.Sscanf(rest, "%d.%d", &major, &minor)
	}
	known = filter.KnownTo(major, minor)
	r.mu.Lock()
	r.known = known
	r.mu.Unlock()
	return known, nil
}

// lastOfEach drops what a later entry of the same name replaces, as runc does.
func lastOfEach(env []string) []string {
	last := map[string]int{}
	for i, e := range env {
		name, _, _ := strings.Cut(e, "=")
		last[name] = i
	}
	var out []string
	for i, e := range env {
		if name, _, _ := strings.Cut(e, "="); last[name] == i {
			out = append(out, e)
		}
	}
	return out
}

var capabilityNumbers = sync.OnceValue(func() map[string]uint64 {
	m := map[string]uint64{}
	for _, c := range capability.ListKnown() {
		m["CAP_"+strings.ToUpper(c.String())] = uint64(c)
	}
	return m
})

func capabilityMask(names []string) (uint64, error) {
	var mask uint64
	for _, name := range names {
		n, ok := capabilityNumbers()[name]
		if !ok {
			return 0, fmt.Errorf("unknown capability %s", name)
		}
		mask |= 1 << n
	}
	return mask, nil
}

var rlimits = map[string]uint64{
	"RLIMIT_AS": unix.RLIMIT_AS, "RLIMIT_CORE": unix.RLIMIT_CORE, "RLIMIT_CPU": unix.RLIMIT_CPU, "RLIMIT_DATA": unix.RLIMIT_DATA,
	"RLIMIT_FSIZE": unix.RLIMIT_FSIZE, "RLIMIT_LOCKS": unix.RLIMIT_LOCKS, "RLIMIT_MEMLOCK": unix.RLIMIT_MEMLOCK,
	"RLIMIT_MSGQUEUE": unix.RLIMIT_MSGQUEUE, "RLIMIT_NICE": unix.RLIMIT_NICE, "RLIMIT_NOFILE": unix.RLIMIT_NOFILE,
	"RLIMIT_NPROC": unix.RLIMIT_NPROC, "RLIMIT_RSS": unix.RLIMIT_RSS, "RLIMIT_RTPRIO": unix.RLIMIT_RTPRIO,
	"RLIMIT_RTTIME": unix.RLIMIT_RTTIME, "RLIMIT_SIGPENDING": unix.RLIMIT_SIGPENDING, "RLIMIT_STACK": unix.RLIMIT_STACK,
}

// ExpectExec implements Task.
func (t *task) ExpectExec() {
	if t.over() == nil {
		t.spareProcess()
	}
}

// spareProcess returns the waiting process, which may not be ready yet.
func (t *task) spareProcess() *waiting {
	t.joiner.mu.Lock()
	defer t.joiner.mu.Unlock()
	w := t.joiner.spare
	if w == nil {
		w = &waiting{name: randomID(), ready: make(chan struct{})}
		t.joiner.spare = w
		go t.keepWaiting(w)
	}
	w.used = time.Now()
	return w
}

// keepWaiting makes a waiting process and ends it when it was not used for a while.
func (t *task) keepWaiting(w *waiting) {
	ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
	if _, err := t.joinable(&specs.Process{}); err != nil {
		w.err = err
	} else {
		w.err = t.makeWaiting(ctx, w)
	}
	cancel()
	close(w.ready)
	for w.err == nil {
		t.joiner.mu.Lock()
		left := waitingTime - time.Since(w.used)
		gone := t.joiner.spare != w
		t.joiner.mu.Unlock()
		if gone || left <= 0 {
			break
		}
		select {
		case <-t.done:
			return
		case <-time.After(left):
		}
	}
	t.dropWaiting(w)
}

// dropWaiting ends a waiting process; the next exec gets a new one.
func (t *task) dropWaiting(w *waiting) {
	t.joiner.mu.Lock()
	mine := t.joiner.spare == w
	if mine {
		t.joiner.spare = nil
	}
	t.joiner.mu.Unlock()
	if mine && w.err == nil {
		t.endWaiting(w)
	}
}

// makeWaiting makes a waiting process.
func (t *task) makeWaiting(ctx context.Context, w *waiting) error {
	ev, err := t.slot.shim.Do(ctx, shim.Request{Op: shim.OpPrepare, Exec: w.name})
	if err != nil {
		return err
	}
	t.joiner.mu.Lock()
	w.pid = ev.PID
	t.joiner.mu.Unlock()
	if err := t.r.intoCgroup(ctx, t.slot.id, ev.PID); err != nil {
		t.endWaiting(w)
		return err
	}
	return nil
}

func (t *task) endWaiting(w *waiting) {
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
	defer cancel()
	_, _ = t.slot.shim.Do(ctx, shim.Request{Op: shim.OpExecEnd, Exec: w.name})
}

// waitingProcess returns a process that makes execs.
func (t *task) waitingProcess(ctx context.Context) (*waiting, error) {
	w := t.spareProcess()
	select {
	case <-w.ready:
		return w, w.err
	case <-ctx.Done():
		return nil, ctx.Err()
	}
}

// waitingPID is the process that waits in the container's cgroup and is none of the container's, or 0.
func (t *task) waitingPID() int {
	t.joiner.mu.Lock()
	defer t.joiner.mu.Unlock()
	if w := t.joiner.spare; w != nil {
		return w.pid
	}
	return 0
}
