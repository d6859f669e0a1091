// Package monitor is the process stockade-shim: one per container, the parent (as subreaper) of its processes.
//
// It starts a stub at once, which waits; the engine puts the stub into the container's cgroup and then has it execute
// the OCI runtime, so that everything in the container has been there from its first instruction.
//
// Trust: the engine gives orders over a socket in a folder of its own uid; the container's output is opaque bytes.
// Invariants: output is in the log before the exit is told; the exit is in a file before it is told.
// Failure: without a container and without an engine the monitor ends; with a container it lives as long as that.
package monitor

import (
	"bufio"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/signal"
	"path/filepath"
	"runtime/debug"
	"strings"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"stockade/engine/shim"
	"stockade/engine/shim/join"
	"stockade/internal/failpoint"
)

// Main is the program: "stockade-shim BUNDLE".
func Main(args []string) error {
	if len(args) == 1 {
		return run(args[0])
	}
	return errors.New("usage: stockade-shim BUNDLE (it is started by stockade-engine)")
}

type monitor struct {
	bundle string
	reap   *reaper

	mu       sync.Mutex
	controls map[*control]bool
	main     *process
	execs    map[string]*process
	waiting  map[string]*join.Child // made in advance, see OpPrepare
	first    *os.File               // pidfd of the container's first process
	created  bool
	log      *logWriter
	fifo     string
	exit     *shim.Exit
	release  chan struct{}
	once     sync.Once
}

func run(bundle string) error {
	debug.SetGCPercent(50)
	debug.SetMemoryLimit(32 << 20)
	if err := os.Chdir(bundle); err != nil {
		return err
	}
	if err := unix.Prctl(unix.PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0); err != nil {
		return fmt.Errorf("become subreaper: %w", err)
	}
	// No signal but SIGKILL ends the monitor. Caught, not ignored: what is ignored, here or by whoever started the server,
	// would be in the container too, and a shell there could not trap it.
	signal.Notify(make(chan os.Signal, 1))
	file := os.NewFile(shim.ListenFD, "listener")
	listener, err := net.FileListener(file)
	if err != nil {
		return fmt.Errorf("listener: %w", err)
	}
	file.Close()
	m := &monitor{bundle: bundle, reap: newReaper(), controls: map[*control]bool{}, execs: map[string]*process{}, waiting: map[string]*join.Child{}, release: make(chan struct{})}
	if m.main, err = m.prepare(); err != nil {
		return err
	}
	go m.accept(listener)
	<-m.release
	m.mu.Lock()
	defer m.mu.Unlock()
	if !m.created {
		m.main.abandon()
	}
	return nil
}

func (m *monitor) end() { m.once.Do(func() { close(m.release) }) }

func (m *monitor) accept(l net.Listener) {
	for {
		conn, err := l.Accept()
		if errors.Is(err, net.ErrClosed) {
			m.end()
			return
		}
		if err != nil { // want of descriptors passes; the container must not end with it (T-801)
			time.Sleep(50 * time.Millisecond)
			continue
		}
		go m.serve(conn.(*net.UnixConn))
	}
}

func (m *monitor) serve(conn *net.UnixConn) {
	defer conn.Close()
	r := bufio.NewReaderSize(conn, 4096)
	line, err := r.ReadBytes('\n')
	if err != nil {
		return
	}
	o, err := shim.ParseOpen(line)
	if err != nil {
		return
	}
	if o.Control {
		m.serveControl(conn, r)
		return
	}
	m.mu.Lock()
	p := m.main
	if o.Exec != "" {
		p = m.execs[o.Exec]
	}
	m.mu.Unlock()
	if p == nil {
		_, _ = conn.Write(shim.AppendOpened(nil, shim.Opened{Err: "no such exec"}))
		return
	}
	p.serveStream(conn, r, o)
}

type control struct {
	mu   sync.Mutex
	conn net.Conn
}

func (c *control) send(ev shim.Event) {
	c.mu.Lock()
	defer c.mu.Unlock()
	_ = c.conn.SetWriteDeadline(time.Now().Add(10 * time.Second))
	if _, err := c.conn.Write(shim.AppendEvent(nil, ev)); err != nil {
		c.conn.Close()
	}
}

