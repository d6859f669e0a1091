package monitor

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"strconv"
	"strings"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"stockade/engine/shim"
	"stockade/engine/shim/join"
)

// process is the container's first process or an exec: its stub, its streams and who is attached.
type process struct {
	m     *monitor
	child *join.Child // waits to become the OCI runtime, or, with an order, makes the process
	order *shim.Join  // of an exec without the OCI runtime
	pid   int         // pid of the process itself, once it is there
	run   shim.Run
	log   *logWriter // nil for an exec

	inR, inW, outR, outW, errR, errW *os.File // pipes; nil once handed over or closed
	master                           *os.File // terminal

	copiers  sync.WaitGroup
	drained  chan struct{} // all output has been passed on
	mu       sync.Mutex
	clients  map[*client]bool
	launched bool
	over     bool
}

type client struct {
	conn           *net.UnixConn
	stdout, stderr bool
	mu             sync.Mutex
}

// newProcess makes the pipes.
func (m *monitor) newProcess() (*process, error) {
	p := &process{m: m, clients: map[*client]bool{}, drained: make(chan struct{})}
	var err error
	for _, pair := range []struct{ r, w **os.File }{{&p.inR, &p.inW}, {&p.outR, &p.outW}, {&p.errR, &p.errW}} {
		if *pair.r, *pair.w, err = os.Pipe(); err != nil {
			p.closeAll()
			return nil, fmt.Errorf("pipe: %w", err)
		}
	}
	return p, nil
}

// prepare makes a process, and the child that will become its OCI runtime.
func (m *monitor) prepare() (*process, error) {
	p, err := m.newProcess()
	if err != nil {
		return nil, err
	}
	if p.child, err = join.Prepare(nil, ""); err != nil {
		p.closeAll()
		return nil, fmt.Errorf("start stub: %w", err)
	}
	return p, nil
}

func (p *process) closeAll() {
	for _, f := range []**os.File{&p.inR, &p.inW, &p.outR, &p.outW, &p.errR, &p.errW, &p.master} {
		if *f != nil {
			(*f).Close()
			*f = nil
		}
	}
}

// abandon ends a stub that will not be used.
func (p *process) abandon() {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.launched {
		return
	}
	p.closeAll()
	if p.order == nil { // else it is there for others, too
		p.child.Close()
	}
	for c := range p.clients {
		c.conn.Close()
	}
}

// launch has the stub execute the OCI runtime and waits until that has ended; then the process is there.
func (p *process) launch(r shim.Run) (int, error) {
	p.mu.Lock()
	if p.launched {
		p.mu.Unlock()
		return 0, errors.New("begun already")
	}
	p.launched = true
	p.run = r
	p.mu.Unlock()

	if err := p.chownPipes(r.UID, r.GID); err != nil {
		return 0, err
	}
	var console net.Listener
	if r.TTY {
		_ = os.Remove(r.Console)
		l, err := net.Listen("unix", r.Console)
		if err != nil {
			return 0, fmt.Errorf("console socket: %w", err)
		}
		console = l
		defer console.Close()
	}
	streams := [3]*os.File{p.inR, p.outW, p.errW}
	// SECURITY(T-501): the runtime exchanges /dev/null for the container's own in a first process only. In an exec it would be
	// an open file of our mounts, so an exec keeps the pipe, which has ended.
	if (!r.Stdin || r.TTY) && p == p.m.main {
		null, err := os.OpenFile(os.DevNull, os.O_RDWR, 0)
		if err != nil {
			return 0, err
		}
		defer null.Close()
		streams[0] = null
	}
	ended := p.m.reap.watch(p.child.PID)
	// One processor: an OCI runtime written in Go spends a sixth of its time on more that it has no use for.
	if err := p.child.Exec(r.Argv, []string{"PATH=/usr/sbin:/usr/bin:/sbin:/bin", "GOMAXPROCS=1"}, streams); err != nil {
		p.failed()
		return 0, fmt.Errorf("OCI runtime: %w", err)
	}
	p.handOver()
	got := make(chan error, 1)
	if r.TTY {
		go func() { got <- p.receiveConsole(console) }()
	}
	ws := <-ended
	if ws.ExitStatus() != 0 {
		reason := runtimeError(r.LogFile)
		if reason == "" {
			reason = p.firstError()
		}
		p.failed()
		return 0, errors.New(reason)
	}
	if r.TTY {
		select {
		case err := <-got:
			if err != nil {
				return 0, fmt.Errorf("receive terminal: %w", err)
			}
		case <-time.After(10 * time.Second):
			return 0, errors.New("the runtime sent no terminal")
		}
	}
	data, err := os.ReadFile(r.PIDFile)
	if err != nil {
		return 0, err
	}
	pid, err := strconv.Atoi(strings.TrimSpace(string(data)))
	if err != nil {
		return 0, fmt.Errorf("pid file: %w", err)
	}
	if r.TTY && (r.Height > 0 || r.Width > 0) {
		_ = p.resize(r.Height, r.Width)
	}
	p.follow(pid)
	return pid, nil
}

