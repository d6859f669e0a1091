// Package child is the part of package archive that touches containers' files. It runs in a process of its own,
// stockade-unpack, that gives up everything but the container's root folder before it looks at anything.
//
// Trust: every name, link, attribute and byte beneath the root is hostile and may change at any moment; so is the tar
// that is put in. The options come from the engine.
// Invariants: the process's root folder is the container's, and no descriptor leads out of it; nothing of the container
// is ever executed or loaded (SECURITY T-401: this is a static program without name service modules); pseudo file
// systems are never read. Failure: the reply or the exit status tells; a broken stream is never a complete tar.
package child

import (
	"archive/tar"
	"bufio"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"github.com/moby/go-archive"
	"golang.org/x/sys/unix"
)

// Modes of this program, its first argument. The second is Options as JSON.
const (
	Stat    = "stat"    // reply with Stat
	Get     = "get"     // reply with Stat, then a tar as docker cp gets it
	CopyUp  = "copyup"  // reply with Stat, then a tar of a folder's contents; what is no folder is not found
	Export  = "export"  // reply, then a tar of everything but what is mounted
	Put     = "put"     // reads a tar from standard input, then the reply
	Changes = "changes" // reply, then a JSON array of changes of an upper folder against the lower ones
	Diff    = "diff"    // reply, then those changes as the tar of an image layer
)

// IsMode tells whether the first argument of the program is for this package.
func IsMode(mode string) bool {
	switch mode {
	case Stat, Get, CopyUp, Export, Put, Changes, Diff:
		return true
	}
	return false
}

// Descriptors of the child.
const (
	rootFD  = 3 // O_PATH of the folder that becomes the root
	lowerFD = 4 // the first of Options.Lowers lower folders, top first
)

// Options say what to do.
type Options struct {
	Path                 string  `json:"path,omitempty"`
	NoOverwriteDirNonDir bool    `json:"noOverwriteDirNonDir,omitempty"`
	User                 string  `json:"user,omitempty"` // owner of everything put in, user[:group]; "": as the tar says
	Mounts               []Mount `json:"mounts,omitempty"`
	ReadonlyRoot         bool    `json:"readonlyRoot,omitempty"`
	Like                 *Info   `json:"like,omitempty"` // Put: the folder at Path gets this mode, owner and time
	Lowers               int     `json:"lowers,omitempty"`
}

// Mount is a place where something else than the container's own root is shown.
type Mount struct {
	Target string `json:"target"`
	RO     bool   `json:"ro,omitempty"`
	// Absent: what belongs here is not mounted now, so that a file here would not be the one that is meant.
	Absent bool `json:"absent,omitempty"`
}

// Info describes one file.
type Info struct {
	Name       string      `json:"name"`
	Size       int64       `json:"size"`
	Mode       os.FileMode `json:"mode"`
	Mtime      time.Time   `json:"mtime"`
	LinkTarget string      `json:"linkTarget,omitempty"`
	UID        int         `json:"uid"`
	GID        int         `json:"gid"`
}

// Classes of a Reply.
const (
	NotFound = "not-found"
	Invalid  = "invalid"
	Denied   = "denied"
	Conflict = "conflict"
	Internal = "internal"
)

// Reply is the first line of standard output.
type Reply struct {
	Class string `json:"class,omitempty"` // empty: all is well, or a stream follows
	Text  string `json:"text,omitempty"`
	Stat  *Info  `json:"stat,omitempty"`
}

// Change is one change of a container's root, with Docker's kinds.
type Change struct {
	Kind uint8
	Path string
}

// Kinds of changes.
const (
	Modified uint8 = 0
	Added    uint8 = 1
	Deleted  uint8 = 2
)

// refusal is an error with a class.
type refusal struct{ class, text string }

func (r *refusal) Error() string { return r.text }

// Child runs the program; args are its arguments without the name. It returns the exit status.
func Child(args []string) int {
	to := &counted{w: os.Stdout}
	out := bufio.NewWriterSize(to, 256<<10)
	c := &command{out: out}
	err := c.run(args)
	if err != nil && to.n == 0 {
		// Nothing has left this process: the beginning of a stream that broke becomes a refusal with a reason.
		out.Reset(to)
		err = errors.Join(c.reply(Reply{Class: class(err), Text: err.Error()}), out.Flush())
		if err == nil {
			return 0
		}
	}
	if err := errors.Join(err, out.Flush()); err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	return 0
}

// counted counts what is written.
type counted struct {
	w io.Writer
	n int
}

func (c *counted) Write(p []byte) (int, error) {
	n, err := c.w.Write(p)
	c.n += n
	return n, err
}

func class(err error) string {
	var r *refusal
	switch {
	case errors.As(err, &r):
		return r.class
	case errors.Is(err, unix.ENOENT):
		return NotFound
	case errors.Is(err, unix.ENOTDIR), errors.Is(err, unix.ELOOP), errors.Is(err, unix.ENAMETOOLONG), errors.Is(err, unix.EINVAL),
		errors.Is(err, unix.EOPNOTSUPP), // the mode of what has become a link
		errors.Is(err, tar.ErrHeader), errors.Is(err, io.ErrUnexpectedEOF):
		return Invalid
	case errors.Is(err, unix.EROFS), errors.Is(err, unix.EACCES), errors.Is(err, unix.EPERM):
		return Denied
	}
	return Internal
}

type command struct {
	out  *bufio.Writer
	opts Options
}

func (c *command) reply(r Reply) error {
	return json.NewEncoder(c.out).Encode(r)
}

