package cgroupd

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"golang.org/x/sys/unix"

	"stockade/api/helper"
	"stockade/api/setting"
	"stockade/internal/failpoint"
	"stockade/priv/peer"
)

// controllers of cgroup v1 that are used. "devices" is not: containers cannot make device nodes, and writing its
// lists takes CAP_SYS_ADMIN. The first one found answers "pids" and "list".
var controllers = []string{"pids", "memory", "cpu", "cpuacct", "cpuset", "freezer", "blkio"}

// hierarchy is our parent folder in one mounted hierarchy.
type hierarchy struct {
	path string
	dir  *os.File // O_PATH
}

// tree is the hierarchies, each once, and by controller. On v2 every controller is in the same one.
type tree struct {
	v2  bool
	all []*hierarchy
	by  map[string]*hierarchy
}

func openTree(set setting.Cgroupd) (tree, error) {
	if set.Parent == "" || set.Parent != filepath.Base(set.Parent) || strings.HasPrefix(set.Parent, ".") {
		return tree{}, fmt.Errorf("control group parent %q is not one path component", set.Parent)
	}
	t := tree{v2: set.V2, by: map[string]*hierarchy{}}
	seen := map[[2]uint64]*hierarchy{}
	for _, c := range controllers {
		path := filepath.Join(set.Root, set.Parent)
		if !set.V2 {
			path = filepath.Join(mountOf(set.Root, c), set.Parent)
		}
		f, err := os.OpenFile(path, unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
		if errors.Is(err, unix.ENOENT) {
			continue
		}
		if err != nil {
			t.close()
			return tree{}, err
		}
		var st unix.Stat_t
		if err := unix.Fstat(int(f.Fd()), &st); err != nil {
			f.Close()
			t.close()
			return tree{}, err
		}
		key := [2]uint64{st.Dev, st.Ino}
		if h := seen[key]; h != nil { // for example cpu and cpuacct, mounted together
			f.Close()
			t.by[c] = h
			continue
		}
		h := &hierarchy{path: path, dir: f}
		seen[key], t.by[c] = h, h
		t.all = append(t.all, h)
	}
	if len(t.all) == 0 {
		return tree{}, fmt.Errorf("no control group %q beneath %s", set.Parent, set.Root)
	}
	return t, nil
}

// mountOf finds the folder of a v1 controller, which may be mounted together with others ("cpu,cpuacct").
func mountOf(root, controller string) string {
	entries, _ := os.ReadDir(root) // an unreadable root shows as missing hierarchies
	for _, e := range entries {
		if slices.Contains(strings.Split(e.Name(), ","), controller) {
			return filepath.Join(root, e.Name())
		}
	}
	return filepath.Join(root, controller)
}

func (t tree) close() {
	for _, h := range t.all {
		h.dir.Close()
	}
}

// open opens a file beneath the parent. rel is made of a groupID and constants.
func (h *hierarchy) open(rel string, flags uint64) (*os.File, error) {
	fd, err := unix.Openat2(int(h.dir.Fd()), rel, &unix.OpenHow{
		Flags: flags | unix.O_CLOEXEC,
		// SECURITY(T-704): cgroupfs has no links, but the kernel's word is better than that belief.
		Resolve: unix.RESOLVE_BENEATH | unix.RESOLVE_NO_SYMLINKS | unix.RESOLVE_NO_MAGICLINKS | unix.RESOLVE_NO_XDEV,
	})
	if err != nil {
		return nil, err
	}
	return os.NewFile(uintptr(fd), rel), nil
}

// read reads a whole file, at most 1 MiB, without trailing newline.
func (h *hierarchy) read(rel string) (string, error) {
	f, err := h.open(rel, unix.O_RDONLY)
	if err != nil {
		return "", fmt.Errorf("open %s: %w", rel, err)
	}
	defer f.Close()
	var data []byte
	buf := make([]byte, 16<<10)
	for len(data) < 1<<20 {
		n, err := unix.Read(int(f.Fd()), buf)
		if errors.Is(err, unix.EINTR) {
			continue
		}
		if err != nil {
			return "", fmt.Errorf("read %s: %w", rel, err)
		}
		if n == 0 {
			break
		}
		data = append(data, buf[:n]...)
	}
	return strings.TrimRight(string(data), "\n"), nil
}

// write writes a value in one system call; an empty one as a line end, which is how cpuset files are emptied.
func (h *hierarchy) write(rel, value string) error {
	f, err := h.open(rel, unix.O_WRONLY)
	if err != nil {
		return fmt.Errorf("open %s: %w", rel, err)
	}
	defer f.Close()
	for {
		_, err := unix.Write(int(f.Fd()), []byte(value+"\n"))
		if errors.Is(err, unix.EINTR) {
			continue
		}
		if err != nil {
			return fmt.Errorf("write %q to %s: %w", value, rel, err)
		}
		return nil
	}
}

// make makes the group in every hierarchy; fresh tells that it was in none of them before.
func (t tree) make(id groupID) (fresh bool, err error) {
	fresh = true
	for _, h := range t.all {
		err := unix.Mkdirat(int(h.dir.Fd()), string(id), 0o755)
		if errors.Is(err, unix.EEXIST) {
			var st unix.Stat_t
			err = unix.Fstatat(int(h.dir.Fd()), string(id), &st, unix.AT_SYMLINK_NOFOLLOW)
			if err == nil && st.Mode&unix.S_IFMT != unix.S_IFDIR { // v1 has a file named "tasks"
				return false, peer.Errorf(helper.Invalid, "control group name %s is taken by the kernel", id)
			}
			if err == nil {
				fresh = false
				continue
			}
		}
		if err != nil {
			err = classed(err, "make control group %s in %s", id, h.path)
			if fresh {
				err = errors.Join(err, t.remove(id))
			}
			return fresh, err
		}
		failpoint.Hit("cgroupd.make")
	}
	return fresh, t.inherit(id)
}

// inherit gives a v1 group the CPUs and memory nodes of its parent, without which no process can enter.
func (t tree) inherit(id groupID) error {
	h := t.by["cpuset"]
	if h == nil || t.v2 {
		return nil
	}
	for _, file := range []string{"cpuset.cpus", "cpuset.mems"} {
		above, err := h.read(file)
		if errors.Is(err, unix.ENOENT) {
			continue // the hierarchy is mounted without its prefix (noprefix)
		}
		if err != nil {
			return err
		}
		now, err := h.read(string(id) + "/" + file)
		if errors.Is(err, unix.ENOENT) || (err == nil && (now != "" || above == "")) {
			continue
		}
		if err != nil {
			return err
		}
		if err := h.write(string(id)+"/"+file, above); err != nil {
			return err
		}
	}
	return nil
}

// remove removes the group from every hierarchy. A missing one is no error, one with processes is a Conflict.
func (t tree) remove(id groupID) error {
	var errs []error
	for _, h := range t.all {
		err := unix.Unlinkat(int(h.dir.Fd()), string(id), unix.AT_REMOVEDIR)
		if errors.Is(err, unix.EBUSY) || errors.Is(err, unix.ENOTEMPTY) {
			return peer.Errorf(helper.Conflict, "control group %s has processes", id)
		}
		if err != nil && !errors.Is(err, unix.ENOENT) {
			errs = append(errs, fmt.Errorf("remove control group %s from %s: %w", id, h.path, err))
		}
		failpoint.Hit("cgroupd.remove")
	}
	return errors.Join(errs...)
}

// has tells whether the group is in the first hierarchy.
func (t tree) has(id groupID) (bool, error) {
	var st unix.Stat_t
	err := unix.Fstatat(int(t.all[0].dir.Fd()), string(id), &st, unix.AT_SYMLINK_NOFOLLOW)
	if errors.Is(err, unix.ENOENT) {
		return false, nil
	}
	return err == nil && st.Mode&unix.S_IFMT == unix.S_IFDIR, err
}

// groups lists the ids of all groups in any hierarchy, sorted; others' names are left out.
func (t tree) groups() ([]string, error) {
	set := map[string]bool{}
	for _, h := range t.all {
		f, err := h.open(".", unix.O_RDONLY|unix.O_DIRECTORY)
		if err != nil {
			return nil, fmt.Errorf("open %s: %w", h.path, err)
		}
		entries, err := f.ReadDir(-1)
		f.Close()
		if err != nil {
			return nil, fmt.Errorf("list %s: %w", h.path, err)
		}
		for _, e := range entries {
			if _, err := parseID(e.Name()); err == nil && e.IsDir() {
				set[e.Name()] = true
			}
		}
	}
	ids := make([]string, 0, len(set))
	for id := range set {
		ids = append(ids, id)
	}
	slices.Sort(ids)
	return ids[:min(len(ids), maxGroups)], nil
}
