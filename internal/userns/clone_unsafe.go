package userns

import (
	"errors"
	"fmt"
	"os"
	"syscall"
	"unsafe"

	"golang.org/x/sys/unix"
)

// ready is what the child writes when its /proc files belong to it.
var ready = [1]byte{1}

// noNamespace tells clone that the child stays where the flags put it.
const noNamespace = ^uintptr(0)

// clone makes a copy of this process without exec, which says on fd when it is ready, and waits to be killed.
//
// Without ns it becomes dumpable: after any change of credentials (or by choice) this process is not, and then the
// /proc files of its child, uid_map among them, belong to root. The child has this process's uid in a namespace of this
// process's, so nobody else can trace it. With ns it enters that user namespace, whose owner would have power over it,
// so there it must not be dumpable; the namespaces of unshare (CLONE_NEW…) are made there and belong to it. It keeps no
// descriptor but fd.
//
// SAFETY: clone without CLONE_VM gives the child its own copy of the address space with this one thread in it. It makes
// raw system calls only: no allocation, no stack growth (nosplit), no scheduler. ForkLock keeps other threads from
// creating descriptors without close-on-exec meanwhile; the child holds copies of all until it dies.
//
//go:norace
//go:nosplit
func clone(flags, ns, unshare, fd uintptr) (pid uintptr, errno syscall.Errno) {
	pid, _, errno = syscall.RawSyscall6(syscall.SYS_CLONE, flags|uintptr(unix.SIGCHLD), 0, 0, 0, 0, 0)
	if errno != 0 || pid != 0 {
		return pid, errno
	}
	dumpable := uintptr(1)
	if ns != noNamespace {
		dumpable = 0
		if _, _, errno := syscall.RawSyscall(unix.SYS_SETNS, ns, unix.CLONE_NEWUSER, 0); errno != 0 {
			for {
				syscall.RawSyscall(syscall.SYS_EXIT_GROUP, 1, 0, 0)
			}
		}
	}
	if unshare != 0 {
		if _, _, errno := syscall.RawSyscall(syscall.SYS_UNSHARE, unshare, 0, 0); errno != 0 {
			for {
				syscall.RawSyscall(syscall.SYS_EXIT_GROUP, 1, 0, 0)
			}
		}
	}
	syscall.RawSyscall(syscall.SYS_PRCTL, unix.PR_SET_PDEATHSIG, uintptr(unix.SIGKILL), 0)
	syscall.RawSyscall(syscall.SYS_PRCTL, unix.PR_SET_DUMPABLE, dumpable, 0)
	if fd > 0 {
		syscall.RawSyscall(unix.SYS_CLOSE_RANGE, 0, fd-1, 0)
	}
	syscall.RawSyscall(unix.SYS_CLOSE_RANGE, fd+1, uintptr(^uint32(0)), 0)
	syscall.RawSyscall(syscall.SYS_WRITE, fd, uintptr(unsafe.Pointer(&ready)), 1)
	for {
		syscall.RawSyscall6(unix.SYS_PPOLL, 0, 0, 0, 0, 0, 0)
	}
}

func pausedChild(flags, ns, unshare uintptr) (int, error) {
	var pipe [2]int
	if err := unix.Pipe2(pipe[:], unix.O_CLOEXEC); err != nil {
		return 0, err
	}
	defer unix.Close(pipe[0])
	syscall.ForkLock.Lock()
	pid, errno := clone(flags, ns, unshare, uintptr(pipe[1]))
	syscall.ForkLock.Unlock()
	unix.Close(pipe[1]) // when the child dies early the read ends
	if errno != 0 {
		return 0, errno
	}
	var b [1]byte
	for {
		n, err := unix.Read(pipe[0], b[:])
		if errors.Is(err, unix.EINTR) {
			continue
		}
		if err != nil || n != 1 {
			end(int(pid))
			return 0, fmt.Errorf("child is not ready: %w", errors.Join(err, os.ErrProcessDone))
		}
		return int(pid), nil
	}
}

// end kills and reaps the child.
func end(pid int) {
	_ = unix.Kill(pid, unix.SIGKILL)
	var st unix.WaitStatus
	for {
		if _, err := unix.Wait4(pid, &st, unix.WALL, nil); !errors.Is(err, unix.EINTR) {
			return
		}
	}
}
