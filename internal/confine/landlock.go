package confine

import (
	"fmt"
	"log/slog"

	"github.com/landlock-lsm/go-landlock/landlock"
	ll "github.com/landlock-lsm/go-landlock/landlock/syscall"
)

// Access is a set of rights beneath a path.
type Access uint64

// The rights. Opening with O_PATH and stat need none.
const (
	ReadFile  Access = ll.AccessFSReadFile
	ReadDir   Access = ll.AccessFSReadDir
	WriteFile Access = ll.AccessFSWriteFile | ll.AccessFSTruncate
	MakeDir   Access = ll.AccessFSMakeDir
	RemoveDir Access = ll.AccessFSRemoveDir
	// Records is what a folder of small durable files needs.
	Records = ReadFile | ReadDir | WriteFile | ll.AccessFSMakeReg | ll.AccessFSRemoveFile
)

// Path is one rule: what may be done with the file at Name, or with everything beneath it when it is a folder.
type Path struct {
	Why    string
	Name   string // must exist
	Access Access
}

// allFiles are the rights that Landlock withholds where no rule gives them (ABI 5; connecting to a Unix socket by
// path, ABI 9, stays allowed: socket modes and SO_PEERCRED decide about that).
const allFiles = landlock.AccessFSSet(ll.AccessFSIoctlDev<<1 - 1)

// restrictFiles applies the rules, as far as the kernel has Landlock.
//
// Before ABI 8 every thread gets its own domain, so a process must look at its children from the thread that made them.
func restrictFiles(paths []Path, tcp bool, log *slog.Logger) error {
	abi, err := ll.LandlockGetABIVersion()
	if err != nil {
		log.Warn("this kernel has no Landlock: files are held by uid and seccomp alone", "err", err)
		return nil
	}
	c := landlock.Config{HandledAccessFS: allFiles, Scoped: ll.ScopeAbstractUnixSocket}
	if !tcp {
		c.HandledAccessNet = ll.AccessNetBindTCP | ll.AccessNetConnectTCP
	}
	rules := make([]landlock.Rule, 0, len(paths))
	for _, p := range paths {
		rules = append(rules, landlock.PathAccess(landlock.AccessFSSet(p.Access), p.Name))
	}
	if err := c.BestEffort().Restrict(rules...); err != nil {
		return fmt.Errorf("landlock (ABI %d): %w", abi, err)
	}
	log.Info("landlock", "abi", abi, "rules", len(rules))
	return nil
}
