package container

import (
	"context"
	"encoding/binary"
	"errors"
	"io"
	"net/http"
	"strings"
	"sync"
	"time"

	"github.com/moby/moby/api/pkg/stdcopy"
	"github.com/moby/moby/api/types/events"

	"stockade/api/scope"
	"stockade/engine/container/logfile"
	"stockade/engine/httpapi"
	"stockade/engine/runtime"
)

// pending is an attachment that waits for its container's next start.
type pending struct {
	task  chan runtime.Task // gets the task once, or is closed when there will be none
	ready chan struct{}     // closed by the attachment once it is connected or has failed
	once  sync.Once
}

func (p *pending) connected() { p.once.Do(func() { close(p.ready) }) }

// connectWithin bounds how long a start waits for attachments: a client that does not read its log replay must not hold
// up the container (SECURITY T-801).
const connectWithin = 5 * time.Second

// connect gives a created task to the attachments that wait for it and returns when all are connected: so they see the
// first byte.
func (c *item) connect(task runtime.Task) error {
	c.mu.Lock()
	waiting := c.pending
	c.pending = map[*pending]struct{}{}
	c.mu.Unlock()
	for p := range waiting {
		p.task <- task
	}
	late := time.NewTimer(connectWithin)
	defer late.Stop()
	for p := range waiting {
		select {
		case <-p.ready:
		case <-late.C:
			return nil
		}
	}
	return nil
}

// dropPending ends attachments that wait for a start which will not come.
func (c *item) dropPending() {
	c.mu.Lock()
	defer c.mu.Unlock()
	for p := range c.pending {
		close(p.task)
		delete(c.pending, p)
	}
}

// target returns the running task, or an attachment to wait with.
func (c *item) target() (runtime.Task, *pending) {
	c.mu.Lock()
	defer c.mu.Unlock()
	v := c.now.Load()
	if v.State.Running && v.Task != nil {
		return v.Task, nil
	}
	p := &pending{task: make(chan runtime.Task, 1), ready: make(chan struct{})}
	c.pending[p] = struct{}{}
	return nil, p
}

func (c *item) forget(p *pending) {
	c.mu.Lock()
	defer c.mu.Unlock()
	delete(c.pending, p)
}

// attachment is what a client wants to be attached to.
type attachment struct {
	c       *item
	v       *view
	streams runtime.Attach // without the client's ends
	stdin   bool
	logs    bool // what was written before, first
	live    bool // what is written from now on
	task    runtime.Task
	wait    *pending // for the start, without a task
}

// attachment reads a request to attach; over must be called when it is done.
func (s *Service) attachment(r *http.Request, sc scope.Scope) (*attachment, error) {
	q := r.URL.Query()
	keys, err := detachKeys(q.Get("detachKeys"))
	if err != nil {
		return nil, err
	}
	c, err := s.index.find(sc.Tenant, r.PathValue("id"))
	if err != nil {
		return nil, err
	}
	v := c.view()
	switch {
	case v.State.Paused:
		return nil, conflict("container %s is paused, unpause the container before attach", r.PathValue("id"))
	case v.State.Restarting:
		return nil, conflict("container %s is restarting, wait until the container is running", r.PathValue("id"))
	case v.State.Removing || v.State.Dead:
		return nil, conflict("container %s is marked for removal and cannot be attached", r.PathValue("id"))
	}
	a := &attachment{
		c: c, v: v, stdin: boolOf(q.Get("stdin")) && v.Config.OpenStdin, logs: boolOf(q.Get("logs")), live: boolOf(q.Get("stream")),
		streams: runtime.Attach{Stdout: boolOf(q.Get("stdout")), Stderr: boolOf(q.Get("stderr")), DetachKeys: keys},
	}
	if a.live {
		// Before the client hears from us, so that it cannot start the container too early.
		a.task, a.wait = c.target()
	}
	return a, nil
}

// over lets a start go on that waits for this attachment.
func (a *attachment) over() {
	if a.wait != nil {
		a.wait.connected()
		a.c.forget(a.wait)
	}
}

// replay writes what the container has written before.
func (a *attachment) replay(ctx context.Context, w io.Writer) error {
	o := logfile.Options{Stdout: a.streams.Stdout, Stderr: a.streams.Stderr, Tail: -1}
	return logfile.Copy(ctx, w, a.v.LogPath, o, a.v.Config.Tty, nil)
}

func (s *Service) handleAttach(w http.ResponseWriter, r *http.Request, sc scope.Scope) error {
	q, err := s.attachment(r, sc)
	if err != nil {
		return err
	}
	defer q.over()
	stream, err := httpapi.Hijack(w, r, contentType(q.v.Config.Tty, sc.Version))
	if err != nil {
		return err
	}
	defer stream.Close()
	ctx, cancel := context.WithCancel(s.ctx)
	defer cancel()
	s.publish(q.v, events.ActionAttach)
	if q.logs {
		if err := q.replay(ctx, stream); err != nil {
			return closed(err)
		}
	}
	if !q.live {
		return nil
	}
	a := q.streams
	a.Out = stream
	if q.stdin {
		a.In = stream
	} else {
		go watchHangup(ctx, stream.Conn, cancel)
	}
	return s.attach(ctx, q, a, stream.CloseWrite)
}

// attach connects a client to a task, waiting for the start if there is none yet. end tells the client that nothing more
// comes.
func (s *Service) attach(ctx context.Context, q *attachment, a runtime.Attach, end func() error) error {
	task := q.task
	if p := q.wait; p != nil {
		select {
		case t, ok := <-p.task:
			if !ok {
				return nil
			}
			task = t
		case <-ctx.Done():
			return nil
		}
		a.Ready = p.connected
	}
	err := task.Attach(ctx, a)
	if errors.Is(err, runtime.ErrDetached) {
		s.publish(q.c.view(), events.ActionDetach)
		return nil
	}
	if err == nil {
		err = end()
	}
	return closed(err)
}

// closed drops errors that only say that the client went away.
func closed(err error) error {
	if err == nil || errors.Is(err, context.Canceled) || errors.Is(err, io.EOF) || isNetClosed(err) {
		return nil
	}
	return err
}

func contentType(tty bool, version string) string {
	if tty || httpapi.VersionLess(version, "1.42") {
		return httpapi.RawStream
	}
	return httpapi.MuxedStream
}

// detachKeys reads the docker CLI's notation: single characters and ctrl-x, separated by commas.
func detachKeys(s string) ([]byte, error) {
	if s == "" {
		return nil, nil
	}
	var out []byte
	for k := range strings.SplitSeq(s, ",") {
		if len(k) == 1 {
			out = append(out, k[0])
			continue
		}
		ctrl, ok := strings.CutPrefix(k, "ctrl-")
		if !ok || len(ctrl) != 1 {
			return nil, invalid("Invalid detach keys (%s) provided", s)
		}
		switch b := ctrl[0]; {
		case b >= 'a' && b <= 'z':
			out = append(out, b-'a'+1)
		case b == '@':
			out = append(out, 0)
		case b >= '[' && b <= '_':
			out = append(out, b-'['+27)
		default:
			return nil, invalid("Invalid detach keys (%s) provided", s)
		}
	}
	return out, nil
}

// writeText writes a message of the engine's own to a client's stream.
func writeText(w io.Writer, raw bool, text string) error {
	if !raw {
		head := [8]byte{byte(stdcopy.Stdout)}
		binary.BigEndian.PutUint32(head[4:], uint32(len(text)))
		text = string(head[:]) + text
	}
	_, err := io.WriteString(w, text)
	return err
}
