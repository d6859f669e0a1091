package harness

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"sort"
	"strconv"
	"strings"
	"testing"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// Census is everything of the server on the host that could be left over, by kind. Entries are readable, not stable:
// prepared slots have new names each time, so a comparison counts.
type Census map[string][]string

// Kinds of a census.
const (
	KindMounts       = "mounts of the host"
	KindEngineMounts = "mounts of the engine"
	KindLinks        = "links"
	KindRules        = "nftables lines"
	KindCgroups      = "control groups"
	KindProcesses    = "processes with container ids"
	KindShims        = "processes of the engine's uid"
	KindRun          = "files in the run folder"
)

// Census counts everything now.
func (s *Server) Census(t testing.TB) Census {
	t.Helper()
	c, err := s.census()
	if err != nil {
		t.Fatalf("census: %v", err)
	}
	return c
}

func (s *Server) census() (Census, error) {
	c := Census{}
	for kind, pid := range map[string]string{KindMounts: "self", KindEngineMounts: s.enginePID()} {
		if pid == "" {
			continue
		}
		data, err := os.ReadFile("/proc/" + pid + "/mountinfo")
		if err != nil {
			return nil, err
		}
		for line := range strings.Lines(string(data)) {
			f := strings.Fields(line)
			if len(f) > 4 && (kind == KindEngineMounts || strings.Contains(line, Prefix)) {
				c[kind] = append(c[kind], f[4])
			}
		}
	}
	var links []netlink.Link
	for attempt := 0; ; attempt++ {
		var err error
		if links, err = netlink.LinkList(); err == nil {
			break
		}
		// A dump that others' changes interrupted is not wrong, but perhaps not whole.
		if !errors.Is(err, netlink.ErrDumpInterrupted) || attempt == 100 {
			return nil, fmt.Errorf("list links: %w", err)
		}
	}
	var err error
	for _, l := range links {
		if strings.HasPrefix(l.Attrs().Name, Prefix) {
			c[KindLinks] = append(c[KindLinks], l.Attrs().Name)
		}
	}
	if c[KindRules], err = rules(); err != nil {
		return nil, err
	}
	if c[KindCgroups], err = cgroups(); err != nil {
		return nil, err
	}
	if err := s.processes(c); err != nil {
		return nil, err
	}
	err = filepath.WalkDir(Run, func(path string, _ fs.DirEntry, err error) error {
		if errors.Is(err, fs.ErrNotExist) {
			return nil
		}
		if err == nil && path != Run {
			c[KindRun] = append(c[KindRun], path)
		}
		return err
	})
	for _, list := range c {
		sort.Strings(list)
	}
	return c, err
}

func (s *Server) enginePID() string {
	st, err := s.Status()
	if err != nil {
		return ""
	}
	for _, p := range st.Processes {
		if p.Name == "engine" {
			return strconv.Itoa(p.PID)
		}
	}
	return ""
}

// rules lists the lines of our nftables, elements of sets one each.
func rules() ([]string, error) {
	out, err := exec.Command("nft", "list", "tables").Output()
	if err != nil {
		return nil, fmt.Errorf("nft list tables: %w", err)
	}
	var all []string
	for line := range strings.Lines(string(out)) {
		f := strings.Fields(line)
		if len(f) != 3 || f[2] != Prefix {
			continue
		}
		text, err := exec.Command("nft", "list", "table", f[1], f[2]).Output()
		if err != nil {
			continue // removed meanwhile
		}
		all = append(all, strings.FieldsFunc(string(text), func(r rune) bool { return r == '\n' || r == ',' })...)
	}
	return all, nil
}

func cgroups() ([]string, error) {
	parents, err := filepath.Glob("/sys/fs/cgroup/*/" + Prefix)
	if err != nil {
		return nil, err
	}
	var all []string
	for _, parent := range append(parents, "/sys/fs/cgroup/"+Prefix) {
		if fi, err := os.Lstat(filepath.Dir(parent)); err != nil || fi.Mode()&os.ModeSymlink != 0 {
			continue
		}
		err := filepath.WalkDir(parent, func(path string, d fs.DirEntry, err error) error {
			if errors.Is(err, fs.ErrNotExist) || errors.Is(err, unix.ENODEV) {
				return nil
			}
			if err == nil && d.IsDir() {
				all = append(all, path)
			}
			return err
		})
		if err != nil {
			return nil, err
		}
	}
	return all, nil
}

