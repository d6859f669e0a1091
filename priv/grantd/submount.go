package grantd

import (
	"fmt"
	"io"
	"os"
	"path"
	"slices"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"

	"stockade/api/helper"
)

const (
	maxMounts  = 100      // of one use; each is a descriptor in the answer
	maxSkipped = 16 << 10 // bytes of paths and reasons in the answer
)

// submount is one mount beneath a source.
type submount struct {
	path string // relative to the source
	file *os.File
}

// mountPoints returns the places beneath folder where something is mounted, in the kernel's order.
func mountPoints(mountinfo, folder string) []string {
	var points []string
	for line := range strings.Lines(mountinfo) {
		f := strings.Fields(line) // proc_pid_mountinfo(5): id parent dev root point …
		if len(f) < 5 {
			continue
		}
		point := unescape(f[4])
		if beneath(folder, point) && path.Clean(point) == point && !slices.Contains(points, point) {
			points = append(points, point)
		}
	}
	return points
}

// unescape undoes mountinfo's \ooo for blanks and backslashes.
func unescape(s string) string {
	var b strings.Builder
	for i := 0; i < len(s); i++ {
		if s[i] == '\\' && i+3 < len(s) {
			if n, err := strconv.ParseUint(s[i+1:i+4], 8, 8); err == nil {
				b.WriteByte(byte(n))
				i += 3
				continue
			}
		}
		b.WriteByte(s[i])
	}
	return b.String()
}

func readMountinfo() (string, error) {
	f, err := os.Open("/proc/self/mountinfo")
	if err != nil {
		return "", err
	}
	defer f.Close()
	data, err := io.ReadAll(io.LimitReader(f, 16<<20))
	return string(data), err
}

// skips collects what is not shown, within the size of an answer.
type skips struct {
	list []helper.Skipped
	size int
	more int
}

func (k *skips) add(p, reason string) {
	if k.size += len(p) + len(reason); k.size > maxSkipped {
		k.more++
		return
	}
	k.list = append(k.list, helper.Skipped{Path: p, Reason: reason})
}

func (k *skips) done() []helper.Skipped {
	if k.more == 0 {
		return k.list
	}
	return append(k.list, helper.Skipped{Path: ".", Reason: fmt.Sprintf("and %d more submounts", k.more)})
}

// submounts opens, as the caller, every mount beneath src that the caller can reach.
func (s *server) submounts(c caller, src source, skipped *skips) ([]submount, error) {
	info, err := readMountinfo()
	if err != nil {
		return nil, fmt.Errorf("mountinfo: %w", err)
	}
	points := mountPoints(info, src.real)
	if len(points) == 0 {
		return nil, nil
	}
	if len(points) > maxMounts {
		for _, p := range points[maxMounts:] {
			skipped.add(rel(src.real, p), "too many submounts")
		}
		points = points[:maxMounts]
	}
	reasons := make([]string, len(points))
	files, err := s.opener.as(c, func() ([]*os.File, error) {
		files := make([]*os.File, len(points))
		for i, p := range points {
			files[i], reasons[i] = s.openSubmount(c, src, rel(src.real, p))
		}
		return files, nil
	})
	if err != nil {
		return nil, err
	}
	var mounts []submount
	for i, p := range points {
		if files[i] == nil {
			skipped.add(rel(src.real, p), reasons[i])
			continue
		}
		mounts = append(mounts, submount{rel(src.real, p), files[i]})
	}
	return mounts, nil
}

func rel(folder, p string) string {
	return strings.TrimPrefix(strings.TrimPrefix(p, strings.TrimSuffix(folder, "/")), "/")
}

// openSubmount runs on the caller's thread. What cannot be opened or must not be shown is a reason, not an error.
func (s *server) openSubmount(c caller, src source, name string) (*os.File, string) {
	fd, err := openat2(int(src.file.Fd()), name, &unix.OpenHow{
		Flags:   unix.O_PATH | unix.O_NOFOLLOW | unix.O_CLOEXEC,
		Resolve: unix.RESOLVE_BENEATH | unix.RESOLVE_NO_SYMLINKS | noMagic,
	})
	if err != nil {
		return nil, fmt.Sprintf("the caller cannot reach it: %v", err)
	}
	f := os.NewFile(uintptr(fd), name)
	if !mountRoot(fd) {
		f.Close()
		return nil, "no longer mounted"
	}
	if _, err := s.checkSource(c, f); err != nil {
		f.Close()
		return nil, err.Error()
	}
	return f, ""
}

// mountRoot tells whether an open file is the root of its mount (statx, Linux 5.8).
func mountRoot(fd int) bool {
	var st unix.Statx_t
	if err := unix.Statx(fd, "", unix.AT_EMPTY_PATH, unix.STATX_TYPE, &st); err != nil {
		return false
	}
	return st.Attributes_mask&unix.STATX_ATTR_MOUNT_ROOT != 0 && st.Attributes&unix.STATX_ATTR_MOUNT_ROOT != 0
}
