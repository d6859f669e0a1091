package unpack

import (
	"archive/tar"
	"errors"
	"fmt"
	"io"
	"path"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"stockade/api/setting"
)

// Names with a meaning in layers (OCI image specification, "Whiteouts").
const (
	whiteoutPrefix = ".wh."
	whiteoutMeta   = ".wh..wh." // AUFS's own files, and:
	whiteoutOpaque = ".wh..wh..opq"
)

const (
	opaqueAttr = "user.overlay.opaque"
	nobody     = 65534
	paxAttr    = "SCHILY.xattr."
	paxSparse  = "GNU.sparse."
)

// applier writes tar entries beneath root.
type applier struct {
	root   int
	limits Limits
	res    Result
	bytes  int64 // contents declared so far
	sparse int64
	dirs   []dirTime
	buf    []byte

	// Folder of the entry before: entries of a folder mostly follow each other.
	cached     string
	cachedFD   int
	cacheValid bool
}

// dirTime is a folder's time, to be set when nothing is written into it any more.
type dirTime struct {
	name string
	at   time.Time
}

func newApplier(root int, l Limits) *applier {
	return &applier{root: root, limits: l, buf: make([]byte, 256<<10)}
}

func (a *applier) apply(tr *tar.Reader) error {
	defer a.forget()
	for {
		h, err := tr.Next()
		if errors.Is(err, io.EOF) {
			break
		}
		var ref *refusal
		if err != nil && !errors.As(err, &ref) {
			return invalid("read tar: %w", err)
		}
		if err != nil {
			return err
		}
		if err := a.entry(h, tr); err != nil {
			return fmt.Errorf("entry %s: %w", quote(h.Name), err)
		}
	}
	for i := len(a.dirs) - 1; i >= 0; i-- {
		d := a.dirs[i]
		dir, base := path.Split(d.name)
		fd, err := a.parent(strings.TrimSuffix(dir, "/"))
		if err == nil && base == "" {
			base = "."
		}
		if err == nil {
			err = setTime(fd, base, d.at)
		}
		// The folder may have been replaced by a later entry.
		if err != nil && !errors.Is(err, unix.ENOENT) && !errors.Is(err, unix.ENOTDIR) {
			return fmt.Errorf("time of %s: %w", quote(d.name), err)
		}
	}
	return nil
}

func (a *applier) warn(format string, v ...any) {
	if len(a.res.Warnings) < maxWarnings {
		a.res.Warnings = append(a.res.Warnings, fmt.Sprintf(format, v...))
	}
}

// quote shortens a name from the tar for messages.
func quote(name string) string {
	if len(name) > 200 {
		name = name[:200] + "…"
	}
	return fmt.Sprintf("%q", name)
}

// clean makes a name relative to the root, without dots. Names that lead out of it are refused.
//
// SECURITY(T-402): `..` and absolute paths (CVE-2014-9356 class).
func clean(name string) (string, error) {
	if len(name) >= unix.PathMax {
		return "", tooMuch("path longer than %d bytes", unix.PathMax)
	}
	var parts []string
	for p := range strings.SplitSeq(name, "/") {
		switch {
		case p == "" || p == ".":
		case p == "..":
			if len(parts) == 0 {
				return "", invalid("path leads out of the layer")
			}
			parts = parts[:len(parts)-1]
		case len(p) > unix.NAME_MAX:
			return "", tooMuch("name longer than %d bytes", unix.NAME_MAX)
		default:
			parts = append(parts, p)
		}
	}
	return strings.Join(parts, "/"), nil
}

