// Package identity tells who is at the other end of a client's connection.
//
// Trust: the kernel's record of the connection (SO_PEERCRED, SO_PEERGROUPS) and nothing else; what a request says
// about its sender is ignored.
// Invariants: an identity belongs to one connection and never changes; a caller always has a tenant.
// Failure: a connection whose credentials cannot be read is nobody and is refused.
package identity

import (
	"errors"
	"fmt"
	"net"
	"slices"
	"strconv"

	"golang.org/x/sys/unix"

	"stockade/api/setting"
)

// Tenant is whose objects a caller sees.
type Tenant string

// Caller is who made a connection. The zero value is nobody.
type Caller struct {
	UID, GID uint32
	PID      int32
	Groups   []uint32 // supplementary groups at the time of connect
	Tenant   Tenant
	Admin    bool
}

// Known tells whether this is somebody.
func (c Caller) Known() bool { return c.Tenant != "" }

// Rules say who callers are.
type Rules struct {
	AdminGID   int64           // members are administrators; -1: nobody but uid 0
	Containers setting.IDRange // host ids of containers: never callers
}

// ErrContainer is the refusal of a container's process that reached the socket.
var ErrContainer = errors.New("processes of containers may not use this socket")

// Of reads the identity of a connection.
//
// SECURITY(T-104): the answer is the kernel's, taken when the peer connected.
func (r Rules) Of(conn *net.UnixConn) (Caller, error) {
	var c Caller
	err := control(conn, func(fd int) error {
		cred, err := unix.GetsockoptUcred(fd, unix.SOL_SOCKET, unix.SO_PEERCRED)
		if err != nil {
			return err
		}
		c.UID, c.GID, c.PID = cred.Uid, cred.Gid, cred.Pid
		c.Groups, err = getsockoptUint32s(fd, unix.SOL_SOCKET, unix.SO_PEERGROUPS)
		return err
	})
	if err != nil {
		return Caller{}, fmt.Errorf("peer credentials: %w", err)
	}
	return r.assign(c)
}

// UID reads only who owns the other end, for counting connections.
func UID(conn *net.UnixConn) (uint32, error) {
	var uid uint32
	err := control(conn, func(fd int) error {
		cred, err := unix.GetsockoptUcred(fd, unix.SOL_SOCKET, unix.SO_PEERCRED)
		if err == nil {
			uid = cred.Uid
		}
		return err
	})
	return uid, err
}

// control runs f on the connection's descriptor.
func control(conn *net.UnixConn, f func(fd int) error) error {
	raw, err := conn.SyscallConn()
	if err != nil {
		return err
	}
	var ferr error
	if err := raw.Control(func(fd uintptr) { ferr = f(int(fd)) }); err != nil {
		return err
	}
	return ferr
}

// assign gives a caller its tenant and role. There is one tenant so far; a mapping from uids belongs here.
func (r Rules) assign(c Caller) (Caller, error) {
	if r.Containers.Contains(c.UID) { // SECURITY(T-101): CVE-2025-9074
		return Caller{}, ErrContainer
	}
	c.Admin = c.UID == 0 || r.AdminGID >= 0 && (int64(c.GID) == r.AdminGID ||
		slices.ContainsFunc(c.Groups, func(g uint32) bool { return int64(g) == r.AdminGID }))
	c.Tenant = "default"
	return c, nil
}

// String is for logs.
func (c Caller) String() string {
	return "uid " + strconv.FormatUint(uint64(c.UID), 10) + " pid " + strconv.Itoa(int(c.PID))
}
