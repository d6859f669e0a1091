package supervisor

import (
	"errors"
	"fmt"
	"os"
	"strings"
	"time"

	"github.com/google/nftables"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"stockade/internal/userns"
)

// endLeftOver ends the processes that a killed supervisor left. Shims and containers are not among them: they are not in
// the state file, and go on.
func (s *Supervisor) endLeftOver() error {
	for _, i := range s.state.Processes {
		if !i.Alive() {
			continue
		}
		s.log.Warn("ending a process of the supervisor before", "process", i.Name, "pid", i.PID)
		err := gone(func() ([]int, error) {
			if i.Alive() {
				return []int{i.PID}, nil
			}
			return nil, nil
		}, func(int) bool { return i.Alive() })
		if err != nil {
			return err
		}
	}
	start, err := startTime(os.Getpid())
	if err != nil {
		return err
	}
	return s.state.update(func(st *State) {
		st.Processes = nil
		st.Supervisor = Instance{Name: "supervisor", PID: os.Getpid(), Start: start}
	})
}

// endU kills every process in U.
func (s *Supervisor) endU() error {
	f, err := s.openPinned()
	if f == nil || err != nil {
		return err
	}
	defer f.Close()
	id, err := userns.Identify(f, unix.CLONE_NEWUSER)
	if err != nil {
		return err
	}
	own, err := os.Readlink("/proc/self/ns/user")
	if err != nil {
		return err
	}
	if err := s.thaw(); err != nil {
		return err
	}
	return gone(func() ([]int, error) { return processesIn(id) }, func(pid int) bool { return lives(pid, id, own) })
}

// down removes everything that a running server has outside of its data folder.
func (s *Supervisor) down() error {
	errs := []error{s.endU(), s.unpin(), s.removeCgroups(), s.removeNetwork()}
	for name, f := range s.files {
		if strings.HasPrefix(name, "listen-") {
			f.Close()
		}
	}
	for _, name := range []string{"docker.sock", "engine.sock"} {
		errs = append(errs, removeStale(s.path(name), unix.SOCK_STREAM)) // never another server's
	}
	for _, name := range []string{"priv", "ns", "engine", stateName} {
		errs = append(errs, os.RemoveAll(s.path(name)))
	}
	err := errors.Join(errs...)
	if err != nil {
		return fmt.Errorf("take down: %w", err)
	}
	s.log.Info("stopped")
	return nil
}

// removeNetwork removes our bridge, what is attached to it, and our tables.
func (s *Supervisor) removeNetwork() error {
	var errs []error
	links, err := netlink.LinkList()
	for try := 0; errors.Is(err, netlink.ErrDumpInterrupted) && try < 100; try++ { // links come and go meanwhile
		links, err = netlink.LinkList()
	}
	if err != nil {
		return fmt.Errorf("list links: %w", err)
	}
	for _, l := range links {
		if s.ours(l.Attrs().Name) {
			var gone netlink.LinkNotFoundError
			if err := netlink.LinkDel(l); err != nil && !errors.As(err, &gone) && !errors.Is(err, unix.ENODEV) {
				errs = append(errs, fmt.Errorf("remove link %s: %w", l.Attrs().Name, err))
			}
		}
	}
	conn, err := nftables.New()
	if err != nil {
		return errors.Join(append(errs, err)...)
	}
	tables, err := conn.ListTables()
	if err != nil {
		return errors.Join(append(errs, fmt.Errorf("list nftables: %w", err))...)
	}
	for _, t := range tables {
		if s.ours(t.Name) {
			conn.DelTable(t)
		}
	}
	if err := conn.Flush(); err != nil {
		errs = append(errs, fmt.Errorf("remove nftables: %w", err))
	}
	return errors.Join(errs...)
}

// ours tells whether a link or table carries our prefix: the prefix alone, or followed by anything but a letter that
// could belong to a longer prefix.
func (s *Supervisor) ours(name string) bool {
	rest, ok := strings.CutPrefix(name, s.cfg.Network.Prefix)
	return ok && (rest == "" || rest[0] < 'a' || rest[0] > 'z')
}

// Stop asks the running supervisor to take everything down, and waits until it has ended.
func Stop(run string, patience time.Duration) (running bool, err error) {
	st, err := ReadState(run)
	if errors.Is(err, os.ErrNotExist) || (err == nil && !st.Supervisor.Alive()) {
		return false, nil
	}
	if err != nil {
		return false, err
	}
	if err := signal(st.Supervisor.PID, unix.SIGTERM, st.Supervisor.Alive); err != nil {
		return true, err
	}
	deadline := time.Now().Add(patience)
	for st.Supervisor.Alive() {
		if time.Now().After(deadline) {
			return true, fmt.Errorf("the supervisor (pid %d) has not ended after %v", st.Supervisor.PID, patience)
		}
		time.Sleep(20 * time.Millisecond)
	}
	return true, nil
}
