package monitor

import (
	"syscall"
	"unsafe"

	"golang.org/x/sys/unix"
)

// sigaction is the kernel's struct of rt_sigaction(2) on 64-bit architectures, as far as it is looked at.
type sigaction struct {
	handler  uintptr
	flags    uint64
	restorer uintptr
	mask     uint64
}

const sigIgn = 1

// defaultSignals gives every ignored signal its default action again: an ignored one stays so over exec, and a process
// in the container would have it from whoever started the server. The Go runtime does not touch some of them (32 to 34).
//
// SAFETY: called by the stub right before it executes another program, which resets all handlers anyway; the pointers
// are to locals and live until the call returns.
func defaultSignals() {
	for n := uintptr(1); n <= 64; n++ {
		if n == uintptr(unix.SIGKILL) || n == uintptr(unix.SIGSTOP) {
			continue
		}
		var act sigaction
		_, _, errno := syscall.RawSyscall6(syscall.SYS_RT_SIGACTION, n, 0, uintptr(unsafe.Pointer(&act)), 8, 0, 0)
		if errno == 0 && act.handler == sigIgn {
			act = sigaction{}
			_, _, _ = syscall.RawSyscall6(syscall.SYS_RT_SIGACTION, n, uintptr(unsafe.Pointer(&act)), 0, 8, 0, 0)
		}
	}
}
