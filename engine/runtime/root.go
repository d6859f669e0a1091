package runtime

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"

	"golang.org/x/sys/unix"

	"stockade/api/helper"
)

type openRoot struct {
	path  string
	base  uint32
	close func() error
}

func (o *openRoot) Path() string { return o.path }
func (o *openRoot) Base() uint32 { return o.base }
func (o *openRoot) Close() error { return o.close() }

// OpenRoot implements Service.
func (r *Runtime) OpenRoot(_ context.Context, id string, layers []string, volumes []Mount) (Root, error) {
	unlock := r.lock(id)
	if t := r.task(id); t != nil {
		select {
		case <-t.done:
		default:
			defer unlock()
			return t.openRoot()
		}
	}
	// Not running: the lock is held until Close, so that no start finds the writable layer in use.
	root, err := r.mountStored(id, layers, volumes)
	if err != nil {
		unlock()
		return nil, err
	}
	return &openRoot{path: root, base: storeBase, close: func() error {
		defer unlock()
		return removeBundle(filepath.Dir(root))
	}}, nil
}

// openRoot opens the root as the container's own processes see it.
func (t *task) openRoot() (Root, error) {
	f, err := os.OpenFile("/proc/"+strconv.Itoa(t.state.PID)+"/root", unix.O_PATH|unix.O_DIRECTORY, 0)
	if err != nil {
		return nil, fmt.Errorf("open root: %w", err)
	}
	// The pid may have been reused meanwhile: ask the pidfd afterwards.
	if err := unix.PidfdSendSignal(int(t.pidfd.Fd()), 0, nil, 0); err != nil {
		f.Close()
		return nil, fmt.Errorf("open root: container has ended: %w", err)
	}
	return &openRoot{path: fmt.Sprintf("/proc/self/fd/%d", f.Fd()), base: base(t.slot.block), close: f.Close}, nil
}

// mountStored mounts a stopped container's root as it lies on disk, with store ids.
func (r *Runtime) mountStored(id string, layers []string, volumes []Mount) (_ string, err error) {
	dir := filepath.Join(r.cfg.Run, "roots", randomID())
	root := filepath.Join(dir, rootDir)
	if err := os.MkdirAll(root, 0o711); err != nil {
		return "", err
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, removeBundle(dir))
		}
	}()
	rw := filepath.Join(r.store, helper.KindRW, id)
	if err := freshWork(rw); err != nil {
		return "", err
	}
	fs, err := unix.Fsopen("overlay", unix.FSOPEN_CLOEXEC)
	if err != nil {
		return "", fmt.Errorf("fsopen: %w", err)
	}
	defer unix.Close(fs)
	set := func(key, value string) {
		if err == nil {
			if err = unix.FsconfigSetString(fs, key, value); err != nil {
				err = fmt.Errorf("%s: %w", key, err)
			}
		}
	}
	if err := unix.FsconfigSetFlag(fs, "userxattr"); err != nil {
		return "", err
	}
	for _, l := range layers {
		set("lowerdir+", filepath.Join(r.store, helper.KindLayer, l, "fs"))
	}
	set("upperdir", filepath.Join(rw, "upper"))
	set("workdir", filepath.Join(rw, "work"))
	if err != nil {
		return "", err
	}
	if err := unix.FsconfigCreate(fs); err != nil {
		return "", fmt.Errorf("mount root: %w", err)
	}
	m, err := unix.Fsmount(fs, unix.FSMOUNT_CLOEXEC, unix.MOUNT_ATTR_NODEV|unix.MOUNT_ATTR_NOSUID)
	if err != nil {
		return "", fmt.Errorf("fsmount: %w", err)
	}
	defer unix.Close(m)
	if err := unix.MoveMount(m, "", unix.AT_FDCWD, root, unix.MOVE_MOUNT_F_EMPTY_PATH); err != nil {
		return "", fmt.Errorf("attach root: %w", err)
	}
	for _, v := range volumes {
		if v.Volume == "" {
			continue
		}
		if err := r.showVolume(m, v); err != nil && !errors.Is(err, unix.ENOENT) {
			return "", fmt.Errorf("show volume at %s: %w", v.Target, err)
		}
	}
	return root, nil
}

// showVolume mounts a volume in a stopped container's root. SECURITY(T-401): the place is found by the kernel inside
// that root.
func (r *Runtime) showVolume(root int, v Mount) error {
	at, err := unix.Openat2(root, v.Target, &unix.OpenHow{Flags: unix.O_PATH | unix.O_CLOEXEC, Resolve: unix.RESOLVE_IN_ROOT | unix.RESOLVE_NO_MAGICLINKS})
	if err != nil {
		return err
	}
	defer unix.Close(at)
	volume, err := unix.OpenTree(unix.AT_FDCWD, filepath.Join(r.store, helper.KindVolume, v.Volume, "data"), unix.OPEN_TREE_CLONE|unix.OPEN_TREE_CLOEXEC)
	if err != nil {
		return err
	}
	defer unix.Close(volume)
	source := volume
	if v.Subpath != "" {
		sub, err := subpath(volume, v.Subpath)
		if err != nil {
			return err
		}
		defer sub.Close()
		source = int(sub.Fd())
	}
	if v.RO {
		if err := unix.MountSetattr(source, "", unix.AT_EMPTY_PATH, &unix.MountAttr{Attr_set: unix.MOUNT_ATTR_RDONLY}); err != nil {
			return err
		}
	}
	return unix.MoveMount(source, "", at, "", unix.MOVE_MOUNT_F_EMPTY_PATH|unix.MOVE_MOUNT_T_EMPTY_PATH)
}