func (m *monitor) serveControl(conn net.Conn, r *bufio.Reader) {
	c := &control{conn: conn}
	m.mu.Lock()
	hello := shim.Opened{StubPID: m.main.child.PID, Exit: m.exit}
	if m.created {
		hello.PID = m.main.pid
	}
	c.mu.Lock() // the hello goes first
	m.controls[c] = true
	m.mu.Unlock()
	_, err := conn.Write(shim.AppendOpened(nil, hello))
	c.mu.Unlock()
	if err == nil {
		for {
			line, err := r.ReadBytes('\n')
			if err != nil {
				break
			}
			req, err := shim.ParseRequest(line)
			if err != nil {
				break
			}
			if req.Op == shim.OpRelease {
				c.send(shim.Event{Seq: req.Seq})
				m.end()
				return
			}
			go func() {
				ev, err := m.do(req)
				ev.Seq = req.Seq
				if err != nil {
					ev.Err = err.Error()
				}
				c.send(ev)
			}()
		}
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	delete(m.controls, c)
	if len(m.controls) == 0 { // whoever had them made is gone
		for name, w := range m.waiting {
			w.Close()
			delete(m.waiting, name)
		}
	}
	if len(m.controls) == 0 && (!m.created || m.exit != nil) {
		m.end()
	}
}

func (m *monitor) tell(ev shim.Event) {
	m.mu.Lock()
	list := make([]*control, 0, len(m.controls))
	for c := range m.controls {
		list = append(list, c)
	}
	m.mu.Unlock()
	for _, c := range list {
		c.send(ev)
	}
}

func (m *monitor) do(req shim.Request) (shim.Event, error) {
	switch req.Op {
	case shim.OpCreate:
		pid, err := m.create(req.Create)
		return shim.Event{PID: pid}, err
	case shim.OpStart:
		return shim.Event{}, m.start()
	case shim.OpResize:
		p, err := m.find(req.Exec)
		if err != nil {
			return shim.Event{}, err
		}
		return shim.Event{}, p.resize(req.Height, req.Width)
	case shim.OpExec:
		if req.Join != nil {
			return shim.Event{}, m.join(req.Exec, req.Join)
		}
		pid, err := m.exec(req.Exec, req.Run)
		return shim.Event{PID: pid}, err
	case shim.OpPrepare:
		pid, err := m.prepareJoin(req.Exec)
		return shim.Event{PID: pid}, err
	case shim.OpExecGo:
		pid, err := m.execGo(req.Exec)
		return shim.Event{PID: pid}, err
	case shim.OpExecEnd:
		m.mu.Lock()
		p := m.execs[req.Exec]
		delete(m.execs, req.Exec)
		w := m.waiting[req.Exec]
		delete(m.waiting, req.Exec)
		m.mu.Unlock()
		if p != nil {
			p.abandon()
		}
		if w != nil {
			w.Close()
		}
		return shim.Event{}, nil
	}
	return shim.Event{}, fmt.Errorf("unknown order %q", req.Op)
}

func (m *monitor) find(exec string) (*process, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	p := m.main
	if exec != "" {
		p = m.execs[exec]
	}
	if p == nil {
		return nil, errors.New("no such process")
	}
	return p, nil
}

func (m *monitor) create(c *shim.Create) (int, error) {
	if c == nil {
		return 0, errors.New("create without its parameters")
	}
	lw, err := openLog(c.Log)
	if err != nil {
		return 0, fmt.Errorf("open log: %w", err)
	}
	p := m.main
	m.mu.Lock()
	m.log, m.fifo = lw, c.Fifo
	m.mu.Unlock()
	p.log = lw
	failpoint.Hit("shim.create")
	pid, err := p.launch(c.Run)
	if err != nil {
		return 0, err
	}
	failpoint.Hit("shim.created")
	first, err := childPidfd(pid)
	if err != nil {
		return 0, err
	}
	exited := m.reap.watch(pid)
	m.mu.Lock()
	m.created, m.first = true, first
	m.mu.Unlock()
	go func() {
		exit := toExit(<-exited)
		p.finish()
		lw.Close()
		failpoint.Hit("shim.exit.record")
		// The file first: what was told must be found again.
		if err := writeFile(shim.ExitFile, shim.AppendExit(nil, exit)); err != nil {
			fmt.Fprintln(os.Stderr, "stockade-shim: record exit:", err)
		}
		failpoint.Hit("shim.exit.recorded")
		m.mu.Lock()
		m.exit = &exit
		alone := len(m.controls) == 0
		m.mu.Unlock()
		m.tell(shim.Event{Exit: &exit})
		if alone {
			m.end()
		}
	}()
	return pid, nil
}

// start lets the first process go on: the runtime's init waits until its fifo is opened for reading.
func (m *monitor) start() error {
	m.mu.Lock()
	fifo, created := m.fifo, m.created
	m.mu.Unlock()
	if !created {
		return errors.New("not created")
	}
	// Not blocking: the writer opens the other end when it is ready; a writer that died must not hold us.
	f, err := os.OpenFile(fifo, os.O_RDONLY|unix.O_NONBLOCK, 0)
	if err != nil {
		return fmt.Errorf("open start fifo: %w", err)
	}
	defer f.Close()
	deadline := time.Now().Add(20 * time.Second)
	buf := make([]byte, 1)
	for {
		_ = f.SetReadDeadline(time.Now().Add(time.Second))
		n, err := f.Read(buf)
		m.mu.Lock()
		dead := m.exit != nil
		m.mu.Unlock()
		switch {
		case n == 1:
			failpoint.Hit("shim.begun")
			return os.Remove(fifo)
		case dead:
			return errors.New("the container's first process ended before it was started")
		case time.Now().After(deadline):
			return errors.New("the container's first process does not begin")
		case errors.Is(err, io.EOF): // no writer yet
			time.Sleep(200 * time.Microsecond)
		case err != nil && !errors.Is(err, os.ErrDeadlineExceeded):
			return fmt.Errorf("read start fifo: %w", err)
		}
	}
}

func (m *monitor) exec(id string, r *shim.Run) (int, error) {
	if r == nil || id == "" {
		return 0, errors.New("exec without its parameters")
	}
	p, err := m.prepare()
	if err != nil {
		return 0, err
	}
	p.run = *r
	return p.child.PID, m.add(id, p)
}

// add makes an exec known.
func (m *monitor) add(id string, p *process) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.execs[id] != nil {
		p.abandon()
		return errors.New("exec id in use")
	}
	m.execs[id] = p
	return nil
}

