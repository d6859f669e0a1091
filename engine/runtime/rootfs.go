package runtime

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	goruntime "runtime"
	"strconv"

	"golang.org/x/sys/unix"

	"stockade/api/helper"
	"stockade/internal/seqpacket"
)

// Folders of a bundle where things are mounted.
const (
	rootDir   = "m" // the container's root
	lowDir    = "l" // lower layers while the overlay is made, then volumes while a part of them is taken
	rwDir     = "w" // id-mapped clone of the writable layer, only while the overlay is made
	volumeDir = "v" // volumes, images, grants: v/0, v/1, …
	emptyDir  = "e" // e0, e1: beneath an image of fewer than two layers
)

// mountAll mounts the root and everything that is shown in it.
func (r *Runtime) mountAll(ctx context.Context, t *task, s Spec) error {
	items := make([]helper.CloneItem, 0, len(s.Layers)+1+len(s.Mounts))
	for _, l := range s.Layers {
		items = append(items, helper.CloneItem{Kind: helper.KindLayer, Name: l, RO: true})
	}
	items = append(items, helper.CloneItem{Kind: helper.KindRW, Name: s.ID})
	for _, m := range s.Mounts {
		if m.Volume != "" {
			items = append(items, helper.CloneItem{Kind: helper.KindVolume, Name: m.Volume, RO: m.RO})
		}
	}
	_, fds, err := seqpacket.Call[helper.Clone, helper.CloneDone](ctx, r.mountd, "clone", helper.Clone{Items: items}, t.slot.idmap)
	if err != nil {
		return fmt.Errorf("mount layers: %w", err)
	}
	defer seqpacket.CloseAll(fds)
	if len(fds) != len(items) {
		return fmt.Errorf("mountd sent %d mounts for %d folders", len(fds), len(items))
	}
	work := filepath.Join(r.store, helper.KindRW, s.ID)
	if err := freshWork(work); err != nil {
		return err
	}
	n := len(s.Layers)
	if err := r.mountOverlay(t.slot, fds[:n], fds[n], s.Ephemeral); err != nil {
		return fmt.Errorf("mount root: %w", err)
	}
	volumes := fds[n+1:]
	for i, m := range s.Mounts {
		var err error
		switch {
		case m.Volume != "":
			err = r.attachVolume(t.slot, i, volumes[0], m)
			volumes = volumes[1:]
		case m.Layers != nil:
			err = r.attachImage(ctx, t.slot, i, m)
		case m.Grant != "":
			err = r.attachGrant(ctx, t, i, s, m)
		}
		if err != nil {
			return fmt.Errorf("mount %s: %w", m.Target, err)
		}
	}
	return nil
}

// freshWork replaces the overlay's work folder: an earlier volatile mount marked it as unusable.
func freshWork(rw string) error {
	work := filepath.Join(rw, "work")
	if err := os.RemoveAll(work); err != nil {
		return fmt.Errorf("clear work folder: %w", err)
	}
	if err := os.Mkdir(work, 0o711); err != nil {
		return fmt.Errorf("make work folder: %w", err)
	}
	return os.Chown(work, storeBase, storeBase)
}

// mountOverlay mounts the container's root in the bundle from detached, id-mapped clones, top layer first.
func (r *Runtime) mountOverlay(s *slot, lowers []*os.File, rw *os.File, volatile bool) error {
	low, upper, root := filepath.Join(s.bundle, lowDir), filepath.Join(s.bundle, rwDir), filepath.Join(s.bundle, rootDir)
	for _, d := range []string{low, upper, root} {
		if err := os.Mkdir(d, 0o711); err != nil && !errors.Is(err, os.ErrExist) {
			return err
		}
	}
	// overlayfs clones its layers privately, which needs them attached to our mount namespace for the moment.
	attached := 0
	defer func() {
		for range attached {
			_ = unix.Unmount(low, unix.MNT_DETACH)
		}
		_ = unix.Unmount(upper, unix.MNT_DETACH)
	}()
	for _, f := range lowers {
		if err := unix.MoveMount(int(f.Fd()), "", unix.AT_FDCWD, low, unix.MOVE_MOUNT_F_EMPTY_PATH); err != nil {
			return fmt.Errorf("attach layer: %w", err)
		}
		attached++
	}
	if err := unix.MoveMount(int(rw.Fd()), "", unix.AT_FDCWD, upper, unix.MOVE_MOUNT_F_EMPTY_PATH); err != nil {
		return fmt.Errorf("attach writable layer: %w", err)
	}
	m, err := r.overlayOf(s, overlay{lowers: lowers, rw: upper, volatile: volatile})
	if err != nil {
		return err
	}
	defer m.Close()
	if err := unix.MoveMount(int(m.Fd()), "", unix.AT_FDCWD, root, unix.MOVE_MOUNT_F_EMPTY_PATH); err != nil {
		return fmt.Errorf("attach: %w", err)
	}
	return nil
}

