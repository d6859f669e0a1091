package grantd

import (
	"errors"
	"fmt"
	"os"
	"path"
	"strings"

	"golang.org/x/sys/unix"

	"stockade/api/helper"
	"stockade/priv/peer"
)

// noMagic: symbolic links are followed as the caller may; links such as /proc/PID/root, which name files of another
// process without a look at any folder's permissions, are not.
const noMagic = unix.RESOLVE_NO_MAGICLINKS

// validPath accepts absolute, clean paths.
func validPath(p string) error {
	switch {
	case !path.IsAbs(p) || path.Clean(p) != p:
		return peer.Errorf(helper.Invalid, "bind source path %.300q is not absolute and clean", p)
	case len(p) >= unix.PathMax || strings.ContainsRune(p, 0):
		return peer.Errorf(helper.Invalid, "bind source path is too long or holds a zero byte")
	}
	return nil
}

// openat2 tries again what a signal of the runtime interrupted (network file systems).
func openat2(dir int, p string, how *unix.OpenHow) (int, error) {
	for {
		fd, err := unix.Openat2(dir, p, how)
		if !errors.Is(err, unix.EINTR) {
			return fd, err
		}
	}
}

// source is an opened bind source.
type source struct {
	file *os.File
	dir  bool
	real string // location that the kernel reports, not what was asked for
}

// open opens p with exactly c's rights and checks where it really is. With create, missing folders are made.
func (s *server) open(c caller, p string, create bool) (source, error) {
	if err := validPath(p); err != nil {
		return source{}, err
	}
	var src source
	_, err := s.opener.as(c, func() ([]*os.File, error) {
		got, err := s.openAsCaller(c, p, create)
		if err != nil {
			return nil, explain(err, c, p)
		}
		src = got
		return []*os.File{got.file}, nil
	})
	if err != nil {
		return source{}, err // src may still be written by a late thread: it is not looked at
	}
	return src, nil
}

// openAsCaller runs on the caller's thread.
func (s *server) openAsCaller(c caller, p string, create bool) (source, error) {
	fd, err := openat2(unix.AT_FDCWD, p, &unix.OpenHow{Flags: unix.O_PATH | unix.O_CLOEXEC, Resolve: noMagic})
	if errors.Is(err, unix.ENOENT) && create {
		fd, err = s.makeFolders(c, p)
	}
	if err != nil {
		return source{}, err
	}
	f := os.NewFile(uintptr(fd), p)
	src, err := s.checkSource(c, f)
	if err != nil {
		f.Close()
		return source{}, err
	}
	return src, nil
}

// checkSource says what was opened, and refuses kinds and places that nobody gets.
func (s *server) checkSource(c caller, f *os.File) (source, error) {
	var st unix.Stat_t
	if err := unix.Fstat(int(f.Fd()), &st); err != nil {
		return source{}, err
	}
	switch st.Mode & unix.S_IFMT {
	case unix.S_IFDIR, unix.S_IFREG, unix.S_IFSOCK, unix.S_IFIFO:
	default:
		return source{}, peer.Errorf(helper.Denied, "%s is a device or a link, which cannot be bound", f.Name())
	}
	real, err := realPath(f)
	if err != nil {
		return source{}, err
	}
	if err := s.checkPlace(c, real, node{st.Dev, st.Ino}); err != nil {
		return source{}, err
	}
	return source{file: f, dir: st.Mode&unix.S_IFMT == unix.S_IFDIR, real: real}, nil
}

// realPath returns the kernel's word on where an open file is.
func realPath(f *os.File) (string, error) {
	p, err := os.Readlink(fmt.Sprintf("/proc/self/fd/%d", f.Fd()))
	if err != nil {
		return "", fmt.Errorf("location: %w", err)
	}
	if !path.IsAbs(p) || path.Clean(p) != p {
		return "", peer.Errorf(helper.Denied, "%s has no location of its own", f.Name())
	}
	return p, nil
}

// node identifies a file.
type node struct{ dev, ino uint64 }

func nodeAt(p string) (node, error) {
	var st unix.Stat_t
	if err := unix.Fstatat(unix.AT_FDCWD, p, &st, unix.AT_SYMLINK_NOFOLLOW); err != nil {
		return node{}, err
	}
	return node{st.Dev, st.Ino}, nil
}

// ancestors returns p and every folder above it.
func ancestors(p string) []string {
	list := []string{p}
	for p != "/" {
		p = path.Dir(p)
		list = append(list, p)
	}
	return list
}

