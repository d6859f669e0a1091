package unpack

import (
	"errors"
	"fmt"
	"os"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// maxDepth bounds the recursion of removeAll, which holds one descriptor per level.
const maxDepth = 500

// maxTries bounds how often a name is looked up again.
const maxTries = 10000

// openDir opens the folder dir beneath root. Links on the way are followed as a process with this root folder would.
func openDir(root int, dir string) (int, error) {
	if dir == "" {
		dir = "."
	}
	// EAGAIN: something was renamed, anywhere on the host, while ".." was resolved (openat2(2)).
	for tries := 0; ; tries++ {
		fd, err := unix.Openat2(root, dir, &unix.OpenHow{
			Flags:   unix.O_RDONLY | unix.O_DIRECTORY | unix.O_CLOEXEC,
			Resolve: unix.RESOLVE_IN_ROOT | unix.RESOLVE_NO_MAGICLINKS,
		})
		if !errors.Is(err, unix.EAGAIN) || tries == maxTries {
			return fd, err
		}
	}
}

// parent returns an open folder, made with its parents where missing. The descriptor belongs to the applier and is
// valid until the next call.
func (a *applier) parent(dir string) (int, error) {
	if a.cacheValid && a.cached == dir {
		return a.cachedFD, nil
	}
	a.forget()
	fd, err := openDir(a.root, dir)
	if errors.Is(err, unix.ENOENT) {
		fd, err = a.makeParents(dir)
	}
	if errors.Is(err, unix.ENOTDIR) || errors.Is(err, unix.ELOOP) {
		return -1, invalid("parent is not a folder")
	}
	if err != nil {
		return -1, fmt.Errorf("open parent: %w", err)
	}
	a.cached, a.cachedFD, a.cacheValid = dir, fd, true
	return fd, nil
}

// makeParents makes each missing part of dir as the store's root.
func (a *applier) makeParents(dir string) (int, error) {
	parts := strings.Split(dir, "/")
	at, err := openDir(a.root, "")
	if err != nil {
		return -1, err
	}
	for i, p := range parts {
		next, err := openDir(a.root, strings.Join(parts[:i+1], "/"))
		if errors.Is(err, unix.ENOENT) {
			// EEXIST: a link that leads nowhere.
			if err = unix.Mkdirat(at, p, 0o755); errors.Is(err, unix.EEXIST) {
				err = unix.ENOTDIR
			}
			if err == nil {
				next, err = unix.Openat(at, p, unix.O_RDONLY|unix.O_DIRECTORY|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0)
			}
		}
		unix.Close(at)
		if err != nil {
			return -1, err
		}
		at = next
	}
	return at, nil
}

func (a *applier) forget() {
	if a.cacheValid {
		unix.Close(a.cachedFD)
		a.cacheValid = false
	}
}

// removeAll removes name in folder fd with everything beneath it, never following a link.
func removeAll(fd int, name string, depth int) error {
	err := unix.Unlinkat(fd, name, 0)
	if err == nil || errors.Is(err, unix.ENOENT) {
		return nil
	}
	if !errors.Is(err, unix.EISDIR) && !errors.Is(err, unix.EPERM) {
		return fmt.Errorf("remove: %w", err)
	}
	if depth > maxDepth {
		return tooMuch("folders nested too deeply")
	}
	dfd, err := unix.Openat(fd, name, unix.O_RDONLY|unix.O_DIRECTORY|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0)
	if err != nil {
		return fmt.Errorf("remove: %w", err)
	}
	d := os.NewFile(uintptr(dfd), name)
	names, err := d.Readdirnames(-1)
	for _, n := range names {
		if err == nil {
			err = removeAll(dfd, n, depth+1)
		}
	}
	d.Close()
	if err != nil {
		return err
	}
	if err := unix.Unlinkat(fd, name, unix.AT_REMOVEDIR); err != nil {
		return fmt.Errorf("remove: %w", err)
	}
	return nil
}

// setOpaque hides what layers beneath have in a folder.
func setOpaque(fd int, name string) error {
	f, err := unix.Openat(fd, name, unix.O_RDONLY|unix.O_DIRECTORY|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0)
	if err != nil {
		return fmt.Errorf("opaque: %w", err)
	}
	defer unix.Close(f)
	if err := unix.Fsetxattr(f, opaqueAttr, []byte("y"), 0); err != nil {
		return fmt.Errorf("opaque: %w", err)
	}
	return nil
}

// setTime sets both times of name, of a link itself. Times that file systems cannot hold become 1970.
func setTime(fd int, name string, at time.Time) error {
	ts := unix.Timespec{}
	if s := at.Unix(); s >= 0 && s < 1<<33 {
		ts = unix.NsecToTimespec(at.UnixNano())
	}
	if err := unix.UtimesNanoAt(fd, name, []unix.Timespec{ts, ts}, unix.AT_SYMLINK_NOFOLLOW); err != nil {
		return fmt.Errorf("time: %w", err)
	}
	return nil
}
