package identity

import (
	"errors"
	"unsafe"

	"golang.org/x/sys/unix"
)

// maxGroups is the kernel's limit (NGROUPS_MAX).
const maxGroups = 65536

// getsockoptUint32s reads a socket option that is an array of numbers.
func getsockoptUint32s(fd, level, opt int) ([]uint32, error) {
	n := uint32(64)
	for {
		buf := make([]uint32, n)
		size := n * 4
		// SAFETY: buf holds size bytes, and the kernel writes at most size bytes and then the length into size.
		_, _, errno := unix.Syscall6(unix.SYS_GETSOCKOPT, uintptr(fd), uintptr(level), uintptr(opt),
			uintptr(unsafe.Pointer(&buf[0])), uintptr(unsafe.Pointer(&size)), 0)
		switch {
		case errno == 0 && size%4 == 0:
			return buf[:size/4], nil
		case errors.Is(errno, unix.ERANGE) && n < maxGroups:
			n = maxGroups
		case errno == 0:
			return nil, unix.EPROTO
		default:
			return nil, errno
		}
	}
}
