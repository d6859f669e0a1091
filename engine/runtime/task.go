package runtime

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/containerd/errdefs"
	"github.com/moby/term"
	"golang.org/x/sys/unix"

	"stockade/api/helper"
	"stockade/api/setting"
	"stockade/engine/shim"
	"stockade/internal/failpoint"
	"stockade/internal/seqpacket"
)

// task implements Task.
type task struct {
	r       *Runtime
	id      string
	slot    *slot
	tty     bool
	state   state
	pidfd   *os.File
	skipped []helper.Skipped

	done     chan struct{}
	exit     Exit // valid after done
	release  sync.Once
	watching bool
	joiner   joiner
}

func newTask(r *Runtime, s Spec, sl *slot) *task {
	m := s.member()
	st := state{Container: s.ID, Tenant: s.Tenant, Runtime: s.Runtime, Block: sl.block, TTY: s.TTY, PIDShared: sl.pidShared, Creator: m.creator, Binds: m.binds}
	return &task{r: r, id: s.ID, slot: sl, tty: s.TTY, state: st, done: make(chan struct{})}
}

// runtimeArgs is the beginning of every command line of the OCI runtime.
func (t *task) runtimeArgs(path, logFile string) []string {
	return slices.Concat([]string{path}, t.options().Args, []string{"--root", filepath.Join(t.r.cfg.Run, "r"), "--log", logFile, "--log-format", "json"})
}

// options tell how the container's OCI runtime differs from runc.
func (t *task) options() setting.RuntimeOptions { return t.r.cfg.RuntimeOptions[t.runtimeName()] }

func (t *task) runtimeName() string {
	if t.state.Runtime == "" {
		return "runc"
	}
	return t.state.Runtime
}

// runtimePath is the OCI runtime that the container was made with: its execs need the same.
func (t *task) runtimePath() (string, error) {
	name := t.runtimeName()
	path := t.r.cfg.Runtimes[name]
	if path == "" {
		return "", fmt.Errorf("unknown or invalid runtime name: %s: %w", name, errdefs.ErrInvalidArgument)
	}
	return path, nil
}

// create has the monitor run the OCI runtime's create.
func (t *task) create(ctx context.Context, s Spec) error {
	path, err := t.runtimePath()
	if err != nil {
		return err
	}
	run := shim.Run{TTY: s.TTY, Stdin: s.Stdin, StdinOnce: s.StdinOnce, PIDFile: "init.pid", LogFile: "runtime.log", Console: "console.sock"}
	run.UID, run.GID = int(base(t.slot.block)+s.User.UID), int(base(t.slot.block)+s.User.GID)
	run.Argv = append(t.runtimeArgs(path, run.LogFile), "create", "--bundle", t.slot.bundle, "--pid-file", run.PIDFile)
	if s.TTY {
		run.Argv = append(run.Argv, "--console-socket", run.Console)
		if c := s.OCI.Process.ConsoleSize; c != nil {
			run.Height, run.Width = uint16(c.Height), uint16(c.Width)
		}
	}
	run.Argv = append(run.Argv, t.slot.id)
	order := shim.Create{Run: run, Fifo: filepath.Join(t.r.cfg.Run, "r", t.slot.id, "exec.fifo")}
	if s.Log.Driver != "none" {
		order.Log = shim.Log{Path: s.Log.FilePath, MaxSize: s.Log.MaxSize, MaxFile: s.Log.MaxFile, Attrs: s.Log.Attrs}
	}
	ev, err := t.slot.shim.Do(ctx, shim.Request{Op: shim.OpCreate, Create: &order})
	if err != nil {
		if errors.Is(err, shim.ErrGone) {
			return fmt.Errorf("create: %w", err)
		}
		return startError(err.Error())
	}
	return t.found(ev.PID)
}

