package supervisor

import (
	"errors"
	"fmt"
	"os"

	"golang.org/x/sys/unix"

	"stockade/host"
)

// listen makes all listening sockets. They live in the supervisor, so a client that connects while a process is being
// started again waits instead of being refused.
func (s *Supervisor) listen() error {
	engine, gate := s.users["engine"], s.users["gate"]
	for _, l := range []struct {
		name, path string
		kind       int
		owner      host.User
		mode       uint32
	}{
		{"mountd", s.path("priv", "mountd.sock"), unix.SOCK_SEQPACKET, engine, 0o600},
		{"netd", s.path("priv", "netd.sock"), unix.SOCK_SEQPACKET, engine, 0o600},
		{"cgroupd", s.path("priv", "cgroupd.sock"), unix.SOCK_SEQPACKET, engine, 0o600},
		{"grantd-engine", s.path("priv", "grantd-engine.sock"), unix.SOCK_SEQPACKET, engine, 0o600},
		{"grantd-gate", s.path("priv", "grantd-gate.sock"), unix.SOCK_SEQPACKET, gate, 0o600},
		{"engine", s.path("engine.sock"), unix.SOCK_STREAM, gate, 0o600},
		{"gate", s.path("docker.sock"), unix.SOCK_STREAM, host.User{GID: s.group}, 0o660},
	} {
		f, err := listen(l.path, l.kind, l.owner, l.mode)
		if err != nil {
			return err
		}
		s.files["listen-"+l.name] = f
	}
	return nil
}

// listen makes one socket. What lies at its path is replaced only if it is a socket that nobody listens on.
func listen(path string, kind int, owner host.User, mode uint32) (*os.File, error) {
	if err := removeStale(path, kind); err != nil {
		return nil, err
	}
	fd, err := unix.Socket(unix.AF_UNIX, kind|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return nil, err
	}
	f := os.NewFile(uintptr(fd), path)
	// The umask leaves the new file to root alone until its owner and mode are right; nobody can connect before listen.
	err = unix.Bind(fd, &unix.SockaddrUnix{Name: path})
	if err == nil {
		err = errors.Join(os.Lchown(path, int(owner.UID), int(owner.GID)), unix.Fchmodat(unix.AT_FDCWD, path, mode, 0))
	}
	if err == nil {
		err = unix.Listen(fd, 1024)
	}
	if err != nil {
		f.Close()
		return nil, fmt.Errorf("listen on %s: %w", path, err)
	}
	return f, nil
}

// removeStale removes a socket that nobody listens on.
//
// SECURITY(T-103): a link or another file at the path is somebody's trap or mistake, a live daemon is somebody's
// server: both stop the start.
func removeStale(path string, kind int) error {
	var st unix.Stat_t
	err := unix.Lstat(path, &st)
	if errors.Is(err, unix.ENOENT) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("stat %s: %w", path, err)
	}
	if st.Mode&unix.S_IFMT != unix.S_IFSOCK {
		return fmt.Errorf("%s is no socket (mode %#o): remove it", path, st.Mode)
	}
	fd, err := unix.Socket(unix.AF_UNIX, kind|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, 0)
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	if err := unix.Connect(fd, &unix.SockaddrUnix{Name: path}); !errors.Is(err, unix.ECONNREFUSED) {
		return fmt.Errorf("another server listens on %s (connect: %v)", path, err)
	}
	return os.Remove(path)
}
