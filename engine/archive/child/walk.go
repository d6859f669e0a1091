package child

import (
	"archive/tar"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// maxDepth bounds recursion: one descriptor and one frame per level.
const maxDepth = 2000

const xattrPrefix = "SCHILY.xattr."

// walker writes trees to a tar by descriptors: each name is looked up once, in a folder that is open, without following
// links, so what happens meanwhile can change what is read but not whence.
type walker struct {
	tw   *tar.Writer
	seen map[inode]string // first name of files with several
	stay bool             // leave out what is mounted
	// upper is set for an overlay's upper folder: whiteouts and opaque folders are written as an image layer has them,
	// and what hide tells is left out.
	upper bool
	hide  func(name string) bool
	depth int
}

type inode struct{ dev, ino uint64 }

func newWalker(out io.Writer) *walker {
	return &walker{tw: tar.NewWriter(out), seen: map[inode]string{}, hide: func(string) bool { return false }}
}

// finish ends a complete tar.
func (w *walker) finish(err error) error {
	if err != nil {
		return err
	}
	return w.tw.Close()
}

func openFolder(at int, name string, flags int) (int, error) {
	return unix.Openat(at, name, unix.O_RDONLY|unix.O_DIRECTORY|unix.O_CLOEXEC|flags, 0)
}

// names lists an open folder in order.
func names(fd int) ([]string, error) {
	again, err := openFolder(fd, ".", unix.O_NOFOLLOW)
	if err != nil {
		return nil, err
	}
	f := os.NewFile(uintptr(again), "folder")
	defer f.Close()
	list, err := f.Readdirnames(-1)
	slices.Sort(list)
	return list, err
}

// folder writes an open folder, which it closes: its own entry as name and everything beneath; without self only what is
// beneath, and names begin there.
func (w *walker) folder(fd int, name string, self bool) error {
	defer unix.Close(fd)
	if w.depth++; w.depth > maxDepth {
		return fmt.Errorf("folders are nested deeper than %d", maxDepth)
	}
	defer func() { w.depth-- }()
	var st unix.Stat_t
	if err := unix.Fstat(fd, &st); err != nil {
		return err
	}
	attrs, err := xattrs(fd)
	if err != nil {
		return err
	}
	if self {
		h := header(name+"/", tar.TypeDir, &st)
		addXattrs(h, attrs)
		if err := w.tw.WriteHeader(h); err != nil {
			return err
		}
		if w.upper && attrs[opaqueXattr] == "y" {
			if err := w.empty(name+"/.wh..wh..opq", &st); err != nil {
				return err
			}
		}
	}
	if pseudo(fd) {
		return nil
	}
	list, err := names(fd)
	if err != nil {
		return fmt.Errorf("list folder: %w", err)
	}
	for _, base := range list {
		child := name + "/" + base
		if !self {
			child = base
		}
		if err := w.entry(fd, base, child); err != nil {
			return err
		}
	}
	return nil
}

// entry writes one name of an open folder.
func (w *walker) entry(parent int, base, name string) error {
	var sx unix.Statx_t
	err := unix.Statx(parent, base, unix.AT_SYMLINK_NOFOLLOW|unix.AT_NO_AUTOMOUNT, unix.STATX_BASIC_STATS, &sx)
	if errors.Is(err, unix.ENOENT) {
		return nil // gone meanwhile
	}
	if err != nil {
		return fmt.Errorf("look at file: %w", err)
	}
	var st unix.Stat_t
	if err := unix.Fstatat(parent, base, &st, unix.AT_SYMLINK_NOFOLLOW); err != nil {
		return nil // gone meanwhile
	}
	mounted := w.stay && sx.Attributes&unix.STATX_ATTR_MOUNT_ROOT != 0
	if w.upper {
		switch {
		case strings.HasPrefix(base, ".wh."):
			return nil // would hide something once it is a layer
		case isWhiteout(&st):
			return w.empty(strings.TrimSuffix(name, base)+".wh."+base, &st)
		case w.hide(name):
			return nil
		}
	}
	switch st.Mode & unix.S_IFMT {
	case unix.S_IFDIR:
		if mounted {
			return w.tw.WriteHeader(header(name+"/", tar.TypeDir, &st))
		}
		fd, err := openFolder(parent, base, unix.O_NOFOLLOW)
		if errors.Is(err, unix.ENOENT) || errors.Is(err, unix.ENOTDIR) || errors.Is(err, unix.ELOOP) {
			return nil // something else meanwhile
		}
		if err != nil {
			return fmt.Errorf("open folder: %w", err)
		}
		return w.folder(fd, name, true)
	case unix.S_IFREG:
		if mounted {
			return w.empty(name, &st)
		}
		return w.file(parent, base, name)
	case unix.S_IFLNK:
		target := make([]byte, 4096)
		n, err := unix.Readlinkat(parent, base, target)
		if err != nil {
			return nil // something else meanwhile
		}
		h := header(name, tar.TypeSymlink, &st)
		h.Linkname = string(target[:n])
		return w.tw.WriteHeader(h)
	case unix.S_IFIFO:
		return w.tw.WriteHeader(header(name, tar.TypeFifo, &st))
	case unix.S_IFCHR, unix.S_IFBLK:
		if mounted {
			return w.empty(name, &st)
		}
		kind := byte(tar.TypeChar)
		if st.Mode&unix.S_IFMT == unix.S_IFBLK {
			kind = tar.TypeBlock
		}
		h := header(name, kind, &st)
		h.Devmajor, h.Devminor = int64(unix.Major(st.Rdev)), int64(unix.Minor(st.Rdev))
		return w.tw.WriteHeader(h)
	}
	return nil // a tar has no sockets
}

func (w *walker) file(parent int, base, name string) error {
	fd, err := unix.Openat(parent, base, unix.O_RDONLY|unix.O_NOFOLLOW|unix.O_NONBLOCK|unix.O_NOCTTY|unix.O_CLOEXEC, 0)
	if errors.Is(err, unix.ENOENT) || errors.Is(err, unix.ELOOP) || errors.Is(err, unix.ENXIO) {
		return nil // something else meanwhile
	}
	if err != nil {
		return fmt.Errorf("open file: %w", err)
	}
	f := os.NewFile(uintptr(fd), "file")
	defer f.Close()
	var st unix.Stat_t
	if err := unix.Fstat(fd, &st); err != nil {
		return err
	}
	if st.Mode&unix.S_IFMT != unix.S_IFREG || pseudo(fd) {
		return nil
	}
	h := header(name, tar.TypeReg, &st)
	if st.Nlink > 1 {
		id := inode{st.Dev, st.Ino}
		if first, ok := w.seen[id]; ok {
			h.Typeflag, h.Linkname, h.Size = tar.TypeLink, first, 0
			return w.tw.WriteHeader(h)
		}
		w.seen[id] = name
	}
	attrs, err := xattrs(fd)
	if err != nil {
		return err
	}
	addXattrs(h, attrs)
	h.Size = st.Size
	if err := w.tw.WriteHeader(h); err != nil {
		return err
	}
	if _, err := io.CopyN(w.tw, f, st.Size); err != nil {
		return fmt.Errorf("read file, which may have become shorter: %w", err)
	}
	return nil
}

func (w *walker) empty(name string, st *unix.Stat_t) error {
	h := header(name, tar.TypeReg, st)
	h.Mode &= 0o777
	return w.tw.WriteHeader(h)
}

func header(name string, kind byte, st *unix.Stat_t) *tar.Header {
	return &tar.Header{
		Name: name, Typeflag: kind, Mode: int64(st.Mode & 0o7777), Uid: int(st.Uid), Gid: int(st.Gid),
		ModTime: time.Unix(st.Mtim.Sec, 0), Format: tar.FormatPAX,
	}
}

// pseudo tells whether a descriptor lies on a file system whose files are doors into the kernel.
func pseudo(fd int) bool {
	var fs unix.Statfs_t
	if err := unix.Fstatfs(fd, &fs); err != nil {
		return true
	}
	switch int64(fs.Type) {
	case unix.PROC_SUPER_MAGIC, unix.SYSFS_MAGIC, unix.CGROUP_SUPER_MAGIC, unix.CGROUP2_SUPER_MAGIC, unix.DEVPTS_SUPER_MAGIC,
		unix.DEBUGFS_MAGIC, unix.TRACEFS_MAGIC, unix.SECURITYFS_MAGIC, unix.BPF_FS_MAGIC, unix.NSFS_MAGIC:
		return true
	}
	return false
}

// xattrs reads the attributes that a tar keeps, and those of overlayfs, from an open file.
func xattrs(fd int) (map[string]string, error) {
	size, err := unix.Flistxattr(fd, nil)
	if size == 0 || errors.Is(err, unix.ENOTSUP) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("list attributes: %w", err)
	}
	list := make([]byte, size+1024)
	size, err = unix.Flistxattr(fd, list)
	if err != nil {
		return nil, fmt.Errorf("list attributes: %w", err)
	}
	out := map[string]string{}
	for name := range strings.SplitSeq(string(list[:size]), "\x00") {
		if name != "security.capability" && !strings.HasPrefix(name, "user.") {
			continue
		}
		value := make([]byte, 64<<10)
		n, err := unix.Fgetxattr(fd, name, value)
		if err != nil {
			continue // gone meanwhile
		}
		out[name] = string(value[:n])
	}
	return out, nil
}

func addXattrs(h *tar.Header, attrs map[string]string) {
	for name, value := range attrs {
		if strings.HasPrefix(name, "user.overlay.") {
			continue
		}
		if h.PAXRecords == nil {
			h.PAXRecords = map[string]string{}
		}
		h.PAXRecords[xattrPrefix+name] = value
	}
}
