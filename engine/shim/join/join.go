// Package join makes processes that wait until they are told what to become: a further process of a running container,
// without an OCI runtime, or just a program.
//
// Prepare makes a child of the calling process that waits, single-threaded and outside of the container, so that it can be
// put into the container's cgroup before anything happens. Start has it make a copy, which enters the container's
// namespaces and makes the process there; that gives up all rights that the process shall not have and executes the
// program. All are children of the calling process. The steps, and what each guards against, are those of the OCI runtime's own exec; Process
// says everything that distinguishes one from another.
//
// Trust: the caller has checked Process; the container is hostile, and its first process may end at any step.
// Invariants: from the moment the child has entered a namespace of the container it has no descriptor but the three
// streams and one socket, and it cannot be traced by the container. No program but that of the container is executed.
// Failure: a step that fails ends the child and is told by name; nothing is left behind.
package join

import (
	"errors"
	"fmt"
	"io"
	"os"
	"path"
	"runtime"
	"strings"
	"sync"

	"golang.org/x/net/bpf"
	"golang.org/x/sys/unix"
)

// Process is what the child becomes.
type Process struct {
	Args []string `json:"args"` // at least one; the first is looked up in PATH of Env unless it has a slash
	Env  []string `json:"env,omitempty"`
	Cwd  string   `json:"cwd"` // absolute, inside the container
	// UID, GID and Groups are ids inside the container's user namespace.
	UID    uint32   `json:"uid"`
	GID    uint32   `json:"gid"`
	Groups []uint32 `json:"groups,omitempty"`
	Umask  uint32   `json:"umask"`
	// Capability sets, one bit each.
	Bounding    uint64 `json:"bounding"`
	Effective   uint64 `json:"effective"`
	Permitted   uint64 `json:"permitted"`
	Inheritable uint64 `json:"inheritable"`
	Ambient     uint64 `json:"ambient"`

	NoNewPrivs bool    `json:"noNewPrivs,omitempty"`
	Limits     []Limit `json:"limits,omitempty"`
	// Filter is the seccomp program, nil for none; FilterFlags are those of seccomp(2).
	Filter      []bpf.RawInstruction `json:"filter,omitempty"`
	FilterFlags uint32               `json:"filterFlags,omitempty"`
	Keyring     string               `json:"keyring"`       // name of the session keyring that all processes of the container share
	TTY         bool                 `json:"tty,omitempty"` // the streams are a terminal, which becomes the controlling one
}

// Limit is one resource limit (setrlimit(2)).
type Limit struct {
	Resource uint64 `json:"resource"`
	Soft     uint64 `json:"soft"`
	Hard     uint64 `json:"hard"`
}

// ErrNotFound: the program is in no folder of PATH.
var ErrNotFound = errors.New("executable file not found in $PATH")

// defaultPath is where a program is looked up when the environment has no PATH, as execvp(3) does.
const defaultPath = "/bin:/usr/bin"

// Child is a process that waits for Start.
type Child struct {
	// PID is the waiting process. It ends at Close; the caller, its parent, collects it, as well as what Start returns.
	PID   int
	mu    sync.Mutex // one order at a time
	plan  *plan
	ctl   *os.File // nil after Close
	joins bool
}

// Prepare makes a child that will join the namespaces of the process of pidfd, which is not used after the return. score
// is what its oom_score_adj shall be, "" for the caller's. Without a pidfd the child can only Exec.
func Prepare(pidfd *os.File, score string) (*Child, error) {
	pair, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, 0)
	if err != nil {
		return nil, fmt.Errorf("socket pair: %w", err)
	}
	c := &Child{ctl: os.NewFile(uintptr(pair[0]), "child")}
	defer unix.Close(pair[1])
	fail := func(err error) (*Child, error) {
		c.ctl.Close()
		c.plan.free()
		return nil, err
	}
	if err := unix.SetNonblock(pair[1], false); err != nil {
		return fail(err)
	}
	if c.plan, err = newPlan(); err != nil {
		return fail(err)
	}
	if err := c.plan.prefer(score); err != nil {
		return fail(err)
	}
	// Out of the way of the numbers that they get in the child.
	ctl, err := unix.FcntlInt(uintptr(pair[1]), unix.F_DUPFD_CLOEXEC, childFDs)
	if err != nil {
		return fail(err)
	}
	defer unix.Close(ctl)
	target := ctl
	if pidfd != nil {
		target, err = unix.FcntlInt(pidfd.Fd(), unix.F_DUPFD_CLOEXEC, childFDs)
		runtime.KeepAlive(pidfd)
		if err != nil {
			return fail(err)
		}
		defer unix.Close(target)
	}
	c.joins = pidfd != nil
	if c.PID, err = fork(c.plan, ctl, target); err != nil {
		return fail(fmt.Errorf("clone: %w", err))
	}
	return c, nil
}

