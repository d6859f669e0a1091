package host

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"github.com/google/nftables"
	"golang.org/x/sys/unix"

	"stockade/internal/userns"
)

// userNamespaces makes one.
func userNamespaces() error {
	m := []userns.Map{{Inside: 0, Outside: 65534, Count: 1}}
	ns, err := userns.Create(0, m, m)
	if err != nil {
		return err
	}
	ns["user"].Close()
	return nil
}

// overlay asks for the file system, which loads its module where the kernel may.
func overlay() error {
	fd, err := unix.Fsopen("overlay", unix.FSOPEN_CLOEXEC)
	if err != nil {
		return fmt.Errorf("fsopen overlay: %w", err)
	}
	return unix.Close(fd)
}

// idMapped makes an id-mapped clone of a new folder in dir, or in the nearest folder above that exists.
func idMapped(dir string) (err error) {
	for {
		if _, err := os.Stat(dir); err == nil || dir == "/" {
			break
		}
		dir = filepath.Dir(dir)
	}
	try, err := os.MkdirTemp(dir, ".stockade-check-")
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, os.Remove(try)) }()
	m := []userns.Map{{Inside: 0, Outside: 65534, Count: 1}}
	ns, err := userns.Create(0, m, m)
	if err != nil {
		return err
	}
	defer ns["user"].Close()
	tree, err := unix.OpenTree(unix.AT_FDCWD, try, unix.OPEN_TREE_CLONE|unix.OPEN_TREE_CLOEXEC)
	if err != nil {
		return fmt.Errorf("open_tree %s: %w", dir, err)
	}
	defer unix.Close(tree)
	err = unix.MountSetattr(tree, "", unix.AT_EMPTY_PATH, &unix.MountAttr{
		Attr_set:  unix.MOUNT_ATTR_IDMAP,
		Userns_fd: uint64(ns["user"].Fd()),
	})
	if err != nil {
		return fmt.Errorf("the file system of %s cannot be id-mapped: mount_setattr: %w", dir, err)
	}
	return nil
}

// nft lists the tables.
func nft() error {
	conn, err := nftables.New()
	if err != nil {
		return err
	}
	if _, err := conn.ListTables(); err != nil {
		return fmt.Errorf("list tables: %w", err)
	}
	return nil
}
