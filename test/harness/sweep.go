package harness

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"time"

	"golang.org/x/sys/unix"
)

// sweep takes down the server of this run or of an earlier one that was killed, and removes its data.
func (s *Server) sweep() error {
	var errs []error
	if _, err := os.Stat(Run); err == nil {
		errs = append(errs, s.Down())
	}
	errs = append(errs, killRange())
	for unix.Unmount(Data, unix.MNT_DETACH) == nil { // a disk of its own
	}
	for _, dir := range []string{Data, Run} {
		errs = append(errs, os.RemoveAll(dir))
	}
	return errors.Join(errs...)
}

// killRange kills every process with an id of our range. "stockade down" has ended all that it knows of; these would
// be leaks.
func killRange() error {
	// Those that an interrupted test has paused would not end.
	states, err := filepath.Glob("/sys/fs/cgroup/freezer/" + Prefix + "/*/freezer.state")
	if err != nil {
		return err
	}
	for _, state := range states {
		if err := os.WriteFile(state, []byte("THAWED"), 0); err != nil && !errors.Is(err, os.ErrNotExist) && !errors.Is(err, unix.ENODEV) {
			return err
		}
	}
	deadline := time.Now().Add(Patience)
	for {
		entries, err := os.ReadDir("/proc")
		if err != nil {
			return err
		}
		var found []int
		for _, e := range entries {
			pid, err := strconv.Atoi(e.Name())
			if err != nil {
				continue
			}
			fd, err := unix.PidfdOpen(pid, 0)
			if err != nil {
				continue
			}
			if uid, state, ok := uidOf(pid); ok && state != "Z" && IDs.Contains(uid) {
				found = append(found, pid)
				_ = unix.PidfdSendSignal(fd, unix.SIGKILL, nil, 0)
			}
			unix.Close(fd)
		}
		if len(found) == 0 {
			return nil
		}
		if time.Now().After(deadline) {
			return fmt.Errorf("processes %v do not end", found)
		}
		time.Sleep(20 * time.Millisecond)
	}
}
