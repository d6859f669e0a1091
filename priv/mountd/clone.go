package mountd

import (
	"context"
	"errors"
	"fmt"
	"os"

	"golang.org/x/sys/unix"

	"stockade/api/helper"
	"stockade/api/setting"
	"stockade/internal/failpoint"
	"stockade/internal/seqpacket"
	"stockade/internal/userns"
	"stockade/priv/peer"
)

// clone hands out store folders through the engine's map.
func (s *server) clone(_ context.Context, q helper.Clone, fds []*os.File) (helper.CloneDone, []*os.File, error) {
	none := helper.CloneDone{}
	if len(q.Items) == 0 || len(q.Items) > helper.MaxFDs {
		return none, nil, peer.Errorf(helper.Invalid, "%d folders, want 1 to %d", len(q.Items), helper.MaxFDs)
	}
	paths := make([]string, len(q.Items))
	for i, item := range q.Items {
		var err error
		if paths[i], err = storePath(item); err != nil {
			return none, nil, err
		}
	}
	if err := s.checkStoreMap(fds[0]); err != nil {
		return none, nil, err
	}
	var mounts []*os.File
	for i, item := range q.Items {
		mount, err := s.cloneOne(paths[i], item, fds[0])
		if err != nil {
			seqpacket.CloseAll(mounts)
			return none, nil, err
		}
		mounts = append(mounts, mount)
		failpoint.Hit("mountd.cloned")
	}
	return none, mounts, nil
}

// storePath checks an item and returns its path beneath the store.
func storePath(item helper.CloneItem) (string, error) {
	if !validName(item.Name) {
		return "", peer.Errorf(helper.Invalid, "store name %.140q", item.Name)
	}
	switch item.Kind {
	case helper.KindLayer:
		return "layers/" + item.Name + "/fs", nil
	case helper.KindRW:
		return "rw/" + item.Name, nil
	case helper.KindVolume:
		return "volumes/" + item.Name + "/data", nil
	}
	return "", peer.Errorf(helper.Invalid, "store kind %.140q", item.Kind)
}

// validName accepts [a-z0-9._-]{1,128} not starting with a dot.
func validName(name string) bool {
	if name == "" || len(name) > 128 || name[0] == '.' {
		return false
	}
	for _, c := range []byte(name) {
		if (c < 'a' || c > 'z') && (c < '0' || c > '9') && c != '.' && c != '_' && c != '-' {
			return false
		}
	}
	return true
}

// SECURITY(T-702): resolved beneath the store, without links or other file systems, and owned by the store's range.
func (s *server) cloneOne(path string, item helper.CloneItem, ns *os.File) (*os.File, error) {
	fd, err := unix.Openat2(int(s.store.Fd()), path, &unix.OpenHow{
		Flags:   unix.O_PATH | unix.O_DIRECTORY | unix.O_NOFOLLOW | unix.O_CLOEXEC,
		Resolve: unix.RESOLVE_BENEATH | unix.RESOLVE_NO_SYMLINKS | unix.RESOLVE_NO_MAGICLINKS | unix.RESOLVE_NO_XDEV,
	})
	switch {
	case errors.Is(err, unix.ENOENT):
		return nil, peer.Errorf(helper.NotFound, "no %s folder %s in the store", item.Kind, item.Name)
	case errors.Is(err, unix.ELOOP), errors.Is(err, unix.EXDEV), errors.Is(err, unix.ENOTDIR), errors.Is(err, unix.EACCES):
		return nil, peer.Errorf(helper.Denied, "%s is not a plain folder of the store: %v", path, err)
	case err != nil:
		return nil, fmt.Errorf("open %s: %w", path, err)
	}
	f := os.NewFile(uintptr(fd), path)
	defer f.Close()
	var st unix.Stat_t
	if err := unix.Fstat(fd, &st); err != nil {
		return nil, fmt.Errorf("stat %s: %w", path, err)
	}
	if !s.owners.Contains(st.Uid) || !s.owners.Contains(st.Gid) {
		return nil, peer.Errorf(helper.Denied, "%s belongs to %d:%d, outside of the store's range", path, st.Uid, st.Gid)
	}
	var attr uint64
	if item.RO || item.Kind == helper.KindLayer {
		attr = unix.MOUNT_ATTR_RDONLY
	}
	return detached(f, ns, attr)
}

// checkStoreMap accepts a proper descendant of U that shows store ids only.
//
// SECURITY(T-702): what a map shows as ids outside of the store would be the engine's to own, and the engine can bring
// foreign files into its store: a hard link to, or a rename of, a file that others left writable.
func (s *server) checkStoreMap(ns *os.File) error {
	id, err := userns.Identify(ns, unix.CLONE_NEWUSER)
	if err != nil {
		return peer.Errorf(helper.Invalid, "map: %v", err)
	}
	if id == s.u || id == s.initial {
		return peer.Errorf(helper.Denied, "map: U and the initial user namespace are refused")
	}
	ok, err := userns.Descends(ns, s.u)
	if err != nil {
		return fmt.Errorf("map: %w", err)
	}
	if !ok {
		return peer.Errorf(helper.Denied, "map: not a descendant of U")
	}
	uids, gids, err := userns.Read(ns)
	if err != nil {
		return fmt.Errorf("map: %w", err)
	}
	for _, m := range append(uids, gids...) {
		if !within(s.owners, m.Inside, m.Count) {
			return peer.Errorf(helper.Denied, "map: shows ids %d+%d, outside of the store's range", m.Inside, m.Count)
		}
	}
	if len(uids) == 0 || len(gids) == 0 {
		return peer.Errorf(helper.Invalid, "map: empty")
	}
	return nil
}

// within tells whether count ids from first on all lie in r.
func within(r setting.IDRange, first, count uint32) bool {
	return first >= r.First && uint64(first)+uint64(count) <= uint64(r.First)+uint64(r.Count)
}
