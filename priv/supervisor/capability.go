package supervisor

import (
	"errors"
	"fmt"
	"runtime"
	"syscall"

	"golang.org/x/sys/unix"
)

// capability numbers of the names in proctable and of what the supervisor itself keeps.
var capability = map[string]uintptr{
	"CAP_CHOWN":           unix.CAP_CHOWN,
	"CAP_DAC_OVERRIDE":    unix.CAP_DAC_OVERRIDE,
	"CAP_DAC_READ_SEARCH": unix.CAP_DAC_READ_SEARCH,
	"CAP_FOWNER":          unix.CAP_FOWNER,
	"CAP_KILL":            unix.CAP_KILL,
	"CAP_NET_ADMIN":       unix.CAP_NET_ADMIN,
	"CAP_SETGID":          unix.CAP_SETGID,
	"CAP_SETPCAP":         unix.CAP_SETPCAP,
	"CAP_SETUID":          unix.CAP_SETUID,
	"CAP_SYS_ADMIN":       unix.CAP_SYS_ADMIN,
	"CAP_SYS_PTRACE":      unix.CAP_SYS_PTRACE,
}

// ownCapabilities is what the supervisor keeps once everything is prepared, in its bounding set, too.
var ownCapabilities = []string{
	"CAP_KILL",         // signals children, and what is left in U
	"CAP_SETUID",       // starts a child again as its user
	"CAP_SETGID",       //
	"CAP_SETPCAP",      // with its bounding set
	"CAP_SYS_ADMIN",    // mountd's; entering U; unmounting the pins
	"CAP_NET_ADMIN",    // netd's; removing links and rules at the end
	"CAP_SYS_PTRACE",   // reads which namespace a process is in
	"CAP_DAC_OVERRIDE", // removes other users' sockets and folders at the end
}

// enterCapabilities is what it takes to enter U; inside, the kernel gives a new, full set that means nothing outside.
var enterCapabilities = []string{"CAP_SYS_ADMIN", "CAP_SETUID", "CAP_SETGID"}

func numbers(names []string) ([]uintptr, error) {
	var caps []uintptr
	for _, name := range names {
		c, ok := capability[name]
		if !ok {
			return nil, fmt.Errorf("unknown capability %s", name)
		}
		caps = append(caps, c)
	}
	return caps, nil
}

// threads runs a raw system call on this thread or on all.
type threads func(trap, a1, a2, a3 uintptr) error

func thisThread(trap, a1, a2, a3 uintptr) error {
	// SAFETY: integers only, or pointers that the caller keeps alive.
	_, _, errno := unix.RawSyscall(trap, a1, a2, a3)
	return errnoError(errno)
}

func allThreads(trap, a1, a2, a3 uintptr) error {
	// SAFETY: as above; the Go runtime repeats the call on each thread and ends the process if results differ.
	_, _, errno := syscall.AllThreadsSyscall(trap, a1, a2, a3)
	if errno == unix.ENOTSUP {
		return fmt.Errorf("%w: the program must be built with CGO_ENABLED=0", errno)
	}
	return errnoError(errno)
}

func errnoError(errno syscall.Errno) error {
	if errno != 0 {
		return errno
	}
	return nil
}

// bound removes all but the named capabilities from the bounding set.
func bound(names []string, on threads) error {
	keep, err := numbers(names)
	if err != nil {
		return err
	}
	for c := uintptr(0); c <= 63; c++ {
		have, err := unix.PrctlRetInt(unix.PR_CAPBSET_READ, c, 0, 0, 0)
		if errors.Is(err, unix.EINVAL) {
			return nil // beyond the last capability of this kernel
		}
		if err != nil {
			return fmt.Errorf("read bounding set: %w", err)
		}
		if have == 0 || contains(keep, c) {
			continue
		}
		if err := on(unix.SYS_PRCTL, unix.PR_CAPBSET_DROP, c, 0); err != nil {
			return fmt.Errorf("drop capability %d: %w", c, err)
		}
	}
	return nil
}

func contains(set []uintptr, c uintptr) bool {
	for _, x := range set {
		if x == c {
			return true
		}
	}
	return false
}

// keepOnly gives up all other capabilities on all threads, for good.
func keepOnly(names []string) error {
	if err := bound(names, allThreads); err != nil {
		return err
	}
	caps, err := numbers(names)
	if err != nil {
		return err
	}
	return setCaps(caps, allThreads)
}

// onOwnThread runs f on a thread that ends with it, so that what f changes of the thread touches nothing else. The main
// goroutine must be locked to the main thread, which alone cannot end.
func onOwnThread(f func() error) error {
	done := make(chan error, 1)
	go func() {
		runtime.LockOSThread() // never unlocked: the thread ends with the goroutine
		done <- f()
	}()
	return <-done
}