// chownPipes gives the pipes to the container's user, so that it can open /dev/stdout and /dev/stderr again.
func (p *process) chownPipes(uid, gid int) error {
	for _, f := range []*os.File{p.inR, p.outW, p.errW} {
		if err := f.Chown(uid, gid); err != nil {
			return fmt.Errorf("chown standard stream: %w", err)
		}
	}
	return nil
}

// handOver closes the process's ends of the pipes, and the input that nobody will use.
func (p *process) handOver() {
	for _, f := range []**os.File{&p.inR, &p.outW, &p.errW} {
		(*f).Close()
		*f = nil
	}
	if !p.run.Stdin || p.run.TTY {
		p.inW.Close()
		p.inW = nil
	}
}

// failed lets everybody go who waits for a process that will not be.
func (p *process) failed() {
	p.mu.Lock()
	p.closeAll()
	p.over = true
	for c := range p.clients {
		c.conn.Close()
	}
	p.mu.Unlock()
	close(p.drained)
}

// follow passes on the output of the process, which is there now.
func (p *process) follow(pid int) {
	p.mu.Lock()
	p.pid = pid
	p.mu.Unlock()
	if p.run.TTY {
		p.outR.Close()
		p.errR.Close()
		p.outR, p.errR = nil, nil
		p.copiers.Add(1)
		go p.pump(p.master, stdout)
	} else {
		p.copiers.Add(2)
		go p.pump(p.outR, stdout)
		go p.pump(p.errR, stderr)
	}
	go func() {
		p.copiers.Wait()
		close(p.drained)
	}()
}

// firstError returns what the runtime printed, when it logged nothing.
func (p *process) firstError() string {
	buf := make([]byte, 4096)
	_ = p.errR.SetReadDeadline(time.Now().Add(time.Second))
	n, _ := p.errR.Read(buf)
	if n == 0 {
		return "the OCI runtime failed without a reason"
	}
	return strings.TrimSpace(string(buf[:n]))
}

func (p *process) receiveConsole(l net.Listener) error {
	conn, err := l.Accept()
	if err != nil {
		return err
	}
	defer conn.Close()
	oob := make([]byte, unix.CmsgSpace(4))
	buf := make([]byte, 256)
	_, oobn, _, _, err := conn.(*net.UnixConn).ReadMsgUnix(buf, oob)
	if err != nil {
		return err
	}
	msgs, err := unix.ParseSocketControlMessage(oob[:oobn])
	if err != nil || len(msgs) != 1 {
		return errors.New("no descriptor")
	}
	fds, err := unix.ParseUnixRights(&msgs[0])
	if err != nil || len(fds) != 1 {
		return errors.New("no descriptor")
	}
	unix.CloseOnExec(fds[0])
	if err := unix.SetNonblock(fds[0], true); err != nil {
		return err
	}
	p.master = os.NewFile(uintptr(fds[0]), "terminal")
	return nil
}

func (p *process) resize(height, width uint16) error {
	p.mu.Lock()
	master := p.master
	if master == nil {
		p.run.Height, p.run.Width = height, width
		tty := p.run.TTY
		p.mu.Unlock()
		if !tty {
			return errors.New("no terminal")
		}
		return nil
	}
	p.mu.Unlock()
	raw, err := master.SyscallConn()
	if err != nil {
		return err
	}
	var werr error
	if err := raw.Control(func(fd uintptr) {
		werr = unix.IoctlSetWinsize(int(fd), unix.TIOCSWINSZ, &unix.Winsize{Row: height, Col: width})
	}); err != nil {
		return err
	}
	return werr
}

// Stream numbers of the multiplexed format.
const (
	stdout = 1
	stderr = 2
)

