package unpack

import (
	"fmt"

	"golang.org/x/sys/unix"

	"stockade/internal/confine"
)

// kept are the capabilities, all of them valid in S only, that writing a layer needs.
var kept = []uint{
	unix.CAP_CHOWN,        // owners of files
	unix.CAP_DAC_OVERRIDE, // folders whose owner may not write them
	unix.CAP_FOWNER,       // modes and times of files that have got another owner
	unix.CAP_FSETID,       // set-id bits of such files
	unix.CAP_MKNOD,        // whiteouts: the only device nodes that a user namespace may make
	unix.CAP_SETFCAP,      // security.capability
}

// allowed are the system calls of the Go runtime and of the applier; every other one answers EPERM.
var allowed = []string{
	// runtime
	"read", "write", "close", "mmap", "munmap", "mprotect", "madvise", "brk", "rt_sigaction", "rt_sigprocmask",
	"rt_sigreturn", "sigaltstack", "futex", "clone", "clone3", "set_robust_list", "rseq", "sched_yield",
	"sched_getaffinity", "nanosleep", "clock_nanosleep", "clock_gettime", "gettid", "getpid", "tgkill",
	"epoll_create1", "epoll_ctl", "epoll_pwait", "eventfd2", "pipe2", "exit", "exit_group", "timer_create",
	"timer_settime", "timer_delete", "setitimer", "getrandom", "restart_syscall", "fcntl",
	// applier
	"openat2", "openat", "newfstatat", "fstat", "getdents64", "lseek", "mkdirat", "mknodat", "symlinkat", "linkat",
	"unlinkat", "fchown", "fchownat", "fchmod", "fchmodat", "utimensat", "fsetxattr", "umask", "syncfs",
}

// enter gives up, in all threads, what writing the layer does not need. It comes before the first byte is parsed.
// Changing all threads works in a program without cgo only; with it, this is an error and nothing is unpacked.
func enter(l Limits) error {
	unix.Umask(0)
	if err := unix.Fchdir(rootFD); err != nil {
		return fmt.Errorf("enter folder: %w", err)
	}
	if err := unix.Chroot("."); err != nil {
		return fmt.Errorf("change root: %w", err)
	}
	for _, r := range []struct {
		what  int
		limit uint64
	}{
		{unix.RLIMIT_CPU, l.CPU}, {unix.RLIMIT_FSIZE, uint64(l.Bytes)}, {unix.RLIMIT_NOFILE, maxDepth + 32}, {unix.RLIMIT_CORE, 0},
	} {
		var now unix.Rlimit
		if err := unix.Getrlimit(r.what, &now); err != nil {
			return err
		}
		r.limit = min(r.limit, now.Max)
		if err := unix.Setrlimit(r.what, &unix.Rlimit{Cur: r.limit, Max: r.limit}); err != nil {
			return fmt.Errorf("limit %d: %w", r.what, err)
		}
	}
	return confine.Worker(kept, allowed)
}