// startError sorts an OCI runtime's refusal as Docker's exit codes.
func startError(text string) error {
	text = asRunc(text)
	e := &StartError{Code: 128, Text: "failed to create task for container: failed to create shim task: OCI runtime create failed: " + strings.TrimSpace(text)}
	switch {
	case strings.Contains(text, "executable file not found"), strings.Contains(text, "no such file or directory"):
		e.Code = 127
	case strings.Contains(text, "permission denied"), strings.Contains(text, "is a directory"), strings.Contains(text, "exec format error"), strings.Contains(text, "not a directory"):
		e.Code = 126
	}
	if !strings.HasSuffix(e.Text, ": unknown") {
		e.Text += ": unknown"
	}
	return e
}

// crunNotFound and crunNotExecutable are crun's words; clients know runc's.
var (
	crunNotFound      = regexp.MustCompile("executable file `([^`]*)` not found in \\$PATH: No such file or directory")
	crunNotExecutable = regexp.MustCompile("the path `([^`]*)` exists but it is not executable: Operation not permitted")
	crunOpen          = regexp.MustCompile("open executable `([^`]*)`: ")
)

// asRunc words another runtime's refusal as runc does.
func asRunc(text string) string {
	text = crunNotFound.ReplaceAllString(text, `exec: "$1": executable file not found in $$PATH`)
	text = crunNotExecutable.ReplaceAllString(text, `exec: "$1": permission denied`)
	text = crunOpen.ReplaceAllString(text, `exec: "$1": `)
	// Runtimes in C write errno's texts in capitals.
	for _, errno := range []string{"No such file or directory", "Permission denied", "Is a directory", "Not a directory", "Exec format error"} {
		text = strings.ReplaceAll(text, errno, strings.ToLower(errno))
	}
	return text
}

// found notes the first process.
func (t *task) found(pid int) error {
	fd, err := unix.PidfdOpen(pid, 0)
	if err != nil {
		return fmt.Errorf("pidfd of the first process: %w", err)
	}
	t.pidfd = os.NewFile(uintptr(fd), "pidfd")
	t.state.PID = pid
	if t.state.StartTime, err = startTime(pid); err != nil {
		return fmt.Errorf("start time of the first process: %w", err)
	}
	return nil
}

// begin lets the first process run and records it.
func (t *task) begin(ctx context.Context) error {
	t.watch()
	failpoint.Hit("runtime.start.fifo")
	if t.options().OwnCommands {
		if err := t.command(ctx, "start"); err != nil {
			return err
		}
	} else if _, err := t.slot.shim.Do(ctx, shim.Request{Op: shim.OpStart}); err != nil {
		return fmt.Errorf("start: %w", err)
	}
	if err := failpoint.Fail("runtime.start.state"); err != nil {
		return err
	}
	t.state.Started = time.Now().UTC()
	t.state.Endpoint, t.state.Skipped = t.Endpoint(), t.skipped
	if err := t.slot.record(t.state); err != nil {
		return fmt.Errorf("record start: %w", err)
	}
	failpoint.Hit("runtime.start.stated")
	// The container has its own copy of all mounts.
	t.r.unmountSlot(t.slot)
	return nil
}

// command has the OCI runtime do something with the container.
func (t *task) command(ctx context.Context, args ...string) error {
	path, err := t.runtimePath()
	if err != nil {
		return err
	}
	argv := slices.Concat(t.runtimeArgs(path, "runtime.log"), args, []string{t.slot.id})
	cmd := exec.CommandContext(ctx, argv[0], argv[1:]...)
	cmd.Dir, cmd.Env = t.slot.bundle, []string{}
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("%s %s: %w: %s", t.runtimeName(), args[0], err, strings.TrimSpace(string(out)))
	}
	return nil
}

// abort ends what a failed start left running.
func (t *task) abort() {
	sigkill(t.pidfd)
	if t.watching {
		<-t.done
	} else if t.pidfd != nil {
		waitPidfd(t.pidfd)
	}
	if t.pidfd != nil {
		t.pidfd.Close()
		t.deleteOwn()
	}
}

func waitPidfd(f *os.File) {
	set := []unix.PollFd{{Fd: int32(f.Fd()), Events: unix.POLLIN}}
	for {
		if _, err := unix.Poll(set, 30_000); !errors.Is(err, unix.EINTR) {
			return
		}
	}
}