// pump passes one output stream on: to the log first, then to those attached. A client that does not read holds the
// container's output back, as a terminal would; the log is complete in any case.
func (p *process) pump(f *os.File, stream byte) {
	defer p.copiers.Done()
	buf := make([]byte, 8+64<<10) // as much as a pipe holds
	for {
		n, err := f.Read(buf[8:])
		if n > 0 {
			if p.log != nil {
				p.log.write(stream, buf[8:8+n])
			}
			buf[0], buf[1], buf[2], buf[3] = stream, 0, 0, 0
			buf[4], buf[5], buf[6], buf[7] = byte(n>>24), byte(n>>16), byte(n>>8), byte(n)
			out := buf[:8+n]
			if p.run.TTY {
				out = buf[8 : 8+n]
			}
			p.mu.Lock()
			var list []*client
			for c := range p.clients {
				if (stream == stdout && c.stdout) || (stream == stderr && c.stderr) {
					list = append(list, c)
				}
			}
			p.mu.Unlock()
			for _, c := range list {
				c.mu.Lock()
				_, werr := c.conn.Write(out)
				c.mu.Unlock()
				if werr != nil {
					p.drop(c)
				}
			}
		}
		if err != nil {
			if p.log != nil {
				p.log.flush(stream)
			}
			return
		}
	}
}

func (p *process) drop(c *client) {
	p.mu.Lock()
	delete(p.clients, c)
	p.mu.Unlock()
	c.conn.Close()
}

// serveStream serves one attachment until the client or the process ends.
func (p *process) serveStream(conn *net.UnixConn, r *bufio.Reader, o shim.Open) {
	c := &client{conn: conn, stdout: o.Stdout, stderr: o.Stderr}
	c.mu.Lock() // the answer goes before any output
	p.mu.Lock()
	if p.over {
		p.mu.Unlock()
		c.mu.Unlock()
		_, _ = conn.Write(shim.AppendOpened(nil, shim.Opened{}))
		return
	}
	p.clients[c] = true
	p.mu.Unlock()
	_, err := conn.Write(shim.AppendOpened(nil, shim.Opened{}))
	c.mu.Unlock()
	if err == nil {
		p.feed(r, o.Stdin)
	}
	if o.Stdout || o.Stderr {
		// The client may have ended its input only and still want output.
		tick := time.NewTicker(2 * time.Second)
		defer tick.Stop()
		for {
			select {
			case <-p.drained:
				return
			case <-tick.C:
				if hungUp(conn) {
					p.drop(c)
					return
				}
			}
		}
	}
	p.drop(c)
}

// hungUp tells whether the peer has closed both directions.
func hungUp(conn *net.UnixConn) bool {
	raw, err := conn.SyscallConn()
	if err != nil {
		return true
	}
	gone := false
	if err := raw.Control(func(fd uintptr) {
		set := []unix.PollFd{{Fd: int32(fd)}}
		n, err := unix.Poll(set, 0)
		gone = err == nil && n > 0 && set[0].Revents&(unix.POLLHUP|unix.POLLERR) != 0
	}); err != nil {
		return true
	}
	return gone
}

// feed copies a client's input to the process.
func (p *process) feed(r *bufio.Reader, wanted bool) {
	buf := make([]byte, 16<<10)
	for {
		n, err := r.Read(buf)
		if n > 0 && wanted {
			if in := p.input(); in != nil {
				if _, werr := in.Write(buf[:n]); werr != nil {
					wanted = false
				}
			}
		}
		if err != nil {
			break
		}
	}
	if !wanted {
		return
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.run.StdinOnce && !p.run.TTY && p.inW != nil {
		p.inW.Close()
		p.inW = nil
	}
}

func (p *process) input() io.Writer {
	// Input that arrives before the process is there waits for it.
	for {
		p.mu.Lock()
		ready, over, master, in, tty := p.pid != 0, p.over, p.master, p.inW, p.run.TTY
		p.mu.Unlock()
		switch {
		case over:
			return nil
		case ready && tty && master != nil:
			return master
		case in != nil && (ready || !tty):
			return in
		case ready:
			return nil
		}
		time.Sleep(2 * time.Millisecond)
	}
}

// finish waits for the rest of the output and lets everybody go.
func (p *process) finish() {
	select {
	case <-p.drained:
	case <-time.After(3 * time.Second): // somebody outside holds a stream open
		p.mu.Lock()
		for _, f := range []*os.File{p.outR, p.errR, p.master} {
			if f != nil {
				_ = f.SetReadDeadline(time.Now())
			}
		}
		p.mu.Unlock()
		<-p.drained
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	p.over = true
	for c := range p.clients {
		c.conn.Close()
	}
	clear(p.clients)
	p.closeAll()
}
