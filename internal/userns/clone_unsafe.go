package userns

import (
	"syscall"

	"golang.org/x/sys/unix"
)

// pausedChild clones this process without exec; the child does nothing but wait to be killed.
//
// SAFETY: clone without CLONE_VM gives the child its own copy of the address space with this one thread in it. It makes
// raw system calls only: no allocation, no stack growth (nosplit), no scheduler. ForkLock keeps other threads from
// creating descriptors without close-on-exec meanwhile; the child holds copies of all until it dies.
//
//go:norace
//go:nosplit
func clone(flags uintptr) (pid uintptr, errno syscall.Errno) {
	pid, _, errno = syscall.RawSyscall6(syscall.SYS_CLONE, flags|uintptr(unix.SIGCHLD), 0, 0, 0, 0, 0)
	if errno != 0 || pid != 0 {
		return pid, errno
	}
	syscall.RawSyscall(syscall.SYS_PRCTL, unix.PR_SET_PDEATHSIG, uintptr(unix.SIGKILL), 0)
	for {
		syscall.RawSyscall(syscall.SYS_PAUSE, 0, 0, 0)
	}
}

func pausedChild(flags uintptr) (int, error) {
	syscall.ForkLock.Lock()
	pid, errno := clone(flags)
	syscall.ForkLock.Unlock()
	if errno != 0 {
		return 0, errno
	}
	return int(pid), nil
}
