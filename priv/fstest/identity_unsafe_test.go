//go:build root

package fstest

import (
	"fmt"
	"unsafe"

	"golang.org/x/sys/unix"
)

// setIdentity changes the calling thread alone, which must end afterwards.
func setIdentity(uid uint32, groups []uint32) {
	var p unsafe.Pointer
	if len(groups) > 0 {
		p = unsafe.Pointer(&groups[0])
	}
	// SAFETY: the kernel reads len(groups) numbers at p.
	_, _, e1 := unix.RawSyscall(unix.SYS_SETGROUPS, uintptr(len(groups)), uintptr(p), 0)
	_, _, e2 := unix.RawSyscall(unix.SYS_SETRESGID, uintptr(uid), uintptr(uid), uintptr(uid))
	_, _, e3 := unix.RawSyscall(unix.SYS_SETRESUID, uintptr(uid), uintptr(uid), uintptr(uid))
	if e1|e2|e3 != 0 {
		panic(fmt.Sprintf("set identity: %v %v %v", e1, e2, e3))
	}
}
