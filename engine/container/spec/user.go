package spec

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"strconv"
	"strings"

	"github.com/moby/sys/user"
	"golang.org/x/sys/unix"

	"stockade/api/setting"
	"stockade/engine/runtime"
)

// maxUserFile bounds /etc/passwd and /etc/group of a container.
const maxUserFile = 4 << 20

// Account is a resolved user.
type Account struct {
	runtime.User
	Home string
}

// Users are the contents of a container's /etc/passwd and /etc/group.
type Users struct{ Passwd, Group []byte }

// ReadUsers reads both files beneath root, which is never left: symlinks are resolved as if root were "/".
// SECURITY(T-401): the path belongs to the container and may change under us.
func ReadUsers(root string) (Users, error) {
	dir, err := unix.Open(root, unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return Users{}, fmt.Errorf("open root: %w", err)
	}
	defer unix.Close(dir)
	var u Users
	if u.Passwd, err = readBeneath(dir, "etc/passwd"); err != nil {
		return Users{}, err
	}
	if u.Group, err = readBeneath(dir, "etc/group"); err != nil {
		return Users{}, err
	}
	return u, nil
}

// readBeneath reads a regular file of bounded size; a missing one is empty.
func readBeneath(dir int, name string) ([]byte, error) {
	fd, err := unix.Openat2(dir, name, &unix.OpenHow{
		Flags:   unix.O_RDONLY | unix.O_CLOEXEC | unix.O_NONBLOCK | unix.O_NOCTTY,
		Resolve: unix.RESOLVE_IN_ROOT | unix.RESOLVE_NO_MAGICLINKS,
	})
	if errors.Is(err, unix.ENOENT) || errors.Is(err, unix.ENOTDIR) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("open %s in the container: %w", name, err)
	}
	f := os.NewFile(uintptr(fd), name)
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return nil, err
	}
	if !info.Mode().IsRegular() {
		return nil, invalid("%s in the container is not a regular file", name)
	}
	b, err := io.ReadAll(io.LimitReader(f, maxUserFile+1))
	if err != nil {
		return nil, fmt.Errorf("read %s in the container: %w", name, err)
	}
	if len(b) > maxUserFile {
		return nil, invalid("%s in the container is larger than %d bytes", name, maxUserFile)
	}
	return b, nil
}

// Lookup resolves user[:group] and additional groups. SECURITY(T-501): an id beyond the container's block is refused
// before and after the look-up, so neither 2^32 nor a line of the image wraps around.
func (u Users) Lookup(spec string, groupAdd []string) (Account, error) {
	for _, part := range append(strings.SplitN(spec, ":", 2), groupAdd...) {
		if strings.HasPrefix(part, "+") { // the look-up would take it for a number
			return Account{}, invalid("unable to find user or group %s: no matching entries", part)
		}
		if isNumber(part) {
			if n, err := strconv.ParseUint(part, 10, 64); err != nil || n >= setting.BlockSize {
				return Account{}, invalid("uids and gids must be in range 0-%d", setting.BlockSize-1)
			}
		}
	}
	eu, err := user.GetExecUser(spec, nil, bytes.NewReader(u.Passwd), bytes.NewReader(u.Group))
	if err != nil {
		return Account{}, invalid("%v", err)
	}
	var extra []int
	if len(groupAdd) > 0 {
		if extra, err = user.GetAdditionalGroups(groupAdd, bytes.NewReader(u.Group)); err != nil {
			return Account{}, invalid("%v", err)
		}
	}
	a := Account{Home: eu.Home}
	if !inBlock(eu.Uid) || !inBlock(eu.Gid) {
		return Account{}, invalid("uids and gids must be in range 0-%d", setting.BlockSize-1)
	}
	a.UID, a.GID = uint32(eu.Uid), uint32(eu.Gid)
	// SECURITY(T-501): the primary group is one of the additional ones (CVE-2022-36109).
	groups := append([]int{eu.Gid}, eu.Sgids...)
	for _, g := range append(groups, extra...) {
		if !inBlock(g) {
			return Account{}, invalid("uids and gids must be in range 0-%d", setting.BlockSize-1)
		}
		a.Additional = append(a.Additional, uint32(g))
	}
	return a, nil
}

func inBlock(id int) bool { return id >= 0 && id < setting.BlockSize }

func isNumber(s string) bool {
	return s != "" && strings.IndexFunc(s, func(r rune) bool { return r < '0' || r > '9' }) < 0
}
