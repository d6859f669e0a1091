// Package supervisor starts Stockade's processes, each with exactly the privileges of its row in proctable, starts
// again what dies, and takes everything down when it is asked to end. It is the only part that runs as root.
//
// What it makes, in this order: the folders below Data and Run; the control groups' parent; the user namespace U and
// the engine's mount namespace, pinned below Run/ns; the listening sockets; the processes. It parses nothing but the
// configuration and its own state file.
//
// Trust: the configuration is the administrator's; the children may be compromised, and nothing is read from them but
// their exit. Their standard error is the supervisor's.
// Invariants: there is one U while any process lives in it, however often the supervisor itself is killed and started
// again; a socket exists with its final owner and mode before anybody can connect; a child has no descriptor but those
// named to it, no environment, and a bounding set that is already its final one.
// Failure: what the host lacks stops the start with all reasons at once. A killed supervisor leaves containers running;
// the next one takes over U, ends the processes that the killed one left and starts new ones.
package supervisor

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"time"

	"golang.org/x/sys/unix"

	"stockade/host"
	"stockade/internal/config"
	"stockade/internal/proctable"
)

// Supervisor is one server.
type Supervisor struct {
	cfg     config.Config
	log     *slog.Logger
	cgroups host.Cgroups
	users   map[string]host.User // by process name
	group   uint32               // of the API socket
	admin   int64                // gid, or -1

	files map[string]*os.File // listeners, folders and namespaces that are handed over, by our own name
	lock  *os.File
	state *stateFile
}

// Run starts the server and returns when ctx has ended and everything is down, or when it could not start.
func Run(ctx context.Context, cfg config.Config, log *slog.Logger) error {
	if os.Geteuid() != 0 {
		return errors.New("needs root: it starts each process with a user and capabilities of its own")
	}
	unix.Umask(0o077)
	// What the caller left open is nothing for the children; the Go runtime's own descriptors have the flag already.
	if err := unix.CloseRange(3, ^uint(0)>>1, unix.CLOSE_RANGE_CLOEXEC); err != nil {
		return fmt.Errorf("close stray descriptors: %w", err)
	}
	findings := host.Check(cfg)
	for _, f := range findings {
		if f.Note != "" {
			log.Info("host", "check", f.Check, "note", f.Note)
		}
	}
	if err := host.Failed(findings); err != nil {
		return fmt.Errorf("this host cannot run Stockade:\n%w", err)
	}
	s, err := open(cfg, log)
	if err != nil {
		return err
	}
	defer s.close()
	if err := s.prepare(); err != nil {
		return err
	}
	if err := keepOnly(ownCapabilities); err != nil {
		return fmt.Errorf("give up capabilities: %w", err)
	}
	s.serve(ctx)
	return s.down()
}

// Clean takes down what a killed supervisor left: processes, containers, links, namespaces. It refuses while one runs.
func Clean(cfg config.Config, log *slog.Logger) error {
	s, err := open(cfg, log)
	if err != nil {
		return err
	}
	defer s.close()
	if err := s.endLeftOver(); err != nil {
		return err
	}
	return s.down()
}

// open makes the run folder, takes the lock and looks up users.
func open(cfg config.Config, log *slog.Logger) (*Supervisor, error) {
	s := &Supervisor{cfg: cfg, log: log, users: map[string]host.User{}, files: map[string]*os.File{}, admin: -1}
	var err error
	if s.cgroups, err = host.ReadCgroups(); err != nil {
		return nil, err
	}
	for _, p := range proctable.Table {
		if s.users[p.Name], err = host.LookupUser(p.UserOn(!s.cgroups.V2)); err != nil {
			return nil, err
		}
	}
	if s.group, err = host.LookupGroup(cfg.Group); err != nil {
		return nil, err
	}
	if cfg.AdminGroup != "" {
		gid, err := host.LookupGroup(cfg.AdminGroup)
		if err != nil {
			return nil, err
		}
		s.admin = int64(gid)
	}
	if err := folder(cfg.Run, host.User{}, 0o755); err != nil {
		return nil, err
	}
	if s.lock, err = takeLock(s.path("supervisor.lock")); err != nil {
		return nil, err
	}
	s.state, err = openState(s.path(stateName))
	if err != nil {
		s.close()
		return nil, err
	}
	return s, nil
}

// takeLock locks the pid file for the life of this process and writes the pid into it.
//
// SECURITY(T-103): whoever can open a file can lock it, and would keep the server from starting.
func takeLock(path string) (*os.File, error) {
	f, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE|unix.O_NOFOLLOW, 0o600)
	if err != nil {
		return nil, err
	}
	err = unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB)
	if err == nil {
		err = errors.Join(f.Chmod(0o600), f.Truncate(0))
		if _, werr := fmt.Fprintln(f, os.Getpid()); err == nil {
			err = werr
		}
	} else if errors.Is(err, unix.EWOULDBLOCK) {
		err = fmt.Errorf("another supervisor runs with this run folder (%s is locked)", path)
	}
	if err != nil {
		f.Close()
		return nil, err
	}
	return f, nil
}

func (s *Supervisor) close() {
	for _, f := range s.files {
		f.Close()
	}
	if s.lock != nil {
		s.lock.Close()
	}
}

func (s *Supervisor) path(elem ...string) string {
	return filepath.Join(append([]string{s.cfg.Run}, elem...)...)
}

func (s *Supervisor) data(elem ...string) string {
	return filepath.Join(append([]string{s.cfg.Data}, elem...)...)
}

// prepare makes everything that processes need.
func (s *Supervisor) prepare() error {
	if err := s.endLeftOver(); err != nil {
		return err
	}
	for _, step := range []struct {
		name string
		do   func() error
	}{
		{"make folders", s.makeFolders},
		{"make control groups", s.makeCgroups},
		{"make the engine's namespaces", s.makeNamespaces},
		{"listen", s.listen},
	} {
		if err := step.do(); err != nil {
			return fmt.Errorf("%s: %w", step.name, err)
		}
	}
	return nil
}

// units are started in this order and stopped in the reverse one. Processes of one unit live and die together:
// mountd and grantd share a socket pair.
var units = []unit{
	{rows: []string{"mountd", "grantd"}, grace: 3 * time.Second},
	{rows: []string{"netd"}, grace: 3 * time.Second},
	{rows: []string{"cgroupd"}, grace: 3 * time.Second},
	{rows: []string{"engine"}}, // grace from the configuration
	{rows: []string{"gate"}, grace: 5 * time.Second},
}

// serve keeps all units running until ctx ends, then stops gate and engine, ends what still lives in U, and stops the
// helpers: the engine needs them to stop its containers.
func (s *Supervisor) serve(ctx context.Context) {
	stops := make([]func(), len(units))
	for i, u := range units {
		if u.grace == 0 {
			u.grace = time.Duration(s.cfg.StopSeconds) * time.Second
		}
		uctx, cancel := context.WithCancel(context.WithoutCancel(ctx))
		done := make(chan struct{})
		go func() {
			defer close(done)
			s.keep(uctx, u)
		}()
		stops[i] = func() {
			cancel()
			<-done
		}
	}
	s.log.Info("started", "socket", s.path("docker.sock"))
	<-ctx.Done()
	s.log.Info("stopping")
	for i := len(units) - 1; i >= 0; i-- {
		stops[i]()
		if units[i].rows[0] == "engine" {
			if err := s.endU(); err != nil {
				s.log.Error("end containers", "err", err)
			}
		}
	}
}
