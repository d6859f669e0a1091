package supervisor

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"syscall"

	"github.com/moby/sys/mountinfo"
	"golang.org/x/sys/unix"

	"stockade/api/setting"
	"stockade/internal/userns"
)

// ids is how U maps.
func (s *Supervisor) ids() setting.IDs {
	return setting.IDs{EngineUID: s.users["engine"].UID, Sub: s.cfg.IDs.Range()}
}

// pin is the file that keeps a namespace: "user" or "mnt".
func (s *Supervisor) pin(name string) string { return s.path("ns", name) }

// makeNamespaces takes over U and the engine's mount namespace from their pins, or makes both.
func (s *Supervisor) makeNamespaces() error {
	if err := s.privateFolder(); err != nil {
		return err
	}
	f, err := s.openPinned()
	if err != nil {
		return err
	}
	if f != nil && s.state.U.IDs != s.ids() {
		// The configuration changed: the old U is of no use, but it must not be replaced beneath living containers.
		id, err := userns.Identify(f, unix.CLONE_NEWUSER)
		f.Close()
		if err != nil {
			return err
		}
		if pids, err := processesIn(id); err != nil || len(pids) != 0 {
			return errors.Join(err, fmt.Errorf("containers (processes %v) still run with other ids than those configured now: stockade down ends them", pids))
		}
		if err := s.unpin(); err != nil {
			return err
		}
		f = nil
	}
	if f == nil {
		if pids, err := processesOf(s.cfg.IDs.Range()); err != nil || len(pids) != 0 {
			return errors.Join(err, fmt.Errorf("processes %v have ids of the containers' range, but their namespace is not pinned at %s: end them first", pids, s.pin("user")))
		}
		if err := s.newNamespaces(); err != nil {
			return err
		}
		if f, err = s.openPinned(); err != nil {
			return err
		}
		if f == nil {
			return errors.New("the namespaces could not be pinned")
		}
	} else {
		s.log.Info("took over the namespaces of the server before")
	}
	id, err := userns.Identify(f, unix.CLONE_NEWUSER)
	if err != nil {
		f.Close()
		return err
	}
	s.files["userns"] = f
	return s.state.update(func(st *State) { st.U = UState{ID: id, IDs: s.ids()} })
}

// privateFolder makes Run/ns a mount of its own that is private: the kernel keeps a mount namespace by a bind mount
// only there.
func (s *Supervisor) privateFolder() error {
	dir := s.path("ns")
	mounted, err := mountinfo.Mounted(dir)
	if err != nil {
		return err
	}
	if !mounted {
		if err := unix.Mount(dir, dir, "", unix.MS_BIND, ""); err != nil {
			return fmt.Errorf("bind %s: %w", dir, err)
		}
	}
	if err := unix.Mount("", dir, "", unix.MS_PRIVATE, ""); err != nil {
		return fmt.Errorf("make %s private: %w", dir, err)
	}
	return nil
}

// openPinned opens U by its pin; nil if the pins are not both there.
func (s *Supervisor) openPinned() (*os.File, error) {
	for _, name := range []string{"mnt", "user"} {
		var fs unix.Statfs_t
		err := unix.Statfs(s.pin(name), &fs)
		if errors.Is(err, unix.ENOENT) || (err == nil && fs.Type != unix.NSFS_MAGIC) {
			return nil, nil
		}
		if err != nil {
			return nil, err
		}
	}
	return os.Open(s.pin("user"))
}

