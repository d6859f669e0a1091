// Package archive copies files into and out of containers, exports their root folders and tells their changes.
//
// It touches no file of a container itself: each request starts a child process (package child) in a user namespace of
// its own that has the container's ids and nothing else, and that makes the container's root its root folder before it
// looks at anything (SECURITY T-401).
//
// Trust: the child works on hostile files and may be taken over by them; then it can do to this one container's files
// what the container could, and answer what it likes to the one request. Its reply is parsed with limits.
// Invariants: no path of a container is ever resolved in this process. Failure: a stream that broke off is not a
// complete tar, and the connection is cut.
package archive

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"syscall"
	"time"

	"github.com/containerd/errdefs"
	"golang.org/x/sys/unix"

	"stockade/api/setting"
	"stockade/engine/archive/child"
	"stockade/engine/httpapi"
	"stockade/engine/runtime"
)

const (
	maxReply = 64 << 10 // bytes of the child's first line
	maxSaid  = 512      // bytes kept of its standard error
	endDelay = 5 * time.Second
)

// Runner starts children. The zero value refuses.
type Runner struct {
	Path string // the stockade-unpack binary
}

// job is one child.
type job struct {
	mode string
	opts child.Options
	dir  string   // becomes the root folder
	base uint32   // id in the caller's user namespace of the child's id 0
	low  []string // lower folders, top first
	in   io.Reader
}

// stream is what a child writes after its reply. Close ends the child.
type stream struct {
	r     *bufio.Reader
	pipe  io.Closer
	cmd   *exec.Cmd
	said  *said
	stop  context.CancelFunc
	ended bool
	err   error
}

// start starts a child and waits for its reply. An error of class NotFound, InvalidArgument or PermissionDenied is
// about the request, and its text is for the client.
func (r Runner) start(ctx context.Context, j job) (*child.Info, *stream, error) {
	if r.Path == "" || j.base == 0 {
		return nil, nil, fmt.Errorf("archive: no program or no id range set: %w", errdefs.ErrFailedPrecondition)
	}
	j.opts.Lowers = len(j.low)
	opts, err := json.Marshal(j.opts)
	if err != nil {
		return nil, nil, err
	}
	files := make([]*os.File, 0, 1+len(j.low))
	defer func() {
		for _, f := range files {
			f.Close()
		}
	}()
	for _, dir := range append([]string{j.dir}, j.low...) {
		f, err := os.OpenFile(dir, unix.O_PATH|unix.O_DIRECTORY, 0)
		if err != nil {
			return nil, nil, fmt.Errorf("open folder: %w", err)
		}
		files = append(files, f)
	}
	ctx, stop := context.WithCancel(ctx)
	s := &stream{said: &said{}, stop: stop}
	s.cmd = exec.CommandContext(ctx, r.Path, j.mode, string(opts))
	s.cmd.Env = []string{"GOMAXPROCS=2", "GOMEMLIMIT=256MiB", "GOTRACEBACK=none"}
	s.cmd.Dir = "/"
	s.cmd.Stdin = j.in
	s.cmd.Stderr = s.said
	s.cmd.WaitDelay = endDelay // a client that stopped sending must not hold up the end of a child that refused
	s.cmd.ExtraFiles = files
	maps := []syscall.SysProcIDMap{{ContainerID: 0, HostID: int(j.base), Size: setting.BlockSize}}
	s.cmd.SysProcAttr = &syscall.SysProcAttr{
		Cloneflags: unix.CLONE_NEWUSER | unix.CLONE_NEWNS | unix.CLONE_NEWNET | unix.CLONE_NEWIPC | unix.CLONE_NEWPID |
			unix.CLONE_NEWUTS,
		UidMappings:                maps,
		GidMappings:                maps,
		GidMappingsEnableSetgroups: true,
		Credential:                 &syscall.Credential{Uid: 0, Gid: 0},
	}
	out, err := s.cmd.StdoutPipe()
	if err != nil {
		stop()
		return nil, nil, err
	}
	s.pipe, s.r = out, bufio.NewReaderSize(out, maxReply)
	if err := s.cmd.Start(); err != nil {
		stop()
		return nil, nil, fmt.Errorf("start child: %w", err)
	}
	line, err := s.r.ReadSlice('\n')
	if err != nil {
		stop()
		return nil, nil, fmt.Errorf("child ended without a reply: %w", errors.Join(err, s.wait()))
	}
	var reply child.Reply
	if err := json.Unmarshal(line, &reply); err != nil {
		return nil, nil, errors.Join(fmt.Errorf("reply of child: %w", err), s.Close())
	}
	if reply.Class != "" {
		_ = s.Close() // the reply says more
		return nil, nil, refusal(reply)
	}
	return reply.Stat, s, nil
}

func refusal(r child.Reply) error {
	switch r.Class {
	case child.NotFound:
		return httpapi.NewError(errdefs.ErrNotFound, "%s", r.Text)
	case child.Invalid:
		return httpapi.NewError(errdefs.ErrInvalidArgument, "%s", r.Text)
	case child.Conflict:
		return httpapi.NewError(errdefs.ErrConflict, "%s", r.Text)
	case child.Denied:
		return httpapi.NewError(errdefs.ErrPermissionDenied, "%s", r.Text)
	}
	return fmt.Errorf("child: %s", r.Text)
}

// Read reads the stream. The end is io.EOF only if the child said that all is written.
func (s *stream) Read(p []byte) (int, error) {
	if s.ended {
		return 0, s.err
	}
	n, err := s.r.Read(p)
	if errors.Is(err, io.EOF) {
		s.ended = true
		if s.err = io.EOF; s.wait() != nil {
			s.err = fmt.Errorf("child: %w", s.wait())
		}
		return n, s.err
	}
	return n, err
}

// wait waits for the child; it must have closed its output.
func (s *stream) wait() error {
	if s.cmd.ProcessState == nil {
		if err := s.cmd.Wait(); err != nil && s.cmd.ProcessState == nil {
			return err
		}
	}
	if !s.cmd.ProcessState.Success() {
		return fmt.Errorf("%s: %s", s.cmd.ProcessState, bytes.TrimSpace(s.said.b))
	}
	return nil
}

// Close ends the child, wherever it is. Safe to repeat.
func (s *stream) Close() error {
	s.stop()
	s.pipe.Close()
	_ = s.wait() // killed
	return nil
}

// said keeps the first bytes of what a child says when it breaks.
type said struct{ b []byte }

func (s *said) Write(p []byte) (int, error) {
	s.b = append(s.b, p[:min(len(p), maxSaid-len(s.b))]...)
	return len(p), nil
}

// Copy copies the contents of the folder at path inside a container's root, and the folder's own mode, owner and time,
// into folder into, whose ids begin at id base of the caller's user namespace. What is no folder copies nothing.
func (r Runner) Copy(ctx context.Context, root runtime.Root, path, into string, base uint32) error {
	info, from, err := r.start(ctx, job{mode: child.CopyUp, opts: child.Options{Path: path}, dir: root.Path(), base: root.Base()})
	if errdefs.IsNotFound(err) {
		return nil
	}
	if err != nil {
		return err
	}
	defer from.Close()
	// Two children, because the ids of the two sides differ: neither could read and write both.
	_, to, err := r.start(ctx, job{mode: child.Put, opts: child.Options{Path: "/", Like: info}, dir: into, base: base, in: from})
	if err != nil {
		return err
	}
	return to.Close()
}
