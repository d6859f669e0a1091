package mountd

import (
	"context"
	"fmt"
	"os"

	"golang.org/x/sys/unix"

	"stockade/api/helper"
	"stockade/internal/failpoint"
	"stockade/internal/userns"
	"stockade/priv/peer"
)

// bind clones what grantd opened as its caller, through grantd's map.
func (s *server) bind(_ context.Context, q helper.Bind, fds []*os.File) (helper.None, []*os.File, error) {
	none := helper.None{}
	if err := checkSource(fds[0]); err != nil {
		return none, nil, err
	}
	if err := s.checkGrantMap(fds[1]); err != nil {
		return none, nil, err
	}
	attr := uint64(unix.MOUNT_ATTR_NOSUID)
	if q.RO {
		attr |= unix.MOUNT_ATTR_RDONLY
	}
	mount, err := detached(fds[0], fds[1], attr)
	if err != nil {
		return none, nil, err
	}
	failpoint.Hit("mountd.bound")
	return none, []*os.File{mount}, nil
}

// checkSource accepts what Docker binds, opened without access to its contents; no device, no symbolic link.
func checkSource(f *os.File) error {
	flags, err := unix.FcntlInt(f.Fd(), unix.F_GETFL, 0)
	if err != nil {
		return fmt.Errorf("source: %w", err)
	}
	if flags&unix.O_PATH == 0 {
		return peer.Errorf(helper.Invalid, "source: not opened with O_PATH")
	}
	var st unix.Stat_t
	if err := unix.Fstat(int(f.Fd()), &st); err != nil {
		return fmt.Errorf("source: %w", err)
	}
	switch st.Mode & unix.S_IFMT {
	case unix.S_IFDIR, unix.S_IFREG, unix.S_IFSOCK, unix.S_IFIFO:
		return nil
	}
	return peer.Errorf(helper.Denied, "source: file of type %#o", st.Mode&unix.S_IFMT)
}

// checkGrantMap accepts a child of the initial namespace other than U: a map that the engine cannot have made.
//
// SECURITY(T-702): with a map of the engine's the caller's files would be the engine's.
func (s *server) checkGrantMap(ns *os.File) error {
	id, err := userns.Identify(ns, unix.CLONE_NEWUSER)
	if err != nil {
		return peer.Errorf(helper.Invalid, "map: %v", err)
	}
	if id == s.u || id == s.initial {
		return peer.Errorf(helper.Denied, "map: U and the initial user namespace are refused")
	}
	parent, err := userns.Parent(ns)
	if err != nil {
		return peer.Errorf(helper.Denied, "map: no parent: %v", err)
	}
	defer parent.Close()
	pid, err := userns.Identify(parent, unix.CLONE_NEWUSER)
	if err != nil {
		return fmt.Errorf("map: %w", err)
	}
	if pid != s.initial {
		return peer.Errorf(helper.Denied, "map: not a child of the initial user namespace")
	}
	return nil
}
