package runtime

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"time"

	"stockade/engine/shim"
	"stockade/engine/shim/join"
)

// execution implements Exec.
type execution struct {
	t    *task
	id   string
	tty  bool
	dir  string // files for the OCI runtime; "" without it
	mu   sync.Mutex
	pid  int
	done chan struct{}
	exit Exit
	news <-chan shim.Exit
}

// Exec implements Task.
func (t *task) Exec(ctx context.Context, e ExecSpec) (Exec, error) {
	if err := t.over(); err != nil {
		return nil, err
	}
	x := &execution{t: t, id: e.ID, tty: e.TTY, done: make(chan struct{}), news: t.slot.shim.ExecExit(e.ID)}
	process, err := t.joinable(e.Process)
	if errors.Is(err, errNeedsRuntime) {
		err = x.byRuntime(ctx, e)
	} else if err == nil {
		err = x.byJoining(ctx, e, process)
	}
	if err != nil {
		return nil, err
	}
	return x, nil
}

// byJoining prepares the process without the OCI runtime.
func (x *execution) byJoining(ctx context.Context, e ExecSpec, p join.Process) error {
	p.TTY = e.TTY
	order := shim.Join{Process: p, Stdin: e.Stdin}
	order.UID, order.GID = int(base(x.t.slot.block)+p.UID), int(base(x.t.slot.block)+p.GID)
	if c := e.Process.ConsoleSize; c != nil && e.TTY {
		order.Height, order.Width = uint16(c.Height), uint16(c.Width)
	}
	for again := false; ; again = true {
		w, err := x.t.waitingProcess(ctx)
		if err != nil {
			return err
		}
		order.From = w.name
		if _, err = x.t.slot.shim.Do(ctx, shim.Request{Op: shim.OpExec, Exec: e.ID, Join: &order}); err == nil || again {
			return err
		}
		x.t.dropWaiting(w) // the kernel may have ended it, for the container's limits hold for it
	}
}

// byRuntime prepares the process by the OCI runtime's exec.
func (x *execution) byRuntime(ctx context.Context, e ExecSpec) error {
	t := x.t
	path, err := t.runtimePath()
	if err != nil {
		return err
	}
	// Relative to the bundle, where the monitor works.
	rel := filepath.Join("e", e.ID[:min(16, len(e.ID))])
	x.dir = filepath.Join(t.slot.bundle, rel)
	if err := os.MkdirAll(x.dir, 0o711); err != nil {
		return err
	}
	process := *e.Process
	process.Terminal = e.TTY
	if err := writeJSON(filepath.Join(x.dir, "process.json"), process); err != nil {
		return err
	}
	run := shim.Run{TTY: e.TTY, Stdin: e.Stdin, StdinOnce: true, PIDFile: filepath.Join(rel, "pid"), LogFile: filepath.Join(rel, "log"), Console: filepath.Join(rel, "tty")}
	run.UID, run.GID = int(base(t.slot.block)+process.User.UID), int(base(t.slot.block)+process.User.GID)
	run.Argv = append(t.runtimeArgs(path, run.LogFile), "exec", "--process", filepath.Join(rel, "process.json"), "--detach", "--pid-file", run.PIDFile)
	if e.TTY {
		run.Argv = append(run.Argv, "--console-socket", run.Console)
		if c := process.ConsoleSize; c != nil {
			run.Height, run.Width = uint16(c.Height), uint16(c.Width)
		}
	}
	run.Argv = append(run.Argv, t.slot.id)
	ev, err := t.slot.shim.Do(ctx, shim.Request{Op: shim.OpExec, Exec: e.ID, Run: &run})
	if err != nil {
		return err
	}
	if err := t.r.intoCgroup(ctx, t.slot.id, ev.PID); err != nil {
		x.forget()
		return err
	}
	return nil
}

func (x *execution) forget() {
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
	defer cancel()
	_, _ = x.t.slot.shim.Do(ctx, shim.Request{Op: shim.OpExecEnd, Exec: x.id})
	if x.dir != "" {
		_ = os.RemoveAll(x.dir)
	}
}

// Start implements Exec.
func (x *execution) Start(ctx context.Context) error {
	ev, err := x.t.slot.shim.Do(ctx, shim.Request{Op: shim.OpExecGo, Exec: x.id})
	if err != nil {
		x.forget()
		if !errors.Is(err, shim.ErrGone) {
			err = execError(err.Error())
		}
		code := 126
		var se *StartError
		if errors.As(err, &se) {
			code = se.Code
		}
		x.exit = Exit{Code: code, At: time.Now().UTC(), Err: err.Error()}
		close(x.done)
		return err
	}
	x.mu.Lock()
	x.pid = ev.PID
	x.mu.Unlock()
	go func() {
		x.exit = Exit{Code: 137, At: time.Now().UTC()}
		if e, ok := <-x.news; ok {
			x.exit = Exit{Code: e.Code, At: e.At}
		}
		close(x.done)
		x.forget()
	}()
	return nil
}

func execError(text string) error {
	text = asRunc(text)
	const prefix = "exec failed: unable to start container process: "
	e := &StartError{Code: 126, Text: "OCI runtime exec failed: " + prefix + strings.TrimPrefix(strings.TrimSpace(text), prefix) + ": unknown"}
	if strings.Contains(text, "executable file not found") || strings.Contains(text, "no such file or directory") {
		e.Code = 127
	}
	return e
}

// PID implements Exec.
func (x *execution) PID() int {
	x.mu.Lock()
	defer x.mu.Unlock()
	return x.pid
}

// Done implements Exec.
func (x *execution) Done() <-chan struct{} { return x.done }

// Exit implements Exec.
func (x *execution) Exit() Exit { return x.exit }

// Resize implements Exec.
func (x *execution) Resize(ctx context.Context, height, width uint) error {
	_, err := x.t.slot.shim.Do(ctx, shim.Request{Op: shim.OpResize, Exec: x.id, Height: uint16(height), Width: uint16(width)})
	if err != nil {
		return fmt.Errorf("resize: %w", err)
	}
	return nil
}

// Attach implements Exec.
func (x *execution) Attach(ctx context.Context, a Attach) error {
	return attach(ctx, x.t.slot.bundle, x.id, a, x.tty)
}