// watch waits for the end of the first process.
func (t *task) watch() {
	t.watching = true
	t.watchRest()
	go func() {
		exit := Exit{Code: 137}
		select {
		case e := <-t.slot.shim.Exit():
			exit.Code, exit.At = e.Code, e.At
		case <-t.slot.shim.Closed():
			select {
			case e := <-t.slot.shim.Exit():
				exit.Code, exit.At = e.Code, e.At
			default:
				exit = t.lost()
			}
		}
		t.finish(exit)
	}()
}

// lost finds out how a container ended whose monitor is gone; a container without one is ended.
func (t *task) lost() Exit {
	if e, err := readExit(t.slot.bundle); err == nil {
		return Exit{Code: e.Code, At: e.At}
	}
	sigkill(t.pidfd)
	if t.pidfd != nil {
		waitPidfd(t.pidfd)
	}
	return Exit{Code: 137, At: time.Now().UTC(), Err: "the container's monitor was killed"}
}

func (t *task) finish(exit Exit) {
	if exit.At.IsZero() {
		exit.At = time.Now().UTC()
	}
	t.endRest()
	ctx, cancel := context.WithTimeout(context.Background(), 15*time.Second)
	defer cancel()
	if exit.Code != 0 {
		if st, err := t.Stats(ctx); err == nil {
			exit.OOM = st.OOMKills > 0
		}
	}
	t.exit = exit
	close(t.done)
}

func readExit(bundle string) (shim.Exit, error) {
	var e shim.Exit
	data, err := os.ReadFile(filepath.Join(bundle, shim.ExitFile))
	if err != nil {
		return e, err
	}
	return e, json.Unmarshal(data, &e)
}

// startTime reads field 22 of /proc/PID/stat: when the process began, in clock ticks since boot.
func startTime(pid int) (uint64, error) {
	data, err := os.ReadFile("/proc/" + strconv.Itoa(pid) + "/stat")
	if err != nil {
		return 0, err
	}
	rest := string(data[strings.LastIndexByte(string(data), ')')+1:])
	fields := strings.Fields(rest)
	if len(fields) < 20 {
		return 0, errors.New("short stat line")
	}
	return strconv.ParseUint(fields[19], 10, 64)
}

// Release implements Service.
func (r *Runtime) Release(ctx context.Context, id string) error {
	defer r.lock(id)()
	t := r.task(id)
	if t == nil {
		return nil
	}
	select {
	case <-t.done:
	default:
		return fmt.Errorf("container is running: %w", errdefs.ErrFailedPrecondition)
	}
	r.releaseTask(ctx, t)
	return nil
}

func (r *Runtime) releaseTask(_ context.Context, t *task) {
	t.release.Do(func() {
		r.mu.Lock()
		delete(r.tasks, t.id)
		r.mu.Unlock()
		failpoint.Hit("runtime.release.begin")
		if t.pidfd != nil {
			t.pidfd.Close()
		}
		t.deleteOwn()
		r.dropSlot(t.slot)
	})
}

// deleteOwn has a runtime with commands of its own end what it still has of an ended container.
func (t *task) deleteOwn() {
	if !t.options().OwnCommands {
		return
	}
	ctx, cancel := context.WithTimeout(context.Background(), 15*time.Second)
	defer cancel()
	if err := t.command(ctx, "delete", "--force"); err != nil {
		t.r.log.Warn("delete by the runtime", "container", t.id, "err", err)
	}
}

// PID implements Task.
func (t *task) PID() int { return t.state.PID }

// Started implements Task.
func (t *task) Started() time.Time { return t.state.Started }

// Endpoint implements Task.
func (t *task) Endpoint() *Endpoint {
	t.slot.mu.Lock()
	defer t.slot.mu.Unlock()
	if t.slot.endpoint == nil {
		return nil
	}
	e := *t.slot.endpoint
	return &e
}

// Done implements Task.
func (t *task) Done() <-chan struct{} { return t.done }

// Exit implements Task.
func (t *task) Exit() Exit { return t.exit }

// File implements Task.
func (t *task) File(name string) string { return filepath.Join(t.slot.bundle, name) }

// Skipped implements Task.
func (t *task) Skipped() []helper.Skipped { return t.skipped }