func (c *command) run(args []string) error {
	if len(args) != 2 {
		return errors.New("this program is started by the engine")
	}
	if err := json.Unmarshal([]byte(args[1]), &c.opts); err != nil {
		return fmt.Errorf("options: %w", err)
	}
	// Opened before the root changes: chmod by descriptor on kernels without fchmodat2 needs it.
	untar, cleanup, err := archive.WithProcSelfFD(&archive.TarOptions{
		NoOverwriteDirNonDir: c.opts.NoOverwriteDirNonDir, InUserNS: true, BestEffortXattrs: true,
	})
	if err != nil {
		return err
	}
	if args[0] != Put {
		cleanup()
	}
	if err := enter(); err != nil {
		return fmt.Errorf("confine: %w", err)
	}
	switch args[0] {
	case Stat:
		info, err := c.stat(absolute(c.opts.Path))
		if err != nil {
			return err
		}
		return c.reply(Reply{Stat: info})
	case Get:
		return c.get()
	case CopyUp:
		return c.copyUp()
	case Export:
		return c.export()
	case Put:
		return c.put(untar)
	case Changes:
		return c.changes()
	case Diff:
		return c.diff()
	}
	return fmt.Errorf("unknown mode %q", args[0])
}

// absolute cleans a path and keeps what its end says: "/." and "/" follow a link.
func absolute(p string) string {
	return archive.PreserveTrailingDotOrSeparator(path.Join("/", p), p)
}

// stat looks at a file that a client named.
func (c *command) stat(abs string) (*Info, error) {
	info, err := stat(abs)
	if err != nil {
		return nil, err
	}
	real := path.Clean(abs)
	if info.Mode.IsDir() {
		real, err = resolve(real)
	} else {
		real, err = resolve(path.Dir(real))
		real = path.Join(real, info.Name)
	}
	if err != nil {
		return nil, err
	}
	if m := c.opts.mountOf(real); m != nil && m.Absent {
		return nil, absent(m)
	}
	return info, nil
}

// resolve is a path without links.
func resolve(p string) (string, error) {
	real, err := filepath.EvalSymlinks(p)
	var errno syscall.Errno
	if err != nil && !errors.As(err, &errno) {
		return "", &refusal{Invalid, err.Error()} // links that lead in a circle
	}
	return real, err
}

// mountOf finds the mount that holds a path without links; nil means the container's own root.
func (o *Options) mountOf(real string) (best *Mount) {
	for i := range o.Mounts {
		m := &o.Mounts[i]
		target := path.Clean(m.Target)
		inside := real == target || strings.HasPrefix(real, strings.TrimSuffix(target, "/")+"/")
		if inside && (best == nil || len(target) > len(path.Clean(best.Target))) {
			best = m
		}
	}
	return best
}

func absent(m *Mount) error {
	return &refusal{Conflict, fmt.Sprintf("what is bound to %s can be reached while the container runs only", m.Target)}
}

func stat(abs string) (*Info, error) {
	fi, err := os.Lstat(abs)
	if err != nil {
		return nil, err
	}
	info := &Info{Name: filepath.Base(abs), Size: fi.Size(), Mode: fi.Mode(), Mtime: fi.ModTime()}
	if fi.Mode()&os.ModeSymlink != 0 {
		info.LinkTarget = follow(abs)
	}
	var st unix.Stat_t
	if err := unix.Lstat(abs, &st); err != nil {
		return nil, err
	}
	info.UID, info.GID = int(st.Uid), int(st.Gid)
	return info, nil
}

// follow evaluates a link as far as possible.
func follow(link string) string {
	if target, err := filepath.EvalSymlinks(link); err == nil {
		return target
	}
	for range 40 {
		if dir, err := filepath.EvalSymlinks(path.Dir(link)); err == nil {
			link = path.Join(dir, path.Base(link))
		}
		target, err := os.Readlink(link)
		if err != nil {
			break
		}
		if !path.IsAbs(target) {
			target = path.Join(path.Dir(link), target)
		}
		link = path.Clean(target)
	}
	return link
}

func (c *command) get() error {
	abs := absolute(c.opts.Path)
	info, err := c.stat(abs)
	if err != nil {
		return err
	}
	w := newWalker(c.out)
	if info.Mode.IsDir() {
		fd, err := openFolder(unix.AT_FDCWD, abs, 0)
		if err != nil {
			return err
		}
		if err := c.reply(Reply{Stat: info}); err != nil {
			unix.Close(fd)
			return err
		}
		name := info.Name
		if name == "/" {
			name = ""
		}
		return w.finish(w.folder(fd, name, true))
	}
	parent, err := openFolder(unix.AT_FDCWD, path.Dir(abs), 0)
	if err != nil {
		return err
	}
	defer unix.Close(parent)
	if err := c.reply(Reply{Stat: info}); err != nil {
		return err
	}
	return w.finish(w.entry(parent, info.Name, info.Name))
}

func (c *command) copyUp() error {
	abs := path.Join("/", c.opts.Path)
	fd, err := openFolder(unix.AT_FDCWD, abs, 0)
	if errors.Is(err, unix.ENOTDIR) {
		return &refusal{NotFound, "not a folder"}
	}
	if err != nil {
		return err
	}
	info, err := stat(abs + "/.")
	if err != nil {
		unix.Close(fd)
		return err
	}
	if err := c.reply(Reply{Stat: info}); err != nil {
		unix.Close(fd)
		return err
	}
	w := newWalker(c.out)
	return w.finish(w.folder(fd, ".", false))
}

func (c *command) export() error {
	fd, err := openFolder(unix.AT_FDCWD, "/", 0)
	if err != nil {
		return err
	}
	if err := c.reply(Reply{}); err != nil {
		unix.Close(fd)
		return err
	}
	w := newWalker(c.out)
	w.stay = true
	return w.finish(w.folder(fd, ".", false))
}
