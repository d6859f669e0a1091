package join

import (
	"errors"
	"fmt"
	"runtime"
	"strings"
	"syscall"
	"unsafe"

	"golang.org/x/sys/unix"
)

// The child's descriptors. The streams become 0, 1 and 2, and the end of the status pipe 5, because the kernel gives the
// lowest free numbers.
const (
	ctlFD    = 3
	targetFD = 4
	statusFD = 5
	childFDs = 6
)

// namespaces are all that a container may have of its own.
const namespaces = unix.CLONE_NEWUSER | unix.CLONE_NEWNS | unix.CLONE_NEWPID | unix.CLONE_NEWNET | unix.CLONE_NEWIPC | unix.CLONE_NEWUTS | unix.CLONE_NEWCGROUP

// planSize is as much as the kernel takes for arguments and environment, and a filter. Pages not touched cost nothing.
const planSize = 4 << 20

const (
	maxPaths  = 256 // folders in PATH
	maxLimits = 16  // as many as there are
)

// plan begins the memory that parent and child share, for the child is made before it is known what it shall become. The
// rest of the memory is texts and arrays. It holds no Go pointers, and addresses in it are the same on both sides. The
// parent writes it before it sends the streams and reads the result after the end of the socket's stream; the child
// looks at it in between.
type plan struct {
	used uintptr // bytes taken from the beginning

	// Result.
	pid, step, errno uintptr
	helper           uintptr // pid of the process between the child and the one that was asked for
	tried            uintptr // 1 + index of the path looked at last

	// Order.
	argv, envp         uintptr // arrays of C strings, ended by 0
	cwd, keyring       uintptr // C strings
	score, scoreLen    uintptr // text for scoreFile, nothing if scoreLen is 0
	scoreFile          uintptr
	groups, ngroups    uintptr
	npaths, nlimits    uintptr
	filter             sockFprog
	filterFlags        uintptr
	uid, gid, umask    uintptr
	bounding, ambient  uintptr
	lastCap            uintptr
	tty, nnp, filtered bool
	bare               bool // execute paths[0] and nothing else

	paths     [maxPaths]uintptr // C strings: where to look for the program
	limits    [maxLimits]Limit
	capHeader unix.CapUserHeader
	capData   [2]unix.CapUserData

	// Room for the child's system calls.
	msg     msghdr
	iov     iovec
	control [32]byte
	buf     [4096]byte
	stat    unix.Stat_t
	action  sigaction
	mask    uint64
}

// The kernel's structures, without Go pointers: recvmsg(2), seccomp(2), rt_sigaction(2).
type (
	msghdr struct {
		name       uintptr
		namelen    uint32
		iov        uintptr
		iovlen     uintptr
		control    uintptr
		controllen uintptr
		flags      int32
	}
	iovec     struct{ base, len uintptr }
	sockFprog struct {
		len    uint16
		filter uintptr
	}
	sigaction struct{ handler, flags, restorer, mask uintptr }
)

// newPlan maps the shared memory.
//
// SAFETY: the mapping is page aligned, zero, larger than plan, and not Go memory: the collector neither moves nor frees it.
func newPlan() (*plan, error) {
	b, err := unix.Mmap(-1, 0, planSize, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED|unix.MAP_ANONYMOUS|unix.MAP_NORESERVE)
	if err != nil {
		return nil, fmt.Errorf("map memory: %w", err)
	}
	p := (*plan)(unsafe.Pointer(&b[0]))
	p.used = unsafe.Sizeof(*p)
	p.iov = iovec{address(&p.buf), 1}
	p.msg = msghdr{iov: address(&p.iov), iovlen: 1, control: address(&p.control)}
	return p, nil
}

func (p *plan) bytes() []byte { return unsafe.Slice((*byte)(unsafe.Pointer(p)), planSize) }

func (p *plan) free() {
	if p != nil {
		_ = unix.Munmap(p.bytes())
	}
}

func address[T any](v *T) uintptr { return uintptr(unsafe.Pointer(v)) }

var errTooLarge = fmt.Errorf("exec: arguments, environment, PATH or limits: %w", unix.E2BIG)

// alloc takes n zero bytes, aligned for any integer, and returns their address.
func (p *plan) alloc(n uintptr) ([]byte, uintptr, error) {
	at := (p.used + 7) &^ 7
	if n > planSize || at+n > planSize {
		return nil, 0, errTooLarge
	}
	p.used = at + n
	b := p.bytes()[at : at+n]
	clear(b) // of an order before
	return b, address(&b[:1][0]), nil
}