func (m *monitor) execGo(id string) (int, error) {
	p, err := m.find(id)
	if err != nil {
		return 0, err
	}
	var pid int
	if p.order != nil {
		pid, err = p.enter()
	} else {
		pid, err = p.launch(p.run)
	}
	if err != nil {
		return 0, err
	}
	exited := m.reap.watch(pid)
	go func() {
		exit := toExit(<-exited)
		p.finish()
		m.tell(shim.Event{Exec: id, Exit: &exit})
	}()
	return pid, nil
}

func toExit(ws syscall.WaitStatus) shim.Exit {
	code := ws.ExitStatus()
	if ws.Signaled() {
		code = 128 + int(ws.Signal())
	}
	return shim.Exit{Code: code, At: time.Now().UTC()}
}

func writeFile(name string, data []byte) error {
	tmp := name + ".tmp"
	if err := os.WriteFile(tmp, data, 0o600); err != nil {
		return err
	}
	return os.Rename(tmp, name)
}

// runtimeError finds the reason in the OCI runtime's log.
func runtimeError(logFile string) string {
	data, err := os.ReadFile(filepath.Clean(logFile))
	if err != nil {
		return ""
	}
	msg := ""
	for line := range strings.Lines(string(data)) {
		var l struct{ Level, Msg string }
		if json.Unmarshal([]byte(line), &l) == nil && (l.Level == "error" || l.Level == "fatal") {
			msg = l.Msg
		}
	}
	return msg
}
