package grantd

import (
	"errors"
	"unsafe"

	"golang.org/x/sys/unix"
)

// peerGroups reads the supplementary groups of a connection's peer (SO_PEERGROUPS, Linux 4.13).
func peerGroups(fd int) ([]uint32, error) {
	n := uint32(64)
	for {
		buf := make([]uint32, n)
		size := n * 4
		// SAFETY: buf holds size bytes; the kernel writes at most that and the length into size.
		_, _, errno := unix.Syscall6(unix.SYS_GETSOCKOPT, uintptr(fd), unix.SOL_SOCKET, unix.SO_PEERGROUPS,
			uintptr(unsafe.Pointer(&buf[0])), uintptr(unsafe.Pointer(&size)), 0)
		switch {
		case errno == 0:
			return buf[:size/4], nil
		case errors.Is(errno, unix.ERANGE) && n < 65536: // NGROUPS_MAX
			n = 65536
		default:
			return nil, errno
		}
	}
}

// setThreadGroups sets the calling thread's supplementary groups; syscall.Setgroups would change every thread.
func setThreadGroups(groups []uint32) error {
	var p unsafe.Pointer
	if len(groups) > 0 {
		p = unsafe.Pointer(&groups[0])
	}
	// SAFETY: the kernel reads len(groups) numbers at p.
	if _, _, errno := unix.RawSyscall(unix.SYS_SETGROUPS, uintptr(len(groups)), uintptr(p), 0); errno != 0 {
		return errno
	}
	return nil
}

// dropThreadCaps empties the calling thread's capability sets.
func dropThreadCaps() error {
	hdr := unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}
	var data [2]unix.CapUserData // version 3 has two
	return unix.Capset(&hdr, &data[0])
}