func (p *plan) text(s string) (uintptr, error) {
	if strings.ContainsRune(s, 0) {
		return 0, fmt.Errorf("zero byte in %q: %w", s, unix.EINVAL)
	}
	b, at, err := p.alloc(uintptr(len(s)) + 1)
	copy(b, s)
	return at, err
}

func (p *plan) texts(list []string) (uintptr, error) {
	b, at, err := p.alloc(uintptr(len(list)+1) * unsafe.Sizeof(at(0)))
	if err != nil {
		return 0, err
	}
	array := unsafe.Slice((*uintptr)(unsafe.Pointer(&b[0])), len(list)+1)
	for i, s := range list {
		if array[i], err = p.text(s); err != nil {
			return 0, err
		}
	}
	return at, nil
}

// array copies a slice of plain integers or structures of them.
func array[T any](p *plan, list []T) (uintptr, error) {
	var t T
	b, at, err := p.alloc(uintptr(len(list))*unsafe.Sizeof(t) + 1)
	if err != nil {
		return 0, err
	}
	if len(list) > 0 {
		copy(unsafe.Slice((*T)(unsafe.Pointer(&b[0])), len(list)), list)
	}
	return at, nil
}

type at = uintptr

// prefer is what the child does before it waits.
func (p *plan) prefer(score string) error {
	var err1, err2 error
	p.score, err1 = p.text(score)
	p.scoreFile, err2 = p.text("/proc/self/oom_score_adj")
	p.scoreLen = uintptr(len(score))
	return errors.Join(err1, err2)
}

// reset forgets the order before.
func (p *plan) reset() {
	p.used = unsafe.Sizeof(*p)
	p.pid, p.step, p.errno, p.helper, p.tried = 0, 0, 0, 0, 0
}

// write is the order.
func (p *plan) write(o Process) error {
	last, err := lastCap()
	if err != nil {
		return err
	}
	p.reset()
	var errs [7]error
	p.argv, errs[0] = p.texts(o.Args)
	p.envp, errs[1] = p.texts(o.Env)
	p.cwd, errs[3] = p.text(o.Cwd)
	p.keyring, errs[4] = p.text(o.Keyring)
	p.groups, errs[5] = array(p, o.Groups)
	p.filter.filter, errs[6] = array(p, o.Filter)
	if err := errors.Join(errs[:]...); err != nil {
		return err
	}
	paths := candidates(o)
	if len(paths) > maxPaths || len(o.Limits) > maxLimits {
		return errTooLarge
	}
	for i, path := range paths {
		if p.paths[i], err = p.text(path); err != nil {
			return err
		}
	}
	p.npaths = uintptr(len(paths))
	p.ngroups, p.nlimits = uintptr(len(o.Groups)), uintptr(copy(p.limits[:], o.Limits))
	p.filter.len, p.filtered, p.filterFlags = uint16(len(o.Filter)), len(o.Filter) > 0, uintptr(o.FilterFlags)
	p.uid, p.gid, p.umask = uintptr(o.UID), uintptr(o.GID), uintptr(o.Umask)
	p.bounding, p.ambient, p.lastCap = uintptr(o.Bounding), uintptr(o.Ambient), uintptr(last)
	p.tty, p.nnp = o.TTY, o.NoNewPrivs
	p.capHeader.Version = unix.LINUX_CAPABILITY_VERSION_3
	for i := range p.capData {
		p.capData[i] = unix.CapUserData{Effective: uint32(o.Effective >> (32 * i)), Permitted: uint32(o.Permitted >> (32 * i)), Inheritable: uint32(o.Inheritable >> (32 * i))}
	}
	return nil
}

// writeExec is the order to execute a program.
func (p *plan) writeExec(argv, env []string) error {
	p.reset()
	var errs [3]error
	p.argv, errs[0] = p.texts(argv)
	p.envp, errs[1] = p.texts(env)
	p.paths[0], errs[2] = p.text(argv[0])
	p.bare = true
	return errors.Join(errs[:]...)
}

// execResult is what became of that order.
func (p *plan) execResult(path string) error {
	if p.step != 0 {
		return failure(int(p.step), syscall.Errno(p.errno), Process{Args: []string{path}}, []string{path})
	}
	return nil
}

