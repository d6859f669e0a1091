// Package confine is how a process gives up what it does not need, right after boot.Receive and before it reads one
// byte from a peer: capabilities, new privileges, files (Landlock) and system calls (seccomp).
//
// Trust: nothing is believed about how the process was started; identity and capabilities are read from the kernel
// and compared with the process's row in proctable.
// Invariants: after Process returns nil every thread has exactly the row's capabilities (none inheritable or ambient),
// no_new_privs, and the filter; what is not on the list answers EPERM.
// Failure: any mismatch is an error, and the caller must end. Only Landlock may be absent, which is logged.
package confine

import (
	"errors"
	"fmt"
	"log/slog"
	"runtime"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"stockade/internal/proctable"
)

// Spec says what one process keeps. The zero value of each part keeps nothing.
type Spec struct {
	Process string  // name of its row in proctable
	Calls   []Calls // allowed system calls besides Runtime
	Paths   []Path  // files that it may open (with contents), make or remove
	TCP     bool    // may bind and connect TCP sockets (the seccomp list must allow sockets as well)
	// Dumpable keeps /proc/self owned by the process. Without it no process of the same uid can trace this one.
	Dumpable bool
	Log      *slog.Logger
}

// Process confines the calling process for good. It must run before the process starts threads with other identities.
func Process(s Spec) error {
	row, ok := proctable.Get(s.Process)
	if !ok {
		return fmt.Errorf("confine: no process %q in the table", s.Process)
	}
	caps, err := capSet(row.Caps)
	if err != nil {
		return fmt.Errorf("confine: %w", err)
	}
	if err := checkIdentity(row.User == "root"); err != nil {
		return fmt.Errorf("confine: %w", err)
	}
	if err := keepCaps(caps); err != nil {
		return fmt.Errorf("confine: %w", err)
	}
	time.Local = time.UTC // no later look at /etc/localtime
	if err := unix.Setrlimit(unix.RLIMIT_CORE, &unix.Rlimit{}); err != nil {
		return fmt.Errorf("confine: no core files: %w", err)
	}
	if err := allThreads(unix.SYS_PRCTL, unix.PR_SET_NO_NEW_PRIVS, 1); err != nil {
		return fmt.Errorf("confine: no_new_privs: %w", err)
	}
	if row.Landlock {
		if err := restrictFiles(s.Paths, s.TCP, s.Log); err != nil {
			return fmt.Errorf("confine: %w", err)
		}
	}
	if !s.Dumpable {
		if err := unix.Prctl(unix.PR_SET_DUMPABLE, 0, 0, 0, 0); err != nil {
			return fmt.Errorf("confine: not dumpable: %w", err)
		}
	}
	if row.Seccomp {
		if err := filterCalls(append(runtimeCalls(), s.Calls...)); err != nil {
			return fmt.Errorf("confine: %w", err)
		}
	}
	s.Log.Info("confined", "caps", row.Caps, "landlock", row.Landlock, "seccomp", row.Seccomp, "arch", runtime.GOARCH)
	return nil
}

// allThreads makes one system call on every thread; all must have the same result.
func allThreads(nr, a1, a2 uintptr) error {
	if _, _, errno := syscall.AllThreadsSyscall6(nr, a1, a2, 0, 0, 0, 0); errno != 0 {
		if errno == syscall.ENOTSUP {
			return errors.New("this program must be built with CGO_ENABLED=0")
		}
		return errno
	}
	return nil
}
