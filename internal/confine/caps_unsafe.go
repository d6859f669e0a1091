package confine

import (
	"errors"
	"runtime"
	"syscall"
	"unsafe"

	"golang.org/x/sys/unix"
)

// capsetAll sets effective and permitted capabilities of every thread to want, and the inheritable ones to none.
//
// SAFETY: the two structures have the kernel's layout, are only read by it, and are kept alive over the call.
func capsetAll(want uint64) error {
	hdr := &unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}
	low, high := uint32(want), uint32(want>>32)
	data := &[2]unix.CapUserData{{Effective: low, Permitted: low}, {Effective: high, Permitted: high}}
	_, _, errno := syscall.AllThreadsSyscall(unix.SYS_CAPSET, uintptr(unsafe.Pointer(hdr)), uintptr(unsafe.Pointer(data)), 0)
	runtime.KeepAlive(hdr)
	runtime.KeepAlive(data)
	switch errno {
	case 0:
		return nil
	case syscall.ENOTSUP:
		return errors.New("this program must be built with CGO_ENABLED=0")
	}
	return errno
}