func (a *applier) entry(h *tar.Header, r io.Reader) error {
	if a.res.Entries++; a.res.Entries > a.limits.Entries {
		return tooMuch("more than %d entries", a.limits.Entries)
	}
	if h.Typeflag == tar.TypeXGlobalHeader {
		return nil
	}
	name, err := clean(h.Name)
	if err != nil {
		return err
	}
	if err := a.count(h); err != nil {
		return err
	}
	if name == "" {
		if h.Typeflag != tar.TypeDir {
			return invalid("the root is not a folder")
		}
		a.dirs = append(a.dirs, dirTime{name, h.ModTime})
		return a.openedAttrs(a.root, ".", h)
	}
	if strings.HasPrefix(name, whiteoutMeta) && name != whiteoutOpaque {
		return nil
	}
	dir, base := path.Split(name)
	fd, err := a.parent(strings.TrimSuffix(dir, "/"))
	if err != nil {
		return err
	}
	if strings.HasPrefix(base, whiteoutPrefix) {
		return a.whiteout(fd, base)
	}
	hidden, keep, err := a.makeRoom(fd, name, base, h)
	if err != nil {
		return err
	}
	switch h.Typeflag {
	case tar.TypeDir:
		if !keep {
			if err := unix.Mkdirat(fd, base, 0o700); err != nil {
				return fmt.Errorf("make folder: %w", err)
			}
		}
		if hidden {
			if err := setOpaque(fd, base); err != nil {
				return err
			}
		}
		a.dirs = append(a.dirs, dirTime{name, h.ModTime})
		return a.openedAttrs(fd, base, h)
	case tar.TypeReg, tar.TypeGNUSparse, tar.TypeCont:
		return a.regular(fd, base, h, r)
	case tar.TypeLink:
		return a.hardlink(fd, name, base, h)
	case tar.TypeSymlink:
		if h.Linkname == "" || len(h.Linkname) >= unix.PathMax {
			return invalid("symbolic link without a usable target")
		}
		if err := unix.Symlinkat(h.Linkname, fd, base); err != nil {
			return fmt.Errorf("symbolic link: %w", err)
		}
		return a.namedAttrs(fd, base, h)
	case tar.TypeFifo:
		if err := unix.Mknodat(fd, base, unix.S_IFIFO|0o600, 0); err != nil {
			return fmt.Errorf("fifo: %w", err)
		}
		return a.namedAttrs(fd, base, h)
	case tar.TypeChar, tar.TypeBlock:
		// SECURITY(T-402): containers get their devices from the engine, never from an image.
		a.warn("device node %s left out", quote(name))
		return nil
	default:
		return invalid("unknown type %q", h.Typeflag)
	}
}

// count adds an entry's contents to the totals before anything of it is written.
func (a *applier) count(h *tar.Header) error {
	if h.Size < 0 || h.Size > a.limits.Bytes-a.bytes {
		return tooMuch("contents larger than %d bytes", a.limits.Bytes)
	}
	a.bytes += h.Size
	sparse := h.Typeflag == tar.TypeGNUSparse
	for k := range h.PAXRecords {
		sparse = sparse || strings.HasPrefix(k, paxSparse)
	}
	if sparse {
		// SECURITY(T-402): a sparse entry declares bytes that were never sent.
		if h.Size > a.limits.Sparse-a.sparse {
			return tooMuch("sparse contents larger than %d bytes", a.limits.Sparse)
		}
		a.sparse += h.Size
	}
	return nil
}

func (a *applier) whiteout(fd int, base string) error {
	if base == whiteoutOpaque {
		return setOpaque(fd, ".")
	}
	if strings.HasPrefix(base, whiteoutMeta) {
		return nil
	}
	hides := strings.TrimPrefix(base, whiteoutPrefix)
	if hides == "" || hides == "." || hides == ".." {
		return invalid("whiteout of nothing") // SECURITY(T-402): whiteouts of `..`
	}
	var st unix.Stat_t
	switch err := unix.Fstatat(fd, hides, &st, unix.AT_SYMLINK_NOFOLLOW); {
	case err == nil && st.Mode&unix.S_IFMT == unix.S_IFDIR:
		// Whiteouts concern the layers beneath: what this layer has brought stays.
		return setOpaque(fd, hides)
	case err == nil:
		return nil
	case !errors.Is(err, unix.ENOENT):
		return err
	}
	if err := unix.Mknodat(fd, hides, unix.S_IFCHR, 0); err != nil {
		return fmt.Errorf("whiteout: %w", err)
	}
	return nil
}

// makeRoom removes what an earlier entry put where h comes. keep: a folder stays a folder; hidden: it was a whiteout.
func (a *applier) makeRoom(fd int, name, base string, h *tar.Header) (hidden, keep bool, err error) {
	var st unix.Stat_t
	switch err := unix.Fstatat(fd, base, &st, unix.AT_SYMLINK_NOFOLLOW); {
	case errors.Is(err, unix.ENOENT):
		return false, false, nil
	case err != nil:
		return false, false, err
	}
	switch {
	case st.Mode&unix.S_IFMT == unix.S_IFDIR && h.Typeflag == tar.TypeDir:
		return false, true, nil
	case h.Typeflag == tar.TypeLink:
		if target, err := clean(h.Linkname); err != nil || target == name || strings.HasPrefix(target, name+"/") {
			return false, false, invalid("hard link to itself")
		}
	}
	return st.Mode&unix.S_IFMT == unix.S_IFCHR, false, removeAll(fd, base, 0)
}

