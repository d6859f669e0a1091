package monitor

import (
	"errors"
	"fmt"
	"os"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"

	"stockade/engine/shim"
	"stockade/engine/shim/join"
)

// childPidfd opens a process that is certainly a child of this one, and not yet collected.
func childPidfd(pid int) (*os.File, error) {
	fd, err := unix.PidfdOpen(pid, 0)
	if err != nil {
		return nil, fmt.Errorf("pidfd: %w", err)
	}
	if err := unix.Waitid(unix.P_PIDFD, fd, nil, unix.WEXITED|unix.WNOHANG|unix.WNOWAIT, nil); err != nil {
		unix.Close(fd)
		return nil, fmt.Errorf("pidfd: process %d is not ours: %w", pid, err)
	}
	return os.NewFile(uintptr(fd), "pidfd"), nil
}

// prepareJoin makes a process that waits for an order of OpExec.
func (m *monitor) prepareJoin(name string) (int, error) {
	m.mu.Lock()
	first, pid := m.first, m.main.pid
	m.mu.Unlock()
	if first == nil || name == "" {
		return 0, errors.New("no container to join")
	}
	c, err := join.Prepare(first, score(pid))
	if err != nil {
		return 0, err
	}
	m.reap.watch(c.PID) // its status says nothing
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.waiting[name] != nil || len(m.controls) == 0 {
		c.Close()
		return 0, errors.New("name of a waiting process in use")
	}
	m.waiting[name] = c
	return c.PID, nil
}

// score is the container's readiness to be killed for memory, if this process's own is another one.
func score(pid int) string {
	own, err1 := os.ReadFile("/proc/self/oom_score_adj")
	its, err2 := os.ReadFile("/proc/" + strconv.Itoa(pid) + "/oom_score_adj")
	if err1 != nil || err2 != nil || string(own) == string(its) {
		return ""
	}
	return strings.TrimSpace(string(its))
}

// join makes an exec, by a prepared process: one can make many.
func (m *monitor) join(id string, j *shim.Join) error {
	m.mu.Lock()
	c := m.waiting[j.From]
	m.mu.Unlock()
	if c == nil || id == "" {
		return errors.New("no such waiting process")
	}
	if !c.Alive() {
		m.mu.Lock()
		delete(m.waiting, j.From)
		m.mu.Unlock()
		c.Close()
		return errors.New("the waiting process was killed")
	}
	p, err := m.newProcess()
	if err != nil {
		return err
	}
	p.child, p.order = c, j
	p.run = shim.Run{TTY: j.Process.TTY, Stdin: j.Stdin, StdinOnce: true, Height: j.Height, Width: j.Width}
	return m.add(id, p)
}

// enter begins an exec without the OCI runtime.
func (p *process) enter() (int, error) {
	p.mu.Lock()
	if p.launched {
		p.mu.Unlock()
		return 0, errors.New("begun already")
	}
	p.launched = true
	p.mu.Unlock()
	streams, err := p.streams()
	if err != nil {
		p.failed()
		return 0, err
	}
	pid, helper, err := p.child.Start(p.order.Process, streams)
	if helper != 0 {
		p.m.reap.watch(helper) // its status says nothing
	}
	if p.run.TTY || !p.run.Stdin {
		streams[0].Close()
	}
	if err != nil {
		if pid != 0 {
			p.m.reap.watch(pid) // it has ended
		}
		p.failed()
		return 0, err
	}
	p.handOver()
	p.follow(pid)
	return pid, nil
}

// streams are what the process gets: pipes, or the inner side of a new terminal of the container.
func (p *process) streams() (s [3]*os.File, err error) {
	j := p.order
	root, err := p.m.openRoot()
	if err != nil {
		return s, err
	}
	defer root.Close()
	if p.run.TTY {
		master, slave, err := openTerminal(root)
		if err != nil {
			return s, err
		}
		p.mu.Lock()
		p.master = master
		height, width := p.run.Height, p.run.Width
		p.mu.Unlock()
		if err := slave.Chown(j.UID, -1); err != nil {
			slave.Close()
			return s, fmt.Errorf("chown terminal: %w", err)
		}
		if height > 0 || width > 0 {
			_ = p.resize(height, width)
		}
		return [3]*os.File{slave, slave, slave}, nil
	}
	if err := p.chownPipes(j.UID, j.GID); err != nil {
		return s, err
	}
	s = [3]*os.File{p.inR, p.outW, p.errW}
	if !p.run.Stdin {
		s[0], err = openNull(root)
	}
	return s, err
}