// fork makes the child. Signals stay blocked in it until it executes a program: no handler of this process may run there.
func fork(p *plan, ctl, target int) (int, error) {
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	syscall.ForkLock.Lock()
	defer syscall.ForkLock.Unlock()
	all, old := ^uint64(0), uint64(0)
	_, _, _ = syscall.RawSyscall6(unix.SYS_RT_SIGPROCMASK, unix.SIG_SETMASK, address(&all), address(&old), 8, 0, 0)
	pid, errno := child(p, uintptr(ctl), uintptr(target))
	_, _, _ = syscall.RawSyscall6(unix.SYS_RT_SIGPROCMASK, unix.SIG_SETMASK, address(&old), 0, 8, 0, 0)
	if errno != 0 {
		return 0, errno
	}
	return int(pid), nil
}

// child clones the process; in the clone it never returns.
//
// SAFETY: clone without CLONE_VM gives the child its own copy of the address space with this one thread in it. It makes
// raw system calls only, from this one function: no allocation, no growing stack, no scheduler, no signal handler. All
// memory that it writes is the plan, which is no Go memory, and its stack.
//
// SECURITY(T-501): all descriptors of this process but two are closed before anything else is done, and the only one beside
// the streams when a path of the container is looked at is a pipe: no working folder, no program can be reached through it. The
// process is not traceable, and its memory belongs to the user namespace of this process, from before it enters the
// container until it executes a program of the container.
//
//go:norace
//go:nocheckptr
//go:noinline
func child(p *plan, ctl, target uintptr) (pid uintptr, errno syscall.Errno) {
	var fd, step, i, n, path uintptr
	pid, _, errno = syscall.RawSyscall6(syscall.SYS_CLONE, uintptr(unix.SIGCHLD), 0, 0, 0, 0, 0)
	if errno != 0 || pid != 0 {
		return pid, errno
	}
	if p.scoreLen > 0 {
		if fd, _, errno = syscall.RawSyscall6(unix.SYS_OPENAT, atFDCWD, p.scoreFile, unix.O_WRONLY, 0, 0, 0); errno == 0 {
			syscall.RawSyscall(unix.SYS_WRITE, fd, p.score, p.scoreLen)
		}
	}
	syscall.RawSyscall6(unix.SYS_PRCTL, unix.PR_SET_DUMPABLE, 0, 0, 0, 0, 0)
	syscall.RawSyscall(unix.SYS_DUP3, ctl, ctlFD, unix.O_CLOEXEC)
	syscall.RawSyscall(unix.SYS_DUP3, target, targetFD, unix.O_CLOEXEC)
	syscall.RawSyscall(unix.SYS_CLOSE_RANGE, 0, ctlFD-1, 0)
	syscall.RawSyscall(unix.SYS_CLOSE_RANGE, statusFD, uintptr(^uint32(0)), 0)

wait:
	// The end of the stream is the end of the parent, or of its interest.
	p.msg.controllen = unsafe.Sizeof(p.control)
	n, _, errno = syscall.RawSyscall(unix.SYS_RECVMSG, ctlFD, address(&p.msg), 0)
	if errno == unix.EINTR {
		goto wait
	}
	if errno != 0 || n != 1 {
		goto end
	}
	step = stepStreams
	if p.msg.controllen != unix.SizeofCmsghdr+4*4 {
		goto failed
	}
	syscall.RawSyscall(unix.SYS_FCNTL, statusFD, unix.F_SETFD, unix.FD_CLOEXEC)
	if p.bare {
		syscall.RawSyscall(unix.SYS_CLOSE, ctlFD, 0, 0)
		syscall.RawSyscall(unix.SYS_CLOSE, targetFD, 0, 0)
		path = p.paths[0]
		step = stepSession
		if _, _, errno = syscall.RawSyscall(unix.SYS_SETSID, 0, 0, 0); errno != 0 {
			goto failed
		}
		goto execute
	}
	// Another process joins, and this one waits for the next order: what it has that others lack is its control group.
	if pid, _, errno = syscall.RawSyscall6(syscall.SYS_CLONE, unix.CLONE_PARENT|uintptr(unix.SIGCHLD), 0, 0, 0, 0, 0); errno != 0 || pid != 0 {
		if errno != 0 {
			p.step, p.errno = stepProcess, uintptr(errno)
		}
		p.helper = pid
		syscall.RawSyscall(unix.SYS_CLOSE_RANGE, 0, ctlFD-1, 0)
		syscall.RawSyscall(unix.SYS_CLOSE, statusFD, 0, 0)
		goto wait
	}
	syscall.RawSyscall(unix.SYS_CLOSE, ctlFD, 0, 0)
	step = stepNamespaces
	if _, _, errno = syscall.RawSyscall(unix.SYS_SETNS, targetFD, namespaces, 0); errno != 0 {
		goto failed
	}
	syscall.RawSyscall(unix.SYS_CLOSE, targetFD, 0, 0)
	// A process is in a pid namespace from its birth only: one more, as a sibling so that the monitor is its parent.
	step = stepProcess
	if pid, _, errno = syscall.RawSyscall6(syscall.SYS_CLONE, unix.CLONE_PARENT|uintptr(unix.SIGCHLD), 0, 0, 0, 0, 0); errno != 0 {
		goto failed
	}
	if pid != 0 {
		p.pid = pid
		goto end
	}

	step = stepSession
	if _, _, errno = syscall.RawSyscall(unix.SYS_SETSID, 0, 0, 0); errno != 0 {
		goto failed
	}
	step = stepRoot
	if _, _, errno = syscall.RawSyscall(unix.SYS_SETRESGID, 0, 0, 0); errno != 0 {
		goto failed
	}
	if _, _, errno = syscall.RawSyscall(unix.SYS_SETRESUID, 0, 0, 0); errno != 0 {
		goto failed
	}
	syscall.RawSyscall6(unix.SYS_PRCTL, unix.PR_SET_DUMPABLE, 0, 0, 0, 0, 0) // new ids may have changed it
	step = stepKeyring
	if _, _, errno = syscall.RawSyscall(unix.SYS_KEYCTL, unix.KEYCTL_JOIN_SESSION_KEYRING, p.keyring, 0); errno != 0 && errno != unix.ENOSYS {
		goto failed
	}
	step = stepTerminal
	if p.tty {
		if _, _, errno = syscall.RawSyscall(unix.SYS_IOCTL, 0, unix.TIOCSCTTY, 0); errno != 0 {
			goto failed
		}
	}
	step = stepLimits
	for i = 0; i < p.nlimits; i++ {
		if _, _, errno = syscall.RawSyscall6(unix.SYS_PRLIMIT64, 0, uintptr(p.limits[i].Resource), address(&p.limits[i].Soft), 0, 0, 0); errno != 0 {
			goto failed
		}
	}
	syscall.RawSyscall(unix.SYS_UMASK, p.umask, 0, 0)
	step = stepNoNewPrivs
	if p.nnp {
		if _, _, errno = syscall.RawSyscall6(unix.SYS_PRCTL, unix.PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0, 0); errno != 0 {
			goto failed
		}
	}
	step = stepFilter
	if p.filtered && !p.nnp { // it takes the capability that is about to go
		if _, _, errno = syscall.RawSyscall(unix.SYS_SECCOMP, unix.SECCOMP_SET_MODE_FILTER, p.filterFlags, address(&p.filter)); errno != 0 {
			goto failed
		}
	}
	// The folder may be open to root only, or to the user only: a volume of theirs.
	step = stepCwd
	_, _, errno = syscall.RawSyscall(unix.SYS_CHDIR, p.cwd, 0, 0)
	if errno != 0 && errno != unix.EACCES && errno != unix.EPERM {
		goto failed
	}
	n = uintptr(errno)

	step = stepCapabilities
	for i = 0; i <= p.lastCap; i++ {
		if p.bounding&(1<<i) == 0 {
			if _, _, errno = syscall.RawSyscall6(unix.SYS_PRCTL, unix.PR_CAPBSET_DROP, i, 0, 0, 0, 0); errno != 0 {
				goto failed
			}
		}
	}
	if _, _, errno = syscall.RawSyscall6(unix.SYS_PRCTL, unix.PR_SET_KEEPCAPS, 1, 0, 0, 0, 0); errno != 0 {
		goto failed
	}
	step = stepGroups
	if _, _, errno = syscall.RawSyscall(unix.SYS_SETGROUPS, p.ngroups, p.groups, 0); errno != 0 {
		goto failed
	}
	step = stepGID
	if _, _, errno = syscall.RawSyscall(unix.SYS_SETRESGID, p.gid, p.gid, p.gid); errno != 0 {
		goto failed
	}
	step = stepUID
	if _, _, errno = syscall.RawSyscall(unix.SYS_SETRESUID, p.uid, p.uid, p.uid); errno != 0 {
		goto failed
	}
	syscall.RawSyscall6(unix.SYS_PRCTL, unix.PR_SET_DUMPABLE, 0, 0, 0, 0, 0)
	step = stepCwd
	if n != 0 {
		if _, _, errno = syscall.RawSyscall(unix.SYS_CHDIR, p.cwd, 0, 0); errno != 0 {
			goto failed
		}
	}
	// SECURITY(T-501): the kernel writes "(unreachable)" first for a folder outside of the root.
	step = stepCwdOutside
	if _, _, errno = syscall.RawSyscall(unix.SYS_GETCWD, address(&p.buf), unsafe.Sizeof(p.buf), 0); errno != 0 || p.buf[0] != '/' {
		goto failed
	}
	step = stepCapabilities
	if _, _, errno = syscall.RawSyscall6(unix.SYS_PRCTL, unix.PR_SET_KEEPCAPS, 0, 0, 0, 0, 0); errno != 0 {
		goto failed
	}
	if _, _, errno = syscall.RawSyscall(unix.SYS_CAPSET, address(&p.capHeader), address(&p.capData), 0); errno != 0 {
		goto failed
	}
	if _, _, errno = syscall.RawSyscall6(unix.SYS_PRCTL, unix.PR_CAP_AMBIENT, unix.PR_CAP_AMBIENT_CLEAR_ALL, 0, 0, 0, 0); errno != 0 {
		goto failed
	}
	for i = 0; i <= p.lastCap; i++ {
		if p.ambient&(1<<i) != 0 {
			if _, _, errno = syscall.RawSyscall6(unix.SYS_PRCTL, unix.PR_CAP_AMBIENT, unix.PR_CAP_AMBIENT_RAISE, i, 0, 0, 0); errno != 0 {
				goto failed
			}
		}
	}

	// The first path that is an executable file, as execvp(3) and a shell find it.
	step = stepNotFound
	errno = unix.ENOENT
	for i = 0; ; i++ {
		if i == p.npaths {
			goto failed
		}
		path = p.paths[i]
		p.tried = i + 1
		if _, _, errno = syscall.RawSyscall6(sysFstatat, atFDCWD, path, address(&p.stat), 0, 0, 0); errno != 0 {
			continue
		}
		if p.stat.Mode&unix.S_IFMT == unix.S_IFDIR {
			errno = unix.EISDIR
			continue
		}
		if _, _, errno = syscall.RawSyscall6(unix.SYS_FACCESSAT2, atFDCWD, path, unix.X_OK, unix.AT_EACCESS, 0, 0); errno == 0 {
			break
		}
	}

execute:
	// Signals as a new program expects them: ignored ones would stay ignored, blocked ones blocked.
	for i = 1; i <= 64; i++ {
		syscall.RawSyscall6(unix.SYS_RT_SIGACTION, i, address(&p.action), 0, 8, 0, 0)
	}
	syscall.RawSyscall6(unix.SYS_RT_SIGPROCMASK, unix.SIG_SETMASK, address(&p.mask), 0, 8, 0, 0)
	step = stepFilter
	if p.filtered && p.nnp { // as late as possible: what follows must pass it
		if _, _, errno = syscall.RawSyscall(unix.SYS_SECCOMP, unix.SECCOMP_SET_MODE_FILTER, p.filterFlags, address(&p.filter)); errno != 0 {
			goto failed
		}
	}
	step = stepExec
	_, _, errno = syscall.RawSyscall(unix.SYS_EXECVE, path, p.argv, p.envp)

failed:
	p.step, p.errno = step, uintptr(errno)
end:
	for {
		syscall.RawSyscall(unix.SYS_EXIT_GROUP, 127, 0, 0)
	}
}

// result is what became of the child, once all who had the socket are gone or have executed the program.
func (p *plan) result(o Process) (int, error) {
	switch {
	case p.step == 0 && p.pid == 0:
		return 0, errors.New("the waiting process was killed")
	case p.step == 0:
		return int(p.pid), nil
	}
	var looked []string
	if p.tried > 0 {
		looked = candidates(o)[p.tried-1 : p.tried]
	}
	return int(p.pid), failure(int(p.step), syscall.Errno(p.errno), o, looked)
}
