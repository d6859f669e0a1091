package supervisor

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"stockade/host"
	"stockade/internal/boot"
	"stockade/internal/proctable"
)

// unit is processes that live and die together.
type unit struct {
	rows  []string
	grace time.Duration // between SIGTERM and SIGKILL
}

// A unit that ran for steady is started again at once when it ends. The pause before one that did not doubles from
// firstPause to longestPause.
const (
	firstPause   = 100 * time.Millisecond
	longestPause = 10 * time.Second
	steady       = 10 * time.Second
)

// child is one started process.
type child struct {
	name string
	cmd  *exec.Cmd
	done chan struct{} // closed when it has ended
}

// keep runs a unit until ctx ends, and returns when its processes have ended.
func (s *Supervisor) keep(ctx context.Context, u unit) {
	var pause time.Duration
	for restarts := 0; ; restarts++ {
		began := time.Now()
		children, err := s.startUnit(u, restarts)
		if err != nil {
			s.log.Error("start", "processes", u.rows, "err", err)
		} else {
			// Wait for the first end; then the others must go, too.
			ended := make(chan struct{}, len(children))
			for _, c := range children {
				go func() {
					<-c.done
					ended <- struct{}{}
				}()
			}
			select {
			case <-ctx.Done():
			case <-ended:
			}
		}
		s.stopAll(children, u.grace)
		if ctx.Err() != nil {
			return
		}
		if time.Since(began) > steady {
			pause = 0
		} else {
			pause = min(max(2*pause, firstPause), longestPause)
		}
		select {
		case <-ctx.Done():
			return
		case <-time.After(pause):
		}
	}
}

// startUnit starts the processes of a unit, with fresh socket pairs between them. What was started is returned with an
// error, too.
func (s *Supervisor) startUnit(u unit, restarts int) ([]*child, error) {
	pair := map[string]*os.File{}
	if u.rows[0] == "mountd" {
		fds, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_SEQPACKET|unix.SOCK_CLOEXEC, 0)
		if err != nil {
			return nil, fmt.Errorf("socketpair: %w", err)
		}
		// SECURITY(T-702): nobody else ever has an end: both close here once the children hold theirs.
		pair["mountd"], pair["grantd"] = os.NewFile(uintptr(fds[0]), "pair"), os.NewFile(uintptr(fds[1]), "pair")
		defer pair["mountd"].Close()
		defer pair["grantd"].Close()
	}
	var children []*child
	for _, name := range u.rows {
		c, err := s.start(name, pair[name], restarts)
		if err != nil {
			return children, fmt.Errorf("%s: %w", name, err)
		}
		children = append(children, c)
	}
	return children, nil
}

// start starts one process.
func (s *Supervisor) start(name string, pair *os.File, restarts int) (*child, error) {
	row, ok := proctable.Get(name)
	if !ok {
		return nil, fmt.Errorf("no such process in the table")
	}
	settings, fds := s.handover(name, pair)
	names, files := make([]string, len(fds)), make([]*os.File, len(fds))
	for i, fd := range fds {
		if fd.file == nil {
			return nil, fmt.Errorf("descriptor %q is not there", fd.name)
		}
		names[i], files[i] = fd.name, fd.file
	}
	doc, err := boot.Encode(settings, names)
	if err != nil {
		return nil, err
	}
	r, w, err := os.Pipe()
	if err != nil {
		return nil, err
	}
	defer r.Close()
	// The document is smaller than a pipe's buffer, so this does not block.
	_, err = w.Write(doc)
	w.Close()
	if err != nil {
		return nil, fmt.Errorf("hand over settings: %w", err)
	}

	path := filepath.Join(s.cfg.Bin, "stockade-"+name)
	cmd := exec.Command(path)
	bounding := row.Caps
	attr := &syscall.SysProcAttr{
		Setpgid:    true, // a terminal's interrupt is for the supervisor alone
		Credential: &syscall.Credential{Uid: s.users[name].UID, Gid: s.users[name].GID},
	}
	if row.InU {
		// As root still: nsenter takes the namespaces' own root. Its descriptors pass through.
		cmd = exec.Command(host.Nsenter, "--user="+s.pin("user"), "--mount="+s.pin("mnt"), "--setuid", "0", "--setgid", "0", "--", path)
		bounding = enterCapabilities
		attr.Credential = &syscall.Credential{}
		if f := s.files["engine-cgroup"]; f != nil {
			attr.UseCgroupFD, attr.CgroupFD = true, int(f.Fd())
		}
	} else if attr.Credential.Uid != 0 {
		if attr.AmbientCaps, err = numbers(row.Caps); err != nil {
			return nil, err
		}
	}
	cmd.SysProcAttr = attr
	cmd.ExtraFiles = append([]*os.File{r}, files...)
	cmd.Env = []string{"PATH=/usr/sbin:/usr/bin:/sbin:/bin"}
	if !row.InU && name != "gate" {
		// Helpers allocate little: by default each would keep 4 MB of what it needs no longer.
		cmd.Env = append(cmd.Env, "GOGC=25", "GOMAXPROCS=1")
	}
	cmd.Dir = "/"
	cmd.Stderr = os.Stderr
	// SECURITY(T-701): the bounding set shrinks before the program runs, on a thread that ends right after.
	err = onOwnThread(func() error {
		if err := bound(bounding, thisThread); err != nil {
			return err
		}
		return cmd.Start()
	})
	if err != nil {
		return nil, err
	}
	c := &child{name: name, cmd: cmd, done: make(chan struct{})}
	started, _ := startTime(cmd.Process.Pid)
	s.record(name, &Instance{Name: name, PID: cmd.Process.Pid, Start: started, Restarts: restarts})
	s.log.Info("process started", "process", name, "pid", cmd.Process.Pid, "restarts", restarts)
	go func() {
		defer close(c.done)
		err := cmd.Wait()
		s.record(name, nil)
		s.log.Info("process ended", "process", name, "pid", cmd.Process.Pid, "how", cmd.ProcessState.String(), "err", err)
	}()
	return c, nil
}

// record replaces a process's entry in the state file; nil removes it.
func (s *Supervisor) record(name string, i *Instance) {
	err := s.state.update(func(st *State) {
		var all []Instance
		for _, p := range proctable.Table {
			for _, old := range st.Processes {
				if old.Name == p.Name && p.Name != name {
					all = append(all, old)
				}
			}
			if p.Name == name && i != nil {
				all = append(all, *i)
			}
		}
		st.Processes = all
	})
	if err != nil {
		s.log.Error("write state", "err", err)
	}
}

// stopAll asks the children to end, one after the other, and kills those that have not when grace is over.
func (s *Supervisor) stopAll(children []*child, grace time.Duration) {
	late, cancel := context.WithTimeout(context.Background(), grace)
	defer cancel()
	for _, c := range children {
		_ = c.cmd.Process.Signal(unix.SIGTERM) // by pidfd; an error means that it has ended
		select {
		case <-c.done:
			continue
		case <-late.Done():
		}
		s.log.Warn("process killed: it did not end when asked to", "process", c.name, "grace", grace)
		_ = c.cmd.Process.Kill()
		<-c.done
	}
}
