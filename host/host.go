// Package host looks whether this machine can run Stockade and says what to do where it cannot. It changes nothing
// lasting: what it tries, it undoes.
//
// Trust: the kernel's answers and files that only root can write. Invariants: no check parses what an ordinary user
// could have written. Failure: each check that does not pass is a Finding with its remedy; none is left out because
// another one failed.
package host

import (
	"errors"
	"fmt"
	"os"
	"os/user"
	"path/filepath"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"

	"stockade/internal/config"
	"stockade/internal/proctable"
)

// Finding is the result of one check.
type Finding struct {
	Check string // what was looked at
	Err   error  // nil: it is as it must be
	Fix   string // what the administrator can do about Err
	Note  string // worth knowing although nothing is wrong
}

// Check looks at everything. It needs root.
func Check(c config.Config) []Finding {
	findings := []Finding{
		{Check: "users", Err: users(c), Fix: "make them: scripts/users.sh, or systemd-sysusers with dist/sysusers.d/stockade.conf"},
		{Check: "subordinate ids", Err: c.CheckSubIDs(), Fix: "give stockade-engine a range of its own in /etc/subuid and /etc/subgid (scripts/users.sh does), or set ids.first and ids.count"},
		{Check: "programs", Err: programs(c), Fix: "install all of Stockade's programs in one folder that everybody can read and only root can change (make install)"},
		{Check: "user namespaces", Err: userNamespaces(), Fix: "set the sysctl user.max_user_namespaces to a few thousand; where the kernel has kernel.unprivileged_userns_clone, set it to 1"},
		{Check: "overlay", Err: overlay(), Fix: "load the kernel module overlay"},
		{Check: "id-mapped mounts", Err: idMapped(c.Data), Fix: "put the data folder on a file system with id-mapped mounts, for example ext4, xfs or btrfs, with Linux 5.19 or newer"},
		{Check: "nftables", Err: nft(), Fix: "load the kernel module nf_tables"},
	}
	layout, err := ReadCgroups()
	f := Finding{Check: "control groups", Err: err, Fix: "mount cgroup2 at /sys/fs/cgroup, or the cgroup v1 controllers beneath it"}
	if err == nil {
		f.Note = layout.String()
	}
	findings = append(findings, f)
	if data, err := os.ReadFile("/proc/sys/kernel/apparmor_restrict_unprivileged_userns"); err == nil && strings.TrimSpace(string(data)) == "1" {
		findings = append(findings, Finding{Check: "AppArmor", Note: "kernel.apparmor_restrict_unprivileged_userns is 1: if containers cannot start, give stockade-engine and runc a profile with the userns rule"})
	}
	return findings
}

// Failed joins the findings that are errors into one, each with its remedy.
func Failed(findings []Finding) error {
	var errs []error
	for _, f := range findings {
		if f.Err != nil {
			errs = append(errs, fmt.Errorf("%s: %w\n  to do: %s", f.Check, f.Err, f.Fix))
		}
	}
	return errors.Join(errs...)
}

// User is a system user by number.
type User struct{ UID, GID uint32 }

// LookupUser finds a user of /etc/passwd.
func LookupUser(name string) (User, error) {
	u, err := user.Lookup(name)
	if err != nil {
		return User{}, fmt.Errorf("no user %s", name)
	}
	uid, err1 := strconv.ParseUint(u.Uid, 10, 32)
	gid, err2 := strconv.ParseUint(u.Gid, 10, 32)
	return User{uint32(uid), uint32(gid)}, errors.Join(err1, err2)
}

// LookupGroup finds a group of /etc/group.
func LookupGroup(name string) (uint32, error) {
	g, err := user.LookupGroup(name)
	if err != nil {
		return 0, fmt.Errorf("no group %s", name)
	}
	gid, err := strconv.ParseUint(g.Gid, 10, 32)
	return uint32(gid), err
}

// users checks that each process has a user of its own: sharing one would join two privilege domains.
func users(c config.Config) error {
	var errs []error
	seen := map[uint32]string{}
	for _, p := range proctable.Table {
		name := p.UserOn(false)
		u, err := LookupUser(name)
		if err != nil {
			errs = append(errs, err)
			continue
		}
		if u.UID == 0 || u.GID == 0 {
			errs = append(errs, fmt.Errorf("user %s has uid %d and gid %d", name, u.UID, u.GID))
		}
		if other, taken := seen[u.UID]; taken {
			errs = append(errs, fmt.Errorf("users %s and %s have the same uid %d", other, name, u.UID))
		}
		if c.IDs.Count != 0 && c.IDs.Range().Contains(u.UID) {
			errs = append(errs, fmt.Errorf("uid %d of %s lies in the containers' range", u.UID, name))
		}
		seen[u.UID] = name
	}
	groups := []string{c.Group}
	if c.AdminGroup != "" {
		groups = append(groups, c.AdminGroup)
	}
	for _, g := range groups {
		if _, err := LookupGroup(g); err != nil {
			errs = append(errs, err)
		}
	}
	return errors.Join(errs...)
}

// programs checks what will be executed: present, readable by all (each process has another user), changeable by root alone.
func programs(c config.Config) error {
	paths := []string{Nsenter}
	for _, p := range proctable.Table {
		paths = append(paths, filepath.Join(c.Bin, "stockade-"+p.Name))
	}
	for _, name := range []string{"stockade-shim", "stockade-unpack"} {
		paths = append(paths, filepath.Join(c.Bin, name))
	}
	for _, path := range c.Runtimes {
		paths = append(paths, path)
	}
	var errs []error
	for _, path := range paths {
		if err := program(path); err != nil {
			errs = append(errs, err)
		}
	}
	return errors.Join(errs...)
}

// Nsenter is the program of util-linux that enters U; its options --setuid and --setgid exist since 2.29.
const Nsenter = "/usr/bin/nsenter"

func program(path string) error {
	real, err := filepath.EvalSymlinks(path)
	if err != nil {
		return fmt.Errorf("%s: %w", path, err)
	}
	var st unix.Stat_t
	if err := unix.Stat(real, &st); err != nil {
		return fmt.Errorf("%s: %w", path, err)
	}
	switch {
	case st.Mode&unix.S_IFMT != unix.S_IFREG || st.Mode&0o5 != 0o5:
		return fmt.Errorf("%s is not a program that everybody may read and execute", path)
	case st.Uid != 0 || st.Mode&0o022 != 0:
		return fmt.Errorf("%s can be changed by others than root", path)
	}
	for dir := filepath.Dir(real); ; dir = filepath.Dir(dir) {
		if err := unix.Stat(dir, &st); err != nil {
			return fmt.Errorf("%s: %w", dir, err)
		}
		switch {
		case st.Mode&0o1 == 0:
			return fmt.Errorf("%s: folder %s cannot be entered by everybody", path, dir)
		case st.Uid != 0 || (st.Mode&0o022 != 0 && st.Mode&unix.S_ISVTX == 0):
			return fmt.Errorf("%s: folder %s can be changed by others than root", path, dir)
		}
		if dir == "/" {
			return nil
		}
	}
}
