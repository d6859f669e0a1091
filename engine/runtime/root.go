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
	"stockade/internal/seqpacket"
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
	lowers, err := r.openLayers(layers)
	if err != nil {
		return "", err
	}
	defer seqpacket.CloseAll(lowers)
	m, err := overlay{lowers: lowers, rw: rw}.mount(unix.MOUNT_ATTR_NODEV | unix.MOUNT_ATTR_NOSUID)
	if err != nil {
		return "", fmt.Errorf("mount root: %w", err)
	}
	defer m.Close()
	if err := unix.MoveMount(int(m.Fd()), "", unix.AT_FDCWD, root, unix.MOVE_MOUNT_F_EMPTY_PATH); err != nil {
		return "", fmt.Errorf("attach root: %w", err)
	}
	for _, v := range volumes {
		if v.Volume == "" && v.Layers == nil {
			continue
		}
		if err := r.showStored(int(m.Fd()), dir, v); err != nil && !errors.Is(err, unix.ENOENT) {
			return "", fmt.Errorf("show what is mounted at %s: %w", v.Target, err)
		}
	}
	return root, nil
}

// openLayers opens the folders of layers as they lie on disk.
func (r *Runtime) openLayers(layers []string) (out []*os.File, err error) {
	for _, l := range layers {
		f, err := os.OpenFile(filepath.Join(r.store, helper.KindLayer, l, "fs"), unix.O_PATH|unix.O_DIRECTORY|unix.O_NOFOLLOW, 0)
		if err != nil {
			seqpacket.CloseAll(out)
			return nil, fmt.Errorf("open layer: %w", err)
		}
		out = append(out, f)
	}
	return out, nil
}

// stored makes a detached mount of a volume or an image as it lies on disk; dir is a folder for what that needs.
func (r *Runtime) stored(dir string, v Mount) (*os.File, error) {
	if v.Volume != "" {
		fd, err := unix.OpenTree(unix.AT_FDCWD, filepath.Join(r.store, helper.KindVolume, v.Volume, "data"), unix.OPEN_TREE_CLONE|unix.OPEN_TREE_CLOEXEC)
		return os.NewFile(uintptr(fd), "volume"), err
	}
	lowers, err := r.openLayers(v.Layers)
	if err != nil {
		return nil, err
	}
	defer func() { seqpacket.CloseAll(lowers) }()
	if lowers, err = withEmpty(lowers, dir); err != nil {
		return nil, err
	}
	return overlay{lowers: lowers}.mount(unix.MOUNT_ATTR_NODEV | unix.MOUNT_ATTR_NOSUID)
}

// showStored mounts a volume or an image in a stopped container's root. SECURITY(T-401): the place is found by the
// kernel inside that root.
func (r *Runtime) showStored(root int, dir string, v Mount) error {
	at, err := unix.Openat2(root, v.Target, &unix.OpenHow{Flags: unix.O_PATH | unix.O_CLOEXEC, Resolve: unix.RESOLVE_IN_ROOT | unix.RESOLVE_NO_MAGICLINKS})
	if err != nil {
		return err
	}
	defer unix.Close(at)
	source, err := r.stored(dir, v)
	if err != nil {
		return err
	}
	defer func() { source.Close() }()
	if v.Subpath != "" {
		sub, err := attachedSubpath(source, filepath.Join(dir, lowDir), v)
		if err != nil {
			return err
		}
		source.Close()
		source = sub
	}
	if v.RO {
		if err := unix.MountSetattr(int(source.Fd()), "", unix.AT_EMPTY_PATH, &unix.MountAttr{Attr_set: unix.MOUNT_ATTR_RDONLY}); err != nil {
			return err
		}
	}
	return unix.MoveMount(int(source.Fd()), "", at, "", unix.MOVE_MOUNT_F_EMPTY_PATH|unix.MOVE_MOUNT_T_EMPTY_PATH)
}
