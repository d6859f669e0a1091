package supervisor

import (
	"runtime"
	"unsafe"

	"golang.org/x/sys/unix"
)

// setCaps makes the set both permitted and effective, and nothing inheritable.
func setCaps(caps []uintptr, on threads) error {
	hdr := &unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}
	data := &[2]unix.CapUserData{}
	for _, c := range caps {
		data[c/32].Permitted |= 1 << (c % 32)
		data[c/32].Effective |= 1 << (c % 32)
	}
	// SAFETY: both live past the call; pid 0 means the calling thread, on each thread.
	err := on(unix.SYS_CAPSET, uintptr(unsafe.Pointer(hdr)), uintptr(unsafe.Pointer(data)), 0)
	runtime.KeepAlive(hdr)
	runtime.KeepAlive(data)
	return err
}
