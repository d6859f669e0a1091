package runtime

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	goruntime "runtime"
	"strconv"
	"strings"

	"github.com/containerd/errdefs"
	"golang.org/x/sys/unix"

	"stockade/api/setting"
	"stockade/internal/userns"
)

// shmDir is the folder of a bundle where another container's /dev/shm is mounted.
const shmDir = "s"

// JoinError is a target that cannot be joined.
type JoinError struct {
	ID    string // of the target
	Why   string
	class error // of errdefs
}

func (e *JoinError) Error() string { return "cannot join container " + e.ID + ": " + e.Why }

// Unwrap returns the class.
func (e *JoinError) Unwrap() error { return e.class }

// refusal is why a target cannot be joined.
type refusal struct {
	why   string
	class error
}

func (r *refusal) Error() string { return r.why }

var (
	errEnded     = &refusal{"it is not running", errdefs.ErrFailedPrecondition}
	errApart     = &refusal{"a container cannot join two that do not share ids with one another", errdefs.ErrFailedPrecondition}
	errTwoOwners = &refusal{"they were made by different users, and one of them has a bind mount", errdefs.ErrPermissionDenied}
)

func joinError(id string, err error) error {
	var r *refusal
	if errors.As(err, &r) {
		return &JoinError{ID: id, Why: r.why, class: r.class}
	}
	return fmt.Errorf("join container %s: %w", id, err)
}

// targets are the containers that are joined, each once.
func (j Join) targets() []string {
	var list []string
	for _, id := range []string{j.Net, j.PID, j.IPC} {
		if id != "" && (len(list) == 0 || list[0] != id && list[len(list)-1] != id) {
			list = append(list, id)
		}
	}
	return list
}

// joinSlot makes a slot in the id range and the user namespace of a running container. Everything that is not joined is
// its own: bundle, monitor, cgroup, id map, and an endpoint unless the network is the other's.
func (r *Runtime) joinSlot(ctx context.Context, spec Spec) (_ *slot, err error) {
	s := &slot{id: randomID(), pidShared: spec.Join.PID != ""}
	defer func() {
		if err != nil {
			r.dropSlot(s)
		}
	}()
	for _, id := range spec.Join.targets() {
		if err := r.joinTarget(s, id, spec); err != nil {
			return nil, joinError(id, err)
		}
	}
	return s, r.furnish(ctx, s, spec.Network)
}

// joinTarget opens what one target lends. Its lock keeps it from being released meanwhile; nobody waits for the joiner's
// with a target's held, as a target is always older than what joins it.
func (r *Runtime) joinTarget(s *slot, id string, spec Spec) error {
	defer r.lock(id)()
	t := r.task(id)
	// SECURITY(T-204): the caller has looked it up among the tenant's own; this holds whatever it did.
	if t == nil || t.state.Tenant != spec.Tenant {
		return errEnded
	}
	if t.over() != nil {
		return errEnded
	}
	if s.block == 0 {
		if err := r.joinBlock(t.slot.block, s.id, spec.member()); err != nil {
			return err
		}
		s.block = t.slot.block
	} else if s.block != t.slot.block {
		return errApart
	}
	if err := t.lend(s, spec.Join); err != nil {
		return err
	}
	// The pid may have been reused while its files were opened: ask the pidfd afterwards.
	if err := unix.PidfdSendSignal(int(t.pidfd.Fd()), 0, nil, 0); err != nil {
		return errEnded
	}
	return nil
}

// lend opens the namespaces of the first process that j takes from this container, for s.
func (t *task) lend(s *slot, j Join) error {
	user, err := t.userNamespace()
	if err != nil {
		return err
	}
	if s.user == nil {
		s.user = user
	} else {
		defer user.Close()
	}
	for _, n := range []struct {
		target, name string
		kind         int
		to           **os.File
	}{{j.Net, "net", unix.CLONE_NEWNET, &s.net}, {j.PID, "pid", unix.CLONE_NEWPID, &s.pid}, {j.IPC, "ipc", unix.CLONE_NEWIPC, &s.ipc}} {
		if n.target == t.id {
			if *n.to, err = t.namespace(n.name, n.kind, s.user); err != nil {
				return err
			}
		}
	}
	if j.Net == t.id {
		s.files = t.slot.bundle
	}
	if j.IPC != t.id {
		return nil
	}
	mnt, err := t.namespace("mnt", unix.CLONE_NEWNS, s.user)
	if err != nil {
		return err
	}
	defer mnt.Close()
	s.shm, err = cloneShm(mnt)
	return err
}

// userNamespace opens the user namespace of the first process.
//
// SECURITY(T-302): it is a child of U and shows the container's block: a namespace that the container made within has
// another parent.
func (t *task) userNamespace() (*os.File, error) {
	f, err := t.open("user")
	if err != nil {
		return nil, err
	}
	want := fmt.Sprintf("0 %d %d", base(t.slot.block), setting.BlockSize)
	if err := errors.Join(t.checkMap("uid_map", want), t.checkMap("gid_map", want), childOfOurs(f)); err != nil {
		f.Close()
		return nil, fmt.Errorf("user namespace: %w", err)
	}
	return f, nil
}

