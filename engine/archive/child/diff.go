package child

import (
	"encoding/json"
	"errors"
	"fmt"
	"path"
	"slices"
	"strings"

	"golang.org/x/sys/unix"
)

const opaqueXattr = "user.overlay.opaque"

// mountpoints are names that the runtime makes in a container's upper folder so that it can mount there. While they are
// empty and the image lacks them they are no change.
var mountpoints = []string{
	".dockerenv", "dev", "dev/console", "dev/mqueue", "dev/pts", "dev/shm", "etc", "etc/hostname", "etc/hosts", "etc/resolv.conf",
	"proc", "sys",
}

func isWhiteout(st *unix.Stat_t) bool { return st.Mode&unix.S_IFMT == unix.S_IFCHR && st.Rdev == 0 }

// lowers are the open lower folders of an overlay, top first.
type lowers []int

// find looks a name up as overlayfs would. It follows no link.
func (l lowers) find(name string) (*unix.Stat_t, error) {
	parts := strings.Split(name, "/")
layers:
	for _, fd := range l {
		opaque := false
		for i := range parts {
			at, err := unix.Openat2(fd, strings.Join(parts[:i+1], "/"), &unix.OpenHow{
				Flags: unix.O_PATH | unix.O_NOFOLLOW | unix.O_CLOEXEC, Resolve: unix.RESOLVE_BENEATH | unix.RESOLVE_NO_SYMLINKS,
			})
			if errors.Is(err, unix.ENOENT) {
				if opaque {
					return nil, unix.ENOENT
				}
				continue layers
			}
			if err != nil {
				return nil, err
			}
			var st unix.Stat_t
			err = unix.Fstat(at, &st)
			isFolder := st.Mode&unix.S_IFMT == unix.S_IFDIR
			if err == nil && isFolder && i < len(parts)-1 {
				opaque = opaque || isOpaque(at)
			}
			unix.Close(at)
			switch {
			case err != nil:
				return nil, err
			case isWhiteout(&st):
				return nil, unix.ENOENT
			case i == len(parts)-1:
				return &st, nil
			case !isFolder:
				return nil, unix.ENOENT
			}
		}
	}
	return nil, unix.ENOENT
}

// isOpaque asks about a folder opened with O_PATH.
func isOpaque(at int) bool {
	fd, err := openFolder(at, ".", 0)
	if err != nil {
		return false
	}
	defer unix.Close(fd)
	value := make([]byte, 8)
	n, err := unix.Fgetxattr(fd, opaqueXattr, value)
	return err == nil && string(value[:n]) == "y"
}

// join puts a name relative to the root folder together.
func join(dir, base string) string {
	if dir == "." {
		return base
	}
	return dir + "/" + base
}

// children lists what the lower folders show in a folder.
func (l lowers) children(name string) []string {
	var out []string
	for _, fd := range l {
		at, err := unix.Openat2(fd, name, &unix.OpenHow{
			Flags: unix.O_RDONLY | unix.O_DIRECTORY | unix.O_CLOEXEC, Resolve: unix.RESOLVE_BENEATH | unix.RESOLVE_NO_SYMLINKS,
		})
		if err != nil {
			continue
		}
		list, _ := names(at) // an unreadable layer shows nothing
		unix.Close(at)
		out = append(out, list...)
	}
	slices.Sort(out)
	out = slices.Compact(out)
	return slices.DeleteFunc(out, func(base string) bool {
		_, err := l.find(join(name, base))
		return err != nil
	})
}

func (c *command) lowers() lowers {
	l := make(lowers, c.opts.Lowers)
	for i := range l {
		l[i] = lowerFD + i
	}
	return l
}

// tally is what was found beneath a folder.
type tally struct {
	shown, hidden int
	moved         bool // a direct child came or went
}

type comparer struct {
	low     lowers
	changes []Change
	hidden  map[string]bool // names that are no change
	depth   int
}

