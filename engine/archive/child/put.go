package child

import (
	"bufio"
	"bytes"
	"compress/bzip2"
	"errors"
	"fmt"
	"io"
	"os"
	"path"
	"syscall"

	"github.com/klauspost/compress/gzip"
	"github.com/klauspost/compress/zstd"
	"github.com/moby/go-archive"
	"github.com/moby/sys/user"
	"golang.org/x/sys/unix"
)

// maxAccounts is how much of /etc/passwd and /etc/group is read.
const maxAccounts = 4 << 20

// put extracts a tar into a folder. The name is resolved here, with the container's root as root folder.
func (c *command) put(opts *archive.TarOptions) error {
	dir, err := resolve(path.Join("/", c.opts.Path))
	if err != nil {
		return err
	}
	fi, err := os.Lstat(dir)
	if err != nil {
		return err
	}
	if !fi.IsDir() {
		return &refusal{Invalid, "extraction point is not a directory"}
	}
	if err := writable(dir, c.opts); err != nil {
		return err
	}
	if c.opts.User != "" {
		u, err := lookUp(c.opts.User)
		if err != nil {
			return &refusal{Invalid, err.Error()}
		}
		opts.ChownOpts = &archive.ChownOpts{UID: u.Uid, GID: u.Gid}
	}
	plain, err := decompress(os.Stdin)
	if err != nil {
		return &refusal{Invalid, err.Error()}
	}
	if err := archive.UntarUncompressed(plain, dir, opts); err != nil {
		var errno syscall.Errno
		if !errors.As(err, &errno) {
			return &refusal{Invalid, err.Error()} // about the tar
		}
		return err
	}
	// What follows the archive's end must not fill the pipe and stop the sender.
	if _, err := io.Copy(io.Discard, plain); err != nil {
		return err
	}
	if like := c.opts.Like; like != nil {
		mode := uint32(like.Mode.Perm())
		for _, bit := range []struct {
			has os.FileMode
			set uint32
		}{{os.ModeSetuid, unix.S_ISUID}, {os.ModeSetgid, unix.S_ISGID}, {os.ModeSticky, unix.S_ISVTX}} {
			if like.Mode&bit.has != 0 {
				mode |= bit.set
			}
		}
		if err := errors.Join(os.Lchown(dir, like.UID, like.GID), unix.Fchmodat(unix.AT_FDCWD, dir, mode, 0), os.Chtimes(dir, like.Mtime, like.Mtime)); err != nil {
			return err
		}
	}
	return c.reply(Reply{})
}

// writable tells whether what is shown at dir may be written: the mount that holds it, else the root.
func writable(dir string, o Options) error {
	switch m := o.mountOf(dir); {
	case m != nil && m.Absent:
		return absent(m)
	case m != nil && m.RO:
		return &refusal{Denied, "mounted volume is marked read-only"}
	case m == nil && o.ReadonlyRoot:
		return &refusal{Denied, "container rootfs is marked read-only"}
	}
	return nil
}

// lookUp finds the ids of user[:group] in the container's own files.
func lookUp(spec string) (*user.ExecUser, error) {
	accounts := func(name string) io.Reader {
		// A pipe in the file's place would wait for ever.
		f, err := os.OpenFile(name, os.O_RDONLY|unix.O_NONBLOCK|unix.O_NOCTTY, 0)
		if err != nil {
			return bytes.NewReader(nil)
		}
		defer f.Close()
		if fi, err := f.Stat(); err != nil || !fi.Mode().IsRegular() {
			return bytes.NewReader(nil)
		}
		b, _ := io.ReadAll(io.LimitReader(f, maxAccounts)) // a short read is a short file
		return bytes.NewReader(b)
	}
	return user.GetExecUser(spec, nil, accounts("/etc/passwd"), accounts("/etc/group"))
}

func decompress(r io.Reader) (io.Reader, error) {
	buf := bufio.NewReaderSize(r, 256<<10)
	head, err := buf.Peek(6)
	if err != nil && !errors.Is(err, io.EOF) {
		return nil, err
	}
	switch {
	case bytes.HasPrefix(head, []byte{0x1f, 0x8b}):
		return gzip.NewReader(buf)
	case bytes.HasPrefix(head, []byte{0x28, 0xb5, 0x2f, 0xfd}):
		return zstd.NewReader(buf, zstd.WithDecoderConcurrency(1), zstd.WithDecoderMaxWindow(128<<20))
	case bytes.HasPrefix(head, []byte("BZh")):
		return bzip2.NewReader(buf), nil
	case bytes.HasPrefix(head, []byte("\xfd7zXZ\x00")):
		return nil, fmt.Errorf("xz compression is not supported")
	}
	return buf, nil
}