func (t *task) over() error {
	select {
	case <-t.done:
		return fmt.Errorf("container %s is not running: %w", t.id, errdefs.ErrFailedPrecondition)
	default:
		return nil
	}
}

// Kill implements Task.
func (t *task) Kill(_ context.Context, signal int) error {
	if err := t.over(); err != nil {
		return err
	}
	err := unix.PidfdSendSignal(int(t.pidfd.Fd()), unix.Signal(signal), nil, 0)
	if errors.Is(err, unix.ESRCH) {
		return fmt.Errorf("container %s is not running: %w", t.id, errdefs.ErrFailedPrecondition)
	}
	return err
}

// Resize implements Task.
func (t *task) Resize(ctx context.Context, height, width uint) error {
	if err := t.over(); err != nil {
		return err
	}
	_, err := t.slot.shim.Do(ctx, shim.Request{Op: shim.OpResize, Height: uint16(height), Width: uint16(width)})
	return err
}

// Pause implements Task.
func (t *task) Pause(ctx context.Context) error { return t.cgroup(ctx, "freeze") }

// Resume implements Task.
func (t *task) Resume(ctx context.Context) error { return t.cgroup(ctx, "thaw") }

func (t *task) cgroup(ctx context.Context, op string) error {
	if err := t.over(); err != nil {
		return err
	}
	_, _, err := seqpacket.Call[helper.CgroupID, helper.None](ctx, t.r.cgroupd, op, helper.CgroupID{ID: t.slot.id})
	return err
}

// Update implements Task.
func (t *task) Update(ctx context.Context, l helper.Limits) error { return t.r.limit(ctx, t.slot, l) }

// Stats implements Task.
func (t *task) Stats(ctx context.Context) (helper.CgroupStat, error) {
	st, _, err := seqpacket.Call[helper.CgroupID, helper.CgroupStat](ctx, t.r.cgroupd, "stat", helper.CgroupID{ID: t.slot.id})
	if err == nil && st.Pids > 0 && t.waitingPID() != 0 {
		st.Pids--
	}
	return st, err
}

// Pids implements Task.
func (t *task) Pids(ctx context.Context) ([]int, error) {
	list, _, err := seqpacket.Call[helper.CgroupID, helper.CgroupPids](ctx, t.r.cgroupd, "pids", helper.CgroupID{ID: t.slot.id})
	w := t.waitingPID()
	return slices.DeleteFunc(list.Pids, func(pid int) bool { return pid == w }), err
}

// Attach implements Task.
func (t *task) Attach(ctx context.Context, a Attach) error {
	if err := t.over(); err != nil {
		return err
	}
	return attach(ctx, t.slot.bundle, "", a, t.tty)
}

// defaultDetach is ctrl-p ctrl-q.
var defaultDetach = []byte{16, 17}

func attach(ctx context.Context, bundle, exec string, a Attach, tty bool) error {
	s, err := shim.OpenStream(ctx, bundle, shim.Open{Exec: exec, Stdin: a.In != nil, Stdout: a.Stdout, Stderr: a.Stderr})
	if err != nil {
		return fmt.Errorf("attach: %w", err)
	}
	defer s.Close()
	stop := context.AfterFunc(ctx, func() { s.Close() })
	defer stop()
	if a.Ready != nil {
		a.Ready()
	}
	input := make(chan error, 1)
	if a.In != nil {
		in := a.In
		if tty {
			keys := a.DetachKeys
			if keys == nil {
				keys = defaultDetach
			}
			in = term.NewEscapeProxy(in, keys)
		}
		go func() {
			_, err := io.Copy(s.Conn, in)
			var escaped term.EscapeError
			if errors.As(err, &escaped) {
				input <- ErrDetached
				s.Close()
				return
			}
			input <- nil
			_ = s.CloseWrite()
		}()
	}
	if a.Stdout || a.Stderr {
		_, err = s.WriteTo(a.Out)
	} else {
		_, err = io.Copy(io.Discard, s)
	}
	select {
	case ierr := <-input:
		if ierr != nil {
			return ierr
		}
	default:
	}
	if ctx.Err() != nil {
		return ctx.Err()
	}
	return err
}