// checkPlace applies the rules on places.
//
// SECURITY(T-701): the server's own state is no bind source, under whatever name it is reached. uid 0 gets only what
// the administrator listed, and nothing above the server's state, since root's rights there would be the container's.
func (s *server) checkPlace(c caller, real string, at node) error {
	if s.forbidden[at] {
		return peer.Errorf(helper.Denied, "%s belongs to the server itself", real)
	}
	for _, a := range ancestors(real)[1:] {
		// An ancestor that the caller cannot see is not compared; it was passed on another way, by its own path.
		if n, err := nodeAt(a); err == nil && s.forbidden[n] {
			return peer.Errorf(helper.Denied, "%s belongs to the server itself", real)
		}
	}
	for _, f := range s.set.Forbidden {
		if real == f || beneath(f, real) {
			return peer.Errorf(helper.Denied, "%s belongs to the server itself", real)
		}
	}
	if c.UID != 0 {
		return nil
	}
	if s.aboveForbidden[at] {
		return peer.Errorf(helper.Denied, "%s holds the server's own state, which root's container could change", real)
	}
	for _, prefix := range s.set.RootPrefixes {
		if real == prefix || beneath(prefix, real) {
			return nil
		}
	}
	return peer.Errorf(helper.Denied, "%s: the caller is uid 0, which may bind only what lies beneath the folders of the setting bind_prefixes (now: %s). "+
		"An administrator can add a folder there, or run the client as an ordinary user", real, listed(s.set.RootPrefixes))
}

func listed(prefixes []string) string {
	if len(prefixes) == 0 {
		return "none"
	}
	return strings.Join(prefixes, ", ")
}

// beneath tells whether p lies in folder and is not folder itself.
func beneath(folder, p string) bool {
	return p != folder && strings.HasPrefix(p, strings.TrimSuffix(folder, "/")+"/")
}

// makeFolders makes what is missing of p, as the caller could, and opens it. It runs on the caller's thread.
func (s *server) makeFolders(c caller, p string) (int, error) {
	at, err := openat2(unix.AT_FDCWD, "/", &unix.OpenHow{Flags: unix.O_PATH | unix.O_DIRECTORY | unix.O_CLOEXEC})
	if err != nil {
		return -1, err
	}
	checked := false
	for name := range strings.SplitSeq(strings.TrimPrefix(p, "/"), "/") {
		next, err := openat2(at, name, &unix.OpenHow{Flags: unix.O_PATH | unix.O_DIRECTORY | unix.O_CLOEXEC, Resolve: noMagic})
		if errors.Is(err, unix.ENOENT) {
			if !checked { // everything made below the first missing folder lies below this place
				if err := s.checkNewPlace(c, at, name); err != nil {
					unix.Close(at)
					return -1, err
				}
				checked = true
			}
			next, err = makeOne(at, name)
		}
		unix.Close(at)
		if err != nil {
			return -1, err
		}
		at = next
	}
	return at, nil
}

// checkNewPlace applies the rules on places to a folder that is about to be made.
func (s *server) checkNewPlace(c caller, at int, name string) error {
	real, err := os.Readlink(fmt.Sprintf("/proc/self/fd/%d", at))
	if err != nil {
		return fmt.Errorf("location: %w", err)
	}
	if !path.IsAbs(real) {
		return peer.Errorf(helper.Denied, "%s has no location of its own", name)
	}
	return s.checkPlace(c, path.Join(real, name), node{})
}

func makeOne(at int, name string) (int, error) {
	if err := unix.Mkdirat(at, name, 0o755); err != nil && !errors.Is(err, unix.EEXIST) {
		return -1, err
	}
	return openat2(at, name, &unix.OpenHow{Flags: unix.O_PATH | unix.O_DIRECTORY | unix.O_NOFOLLOW | unix.O_CLOEXEC, Resolve: noMagic})
}

// explain turns an error of the kernel into an answer for the caller.
func explain(err error, c caller, p string) error {
	var refusal *peer.Error
	switch {
	case errors.As(err, &refusal):
		return err
	case errors.Is(err, unix.ENOENT):
		return peer.Errorf(helper.NotFound, "bind source path does not exist: %s", p)
	case errors.Is(err, unix.EACCES), errors.Is(err, unix.EPERM), errors.Is(err, unix.EROFS):
		return peer.Errorf(helper.Denied, "user id %d has no rights to %s: %v", c.UID, p, err)
	case errors.Is(err, unix.ENOTDIR), errors.Is(err, unix.ENAMETOOLONG):
		return peer.Errorf(helper.Invalid, "bind source path %s: %v", p, err)
	case errors.Is(err, unix.ELOOP):
		return peer.Errorf(helper.Denied, "bind source path %s leads through a link that is not followed (/proc) or through too many", p)
	case errors.Is(err, unix.EDQUOT), errors.Is(err, unix.ENOSPC):
		return peer.Errorf(helper.Exhausted, "bind source path %s: %v", p, err)
	}
	return fmt.Errorf("bind source path %s: %w", p, err)
}