// newNamespaces clones a child into both, pins them and lets the child end.
func (s *Supervisor) newNamespaces() error {
	if err := s.unpin(); err != nil {
		return err
	}
	if err := s.privateFolder(); err != nil {
		return err
	}
	engine, sub := s.users["engine"], s.cfg.IDs
	maps := func(id uint32) []syscall.SysProcIDMap {
		return []syscall.SysProcIDMap{
			{ContainerID: 0, HostID: int(id), Size: 1},
			{ContainerID: 1, HostID: int(sub.First), Size: int(sub.Count)},
		}
	}
	args := []string{"namespace", s.cfg.Bin}
	if s.cgroups.Unified != "" {
		args = append(args, s.cgroups.Unified)
	}
	cmd := exec.Command("/proc/self/exe", args...)
	cmd.Env = []string{}
	cmd.Dir = "/"
	cmd.Stderr = os.Stderr
	cmd.SysProcAttr = &syscall.SysProcAttr{
		Cloneflags:                 unix.CLONE_NEWUSER | unix.CLONE_NEWNS,
		UidMappings:                maps(engine.UID),
		GidMappings:                maps(engine.GID),
		GidMappingsEnableSetgroups: true,
		Credential:                 &syscall.Credential{},
	}
	stdin, err := cmd.StdinPipe()
	if err != nil {
		return err
	}
	stdout, err := cmd.StdoutPipe()
	if err != nil {
		return err
	}
	if err := cmd.Start(); err != nil {
		return fmt.Errorf("clone: %w", err)
	}
	line, err := bufio.NewReader(stdout).ReadString('\n')
	if err == nil && line == "ready\n" {
		for _, name := range []string{"user", "mnt"} {
			if err = s.makePin(name, cmd.Process.Pid); err != nil {
				break
			}
		}
	} else if err == nil {
		err = fmt.Errorf("unexpected answer %q", line)
	}
	stdin.Close()
	return errors.Join(err, cmd.Wait())
}

func (s *Supervisor) makePin(name string, pid int) error {
	if err := os.WriteFile(s.pin(name), nil, 0o600); err != nil {
		return err
	}
	ns := filepath.Join("/proc", strconv.Itoa(pid), "ns", name)
	if err := unix.Mount(ns, s.pin(name), "", unix.MS_BIND, ""); err != nil {
		return fmt.Errorf("pin %s: %w", ns, err)
	}
	return nil
}

// unpin lets go of both namespaces and the folder's own mount.
func (s *Supervisor) unpin() error {
	for _, name := range []string{"mnt", "user"} {
		if err := unmountAll(s.pin(name)); err != nil {
			return err
		}
		if err := os.Remove(s.pin(name)); err != nil && !errors.Is(err, os.ErrNotExist) {
			return err
		}
	}
	return unmountAll(s.path("ns"))
}

// unmountAll unmounts all that is mounted on path; nothing mounted or no such path is fine.
func unmountAll(path string) error {
	for {
		switch err := unix.Unmount(path, unix.MNT_DETACH|unix.UMOUNT_NOFOLLOW); {
		case errors.Is(err, unix.EINVAL), errors.Is(err, unix.ENOENT):
			return nil
		case err != nil:
			return fmt.Errorf("unmount %s: %w", path, err)
		}
	}
}

// Namespace is the child of newNamespaces: root of U in the new mount namespace. It arranges the mounts, says that it
// is ready and waits until it is pinned. programs is the folder of our programs; hide is the mount point of a hybrid
// host's cgroup2, or empty.
func Namespace(programs, hide string) error {
	// What the host unmounts must go here, too, or its devices would stay busy; nothing goes the other way.
	if err := unix.Mount("", "/", "", unix.MS_SLAVE|unix.MS_REC, ""); err != nil {
		return fmt.Errorf("make mounts slaves: %w", err)
	}
	// SECURITY(T-501): a container can see a program of ours as /proc/PID/exe, when it has it executed once more as
	// /proc/self/exe (CVE-2019-5736). It is host root's file; here it cannot be written whoever asks.
	if err := unix.Mount(programs, programs, "", unix.MS_BIND, ""); err != nil {
		return fmt.Errorf("bind programs: %w", err)
	}
	if err := unix.MountSetattr(unix.AT_FDCWD, programs, unix.AT_SYMLINK_NOFOLLOW, &unix.MountAttr{Attr_set: unix.MOUNT_ATTR_RDONLY}); err != nil {
		return fmt.Errorf("make programs read-only: %w", err)
	}
	if hide != "" {
		// OCI runtimes take the extra hierarchy for one that they should use, and fail.
		if err := unix.Mount("none", hide, "tmpfs", unix.MS_NOSUID|unix.MS_NODEV|unix.MS_NOEXEC|unix.MS_RDONLY, "mode=755,size=0"); err != nil {
			return fmt.Errorf("hide %s: %w", hide, err)
		}
	}
	if _, err := fmt.Println("ready"); err != nil {
		return err
	}
	_, err := io.Copy(io.Discard, os.Stdin)
	return err
}
