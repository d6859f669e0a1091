package harness

import (
	"runtime"
	"unsafe"

	"golang.org/x/sys/unix"
)

// become gives the calling thread, and no other, u's identity without capabilities.
func become(u User) error {
	groups := append([]uint32{u.GID}, u.Groups...)
	// SAFETY: groups lives past the call; raw calls change this thread alone, which the caller throws away.
	_, _, errno := unix.RawSyscall(unix.SYS_SETGROUPS, uintptr(len(groups)), uintptr(unsafe.Pointer(&groups[0])), 0)
	runtime.KeepAlive(groups)
	if errno == 0 {
		_, _, errno = unix.RawSyscall(unix.SYS_SETRESGID, uintptr(u.GID), uintptr(u.GID), uintptr(u.GID))
	}
	if errno == 0 {
		_, _, errno = unix.RawSyscall(unix.SYS_SETRESUID, uintptr(u.UID), uintptr(u.UID), uintptr(u.UID))
	}
	if errno != 0 {
		return errno
	}
	return nil
}
