package confine

import "golang.org/x/sys/unix"

// Calls is a part of an allow-list: system calls with one reason.
type Calls struct {
	Why   string
	Names []string
	If    []Cond // when set, allowed only if all hold
}

// Cond is a condition on one argument: equal to Value or, with Bits, having all bits of Value set.
type Cond struct {
	Arg   uint32
	Value uint64
	Bits  bool
}

// runtimeCalls is what the Go runtime needs (1.26); every process has it.
func runtimeCalls() []Calls {
	return []Calls{
		{Why: "memory", Names: []string{"brk", "madvise", "mincore", "mmap", "mprotect", "munmap"}},
		{Why: "signals", Names: []string{"rt_sigaction", "rt_sigprocmask", "rt_sigreturn", "sigaltstack"}},
		{Why: "preemption and system calls on all threads signal own threads", Names: []string{"tgkill"}, If: []Cond{{Arg: 0, Value: self()}}},
		{Why: "scheduling", Names: []string{"futex", "gettid", "getpid", "nanosleep", "restart_syscall", "sched_getaffinity", "sched_yield"}},
		{Why: "threads, not processes", Names: []string{"clone"}, If: []Cond{{Arg: 0, Value: unix.CLONE_THREAD | unix.CLONE_VM, Bits: true}}},
		{Why: "start of a thread on some C libraries' kernels", Names: []string{"set_robust_list", "rseq"}},
		{Why: "own identity; a refused getuid would read as an id", Names: []string{"getuid", "geteuid", "getgid", "getegid", "getppid"}},
		{Why: "end", Names: []string{"exit", "exit_group"}},
		{Why: "time", Names: []string{"clock_gettime", "clock_nanosleep", "gettimeofday"}},
		{Why: "names of memory areas", Names: []string{"prctl"}, If: []Cond{{Arg: 0, Value: unix.PR_SET_VMA}}},
		{Why: "read back the filter", Names: []string{"prctl"}, If: []Cond{{Arg: 0, Value: unix.PR_GET_SECCOMP}}},
		{Why: "poller", Names: []string{"epoll_create1", "epoll_ctl", "epoll_pwait", "epoll_wait", "eventfd2", "pipe2", "fcntl"}},
		{Why: "descriptors that are open; pread64 is the runtime's own look at its CPU limit", Names: []string{"read", "write", "close", "pread64"}},
		{Why: "random numbers", Names: []string{"getrandom"}},
	}
}

// UnixServer is what package peer and seqpacket need on sockets that were handed over.
var UnixServer = []Calls{
	{Why: "accept and talk to peers", Names: []string{"accept4", "recvmsg", "sendmsg", "shutdown", "getsockopt", "getsockname", "getpeername"}},
}

// UnixClient is what connecting to another process's Unix socket needs besides UnixServer.
var UnixClient = []Calls{
	{Why: "Unix sockets", Names: []string{"socket", "socketpair"}, If: []Cond{{Arg: 0, Value: unix.AF_UNIX}}},
	{Why: "connect to a path", Names: []string{"connect", "bind", "setsockopt"}},
}

// Internet is what TCP and UDP sockets need besides UnixServer and UnixClient (servers with a network front).
var Internet = []Calls{
	{Why: "IPv4 sockets", Names: []string{"socket"}, If: []Cond{{Arg: 0, Value: unix.AF_INET}}},
	{Why: "IPv6 sockets", Names: []string{"socket"}, If: []Cond{{Arg: 0, Value: unix.AF_INET6}}},
	{Why: "listen and datagrams", Names: []string{"listen", "recvfrom", "sendto", "sendmmsg", "recvmmsg"}},
}

// Netlink is what rtnetlink and nf_tables need besides UnixServer.
var Netlink = []Calls{
	{Why: "netlink sockets", Names: []string{"socket"}, If: []Cond{{Arg: 0, Value: unix.AF_NETLINK}}},
	{Why: "netlink messages", Names: []string{"bind", "connect", "setsockopt", "sendto", "recvfrom"}},
}

// Streams is what package net uses to copy between connections.
var Streams = []Calls{
	{Why: "copying", Names: []string{"readv", "writev", "sendfile", "splice", "copy_file_range"}},
}

// ReadFiles is what opening and reading files needs; Landlock says which.
var ReadFiles = []Calls{
	{Why: "open and read", Names: []string{"openat", "openat2", "fstat", "newfstatat", "statx", "statfs", "fstatfs", "lseek", "getdents64", "readlinkat", "faccessat", "faccessat2", "fadvise64"}},
}

// WriteFiles is what making, replacing and removing files needs besides ReadFiles; Landlock says which.
var WriteFiles = []Calls{
	{Why: "durable files", Names: []string{"pwrite64", "fsync", "fdatasync", "ftruncate", "fchmod", "fchmodat", "mkdirat", "unlinkat", "renameat", "renameat2", "flock"}},
}

// Pidfds is what holding a process by descriptor needs.
var Pidfds = []Calls{
	{Why: "hold and watch a process", Names: []string{"pidfd_open", "pidfd_send_signal", "poll", "ppoll"}},
}

// Namespaces is how package userns asks about descriptors of namespaces.
var Namespaces = []Calls{
	{Why: "what was received", Names: []string{"fstat", "newfstatat", "fstatfs"}},
	{Why: "NS_GET_USERNS", Names: []string{"ioctl"}, If: []Cond{{Arg: 1, Value: 0xb701}}},
	{Why: "NS_GET_PARENT", Names: []string{"ioctl"}, If: []Cond{{Arg: 1, Value: 0xb702}}},
	{Why: "NS_GET_NSTYPE", Names: []string{"ioctl"}, If: []Cond{{Arg: 1, Value: 0xb703}}},
}

// Child is what package userns needs for its short-lived child besides clone, whose flags the process names.
var Child = []Calls{
	{Why: "wait for and end the child", Names: []string{"ppoll", "wait4", "kill"}},
	{Why: "the child dies with its parent", Names: []string{"prctl"}, If: []Cond{{Arg: 0, Value: unix.PR_SET_PDEATHSIG}}},
	{Why: "the child's own /proc files", Names: []string{"prctl"}, If: []Cond{{Arg: 0, Value: unix.PR_SET_DUMPABLE}}},
	{Why: "the child keeps nothing", Names: []string{"close_range"}},
}

// Join puts lists together.
func Join(lists ...[]Calls) []Calls {
	var out []Calls
	for _, l := range lists {
		out = append(out, l...)
	}
	return out
}