// Start makes the process p with the three standard streams and returns its pid, and that of a helper: both are to be
// collected like any other child. With an error each is 0 or that of a process which has ended. It can be called again.
// The error names the step that failed and wraps ErrNotFound or a syscall.Errno.
func (c *Child) Start(p Process, streams [3]*os.File) (pid, helper int, err error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if !c.joins || c.ctl == nil {
		return 0, 0, errors.New("a child that joins nothing")
	}
	if err := c.plan.write(p); err != nil {
		return 0, 0, err
	}
	if err := c.tell(streams); err != nil {
		return 0, int(c.plan.helper), err
	}
	pid, err = c.plan.result(p)
	return pid, int(c.plan.helper), err
}

// Exec lets the child execute a program, in a session of its own, with the three standard streams, no other descriptor and
// no signal ignored or blocked. The child keeps its PID. It can be called once.
func (c *Child) Exec(argv, env []string, streams [3]*os.File) error {
	defer c.Close()
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.ctl == nil {
		return errors.New("a child that has its order")
	}
	if err := c.plan.writeExec(argv, env); err != nil {
		return err
	}
	if err := c.tell(streams); err != nil {
		return err
	}
	return c.plan.execResult(argv[0])
}

// Alive tells whether the child still waits for orders.
func (c *Child) Alive() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.ctl == nil {
		return false
	}
	raw, err := c.ctl.SyscallConn()
	if err != nil {
		return false
	}
	alive := false
	err = raw.Control(func(fd uintptr) {
		set := []unix.PollFd{{Fd: int32(fd)}}
		_, err := unix.Poll(set, 0)
		alive = err == nil && set[0].Revents == 0
	})
	return err == nil && alive
}

// tell sends the streams, which begins everything, and waits until every process that has the other end of the status pipe
// has executed a program or is gone.
func (c *Child) tell(streams [3]*os.File) error {
	status, end, err := os.Pipe()
	if err != nil {
		return fmt.Errorf("pipe: %w", err)
	}
	defer status.Close()
	fds := [4]int{3: int(end.Fd())}
	for i, f := range streams {
		fds[i] = int(f.Fd()) // also makes it blocking, as a program expects it
	}
	raw, err := c.ctl.SyscallConn()
	if err != nil {
		end.Close()
		return err
	}
	var serr error
	err = raw.Control(func(fd uintptr) {
		serr = unix.Sendmsg(int(fd), []byte{1}, unix.UnixRights(fds[:]...), nil, unix.MSG_NOSIGNAL)
	})
	runtime.KeepAlive(streams)
	end.Close()
	if err = errors.Join(err, serr); err != nil {
		return fmt.Errorf("order to child: %w", err)
	}
	if _, err := status.Read(make([]byte, 1)); !errors.Is(err, io.EOF) {
		return fmt.Errorf("answer of child: %w", errors.Join(err, os.ErrInvalid))
	}
	return nil
}

// Close ends the waiting child and frees what it holds. Safe to repeat.
func (c *Child) Close() {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.ctl != nil {
		c.ctl.Close()
		c.plan.free()
		c.ctl, c.plan = nil, nil
	}
}

// candidates are the paths that the program is looked up at.
func candidates(p Process) []string {
	name := p.Args[0]
	if strings.Contains(name, "/") {
		return []string{name}
	}
	list, found := defaultPath, false
	for _, e := range p.Env {
		if v, ok := strings.CutPrefix(e, "PATH="); ok {
			list, found = v, true
		}
	}
	if found && list == "" {
		return nil
	}
	var paths []string
	for _, dir := range strings.Split(list, ":") {
		// SECURITY: the current folder is not looked at, whatever PATH says: an image must name it.
		if path.IsAbs(dir) {
			paths = append(paths, path.Join(dir, name))
		}
	}
	return paths
}
