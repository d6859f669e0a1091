package supervisor

import (
	"errors"
	"fmt"
	"os"

	"golang.org/x/sys/unix"

	"stockade/host"
)

// makeFolders makes all folders and opens those that are handed over.
func (s *Supervisor) makeFolders() error {
	root, engine := host.User{}, s.users["engine"]
	for _, f := range []struct {
		path  string
		owner host.User
		mode  uint32
	}{
		// SECURITY(T-103): nobody but its owner can list a folder with data; others pass through where containers must.
		{s.cfg.Data, root, 0o711},
		{s.data("engine"), engine, 0o700},
		{s.data("engine", "store"), engine, 0o711},
		{s.data("engine", "store", "layers"), engine, 0o711},
		{s.data("engine", "store", "rw"), engine, 0o711},
		{s.data("engine", "store", "volumes"), engine, 0o711},
		{s.data("grantd"), s.users["grantd"], 0o700},
		{s.data("netd"), s.users["netd"], 0o700},
		{s.data("log"), root, 0o700},
		{s.path("priv"), root, 0o711},
		{s.path("engine"), engine, 0o700},
		{s.path("ns"), root, 0o700},
	} {
		if err := folder(f.path, f.owner, f.mode); err != nil {
			return err
		}
	}
	for name, path := range map[string]string{"grantd-records": s.data("grantd"), "netd-records": s.data("netd")} {
		f, err := os.OpenFile(path, unix.O_RDONLY|unix.O_DIRECTORY|unix.O_NOFOLLOW, 0)
		if err != nil {
			return err
		}
		s.files[name] = f
	}
	store, err := os.OpenFile(s.data("engine", "store"), unix.O_PATH|unix.O_DIRECTORY|unix.O_NOFOLLOW, 0)
	if err != nil {
		return err
	}
	s.files["store"] = store
	audit, err := os.OpenFile(s.data("log", "audit.jsonl"), os.O_WRONLY|os.O_APPEND|os.O_CREATE|unix.O_NOFOLLOW, 0o600)
	if err != nil {
		return err
	}
	s.files["audit"] = audit
	return nil
}

// folder makes a folder with its owner and mode, or checks the one that is there. It never changes one that belongs to
// somebody else.
func folder(path string, owner host.User, mode uint32) error {
	err := unix.Mkdir(path, 0o700)
	fresh := err == nil
	if err != nil && !errors.Is(err, unix.EEXIST) {
		return fmt.Errorf("make %s: %w", path, err)
	}
	fd, err := unix.Open(path, unix.O_RDONLY|unix.O_DIRECTORY|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0)
	if err != nil {
		return fmt.Errorf("open %s: %w", path, err)
	}
	defer unix.Close(fd)
	if fresh {
		if err := unix.Fchown(fd, int(owner.UID), int(owner.GID)); err != nil {
			return fmt.Errorf("chown %s: %w", path, err)
		}
		if err := unix.Fchmod(fd, mode); err != nil {
			return fmt.Errorf("chmod %s: %w", path, err)
		}
		return nil
	}
	var st unix.Stat_t
	if err := unix.Fstat(fd, &st); err != nil {
		return fmt.Errorf("stat %s: %w", path, err)
	}
	if st.Uid != owner.UID || st.Mode&0o022 != 0 {
		return fmt.Errorf("folder %s belongs to uid %d with mode %#o, want uid %d and no writing by others: move it away or correct it", path, st.Uid, st.Mode&0o7777, owner.UID)
	}
	return nil
}