// checkMap compares an id map of the first process, as this process sees it.
func (t *task) checkMap(name, want string) error {
	data, err := os.ReadFile("/proc/" + strconv.Itoa(t.state.PID) + "/" + name)
	if err != nil {
		return err
	}
	if got := strings.Join(strings.Fields(string(data)), " "); got != want {
		return fmt.Errorf("%s is %q, not %q", name, got, want)
	}
	return nil
}

func (t *task) open(name string) (*os.File, error) {
	f, err := os.Open("/proc/" + strconv.Itoa(t.state.PID) + "/ns/" + name)
	if errors.Is(err, unix.ENOENT) || errors.Is(err, unix.ESRCH) {
		return nil, errEnded
	}
	return f, err
}

// namespace opens a namespace of the first process. SECURITY(T-302): it belongs to the container's user namespace.
func (t *task) namespace(name string, kind int, user *os.File) (*os.File, error) {
	f, err := t.open(name)
	if err != nil {
		return nil, err
	}
	if err := ownedBy(f, kind, user); err != nil {
		f.Close()
		return nil, fmt.Errorf("namespace %s: %w", name, err)
	}
	return f, nil
}

func ownedBy(f *os.File, kind int, user *os.File) error {
	if _, err := userns.Identify(f, kind); err != nil {
		return err
	}
	owner, err := userns.Owner(f)
	if err != nil {
		return err
	}
	defer owner.Close()
	return sameUser(owner, user)
}

func sameUser(a, b *os.File) error {
	one, err := userns.Identify(a, unix.CLONE_NEWUSER)
	if err != nil {
		return err
	}
	other, err := userns.Identify(b, unix.CLONE_NEWUSER)
	if err != nil {
		return err
	}
	if one != other {
		return errors.New("not the container's own")
	}
	return nil
}

func childOfOurs(f *os.File) error {
	parent, err := userns.Parent(f)
	if err != nil {
		return err
	}
	defer parent.Close()
	ours, err := os.Open("/proc/self/ns/user")
	if err != nil {
		return err
	}
	defer ours.Close()
	return sameUser(parent, ours)
}

// cloneShm copies the mount of /dev/shm in another mount namespace: only somebody inside can.
func cloneShm(mnt *os.File) (*os.File, error) {
	type result struct {
		f   *os.File
		err error
	}
	done := make(chan result, 1)
	go func() {
		goruntime.LockOSThread() // never unlocked: the thread ends here
		f, err := cloneInside(mnt)
		done <- result{f, err}
	}()
	r := <-done
	if r.err != nil {
		return nil, fmt.Errorf("/dev/shm: %w", r.err)
	}
	return r.f, nil
}

// cloneInside runs on a thread of its own, which only looks at one path and copies its mount: nothing of the container is
// executed, and its processes do not see ours.
func cloneInside(mnt *os.File) (*os.File, error) {
	if err := unix.Unshare(unix.CLONE_FS); err != nil { // root and working folder are the thread's own from here
		return nil, err
	}
	if err := unix.Setns(int(mnt.Fd()), unix.CLONE_NEWNS); err != nil {
		return nil, fmt.Errorf("enter mount namespace: %w", err)
	}
	// SECURITY(T-401): the container may have put a link there.
	fd, err := unix.Openat2(unix.AT_FDCWD, "/dev/shm", &unix.OpenHow{Flags: unix.O_PATH | unix.O_DIRECTORY | unix.O_CLOEXEC, Resolve: unix.RESOLVE_NO_SYMLINKS | unix.RESOLVE_NO_MAGICLINKS})
	if err != nil {
		return nil, err
	}
	defer unix.Close(fd)
	var fs unix.Statfs_t
	if err := unix.Fstatfs(fd, &fs); err != nil {
		return nil, err
	}
	if fs.Type != unix.TMPFS_MAGIC {
		return nil, errors.New("not a tmpfs")
	}
	m, err := unix.OpenTree(fd, "", unix.OPEN_TREE_CLONE|unix.OPEN_TREE_CLOEXEC|unix.AT_EMPTY_PATH)
	if err != nil {
		return nil, fmt.Errorf("clone: %w", err)
	}
	return os.NewFile(uintptr(m), "shm"), nil
}

// attachShm attaches the copy of another container's /dev/shm in the bundle, for the OCI runtime to find.
func (s *slot) attachShm() error {
	if s.shm == nil {
		return nil
	}
	dir := filepath.Join(s.bundle, shmDir)
	if err := os.Mkdir(dir, 0o711); err != nil {
		return err
	}
	if err := unix.MoveMount(int(s.shm.Fd()), "", unix.AT_FDCWD, dir, unix.MOVE_MOUNT_F_EMPTY_PATH); err != nil {
		return fmt.Errorf("attach /dev/shm: %w", err)
	}
	return nil
}