// overlay is what an overlay is made of.
type overlay struct {
	lowers   []*os.File // top first, attached to our mount namespace
	rw       string     // folder with upper and work; "" for a read-only overlay
	volatile bool       // nothing of the writable layer needs to reach the disk
}

// overlayOf makes a detached overlay as the root of the slot's container.
func (r *Runtime) overlayOf(s *slot, o overlay) (*os.File, error) {
	type result struct {
		mount *os.File
		err   error
	}
	done := make(chan result, 1)
	r.dumpable.Lock()
	go func() {
		goruntime.LockOSThread() // never unlocked: the thread's changed identity ends with it
		m, err := o.mountAs(int(base(s.block)))
		done <- result{m, err}
	}()
	res := <-done
	// SAFETY: a changed fsuid makes the process non-dumpable, and its children's /proc files root's.
	perr := unix.Prctl(unix.PR_SET_DUMPABLE, 1, 0, 0, 0)
	r.dumpable.Unlock()
	if perr != nil && res.mount != nil {
		res.mount.Close()
	}
	return res.mount, errors.Join(res.err, perr)
}

// secbitNoSetuidFixup keeps capabilities when the file system uid changes (securebits(7)).
const secbitNoSetuidFixup = 1 << 2

// mountAs makes the overlay with the file system identity of the container's root: overlayfs creates files in the
// work folder as its mounter, and only ids of the container's range exist there. With another identity the kernel
// mounts it read-only without a word.
func (o overlay) mountAs(id int) (*os.File, error) {
	if err := unix.Prctl(unix.PR_SET_SECUREBITS, secbitNoSetuidFixup, 0, 0, 0); err != nil {
		return nil, fmt.Errorf("securebits: %w", err)
	}
	if err := unix.Setfsgid(id); err != nil {
		return nil, err
	}
	if err := unix.Setfsuid(id); err != nil {
		return nil, err
	}
	return o.mount(unix.MOUNT_ATTR_NODEV)
}

// mount makes the overlay, detached.
func (o overlay) mount(attrs int) (*os.File, error) {
	fs, err := unix.Fsopen("overlay", unix.FSOPEN_CLOEXEC)
	if err != nil {
		return nil, fmt.Errorf("fsopen: %w", err)
	}
	defer unix.Close(fs)
	flag := func(key string, wanted bool) {
		if err == nil && wanted {
			if err = unix.FsconfigSetFlag(fs, key); err != nil {
				err = fmt.Errorf("%s: %w", key, err)
			}
		}
	}
	folder := func(key, path string) {
		if err == nil && o.rw != "" {
			if err = unix.FsconfigSetString(fs, key, path); err != nil {
				err = fmt.Errorf("%s: %w", key, err)
			}
		}
	}
	flag("userxattr", true)
	flag("volatile", o.volatile)
	for _, f := range o.lowers {
		if err == nil {
			if err = unix.FsconfigSetFd(fs, "lowerdir+", int(f.Fd())); err != nil {
				err = fmt.Errorf("lowerdir: %w", err)
			}
		}
	}
	folder("upperdir", filepath.Join(o.rw, "upper"))
	folder("workdir", filepath.Join(o.rw, "work"))
	if err != nil {
		return nil, err
	}
	if err := unix.FsconfigCreate(fs); err != nil {
		return nil, fmt.Errorf("create: %w", err)
	}
	if o.rw == "" {
		attrs |= unix.MOUNT_ATTR_RDONLY
	}
	m, err := unix.Fsmount(fs, unix.FSMOUNT_CLOEXEC, attrs)
	if err != nil {
		return nil, fmt.Errorf("fsmount: %w", err)
	}
	return os.NewFile(uintptr(m), "overlay"), nil
}

func (r *Runtime) volumePath(s *slot, i int) string {
	return filepath.Join(s.bundle, volumeDir, strconv.Itoa(i))
}

// attachVolume attaches a volume's clone, or a folder beneath it, at its place in the bundle.
func (r *Runtime) attachVolume(s *slot, i int, clone *os.File, m Mount) error {
	if m.Subpath != "" {
		sub, err := attachedSubpath(clone, filepath.Join(s.bundle, lowDir), m)
		if err != nil {
			return err
		}
		defer sub.Close()
		clone = sub
	}
	return r.place(s, i, clone)
}

// attachedSubpath clones a part of a detached mount, which is attached at low meanwhile: only what is attached to our
// mount namespace can be cloned once more, and mountd's clones came from another.
func attachedSubpath(mount *os.File, low string, m Mount) (*os.File, error) {
	if err := os.Mkdir(low, 0o711); err != nil && !errors.Is(err, os.ErrExist) {
		return nil, err
	}
	if err := unix.MoveMount(int(mount.Fd()), "", unix.AT_FDCWD, low, unix.MOVE_MOUNT_F_EMPTY_PATH); err != nil {
		return nil, fmt.Errorf("attach: %w", err)
	}
	sub, err := subpath(int(mount.Fd()), m)
	if uerr := unix.Unmount(low, unix.MNT_DETACH); uerr != nil {
		if sub != nil {
			sub.Close()
		}
		return nil, errors.Join(err, uerr)
	}
	return sub, err
}

