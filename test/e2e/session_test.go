//go:build root

package e2e

import (
	"bytes"
	"fmt"
	"io"
	"os"
	"os/exec"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"stockade/test/harness"
)

// session is a command that runs beside the test.
type session struct {
	t     testing.TB
	cmd   *exec.Cmd
	stdin io.WriteCloser
	out   buffer // standard output, with a terminal all output
	err   buffer
	tty   *os.File // our end of the terminal, or nil
	done  chan struct{}
}

// buffer may be written and read at once.
type buffer struct {
	mu   sync.Mutex
	data bytes.Buffer
}

func (b *buffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.data.Write(p)
}

func (b *buffer) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.data.String()
}

// begin starts a docker command with pipes.
func (d client) begin(args ...string) *session {
	d.t.Helper()
	c := &session{t: d.t, cmd: d.s.Command(background(d.t), d.s.User, d.path, args...), done: make(chan struct{})}
	c.cmd.Stdout, c.cmd.Stderr = &c.out, &c.err
	var err error
	if c.stdin, err = c.cmd.StdinPipe(); err != nil {
		d.t.Fatal(err)
	}
	c.start()
	return c
}

// terminal starts a docker command at a terminal.
func (d client) terminal(rows, cols uint16, args ...string) *session {
	d.t.Helper()
	ours, theirs := openPTY(d.t, d.s.User)
	c := &session{t: d.t, cmd: d.s.Command(background(d.t), d.s.User, d.path, args...), tty: ours, stdin: ours, done: make(chan struct{})}
	c.cmd.Env = append(c.cmd.Env, "TERM=xterm")
	c.cmd.Stdin, c.cmd.Stdout, c.cmd.Stderr = theirs, theirs, theirs
	c.cmd.SysProcAttr.Setsid, c.cmd.SysProcAttr.Setctty = true, true
	c.resize(rows, cols)
	c.start()
	theirs.Close()
	go func() { _, _ = io.Copy(&c.out, ours) }() // ends with EIO when the command has ended
	return c
}

func (c *session) start() {
	c.t.Helper()
	if err := c.cmd.Start(); err != nil {
		c.t.Fatal(err)
	}
	go func() {
		_ = c.cmd.Wait()
		close(c.done)
	}()
	c.t.Cleanup(func() {
		_ = c.cmd.Process.Kill()
		<-c.done
	})
}

func (c *session) String() string {
	return fmt.Sprintf("%s\nstdout: %q\nstderr: %q", strings.Join(c.cmd.Args, " "), c.out.String(), c.err.String())
}

// send types something.
func (c *session) send(text string) {
	c.t.Helper()
	if _, err := io.WriteString(c.stdin, text); err != nil {
		c.t.Fatalf("%v: write: %v", c, err)
	}
}

// sees waits until the output has a text.
func (c *session) sees(text string) {
	c.t.Helper()
	harness.Poll(c.t, fmt.Sprintf("%q in the output", text), func() (string, bool) {
		return c.String(), strings.Contains(c.out.String(), text)
	})
}

// ends waits for the end of the command, which must have a code.
func (c *session) ends(code int) {
	c.t.Helper()
	select {
	case <-c.done:
	case <-time.After(harness.Patience):
		c.t.Fatalf("still running: %v", c)
	}
	if got := c.cmd.ProcessState.ExitCode(); got != code {
		c.t.Errorf("%v\nexit code %d, want %d", c, got, code)
	}
}

// resize changes the size of the terminal's window and tells the command.
func (c *session) resize(rows, cols uint16) {
	c.t.Helper()
	if err := unix.IoctlSetWinsize(int(c.tty.Fd()), unix.TIOCSWINSZ, &unix.Winsize{Row: rows, Col: cols}); err != nil {
		c.t.Fatal(err)
	}
}

// openPTY returns both ends of a new terminal that belongs to u.
func openPTY(t testing.TB, u harness.User) (ours, theirs *os.File) {
	t.Helper()
	ours, err := os.OpenFile("/dev/ptmx", os.O_RDWR|unix.O_NOCTTY|unix.O_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { ours.Close() })
	if err := unix.IoctlSetPointerInt(int(ours.Fd()), unix.TIOCSPTLCK, 0); err != nil {
		t.Fatal(err)
	}
	n, err := unix.IoctlGetInt(int(ours.Fd()), unix.TIOCGPTN)
	if err != nil {
		t.Fatal(err)
	}
	path := fmt.Sprintf("/dev/pts/%d", n)
	if err := os.Chown(path, int(u.UID), int(u.GID)); err != nil {
		t.Fatal(err)
	}
	theirs, err = os.OpenFile(path, os.O_RDWR|unix.O_NOCTTY|unix.O_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	return ours, theirs
}