// compare collects the changes of the upper folder, which is the root folder.
func compare(low lowers) (*comparer, error) {
	fd, err := openFolder(unix.AT_FDCWD, "/", 0)
	if err != nil {
		return nil, err
	}
	c := &comparer{low: low, hidden: map[string]bool{}}
	if _, err := c.folder(fd, "."); err != nil {
		return nil, err
	}
	slices.SortFunc(c.changes, func(a, b Change) int { return strings.Compare(a.Path, b.Path) })
	return c, nil
}

func (c *comparer) add(kind uint8, name string) {
	c.changes = append(c.changes, Change{Kind: kind, Path: path.Join("/", name)})
}

// folder compares everything in an open folder, which it closes.
func (c *comparer) folder(fd int, name string) (tally, error) {
	defer unix.Close(fd)
	if c.depth++; c.depth > maxDepth {
		return tally{}, fmt.Errorf("folders are nested deeper than %d", maxDepth)
	}
	defer func() { c.depth-- }()
	list, err := names(fd)
	if err != nil {
		return tally{}, fmt.Errorf("list folder: %w", err)
	}
	var t tally
	for _, base := range list {
		if err := c.entry(fd, base, join(name, base), &t); err != nil {
			return t, err
		}
	}
	if name != "." && isOpaque(fd) {
		for _, base := range c.low.children(name) {
			if _, here := slices.BinarySearch(list, base); !here {
				c.add(Deleted, join(name, base))
				t.shown, t.moved = t.shown+1, true
			}
		}
	}
	return t, nil
}

func (c *comparer) entry(fd int, base, name string, t *tally) error {
	var st unix.Stat_t
	if err := unix.Fstatat(fd, base, &st, unix.AT_SYMLINK_NOFOLLOW); err != nil {
		return nil // gone meanwhile
	}
	old, err := c.low.find(name)
	if err != nil && !errors.Is(err, unix.ENOENT) {
		return fmt.Errorf("look into layers: %w", err)
	}
	kind := Modified
	switch {
	case isWhiteout(&st):
		kind = Deleted
	case old == nil:
		kind = Added
	}
	var below tally
	folder := st.Mode&unix.S_IFMT == unix.S_IFDIR
	if folder {
		sub, err := openFolder(fd, base, unix.O_NOFOLLOW)
		if err != nil {
			return nil // something else meanwhile
		}
		if below, err = c.folder(sub, name); err != nil {
			return err
		}
	}
	switch {
	case kind == Added && slices.Contains(mountpoints, name) && below.shown == 0 && (folder || st.Mode&unix.S_IFMT == unix.S_IFREG && st.Size == 0):
		c.hidden[name] = true
		t.hidden++
		return nil
	case kind == Modified && folder && old.Mode == st.Mode && old.Uid == st.Uid && old.Gid == st.Gid:
		touched := old.Mtim != st.Mtim && (below.hidden == 0 || below.shown > 0)
		if !touched && !below.moved {
			// Copied up for what lies in it, or for nothing.
			t.shown += below.shown
			if below.shown == 0 {
				c.hidden[name] = below.hidden > 0
				t.hidden++
			}
			return nil
		}
	}
	c.add(kind, name)
	t.shown += 1 + below.shown
	t.moved = t.moved || kind != Modified
	return nil
}

func (c *command) changes() error {
	found, err := compare(c.lowers())
	if err != nil {
		return err
	}
	if err := c.reply(Reply{}); err != nil {
		return err
	}
	return json.NewEncoder(c.out).Encode(append([]Change{}, found.changes...))
}

func (c *command) diff() error {
	found, err := compare(c.lowers())
	if err != nil {
		return err
	}
	fd, err := openFolder(unix.AT_FDCWD, "/", 0)
	if err != nil {
		return err
	}
	if err := c.reply(Reply{}); err != nil {
		unix.Close(fd)
		return err
	}
	w := newWalker(c.out)
	w.upper = true
	w.hide = func(name string) bool { return found.hidden[name] }
	return w.finish(w.folder(fd, ".", false))
}