// subpath clones a part of a volume's or an image's mount. SECURITY(T-301): the kernel resolves it inside only; links
// out of it are refused.
func subpath(mount int, m Mount) (*os.File, error) {
	whole := "volume"
	if m.Layers != nil {
		whole = "image"
	}
	fd, err := unix.Openat2(mount, m.Subpath, &unix.OpenHow{Flags: unix.O_PATH | unix.O_CLOEXEC, Resolve: unix.RESOLVE_BENEATH | unix.RESOLVE_NO_MAGICLINKS | unix.RESOLVE_NO_XDEV})
	if errors.Is(err, unix.EXDEV) {
		return nil, fmt.Errorf("path %s leads out of the %s", m.Subpath, whole)
	}
	if err != nil {
		return nil, fmt.Errorf("cannot access path %s in the %s: %w", m.Subpath, whole, err)
	}
	defer unix.Close(fd)
	sub, err := unix.OpenTree(fd, "", unix.OPEN_TREE_CLONE|unix.OPEN_TREE_CLOEXEC|unix.AT_EMPTY_PATH)
	if err != nil {
		return nil, fmt.Errorf("cannot show path %s of the %s: %w", m.Subpath, whole, err)
	}
	return os.NewFile(uintptr(sub), "subpath"), nil
}

// place attaches a detached mount at v/<i>, which becomes a folder or a file as the mount is.
func (r *Runtime) place(s *slot, i int, mount *os.File) error {
	var st unix.Stat_t
	if err := unix.Fstat(int(mount.Fd()), &st); err != nil {
		return err
	}
	path := r.volumePath(s, i)
	if err := os.MkdirAll(filepath.Dir(path), 0o711); err != nil {
		return err
	}
	if st.Mode&unix.S_IFMT == unix.S_IFDIR {
		if err := os.Mkdir(path, 0o711); err != nil {
			return err
		}
	} else if err := os.WriteFile(path, nil, 0o600); err != nil {
		return err
	}
	return unix.MoveMount(int(mount.Fd()), "", unix.AT_FDCWD, path, unix.MOVE_MOUNT_F_EMPTY_PATH)
}

// attachGrant has grantd open a granted path again, as the person who granted it, and attaches what it sends.
func (r *Runtime) attachGrant(ctx context.Context, t *task, i int, s Spec, m Mount) error {
	first := r.cfg.IDs.Sub.First + (t.slot.block)*65536
	use := helper.Use{ID: m.Grant, Tenant: s.Tenant, RO: m.RO, SubRW: m.SubRW, Recursive: m.Recursive, TargetUID: first + s.User.UID, TargetGID: first + s.User.GID}
	done, fds, err := seqpacket.Call[helper.Use, helper.UseDone](ctx, r.grantd, "use", use)
	if err != nil {
		return err
	}
	defer seqpacket.CloseAll(fds)
	if len(fds) == 0 || len(fds) != len(done.Mounts) {
		return fmt.Errorf("grantd sent %d mounts for %d folders", len(fds), len(done.Mounts))
	}
	if err := r.place(t.slot, i, fds[0]); err != nil {
		return err
	}
	t.skipped = append(t.skipped, done.Skipped...)
	for j, f := range fds[1:] {
		rel := done.Mounts[j+1]
		at, err := unix.Openat2(int(fds[0].Fd()), rel, &unix.OpenHow{Flags: unix.O_PATH | unix.O_CLOEXEC, Resolve: unix.RESOLVE_BENEATH | unix.RESOLVE_NO_SYMLINKS | unix.RESOLVE_NO_MAGICLINKS})
		if err == nil {
			err = unix.MoveMount(int(f.Fd()), "", at, "", unix.MOVE_MOUNT_F_EMPTY_PATH|unix.MOVE_MOUNT_T_EMPTY_PATH)
			unix.Close(at)
		}
		if err != nil {
			t.skipped = append(t.skipped, helper.Skipped{Path: rel, Reason: err.Error()})
		}
	}
	return nil
}

// unmountSlot detaches everything mounted beneath a bundle from the engine's mount namespace.
func (r *Runtime) unmountSlot(s *slot) {
	mounts, err := mountsBeneath(s.bundle)
	if err != nil {
		r.log.Error("list mounts", "err", err)
		return
	}
	for i := len(mounts) - 1; i >= 0; i-- {
		if err := unix.Unmount(mounts[i], unix.MNT_DETACH|unix.UMOUNT_NOFOLLOW); err != nil && !errors.Is(err, unix.EINVAL) {
			r.log.Warn("unmount", "path", mounts[i], "err", err)
		}
	}
}
