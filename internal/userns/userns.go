// Package userns makes user namespaces that serve as id maps or own other namespaces, and asks the kernel how
// namespaces are related.
//
// Trust: callers pass maps that they computed themselves; the kernel checks each against the caller's privileges.
// Invariants: no helper process outlives Create. Failure: nothing is left behind.
package userns

import (
	"errors"
	"fmt"
	"os"
	"runtime"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// Map is one line of a uid or gid map: Count ids from Inside on in the new namespace are those from Outside on in the
// caller's.
type Map struct {
	Inside, Outside, Count uint32
}

func format(maps []Map) []byte {
	var b strings.Builder
	for _, m := range maps {
		fmt.Fprintf(&b, "%d %d %d\n", m.Inside, m.Outside, m.Count)
	}
	return []byte(b.String())
}

// Create makes a user namespace (and those of the other namespace flags, owned by it) with the given maps and returns
// the files of its namespaces by their /proc name: "user", "net", ….
func Create(flags uintptr, uids, gids []Map, names ...string) (map[string]*os.File, error) {
	// Under Landlock each thread may have its own domain, and only the child's maker may look at the child; its death
	// signal, too, belongs to this thread.
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	pid, err := pausedChild(unix.CLONE_NEWUSER|flags, noNamespace, 0)
	if err != nil {
		return nil, fmt.Errorf("clone: %w", err)
	}
	defer end(pid)
	proc := "/proc/" + strconv.Itoa(pid) + "/"
	if err := os.WriteFile(proc+"uid_map", format(uids), 0); err != nil {
		return nil, fmt.Errorf("write uid_map: %w", err)
	}
	if err := os.WriteFile(proc+"gid_map", format(gids), 0); err != nil {
		return nil, fmt.Errorf("write gid_map: %w", err)
	}
	return open(proc, append([]string{"user"}, names...))
}

// CreateIn makes the namespaces of the given flags inside user namespace f, which owns them, and returns their files by
// their /proc name. The caller needs CAP_SYS_ADMIN over f.
func CreateIn(f *os.File, flags uintptr, names ...string) (map[string]*os.File, error) {
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	pid, err := pausedChild(0, f.Fd(), flags)
	runtime.KeepAlive(f)
	if err != nil {
		return nil, fmt.Errorf("enter user namespace: %w", err)
	}
	defer end(pid)
	return open("/proc/"+strconv.Itoa(pid)+"/", names)
}

// open opens namespaces of the process whose /proc folder is proc.
func open(proc string, names []string) (map[string]*os.File, error) {
	files := map[string]*os.File{}
	for _, name := range names {
		f, err := os.Open(proc + "ns/" + name)
		if err != nil {
			for _, f := range files {
				f.Close()
			}
			return nil, fmt.Errorf("open namespace %s: %w", name, err)
		}
		files[name] = f
	}
	return files, nil
}

// Read returns the maps of a user namespace, Outside as seen by this process. The caller needs CAP_SYS_ADMIN over it;
// the kernel shows a map only of a process, so a short-lived child enters the namespace.
func Read(f *os.File) (uids, gids []Map, err error) {
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	pid, err := pausedChild(0, f.Fd(), 0)
	runtime.KeepAlive(f)
	if err != nil {
		return nil, nil, fmt.Errorf("enter user namespace: %w", err)
	}
	defer end(pid)
	proc := "/proc/" + strconv.Itoa(pid) + "/"
	if uids, err = readMap(proc + "uid_map"); err != nil {
		return nil, nil, err
	}
	gids, err = readMap(proc + "gid_map")
	return uids, gids, err
}

// readMap reads one map file, by openat2 so that a helper's list of system calls needs no other way to open.
func readMap(name string) ([]Map, error) {
	fd, err := unix.Openat2(unix.AT_FDCWD, name, &unix.OpenHow{Flags: unix.O_RDONLY | unix.O_CLOEXEC})
	if err != nil {
		return nil, fmt.Errorf("open %s: %w", name, err)
	}
	defer unix.Close(fd)
	var text []byte
	buf := make([]byte, 16<<10) // 340 lines of at most 33 bytes
	for {
		n, err := unix.Read(fd, buf)
		if errors.Is(err, unix.EINTR) {
			continue
		}
		if err != nil {
			return nil, fmt.Errorf("read %s: %w", name, err)
		}
		if n == 0 {
			return parseMap(string(text))
		}
		text = append(text, buf[:n]...)
	}
}

func parseMap(text string) ([]Map, error) {
	var maps []Map
	for line := range strings.Lines(text) {
		f := strings.Fields(line)
		if len(f) != 3 {
			return nil, fmt.Errorf("id map line %q", line)
		}
		var n [3]uint32
		for i := range f {
			v, err := strconv.ParseUint(f[i], 10, 32)
			if err != nil {
				return nil, fmt.Errorf("id map line %q: %w", line, err)
			}
			n[i] = uint32(v)
		}
		maps = append(maps, Map{Inside: n[0], Outside: n[1], Count: n[2]})
	}
	return maps, nil
}

// The ioctls of ioctl_nsfs(2).
const (
	nsGetUserns = 0xb701
	nsGetParent = 0xb702
	nsGetType   = 0xb703
)

// ID identifies a namespace: device and inode of its file.
type ID struct{ Dev, Ino uint64 }

// Identify returns the identity of a namespace file, which must be of the given CLONE_NEW… type.
func Identify(f *os.File, nstype int) (ID, error) {
	var fs unix.Statfs_t
	if err := unix.Fstatfs(int(f.Fd()), &fs); err != nil {
		return ID{}, err
	}
	if fs.Type != unix.NSFS_MAGIC {
		return ID{}, errors.New("not a namespace")
	}
	got, err := unix.IoctlRetInt(int(f.Fd()), nsGetType)
	if err != nil {
		return ID{}, fmt.Errorf("NS_GET_NSTYPE: %w", err)
	}
	if got != nstype {
		return ID{}, fmt.Errorf("namespace of type %#x, want %#x", got, nstype)
	}
	var st unix.Stat_t
	if err := unix.Fstat(int(f.Fd()), &st); err != nil {
		return ID{}, err
	}
	return ID{Dev: st.Dev, Ino: st.Ino}, nil
}

// Owner returns the user namespace that owns a namespace (NS_GET_USERNS).
func Owner(f *os.File) (*os.File, error) { return related(f, nsGetUserns) }

// Parent returns the parent of a user namespace (NS_GET_PARENT). EPERM: it has none that the caller may see.
func Parent(f *os.File) (*os.File, error) { return related(f, nsGetParent) }

// Descends tells whether user namespace f is a proper descendant of u. EPERM from the kernel (the walk left what the
// caller may see) counts as no.
func Descends(f *os.File, u ID) (bool, error) {
	id, err := Identify(f, unix.CLONE_NEWUSER)
	if err != nil {
		return false, err
	}
	if id == u {
		return false, nil
	}
	at := f
	for range 32 {
		parent, err := related(at, nsGetParent)
		if at != f {
			at.Close()
		}
		if errors.Is(err, unix.EPERM) {
			return false, nil
		}
		if err != nil {
			return false, fmt.Errorf("NS_GET_PARENT: %w", err)
		}
		at = parent
		if id, err = Identify(at, unix.CLONE_NEWUSER); err != nil {
			at.Close()
			return false, err
		}
		if id == u {
			at.Close()
			return true, nil
		}
	}
	at.Close()
	return false, nil
}

func related(f *os.File, req uint) (*os.File, error) {
	fd, err := unix.IoctlRetInt(int(f.Fd()), req)
	if err != nil {
		return nil, err
	}
	unix.CloseOnExec(fd)
	return os.NewFile(uintptr(fd), "namespace"), nil
}
