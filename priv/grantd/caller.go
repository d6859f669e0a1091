package grantd

import (
	"errors"
	"fmt"
	"os"
	"slices"

	"golang.org/x/sys/unix"

	"stockade/api/helper"
	"stockade/api/setting"
	"stockade/priv/peer"
)

// maxGroups bounds a caller's supplementary groups; each grant records them.
const maxGroups = 4096

// caller is an identity on the host as the kernel recorded it.
type caller struct {
	UID    uint32   `json:"uid"`
	GID    uint32   `json:"gid"`
	Groups []uint32 `json:"groups"`
}

// identify asks the kernel who is at the other end of an accepted client connection.
//
// SECURITY(T-701): neither gate nor engine can invent a caller: a socket pair has no name, a client's own end is not
// bound to the API path, and the credentials are those of connect(2).
func (s *server) identify(conn *os.File) (caller, error) {
	fd := int(conn.Fd()) // received descriptors are never switched to blocking by Fd
	var st unix.Stat_t
	if err := unix.Fstat(fd, &st); err != nil {
		return caller{}, fmt.Errorf("connection: %w", err)
	}
	if st.Mode&unix.S_IFMT != unix.S_IFSOCK {
		return caller{}, peer.Errorf(helper.Invalid, "connection: not a socket")
	}
	for _, o := range []struct {
		name      string
		opt, want int
	}{{"domain", unix.SO_DOMAIN, unix.AF_UNIX}, {"type", unix.SO_TYPE, unix.SOCK_STREAM}, {"listening", unix.SO_ACCEPTCONN, 0}} {
		got, err := unix.GetsockoptInt(fd, unix.SOL_SOCKET, o.opt)
		if err != nil {
			return caller{}, fmt.Errorf("connection: %s: %w", o.name, err)
		}
		if got != o.want {
			return caller{}, peer.Errorf(helper.Invalid, "connection: %s is %d, want %d", o.name, got, o.want)
		}
	}
	name, err := unix.Getsockname(fd)
	if err != nil {
		return caller{}, fmt.Errorf("connection: name: %w", err)
	}
	if at, ok := name.(*unix.SockaddrUnix); !ok || at.Name == "" || !slices.Contains(s.set.APISockets, at.Name) {
		return caller{}, peer.Errorf(helper.Denied, "connection: not accepted on a socket of the API")
	}
	if err := connected(fd); err != nil {
		return caller{}, err
	}
	cred, err := unix.GetsockoptUcred(fd, unix.SOL_SOCKET, unix.SO_PEERCRED)
	if err != nil {
		return caller{}, fmt.Errorf("connection: credentials: %w", err)
	}
	groups, err := peerGroups(fd)
	if err != nil {
		return caller{}, fmt.Errorf("connection: groups: %w", err)
	}
	c := caller{UID: cred.Uid, GID: cred.Gid, Groups: groups}
	return c, s.mayCall(c)
}

// connected refuses a connection whose other end is closed or whose process has ended: its consent is gone.
func connected(fd int) error {
	if _, err := unix.Getpeername(fd); err != nil {
		return peer.Errorf(helper.Denied, "connection: not connected")
	}
	if hungUp(fd, unix.POLLRDHUP) {
		return peer.Errorf(helper.Denied, "connection: the client has gone")
	}
	pidfd, err := unix.GetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_PEERPIDFD)
	switch {
	case errors.Is(err, unix.ENOPROTOOPT): // before Linux 6.5
		return nil
	case err != nil:
		return peer.Errorf(helper.Denied, "connection: its process has ended (%v)", err)
	}
	defer unix.Close(pidfd)
	if hungUp(pidfd, unix.POLLIN) {
		return peer.Errorf(helper.Denied, "connection: its process has ended")
	}
	return nil
}

// hungUp tells whether a descriptor is in one of the states now; an error of poll counts as yes.
func hungUp(fd int, events int16) bool {
	p := []unix.PollFd{{Fd: int32(fd), Events: events}}
	for {
		_, err := unix.Ppoll(p, &unix.Timespec{}, nil)
		if !errors.Is(err, unix.EINTR) {
			return err != nil || p[0].Revents != 0
		}
	}
}

// mayCall refuses identities that are nobody's: unmapped ones, those of containers, and the server's own.
func (s *server) mayCall(c caller) error {
	const nobody = 65534 // what the kernel shows for an unmapped id, and owner of what has no owner
	switch {
	case c.UID == ^uint32(0) || c.GID == ^uint32(0) || c.UID == nobody:
		return peer.Errorf(helper.Denied, "user id %d owns no files of its own", c.UID)
	case s.set.Sub.Contains(c.UID) || s.set.Ghost.Contains(c.UID):
		return peer.Errorf(helper.Denied, "user id %d is a container's", c.UID)
	case c.UID == s.set.EngineUID || c.UID == s.set.GateUID || c.UID == s.ownUID:
		return peer.Errorf(helper.Denied, "user id %d is the server's own", c.UID)
	case len(c.Groups) > maxGroups:
		return peer.Errorf(helper.Denied, "user id %d has %d groups, the limit is %d", c.UID, len(c.Groups), maxGroups)
	}
	return nil
}

// target checks that both ids lie in one block ≥ 1 of U.
func target(sub setting.IDRange, uid, gid uint32) error {
	if !sub.Contains(uid) || !sub.Contains(gid) {
		return peer.Errorf(helper.Denied, "target %d:%d is outside of the containers' ids", uid, gid)
	}
	u, g := (uid-sub.First)/setting.BlockSize, (gid-sub.First)/setting.BlockSize
	if u == 0 || g == 0 {
		return peer.Errorf(helper.Denied, "target %d:%d is the store's", uid, gid)
	}
	if u != g {
		return peer.Errorf(helper.Denied, "target %d:%d is in two containers' blocks", uid, gid)
	}
	return nil
}
