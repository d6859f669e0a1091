package runtime

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"

	"stockade/api/helper"
	"stockade/internal/seqpacket"
)

// attachImage attaches a read-only view of another image at its place in the bundle.
//
// Its files belong to the container's own ids, as those of its root do; there is nothing to write to.
func (r *Runtime) attachImage(ctx context.Context, s *slot, i int, m Mount) error {
	var lowers []*os.File
	if len(m.Layers) > 0 {
		items := make([]helper.CloneItem, len(m.Layers))
		for j, l := range m.Layers {
			items[j] = helper.CloneItem{Kind: helper.KindLayer, Name: l, RO: true}
		}
		_, fds, err := seqpacket.Call[helper.Clone, helper.CloneDone](ctx, r.mountd, "clone", helper.Clone{Items: items}, s.idmap)
		if err != nil {
			return fmt.Errorf("mount layers: %w", err)
		}
		lowers = fds
	}
	defer func() { seqpacket.CloseAll(lowers) }()
	if len(lowers) != len(m.Layers) {
		return fmt.Errorf("mountd sent %d mounts for %d layers", len(lowers), len(m.Layers))
	}
	low := filepath.Join(s.bundle, lowDir)
	for j, f := range lowers {
		if err := unix.MoveMount(int(f.Fd()), "", unix.AT_FDCWD, low, unix.MOVE_MOUNT_F_EMPTY_PATH); err != nil {
			return fmt.Errorf("attach layer %d: %w", j, err)
		}
		defer func() { _ = unix.Unmount(low, unix.MNT_DETACH) }()
	}
	lowers, err := withEmpty(lowers, s.bundle)
	if err != nil {
		return err
	}
	image, err := r.overlayOf(s, overlay{lowers: lowers})
	if err != nil {
		return fmt.Errorf("mount image: %w", err)
	}
	defer image.Close()
	return r.attachVolume(s, i, image, m)
}

// withEmpty adds empty folders beneath fewer than two layers: an overlay without a writable layer needs two, and a
// layer shown by itself would show its whiteouts.
func withEmpty(lowers []*os.File, dir string) ([]*os.File, error) {
	for n := len(lowers); n < 2; n++ {
		path := filepath.Join(dir, fmt.Sprintf("%s%d", emptyDir, n))
		if err := os.Mkdir(path, 0o755); err != nil && !errors.Is(err, os.ErrExist) {
			return lowers, err
		}
		if err := os.Chmod(path, 0o755); err != nil {
			return lowers, err
		}
		f, err := os.OpenFile(path, unix.O_PATH|unix.O_DIRECTORY|unix.O_NOFOLLOW, 0)
		if err != nil {
			return lowers, err
		}
		lowers = append(lowers, f)
	}
	return lowers, nil
}
