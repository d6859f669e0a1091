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
)

// execution implements Exec.
type execution struct {
	t    *task
	id   string
	tty  bool
	dir  string
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
	path, err := t.runtimePath()
	if err != nil {
		return nil, err
	}
	// Relative to the bundle, where the monitor works.
	rel := filepath.Join("e", e.ID[:min(16, len(e.ID))])
	x := &execution{t: t, id: e.ID, tty: e.TTY, dir: filepath.Join(t.slot.bundle, rel), done: make(chan struct{})}
	if err := os.MkdirAll(x.dir, 0o711); err != nil {
		return nil, err
	}
	process := *e.Process
	process.Terminal = e.TTY
	if err := writeJSON(filepath.Join(x.dir, "process.json"), process); err != nil {
		return nil, err
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
	x.news = t.slot.shim.ExecExit(e.ID)
	ev, err := t.slot.shim.Do(ctx, shim.Request{Op: shim.OpExec, Exec: e.ID, Run: &run})
	if err != nil {
		return nil, err
	}
	if err := t.r.intoCgroup(ctx, t.slot.id, ev.PID); err != nil {
		x.forget()
		return nil, err
	}
	return x, nil
}

func (x *execution) forget() {
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
	defer cancel()
	_, _ = x.t.slot.shim.Do(ctx, shim.Request{Op: shim.OpExecEnd, Exec: x.id})
	_ = os.RemoveAll(x.dir)
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
	e := &StartError{Code: 126, Text: "OCI runtime exec failed: " + strings.TrimSpace(text) + ": unknown"}
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