// openRoot opens the root folder of the container's first process.
func (m *monitor) openRoot() (*os.File, error) {
	m.mu.Lock()
	first, pid := m.first, m.main.pid
	m.mu.Unlock()
	root, err := os.OpenFile("/proc/"+strconv.Itoa(pid)+"/root", unix.O_PATH|unix.O_DIRECTORY, 0)
	if err != nil {
		return nil, fmt.Errorf("root of the container: %w", err)
	}
	// It has not ended yet, so the number was its own when the root was opened.
	if err := unix.PidfdSendSignal(int(first.Fd()), 0, nil, 0); err != nil {
		root.Close()
		return nil, fmt.Errorf("container's first process: %w", err)
	}
	return root, nil
}

// openIn opens a file of the container. SECURITY(T-501): no link is followed, whatever the container made of its /dev
// (CVE-2026-41579, CVE-2025-52565).
func openIn(root *os.File, path string, flags uint64) (int, error) {
	fd, err := unix.Openat2(int(root.Fd()), path, &unix.OpenHow{
		Flags:   flags | unix.O_NOCTTY | unix.O_CLOEXEC | unix.O_NONBLOCK,
		Resolve: unix.RESOLVE_BENEATH | unix.RESOLVE_NO_SYMLINKS | unix.RESOLVE_NO_MAGICLINKS,
	})
	if err != nil {
		return -1, fmt.Errorf("open /%s of the container: %w", path, err)
	}
	return fd, nil
}

// openNull opens the container's /dev/null for reading; where the container has another file there, an ended pipe.
func openNull(root *os.File) (*os.File, error) {
	if fd, err := openIn(root, "dev/null", unix.O_RDONLY); err == nil {
		var st unix.Stat_t
		if err := unix.Fstat(fd, &st); err == nil && st.Mode&unix.S_IFMT == unix.S_IFCHR && st.Rdev == unix.Mkdev(1, 3) {
			return os.NewFile(uintptr(fd), "null"), nil
		}
		unix.Close(fd)
	}
	r, w, err := os.Pipe()
	if err != nil {
		return nil, err
	}
	return r, w.Close()
}

// openTerminal makes a terminal in the container's own instance of devpts.
func openTerminal(root *os.File) (master, slave *os.File, err error) {
	fd, err := openIn(root, "dev/pts/ptmx", unix.O_RDWR)
	if err != nil {
		return nil, nil, err
	}
	peer, err := openPeer(fd)
	if err != nil {
		unix.Close(fd)
		return nil, nil, fmt.Errorf("terminal of the container: %w", err)
	}
	return os.NewFile(uintptr(fd), "terminal"), os.NewFile(uintptr(peer), "terminal"), nil
}

// openPeer opens the inner side of a terminal: by the outer one, not by a name that anybody could move.
func openPeer(fd int) (int, error) {
	var fs unix.Statfs_t
	if err := unix.Fstatfs(fd, &fs); err != nil {
		return -1, err
	}
	if fs.Type != unix.DEVPTS_SUPER_MAGIC {
		return -1, errors.New("/dev/pts/ptmx is no terminal multiplexer")
	}
	if err := unix.IoctlSetPointerInt(fd, unix.TIOCSPTLCK, 0); err != nil {
		return -1, fmt.Errorf("unlock: %w", err)
	}
	peer, _, errno := unix.Syscall(unix.SYS_IOCTL, uintptr(fd), unix.TIOCGPTPEER, unix.O_RDWR|unix.O_NOCTTY|unix.O_CLOEXEC)
	if errno != 0 {
		return -1, fmt.Errorf("open peer: %w", errno)
	}
	return int(peer), nil
}