func (s *Server) processes(c Census) error {
	engine, err := lookup("stockade-engine")
	if err != nil {
		return err
	}
	entries, err := os.ReadDir("/proc")
	if err != nil {
		return err
	}
	for _, e := range entries {
		pid, err := strconv.Atoi(e.Name())
		if err != nil {
			continue
		}
		uid, state, ok := uidOf(pid)
		name, _ := os.ReadFile(fmt.Sprintf("/proc/%d/comm", pid))
		entry := fmt.Sprintf("%s(%s) uid %d state %s", strings.TrimSpace(string(name)), e.Name(), uid, state)
		switch {
		case !ok || state == "Z": // ended; whoever must wait for it is not ours
		case IDs.Contains(uid):
			c[KindProcesses] = append(c[KindProcesses], entry)
		case uid == engine.UID && !foreign(pid):
			c[KindShims] = append(c[KindShims], entry)
		}
	}
	return nil
}

// foreign tells whether a process of the engine's uid belongs to another server on this machine, which has another range
// of ids in its user namespace. Names of programs do not tell: the runtime runs from memory, and nobody's file.
func foreign(pid int) bool {
	ids, err := os.ReadFile(fmt.Sprintf("/proc/%d/uid_map", pid))
	if err != nil {
		return true // ended meanwhile
	}
	f := strings.Fields(string(ids))
	for i := 1; i < len(f); i += 3 { // inside, outside, count
		if f[i] == strconv.FormatUint(uint64(IDs.First), 10) {
			return false
		}
	}
	return true
}

func uidOf(pid int) (uid uint32, state string, ok bool) {
	data, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	if err != nil {
		return 0, "", false
	}
	for line := range strings.Lines(string(data)) {
		f := strings.Fields(line)
		if len(f) > 1 && f[0] == "State:" {
			state = f[1]
		}
		if len(f) == 5 && f[0] == "Uid:" {
			n, err := strconv.ParseUint(f[1], 10, 32)
			return uint32(n), state, err == nil
		}
	}
	return 0, "", false
}

// Diff tells what c has more than before, by kind; empty if nothing.
func (c Census) Diff(before Census) string {
	var b strings.Builder
	for _, kind := range []string{KindMounts, KindEngineMounts, KindLinks, KindRules, KindCgroups, KindProcesses, KindShims, KindRun} {
		if len(c[kind]) <= len(before[kind]) {
			continue
		}
		old := map[string]bool{}
		for _, e := range before[kind] {
			old[e] = true
		}
		fmt.Fprintf(&b, "%s: %d, before %d:\n", kind, len(c[kind]), len(before[kind]))
		for _, e := range c[kind] {
			if !old[e] {
				fmt.Fprintf(&b, "  new: %s\n", e)
			}
		}
	}
	return b.String()
}

// NoLeaks waits until there is nothing more than before. Much is removed in the background.
func (s *Server) NoLeaks(t testing.TB, before Census) {
	t.Helper()
	Poll(t, "everything to be removed", func() (string, bool) {
		c, err := s.census()
		if err != nil {
			return err.Error(), false
		}
		diff := c.Diff(before)
		return diff, diff == ""
	})
}

// Settled waits until two counts in a row, a moment apart, are the same: prepared slots are made in the background.
func (s *Server) Settled(t testing.TB) Census {
	t.Helper()
	var last Census
	same := 0
	Poll(t, "the server to be at rest", func() (string, bool) {
		c, err := s.census()
		if err != nil {
			return err.Error(), false
		}
		if last != nil && c.Diff(last) == "" && last.Diff(c) == "" {
			same++
		} else {
			same = 0
		}
		last = c
		return "still changing", same >= 10
	})
	return last
}
