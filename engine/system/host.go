package system

import (
	"bufio"
	"crypto/rand"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"github.com/google/renameio/v2"
	"golang.org/x/sys/unix"
)

// serverID returns the id that this server keeps for its lifetime, a random UUID.
func serverID(data string) (string, error) {
	path := filepath.Join(data, "engine-id")
	b, err := os.ReadFile(path)
	if err == nil && len(strings.TrimSpace(string(b))) == 36 {
		return strings.TrimSpace(string(b)), nil
	}
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return "", fmt.Errorf("read server id: %w", err)
	}
	var u [16]byte
	rand.Read(u[:]) // never fails
	u[6], u[8] = u[6]&0x0f|0x40, u[8]&0x3f|0x80
	id := fmt.Sprintf("%x-%x-%x-%x-%x", u[:4], u[4:6], u[6:8], u[8:10], u[10:])
	if err := renameio.WriteFile(path, []byte(id+"\n"), 0o600); err != nil {
		return "", fmt.Errorf("write server id: %w", err)
	}
	return id, nil
}

// utsname returns the kernel's release and the machine's architecture.
func utsname() (release, machine string) {
	var u unix.Utsname
	if err := unix.Uname(&u); err != nil {
		return "", ""
	}
	return unix.ByteSliceToString(u.Release[:]), unix.ByteSliceToString(u.Machine[:])
}

// osRelease reads a file in the format of os-release(5).
func osRelease(path string) (name, version string) {
	name = "Linux"
	f, err := os.Open(path)
	if err != nil {
		return name, ""
	}
	defer f.Close()
	for sc := bufio.NewScanner(f); sc.Scan(); {
		key, value, _ := strings.Cut(sc.Text(), "=")
		if unquoted, err := strconv.Unquote(value); err == nil {
			value = unquoted
		}
		value = strings.Trim(value, "'")
		switch key {
		case "PRETTY_NAME":
			name = value
		case "VERSION_ID":
			version = value
		}
	}
	return name, version
}

// memTotal returns the machine's memory in bytes, 0 if unknown.
func memTotal(meminfo string) int64 {
	b, err := os.ReadFile(meminfo)
	if err != nil {
		return 0
	}
	for line := range strings.Lines(string(b)) {
		if f := strings.Fields(line); len(f) == 3 && f[0] == "MemTotal:" {
			kb, _ := strconv.ParseInt(f[1], 10, 64)
			return kb << 10
		}
	}
	return 0
}

// controllers are the cgroup controllers that limits need.
type controllers struct{ memory, swap, cpu, cpuset, pids bool }

// readControllers looks at the host's hierarchies.
func readControllers(v2 bool, cgroup, procCgroups string) controllers {
	var names []string
	if v2 {
		b, _ := os.ReadFile(filepath.Join(cgroup, "cgroup.controllers"))
		names = strings.Fields(string(b))
	} else {
		b, _ := os.ReadFile(procCgroups)
		for line := range strings.Lines(string(b)) {
			// name, hierarchy, number of groups, enabled; hierarchy 0 is the unified one or none.
			if f := strings.Fields(line); len(f) == 4 && f[1] != "0" && f[3] == "1" {
				names = append(names, f[0])
			}
		}
	}
	swap := filepath.Join(cgroup, "memory", "memory.memsw.limit_in_bytes")
	if v2 {
		swap = filepath.Join(cgroup, "*", "memory.swap.max") // the root group has none
	}
	found, _ := filepath.Glob(swap)
	return controllers{
		memory: slices.Contains(names, "memory"), swap: len(found) > 0, cpu: slices.Contains(names, "cpu"),
		cpuset: slices.Contains(names, "cpuset"), pids: slices.Contains(names, "pids"),
	}
}

// backing names the file system that holds a folder, in Docker's words.
func backing(path string) string {
	var st unix.Statfs_t
	if err := unix.Statfs(path, &st); err != nil {
		return "<unknown>"
	}
	switch int64(st.Type) {
	case unix.EXT4_SUPER_MAGIC:
		return "extfs"
	case unix.XFS_SUPER_MAGIC:
		return "xfs"
	case unix.BTRFS_SUPER_MAGIC:
		return "btrfs"
	case unix.TMPFS_MAGIC:
		return "tmpfs"
	case unix.OVERLAYFS_SUPER_MAGIC:
		return "overlayfs"
	case unix.F2FS_SUPER_MAGIC:
		return "f2fs"
	case 0x2fc12fc1:
		return "zfs"
	}
	return "<unknown>"
}