func (a *applier) regular(fd int, base string, h *tar.Header, r io.Reader) error {
	f, err := unix.Openat(fd, base, unix.O_WRONLY|unix.O_CREAT|unix.O_EXCL|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0o600)
	if err != nil {
		return fmt.Errorf("make file: %w", err)
	}
	defer unix.Close(f)
	for {
		n, err := r.Read(a.buf)
		for p := a.buf[:n]; len(p) > 0; {
			w, err := unix.Write(f, p)
			if err != nil && !errors.Is(err, unix.EINTR) {
				return fmt.Errorf("write: %w", err)
			}
			p = p[max(w, 0):]
		}
		a.res.Size += int64(n)
		if errors.Is(err, io.EOF) {
			break
		}
		var ref *refusal
		if err != nil && !errors.As(err, &ref) {
			err = invalid("read tar: %w", err)
		}
		if err != nil {
			return err
		}
	}
	if err := a.fileAttrs(f, h); err != nil {
		return err
	}
	return setTime(fd, base, h.ModTime)
}

func (a *applier) hardlink(fd int, name, base string, h *tar.Header) error {
	target, err := clean(h.Linkname)
	if err != nil {
		return err // SECURITY(T-402): hard links out of the layer
	}
	if target == "" || target == name {
		return invalid("hard link to itself")
	}
	dir, old := path.Split(target)
	tfd, err := openDir(a.root, strings.TrimSuffix(dir, "/"))
	if err != nil {
		return invalid("hard link to %s: %w", quote(target), err)
	}
	defer unix.Close(tfd)
	if err := unix.Linkat(tfd, old, fd, base, 0); err != nil {
		return invalid("hard link to %s: %w", quote(target), err)
	}
	return nil
}

// owner maps ids that the store does not have to nobody.
func (a *applier) owner(h *tar.Header) (uid, gid int) {
	uid, gid = h.Uid, h.Gid
	if uid < 0 || uid >= setting.BlockSize || gid < 0 || gid >= setting.BlockSize {
		a.warn("owner %d:%d of %s is outside of 0…%d", uid, gid, quote(h.Name), setting.BlockSize-1)
	}
	if uid < 0 || uid >= setting.BlockSize {
		uid = nobody
	}
	if gid < 0 || gid >= setting.BlockSize {
		gid = nobody
	}
	return uid, gid
}

// fileAttrs sets owner, mode and extended attributes of an open file or folder, in the order in which none undoes another.
func (a *applier) fileAttrs(f int, h *tar.Header) error {
	uid, gid := a.owner(h)
	if err := unix.Fchown(f, uid, gid); err != nil {
		return fmt.Errorf("owner: %w", err)
	}
	if err := unix.Fchmod(f, uint32(h.Mode)&0o7777); err != nil {
		return fmt.Errorf("mode: %w", err)
	}
	for k, v := range h.PAXRecords {
		attr, ok := strings.CutPrefix(k, paxAttr)
		if !ok {
			continue
		}
		// SECURITY(T-402): an image must not speak to overlayfs or to a security module.
		user := strings.HasPrefix(attr, "user.") && !strings.HasPrefix(attr, "user.overlay.")
		if !user && (attr != "security.capability" || h.Typeflag == tar.TypeDir) {
			a.warn("attribute %s of %s left out", quote(attr), quote(h.Name))
			continue
		}
		if err := unix.Fsetxattr(f, attr, []byte(v), 0); errors.Is(err, unix.ENOSPC) || errors.Is(err, unix.EDQUOT) {
			return fmt.Errorf("attribute: %w", err)
		} else if err != nil {
			a.warn("attribute %s of %s left out: %v", quote(attr), quote(h.Name), err)
		}
	}
	return nil
}

func (a *applier) openedAttrs(fd int, base string, h *tar.Header) error {
	f, err := unix.Openat(fd, base, unix.O_RDONLY|unix.O_DIRECTORY|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0)
	if err != nil {
		return err
	}
	defer unix.Close(f)
	return a.fileAttrs(f, h)
}

// namedAttrs sets owner, mode and time of what cannot be opened: symbolic links and fifos.
func (a *applier) namedAttrs(fd int, base string, h *tar.Header) error {
	uid, gid := a.owner(h)
	if err := unix.Fchownat(fd, base, uid, gid, unix.AT_SYMLINK_NOFOLLOW); err != nil {
		return fmt.Errorf("owner: %w", err)
	}
	if h.Typeflag == tar.TypeFifo {
		if err := unix.Fchmodat(fd, base, uint32(h.Mode)&0o7777, 0); err != nil {
			return fmt.Errorf("mode: %w", err)
		}
	}
	return setTime(fd, base, h.ModTime)
}
