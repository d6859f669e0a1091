package child

import (
	"fmt"

	"golang.org/x/sys/unix"

	"stockade/internal/confine"
)

// kept are the capabilities, all of them valid in the child's own user namespace only, that reading and writing all of
// a container's files needs.
var kept = []uint{
	unix.CAP_CHOWN,        // owners of files
	unix.CAP_DAC_OVERRIDE, // files whose owner may not read or write them
	unix.CAP_FOWNER,       // modes and times of files that have another owner
	unix.CAP_FSETID,       // set-id bits of such files
	unix.CAP_SETFCAP,      // security.capability
}

// allowed are the system calls of the Go runtime and of reading and writing files; every other one answers EPERM.
var allowed = []string{
	// runtime
	"read", "write", "close", "mmap", "munmap", "mprotect", "madvise", "brk", "rt_sigaction", "rt_sigprocmask",
	"rt_sigreturn", "sigaltstack", "futex", "clone", "clone3", "set_robust_list", "rseq", "sched_yield",
	"sched_getaffinity", "nanosleep", "clock_nanosleep", "clock_gettime", "gettid", "getpid", "tgkill",
	"epoll_create1", "epoll_ctl", "epoll_pwait", "eventfd2", "pipe2", "exit", "exit_group", "timer_create",
	"timer_settime", "timer_delete", "setitimer", "getrandom", "restart_syscall", "fcntl",
	// reading
	"openat", "openat2", "fstat", "newfstatat", "statx", "fstatfs", "getdents64", "lseek", "readlinkat", "flistxattr",
	"fgetxattr", "getcwd", "dup", "dup3",
	// writing
	"mkdirat", "mknodat", "symlinkat", "linkat", "unlinkat", "renameat", "renameat2", "fchown", "fchownat",
	"fchmod", "fchmodat", "fchmodat2", "utimensat", "lsetxattr", "fsetxattr", "ftruncate", "copy_file_range", "splice", "sendfile",
}

// enter makes the folder at rootFD the root and gives up, in all threads, what is not needed.
//
// SECURITY(T-401): it comes before anything of the container is looked at. Of the descriptors only the standard ones and
// those of lower folders stay, and lower folders are never left (see lowers.find).
func enter() error {
	unix.Umask(0)
	if err := unix.Fchdir(rootFD); err != nil {
		return fmt.Errorf("enter folder: %w", err)
	}
	if err := unix.Chroot("."); err != nil {
		return fmt.Errorf("change root: %w", err)
	}
	if err := unix.Chdir("/"); err != nil {
		return fmt.Errorf("change folder: %w", err)
	}
	if err := unix.Close(rootFD); err != nil {
		return err
	}
	if err := unix.Setrlimit(unix.RLIMIT_CORE, &unix.Rlimit{}); err != nil {
		return fmt.Errorf("limit core: %w", err)
	}
	return confine.Worker(kept, allowed)
}
