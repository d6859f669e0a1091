package supervisor

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
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
			continue
		}
		if err := inheritCpuset(dir); err != nil {
			return err
		}
	}
	return nil
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
