package main

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// prefix names everything that a run makes: folders, control groups, links.
const prefix = "stkb"

const accounting = "/sys/fs/cgroup/cpuacct"

// makeGroup makes a control group for accounting: what a process of it starts is in it, too.
func makeGroup(name string) error {
	if err := os.Mkdir(filepath.Join(accounting, name), 0o755); err != nil && !errors.Is(err, os.ErrExist) {
		return fmt.Errorf("control group (cgroup v1 cpuacct is needed): %w", err)
	}
	return nil
}

// enter moves a process into a control group.
func enter(name string, pid int) error {
	return os.WriteFile(filepath.Join(accounting, name, "cgroup.procs"), []byte(strconv.Itoa(pid)), 0)
}

// cpu is the time in ms that processes of a control group and of those beneath it have used, also of ended ones.
func cpu(name string) (float64, error) {
	data, err := os.ReadFile(filepath.Join(accounting, name, "cpuacct.usage"))
	if errors.Is(err, os.ErrNotExist) {
		return 0, nil // a daemon makes its containers' parent with the first container
	}
	if err != nil {
		return 0, err
	}
	ns, err := strconv.ParseInt(strings.TrimSpace(string(data)), 10, 64)
	return float64(ns) / 1e6, err
}

// members are the processes of a control group, with those of groups beneath it if deep.
func members(name string, deep bool) ([]int, error) {
	var list []int
	root := filepath.Join(accounting, name)
	err := filepath.WalkDir(root, func(path string, d os.DirEntry, err error) error {
		if errors.Is(err, os.ErrNotExist) {
			return nil
		}
		if err != nil || !d.IsDir() {
			return err
		}
		data, err := os.ReadFile(filepath.Join(path, "cgroup.procs"))
		if err != nil && !errors.Is(err, os.ErrNotExist) && !errors.Is(err, unix.ENODEV) {
			return err
		}
		for _, f := range strings.Fields(string(data)) {
			if pid, err := strconv.Atoi(f); err == nil {
				list = append(list, pid)
			}
		}
		if !deep && path == root {
			return filepath.SkipAll
		}
		return nil
	})
	return list, err
}

// program is the name of a process's program.
func program(pid int) string {
	exe, err := os.Readlink(fmt.Sprintf("/proc/%d/exe", pid))
	if err != nil {
		return ""
	}
	return strings.TrimSuffix(filepath.Base(exe), " (deleted)")
}

// named are those of some processes that run a program.
func named(pids []int, programs ...string) []int {
	var list []int
	for _, pid := range pids {
		for _, p := range programs {
			if program(pid) == p {
				list = append(list, pid)
			}
		}
	}
	return list
}

// sweep ends every process that is in a control group of a run and removes groups and folders.
func sweep() error {
	if _, err := os.Stat(accounting); err != nil {
		return fmt.Errorf("needs cgroup v1: %w", err)
	}
	// The bench itself may be in the client's group.
	if err := enter(".", os.Getpid()); err != nil {
		return err
	}
	groups, err := filepath.Glob(filepath.Join(accounting, prefix+"*"))
	if err != nil {
		return err
	}
	for end := time.Now().Add(time.Minute); ; time.Sleep(50 * time.Millisecond) {
		left := 0
		for _, g := range groups {
			pids, err := members(filepath.Base(g), true)
			if err != nil {
				return err
			}
			left += len(pids)
			for _, pid := range pids {
				_ = unix.Kill(pid, unix.SIGKILL)
			}
		}
		if left == 0 {
			break
		}
		if time.Now().After(end) {
			return fmt.Errorf("%d processes of an earlier run do not end", left)
		}
	}
	controllers, err := filepath.Glob("/sys/fs/cgroup/*/" + prefix + "*")
	if err != nil {
		return err
	}
	for _, g := range controllers {
		err = errors.Join(err, removeGroup(g))
	}
	for _, pattern := range []string{"/var/lib/" + prefix + "*", "/run/" + prefix + "*"} {
		found, _ := filepath.Glob(pattern)
		for _, dir := range found {
			err = errors.Join(err, removeTree(dir))
		}
	}
	return err
}

// removeGroup removes a control group and those beneath it.
func removeGroup(path string) error {
	var dirs []string
	err := filepath.WalkDir(path, func(p string, d os.DirEntry, err error) error {
		if err == nil && d.IsDir() {
			dirs = append(dirs, p)
		}
		return nil
	})
	for i := len(dirs) - 1; i >= 0; i-- {
		if rerr := os.Remove(dirs[i]); rerr != nil && !errors.Is(rerr, os.ErrNotExist) {
			err = errors.Join(err, rerr)
		}
	}
	return err
}

// removeTree removes a folder, and first what is mounted in it. A namespace that is just ending may still hold mounts.
func removeTree(dir string) (err error) {
	for end := time.Now().Add(20 * time.Second); time.Now().Before(end); time.Sleep(50 * time.Millisecond) {
		data, err := os.ReadFile("/proc/self/mountinfo")
		if err != nil {
			return err
		}
		for line := range strings.Lines(string(data)) {
			if f := strings.Fields(line); len(f) > 4 && (f[4] == dir || strings.HasPrefix(f[4], dir+"/")) {
				_ = unix.Unmount(f[4], unix.MNT_DETACH)
			}
		}
		if err = os.RemoveAll(dir); err == nil {
			return nil
		}
	}
	return err
}
