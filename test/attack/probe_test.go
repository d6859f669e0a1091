//go:build root

package attack

import (
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"
)

// probe looks at the process's own surroundings, inside a container or, as the control, outside of one.
func probe(what string, args []string) {
	var answer any
	switch what {
	case "fds":
		answer = descriptors()
	case "syscalls":
		answer = syscalls()
	case "confinement":
		answer = confinement()
	case "overwrite":
		answer = overwrite(args[0], args[1:]...)
	case "trace":
		answer = trace(args[0])
	case "swap":
		swap(args)
	case "dial":
		conn, err := net.Dial("unix", args[0])
		if err == nil {
			conn.Close()
			answer = "connected"
		} else {
			answer = err.Error()
		}
	default:
		fmt.Fprintln(os.Stderr, "no probe", what)
		os.Exit(2)
	}
	data, err := json.Marshal(answer)
	if err != nil {
		panic(err)
	}
	if what != "confinement" || len(args) == 0 || args[0] == "stay" {
		fmt.Println(string(data))
	} else if err := errors.Join(os.WriteFile(args[0]+".new", data, 0o644), os.Rename(args[0]+".new", args[0])); err != nil {
		panic(err)
	}
	for slices.Contains(args, "stay") {
		_ = unix.Pause()
	}
}

// trace tries to trace, read and look for a process.
func trace(text string) map[string]string {
	runtime.LockOSThread()
	pid, err := strconv.Atoi(text)
	if err != nil {
		panic(err)
	}
	say := func(err error) string {
		if err != nil {
			return err.Error()
		}
		return "ok"
	}
	found := map[string]string{"signal": say(unix.Kill(pid, 0))}
	err = unix.PtraceSeize(pid)
	found["attach"] = say(err) // the end of this process lets it go
	buf := make([]byte, 1)
	_, err = unix.ProcessVMReadv(pid, []unix.Iovec{{Base: &buf[0], Len: 1}}, []unix.RemoteIovec{{Base: stack(text), Len: 1}}, 0)
	found["read"] = say(err)
	return found
}

// stack is where a process's stack is, 1 if that cannot be seen.
func stack(pid string) uintptr {
	maps, err := os.ReadFile("/proc/" + pid + "/maps")
	if err != nil {
		return 1
	}
	for line := range strings.Lines(string(maps)) {
		if strings.HasSuffix(line, "[stack]\n") {
			_, rest, _ := strings.Cut(line, "-")
			end, _, _ := strings.Cut(rest, " ")
			n, err := strconv.ParseUint(end, 16, 64)
			if err != nil {
				panic(err)
			}
			return uintptr(n - 8)
		}
	}
	return 1
}

// descriptors lists the open files above the standard ones that this program did not open itself.
func descriptors() map[string]string {
	found := map[string]string{}
	var st unix.Stat_t
	for fd := 3; fd < 1024; fd++ {
		if unix.Fstat(fd, &st) != nil {
			continue
		}
		link, err := os.Readlink(filepath.Join("/proc/self/fd", fmt.Sprint(fd)))
		if err != nil {
			link = err.Error()
		}
		if link != "anon_inode:[eventpoll]" && link != "anon_inode:[eventfd]" { // the Go runtime's own
			found[fmt.Sprint(fd)] = link
		}
	}
	return found
}

// syscalls makes calls that reach far into the kernel, with arguments that the kernel itself would refuse in its own
// way or carry out without harm, and tells each error by number.
func syscalls() map[string]int {
	runtime.LockOSThread()
	found := map[string]int{}
	try := func(name string, nr uintptr, args ...uintptr) {
		a := append(args, 0, 0, 0, 0, 0, 0)
		r, _, errno := unix.Syscall6(nr, a[0], a[1], a[2], a[3], a[4], a[5])
		if errno == 0 && (nr == unix.SYS_USERFAULTFD || nr == unix.SYS_SOCKET) {
			unix.Close(int(r))
		}
		found[name] = int(errno)
	}
	const sessionKeyring = ^uintptr(2) // KEY_SPEC_SESSION_KEYRING, -3
	try("keyctl", unix.SYS_KEYCTL, 0, sessionKeyring, 0)
	try("add_key", unix.SYS_ADD_KEY)
	try("request_key", unix.SYS_REQUEST_KEY)
	try("bpf", unix.SYS_BPF)
	try("io_uring_setup", unix.SYS_IO_URING_SETUP, 4)
	try("io_uring_enter", unix.SYS_IO_URING_ENTER, ^uintptr(0))
	try("userfaultfd", unix.SYS_USERFAULTFD, 1) // UFFD_USER_MODE_ONLY
	try("perf_event_open", unix.SYS_PERF_EVENT_OPEN)
	try("fsopen", unix.SYS_FSOPEN)
	try("open_tree", unix.SYS_OPEN_TREE, ^uintptr(0))
	try("move_mount", unix.SYS_MOVE_MOUNT, ^uintptr(0))
	try("mount", unix.SYS_MOUNT)
	try("unshare user", unix.SYS_UNSHARE, syscall.CLONE_NEWUSER|0x80000000) // an unknown flag: the kernel refuses
	try("setns", unix.SYS_SETNS, ^uintptr(0), syscall.CLONE_NEWUSER)
	try("open_by_handle_at", unix.SYS_OPEN_BY_HANDLE_AT, ^uintptr(0))
	try("kexec_load", unix.SYS_KEXEC_LOAD, 0, 1<<20)
	try("init_module", unix.SYS_INIT_MODULE)
	try("syslog", unix.SYS_SYSLOG, 10)
	try("quotactl", unix.SYS_QUOTACTL, 1<<20)
	try("AF_ALG", unix.SYS_SOCKET, unix.AF_ALG, unix.SOCK_SEQPACKET)
	try("AF_VSOCK", unix.SYS_SOCKET, unix.AF_VSOCK, unix.SOCK_STREAM)
	try("getpid (control)", unix.SYS_GETPID)
	return found
}
