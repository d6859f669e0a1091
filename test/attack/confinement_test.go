//go:build root

package attack

import (
	"fmt"
	"os"
	"os/exec"
	"runtime"
	"slices"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"
)

func init() {
	if os.Getenv(probeEnv) == "confinement" {
		runtime.LockOSThread() // some of what is asked for belongs to the first thread
	}
}

// confinement is everything by which the kernel confines the calling process, as the process itself sees it: one entry for
// each attribute and one for each system call.
func confinement() map[string]string {
	found := map[string]string{}
	read := func(key, path string) string {
		data, err := os.ReadFile(path)
		if err != nil {
			found[key] = err.Error()
			return ""
		}
		found[key] = strings.TrimSpace(string(data))
		return string(data)
	}
	for line := range strings.Lines(read("status", "/proc/self/status")) {
		key, value, _ := strings.Cut(strings.TrimRight(line, "\n"), ":")
		if slices.Contains([]string{
			"Umask", "Uid", "Gid", "Groups", "CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb", "NoNewPrivs", "Seccomp", "Seccomp_filters", "SigBlk", "SigIgn",
			"TracerPid", "CoreDumping", "THP_enabled", "Speculation_Store_Bypass", "SpeculationIndirectBranch", "Cpus_allowed", "Mems_allowed",
		}, key) {
			found[key] = strings.Join(strings.Fields(value), " ")
		}
	}
	delete(found, "status")
	for _, name := range []string{"cgroup", "ipc", "mnt", "net", "pid", "pid_for_children", "time", "time_for_children", "user", "uts"} {
		link, err := os.Readlink("/proc/self/ns/" + name)
		found["namespace "+name] = fmt.Sprint(link, err)
	}
	for _, name := range []string{"mountinfo", "cgroup", "uid_map", "gid_map", "setgroups", "oom_score_adj", "loginuid", "sessionid", "attr/current", "coredump_filter", "timerslack_ns", "personality"} {
		read(name, "/proc/self/"+name)
	}
	// By another program: the Go runtime raises its own soft limit of open files, and gives it back to its children.
	limits, err := exec.Command("/bin/cat", "/proc/self/limits").CombinedOutput()
	found["limits"] = fmt.Sprint(string(limits), err)
	for name, option := range map[string]int{"dumpable": unix.PR_GET_DUMPABLE, "keepcaps": unix.PR_GET_KEEPCAPS, "securebits": unix.PR_GET_SECUREBITS, "mdwe": unix.PR_GET_MDWE} {
		r, err := unix.PrctlRetInt(option, 0, 0, 0, 0)
		found[name] = fmt.Sprint(r, err)
	}
	for name, nr := range map[string]uintptr{"scheduler": unix.SYS_SCHED_GETSCHEDULER, "nice": unix.SYS_GETPRIORITY} {
		r, _, errno := unix.RawSyscall(nr, 0, 0, 0)
		found[name] = fmt.Sprint(r, errno)
	}
	r, _, errno := unix.RawSyscall(unix.SYS_IOPRIO_GET, 1, 0, 0)
	found["ioprio"] = fmt.Sprint(r, errno)
	for _, path := range []string{"/", "."} {
		var st unix.Stat_t
		err := unix.Stat(path, &st)
		found["folder "+path] = fmt.Sprint(st.Dev, st.Ino, err)
	}
	// Descriptors: a stream that is a file must be one of this mount namespace.
	for fd, link := range descriptors() {
		found["descriptor "+fd] = link
	}
	for fd := range 3 {
		info, err := os.ReadFile(fmt.Sprintf("/proc/self/fdinfo/%d", fd))
		if err != nil {
			found[fmt.Sprint("stream ", fd)] = err.Error()
			continue
		}
		link, err := os.Readlink(fmt.Sprintf("/proc/self/fd/%d", fd))
		if !strings.HasPrefix(link, "/") {
			link, _, _ = strings.Cut(link, ":")
		}
		of := "no mount of its own"
		for line := range strings.Lines(string(info)) {
			if id, ok := strings.CutPrefix(line, "mnt_id:"); ok && strings.Contains("\n"+found["mountinfo"], "\n"+strings.TrimSpace(id)+" ") {
				of = "a mount of its own"
			}
		}
		found[fmt.Sprint("stream ", fd)] = fmt.Sprint(link, " on ", of, err)
	}
	stat, err := os.ReadFile("/proc/self/stat")
	if err != nil {
		panic(err)
	}
	f := strings.Fields(string(stat[strings.LastIndexByte(string(stat), ')')+1:]))
	self := fmt.Sprint(os.Getpid())
	found["parent"], found["leads group and session"], found["has terminal"] = f[1], fmt.Sprint(f[2] == self, f[3] == self), fmt.Sprint(f[4] != "0")
	sweep(func(name string, errno syscall.Errno) {
		found["call "+name] = "reaches the kernel"
		switch errno {
		case unix.EPERM, unix.ENOSYS, unix.EACCES, unix.EAFNOSUPPORT:
			found["call "+name] = unix.ErrnoName(errno)
		}
	})
	return found
}

