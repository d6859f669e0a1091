// Package initproc is the first process of a container that was started with --init: it starts the container's
// command, passes signals on to it and collects orphans.
//
// Trust: it runs inside the container with no more rights than the command. Invariants: it ends when the command ends,
// with its code, or 128 + the signal that killed it; the kernel then ends what is left of the container.
// Failure: a command that cannot be started is code 127 if it does not exist, else 126.
package initproc

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"os/signal"
	"runtime"
	"slices"
	"syscall"

	"golang.org/x/sys/unix"
)

// own are signals that mean this process itself: children's ends, the Go scheduler's, the terminal's job control.
var own = []os.Signal{unix.SIGCHLD, unix.SIGURG, unix.SIGTTIN, unix.SIGTTOU}

// Main runs the command of the arguments, which follow "--", to its end and returns the code to exit with.
func Main(args []string) int {
	runtime.GOMAXPROCS(1) // threads count against the container's limit
	if len(args) < 2 || args[0] != "--" {
		fmt.Fprintln(os.Stderr, "usage: stockade-init -- COMMAND [ARGUMENT…]")
		return 125
	}
	signals := make(chan os.Signal, 64)
	signal.Notify(signals) // before the start, lest one is lost
	pid, err := start(args[1:])
	if err != nil {
		fmt.Fprintln(os.Stderr, "stockade-init:", err)
		if errors.Is(err, exec.ErrNotFound) || errors.Is(err, fs.ErrNotExist) {
			return 127
		}
		return 126
	}
	go func() {
		for s := range signals {
			if n, ok := s.(syscall.Signal); ok && !slices.Contains(own, s) {
				_ = unix.Kill(pid, n) // it may just have ended
			}
		}
	}()
	return wait(pid)
}

// start starts the command in a process group of its own, in the foreground of the terminal if there is one.
func start(command []string) (pid int, err error) {
	path, err := exec.LookPath(command[0])
	if err != nil {
		return 0, err
	}
	sys := &syscall.SysProcAttr{Setpgid: true}
	if _, err := unix.IoctlGetTermios(unix.Stdin, unix.TCGETS); err == nil {
		sys.Foreground, sys.Ctty = true, unix.Stdin
	}
	pid, err = syscall.ForkExec(path, command, &syscall.ProcAttr{Env: os.Environ(), Files: []uintptr{0, 1, 2}, Sys: sys})
	if err != nil {
		return 0, fmt.Errorf("start %s: %w", command[0], err)
	}
	return pid, nil
}

// wait collects children until the command has ended.
func wait(pid int) int {
	for {
		var ws syscall.WaitStatus
		got, err := syscall.Wait4(-1, &ws, 0, nil)
		switch {
		case errors.Is(err, unix.EINTR):
		case err != nil:
			fmt.Fprintln(os.Stderr, "stockade-init: wait:", err)
			return 125
		case got == pid && ws.Signaled():
			return 128 + int(ws.Signal())
		case got == pid && ws.Exited():
			return ws.ExitStatus()
		}
	}
}
