package supervisor

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"stockade/host"
)

// engineLeaf is the v2 group of the engine itself: a process can be moved to a container's group only from within the
// same subtree, and groups with controllers hold no processes. The dot keeps it apart from containers' names.
const engineLeaf = "engine.leaf"

// cgroupFolders are the folders of our parent, one per hierarchy.
func (s *Supervisor) cgroupFolders() []string {
	if s.cgroups.V2 {
		return []string{filepath.Join(host.CgroupRoot, s.cfg.CgroupParent)}
	}
	var folders []string
	for _, h := range s.cgroups.Hierarchies {
		folders = append(folders, filepath.Join(h, s.cfg.CgroupParent))
	}
	return folders
}

// makeCgroups makes the parent in each hierarchy.
func (s *Supervisor) makeCgroups() error {
	for _, dir := range s.cgroupFolders() {
		if err := os.Mkdir(dir, 0o755); err != nil && !errors.Is(err, os.ErrExist) {
			return err
		}
		if err := os.Chmod(dir, 0o755); err != nil {
			return err
		}
		if s.cgroups.V2 {
			if err := s.delegate(dir); err != nil {
				return err
			}
		} else if err := inheritCpuset(dir); err != nil {
			return err
		}
		s.limit(dir)
	}
	return nil
}

// limit holds all containers together, so that those without limits of their own leave the host something.
//
// SECURITY(T-305): cgroupd knows no request that changes the parent. A limit that the kernel does not take, because more is
// in use already, is logged: the server had rather start.
func (s *Supervisor) limit(dir string) {
	memory, pids := "-1", "max"
	if s.cgroups.V2 {
		memory = "max"
	}
	if n := memoryShare(s.cfg.Limits.Memory); n > 0 {
		memory = strconv.FormatInt(n, 10)
	}
	if p := s.cfg.Limits.Pids; p < 100 {
		n := number("/proc/sys/kernel/pid_max")
		if threads := number("/proc/sys/kernel/threads-max"); threads > 0 && threads < n {
			n = threads
		}
		if n > 0 {
			pids = strconv.FormatInt(n*int64(p)/100, 10)
		}
	}
	for file, value := range map[string]string{"memory.limit_in_bytes": memory, "memory.max": memory, "pids.max": pids} {
		path := filepath.Join(dir, file)
		if _, err := os.Lstat(path); err != nil {
			continue // another controller's folder
		}
		if err := os.WriteFile(path, []byte(value), 0); err != nil {
			s.log.Warn("limit of all containers", "path", path, "value", value, "err", err)
		}
	}
}

// memoryShare is a part of the host's memory in bytes, 0 for all of it, which is no limit.
func memoryShare(percent int) int64 {
	var info unix.Sysinfo_t
	if err := unix.Sysinfo(&info); err != nil || percent >= 100 {
		return 0
	}
	return int64(info.Totalram) * int64(info.Unit) / 100 * int64(percent)
}

// number reads a number of the kernel's, 0 if it has none.
func number(path string) int64 {
	data, err := os.ReadFile(path)
	if err != nil {
		return 0
	}
	n, _ := strconv.ParseInt(strings.TrimSpace(string(data)), 10, 64) // 0
	return n
}

// inheritCpuset gives a v1 group the CPUs and memory nodes of the one above, and lets its children have them.
func inheritCpuset(dir string) error {
	for _, file := range []string{"cpuset.cpus", "cpuset.mems"} {
		above, err := os.ReadFile(filepath.Join(filepath.Dir(dir), file))
		if errors.Is(err, os.ErrNotExist) {
			return nil // another controller
		}
		if err != nil {
			return err
		}
		if err := os.WriteFile(filepath.Join(dir, file), above, 0); err != nil {
			return err
		}
	}
	return os.WriteFile(filepath.Join(dir, "cgroup.clone_children"), []byte("1"), 0)
}

// delegate gives a v2 subtree to cgroupd.
func (s *Supervisor) delegate(dir string) error {
	available, err := os.ReadFile(filepath.Join(filepath.Dir(dir), "cgroup.controllers"))
	if err != nil {
		return err
	}
	for _, c := range []string{"memory", "pids", "cpu", "cpuset", "io"} {
		if !strings.Contains(" "+strings.TrimSpace(string(available))+" ", " "+c+" ") {
			continue
		}
		for _, d := range []string{filepath.Dir(dir), dir} {
			if err := os.WriteFile(filepath.Join(d, "cgroup.subtree_control"), []byte("+"+c), 0); err != nil {
				return fmt.Errorf("enable controller %s: %w", c, err)
			}
		}
	}
	leaf := filepath.Join(dir, engineLeaf)
	if err := os.Mkdir(leaf, 0o755); err != nil && !errors.Is(err, os.ErrExist) {
		return err
	}
	owner := s.users["cgroupd"]
	for _, path := range []string{dir, filepath.Join(dir, "cgroup.procs"), filepath.Join(dir, "cgroup.subtree_control"), filepath.Join(dir, "cgroup.threads"), filepath.Join(leaf, "cgroup.procs")} {
		if err := os.Chown(path, int(owner.UID), int(owner.GID)); err != nil {
			return err
		}
	}
	f, err := os.OpenFile(leaf, unix.O_PATH|unix.O_DIRECTORY, 0)
	if err != nil {
		return err
	}
	s.files["engine-cgroup"] = f
	return nil
}

// thaw lets paused containers go on: in the freezer of cgroup v1 a process does not even end when it is killed.
func (s *Supervisor) thaw() error {
	var errs []error
	for _, dir := range s.cgroupFolders() {
		states, err := filepath.Glob(filepath.Join(dir, "*", "freezer.state"))
		if err != nil {
			return err
		}
		for _, state := range states {
			if err := os.WriteFile(state, []byte("THAWED"), 0); err != nil && !errors.Is(err, os.ErrNotExist) && !errors.Is(err, unix.ENODEV) {
				errs = append(errs, fmt.Errorf("thaw: %w", err))
			}
		}
	}
	return errors.Join(errs...)
}

// removeCgroups removes our subtree. The kernel needs a moment after the last process of a group has ended.
func (s *Supervisor) removeCgroups() error {
	var errs []error
	for _, dir := range s.cgroupFolders() {
		var err error
		for range 100 {
			if err = removeTree(dir); err == nil || !errors.Is(err, unix.EBUSY) {
				break
			}
			time.Sleep(20 * time.Millisecond)
		}
		errs = append(errs, err)
	}
	return errors.Join(errs...)
}

// removeTree removes a control group and those beneath it; cgroupfs removes the files of each.
func removeTree(dir string) error {
	entries, err := os.ReadDir(dir)
	if errors.Is(err, os.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	for _, e := range entries {
		if e.IsDir() {
			if err := removeTree(filepath.Join(dir, e.Name())); err != nil {
				return err
			}
		}
	}
	if err := unix.Rmdir(dir); err != nil && !errors.Is(err, unix.ENOENT) {
		return fmt.Errorf("remove %s: %w", dir, err)
	}
	return nil
}