// sweep makes every system call that the architecture has a number for, each with arguments that the kernel itself
// refuses or that do no harm, and again with each value of an argument at which filters look.
func sweep(tell func(name string, errno syscall.Errno)) {
	const all = ^uintptr(0)
	call := func(nr uintptr, args ...uintptr) (uintptr, syscall.Errno) {
		a := append(args, 0, 0, 0, 0, 0, 0)
		r, _, errno := unix.RawSyscall6(nr, a[0], a[1], a[2], a[3], a[4], a[5])
		return r, errno
	}
	for nr := range uintptr(548) {
		switch nr {
		case unix.SYS_RT_SIGRETURN, unix.SYS_PAUSE, unix.SYS_FORK, unix.SYS_VFORK, unix.SYS_EXIT, unix.SYS_EXIT_GROUP:
			continue // take no argument that would be refused
		case unix.SYS_SYNC, unix.SYS_MSGGET:
			continue // have an effect on others
		case 335, 336:
			continue // uretprobe and uprobe: a signal, unless called by the kernel's own trampoline
		}
		r, errno := call(nr, all, all, all, all, all, all)
		switch nr {
		case unix.SYS_UMASK:
			unix.Umask(int(r))
		case unix.SYS_ALARM:
			call(nr)
		case unix.SYS_EVENTFD, unix.SYS_INOTIFY_INIT:
			if errno == 0 {
				unix.Close(int(r))
			}
		}
		tell(fmt.Sprint(nr), errno)
	}
	for family := range uintptr(48) {
		_, errno := call(unix.SYS_SOCKET, family, 15) // 15 is no type of socket
		tell(fmt.Sprint("socket of family ", family), errno)
		_, errno = call(unix.SYS_SOCKETPAIR, family, 15)
		tell(fmt.Sprint("socketpair of family ", family), errno)
	}
	for bit := range 32 {
		flag := uintptr(1) << bit
		if flag != unix.CLONE_VM && flag != unix.CLONE_SIGHAND && flag != unix.CLONE_THREAD {
			_, errno := call(unix.SYS_CLONE, flag|unix.CLONE_SIGHAND) // not without CLONE_VM
			tell(fmt.Sprintf("clone with %#x", flag), errno)
		}
		_, errno := call(unix.SYS_UNSHARE, flag|1<<31) // an unknown flag
		tell(fmt.Sprintf("unshare with %#x", flag), errno)
		_, errno = call(unix.SYS_SETNS, all, flag)
		tell(fmt.Sprintf("setns with %#x", flag), errno)
		_, errno = call(unix.SYS_PERSONALITY, flag)
		tell(fmt.Sprintf("personality %#x", flag), errno)
		call(unix.SYS_PERSONALITY, 0)
	}
}
