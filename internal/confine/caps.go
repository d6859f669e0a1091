package confine

import (
	"fmt"

	"golang.org/x/sys/unix"
)

// capNumbers are the capabilities that proctable may name.
var capNumbers = map[string]uint{
	"CAP_KILL":      unix.CAP_KILL,
	"CAP_NET_ADMIN": unix.CAP_NET_ADMIN,
	"CAP_SETGID":    unix.CAP_SETGID,
	"CAP_SETUID":    unix.CAP_SETUID,
	"CAP_SYS_ADMIN": unix.CAP_SYS_ADMIN,
}

func capSet(names []string) (uint64, error) {
	var set uint64
	for _, name := range names {
		n, ok := capNumbers[name]
		if !ok {
			return 0, fmt.Errorf("unknown capability %q", name)
		}
		set |= 1 << n
	}
	return set, nil
}

// checkIdentity refuses mixed identities, uid or gid 0 where the table does not say root, and supplementary groups.
func checkIdentity(root bool) error {
	ruid, euid, suid := unix.Getresuid()
	rgid, egid, sgid := unix.Getresgid()
	if ruid != euid || ruid != suid || rgid != egid || rgid != sgid {
		return fmt.Errorf("mixed identity: uids %d %d %d, gids %d %d %d", ruid, euid, suid, rgid, egid, sgid)
	}
	if !root && (ruid == 0 || rgid == 0) {
		return fmt.Errorf("runs as uid %d, gid %d; neither may be 0", ruid, rgid)
	}
	groups, err := unix.Getgroups()
	if err != nil {
		return fmt.Errorf("groups: %w", err)
	}
	for _, g := range groups {
		if g != rgid {
			return fmt.Errorf("has supplementary group %d", g)
		}
	}
	return nil
}

// Caps returns the calling thread's effective, permitted and inheritable capabilities.
func Caps() (effective, permitted, inheritable uint64, err error) {
	hdr := unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}
	var data [2]unix.CapUserData
	if err := unix.Capget(&hdr, &data[0]); err != nil {
		return 0, 0, 0, fmt.Errorf("capget: %w", err)
	}
	join := func(low, high uint32) uint64 { return uint64(high)<<32 | uint64(low) }
	return join(data[0].Effective, data[1].Effective), join(data[0].Permitted, data[1].Permitted),
		join(data[0].Inheritable, data[1].Inheritable), nil
}

// keepCaps checks that the process has exactly want and cannot get more, and leaves just that on every thread.
func keepCaps(want uint64) error {
	_, permitted, _, err := Caps()
	if err != nil {
		return err
	}
	if permitted != want {
		return fmt.Errorf("permitted capabilities are %#x, want %#x", permitted, want)
	}
	for n := uint(0); n < 64; n++ {
		got, err := unix.PrctlRetInt(unix.PR_CAPBSET_READ, uintptr(n), 0, 0, 0)
		if err != nil {
			break // EINVAL: beyond the kernel's last capability
		}
		if got == 1 && want&(1<<n) == 0 {
			return fmt.Errorf("bounding set still holds capability %d", n)
		}
	}
	if err := allThreads(unix.SYS_PRCTL, unix.PR_CAP_AMBIENT, unix.PR_CAP_AMBIENT_CLEAR_ALL); err != nil {
		return fmt.Errorf("clear ambient capabilities: %w", err)
	}
	if err := capsetAll(want); err != nil {
		return fmt.Errorf("capset: %w", err)
	}
	return nil
}
