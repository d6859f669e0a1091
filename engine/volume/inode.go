package volume

import (
	"io/fs"
	"syscall"
)

type inode struct{ dev, ino, links uint64 }

func inodeOf(info fs.FileInfo) inode {
	st, ok := info.Sys().(*syscall.Stat_t)
	if !ok {
		return inode{}
	}
	return inode{dev: st.Dev, ino: st.Ino, links: uint64(st.Nlink)}
}
