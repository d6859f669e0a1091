package container

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"strconv"
	"time"

	"github.com/containerd/errdefs"
	"github.com/moby/moby/api/types/container"
	"github.com/moby/moby/api/types/events"
	"golang.org/x/sys/unix"

	"stockade/api/scope"
	"stockade/engine/httpapi"
)

const (
	sigkill            = int(unix.SIGKILL)
	defaultStopTimeout = 10 // seconds
)

func (s *Service) handleStop(w http.ResponseWriter, r *http.Request, sc scope.Scope) error {
	c, o, err := s.stopRequest(r, sc)
	if err != nil {
		return err
	}
	if !c.view().State.Running {
		return httpapi.ErrNotModified
	}
	if err := s.stop(context.WithoutCancel(r.Context()), c, o); err != nil {
		return err
	}
	w.WriteHeader(http.StatusNoContent)
	return nil
}

func (s *Service) handleRestart(w http.ResponseWriter, r *http.Request, sc scope.Scope) error {
	c, o, err := s.stopRequest(r, sc)
	if err != nil {
		return err
	}
	ctx := context.WithoutCancel(r.Context())
	if c.view().State.Running {
		// A container that removes itself at its end is kept over a restart.
		c.setKeep(true)
		defer c.setKeep(false)
		if err := s.stop(ctx, c, o); err != nil && !errors.Is(err, httpapi.ErrNotModified) {
			return fmt.Errorf("cannot restart container %s: %w", r.PathValue("id"), err)
		}
	}
	if err := s.start(ctx, c); err != nil && !errors.Is(err, httpapi.ErrNotModified) {
		return fmt.Errorf("cannot restart container %s: %w", r.PathValue("id"), err)
	}
	s.publish(c.view(), events.ActionRestart)
	w.WriteHeader(http.StatusNoContent)
	return nil
}

type stopOptions struct {
	signal  string
	timeout *int // seconds; negative: no end
}

func (s *Service) stopRequest(r *http.Request, sc scope.Scope) (*item, stopOptions, error) {
	o, err := parseStop(r.URL.Query())
	if err != nil {
		return nil, o, err
	}
	c, err := s.index.find(sc.Tenant, r.PathValue("id"))
	return c, o, err
}

func parseStop(q url.Values) (stopOptions, error) {
	o := stopOptions{signal: q.Get("signal")}
	if o.signal != "" {
		if _, err := ParseSignal(o.signal); err != nil {
			return o, err
		}
	}
	if t := q.Get("t"); t != "" {
		n, err := strconv.Atoi(t)
		if err != nil {
			return o, invalid("invalid stop timeout %q", t)
		}
		o.timeout = &n
	}
	return o, nil
}

// stop asks a container to end and kills it when it has not after a while.
func (s *Service) stop(ctx context.Context, c *item, o stopOptions) error {
	v := c.view()
	if !v.State.Running {
		return httpapi.ErrNotModified
	}
	w := c.wait(container.WaitConditionNotRunning)
	defer c.unwait(w)
	signal := stopSignal(v.Config.StopSignal)
	if o.signal != "" {
		signal = stopSignal(o.signal)
	}
	timeout := defaultStopTimeout
	if v.Config.StopTimeout != nil {
		timeout = *v.Config.StopTimeout
	}
	if o.timeout != nil {
		timeout = *o.timeout
	}
	// Errors of the first signal do not matter: what cannot be signalled is killed.
	if err := s.signal(ctx, c, signal); err != nil && !errdefs.IsConflict(err) {
		s.cfg.Log.Warn("signal container", "container", v.ID, "signal", signal, "err", err)
		timeout = 0
	}
	var over <-chan time.Time
	if timeout >= 0 {
		t := time.NewTimer(time.Duration(timeout) * time.Second)
		defer t.Stop()
		over = t.C
	}
	select {
	case <-w.done:
	case <-over:
		if err := s.signal(ctx, c, sigkill); err != nil && !errdefs.IsConflict(err) {
			return fmt.Errorf("cannot stop container: %s: %w", v.ID, err)
		}
		<-w.done
	}
	s.publish(c.view(), events.ActionStop)
	return nil
}

func (s *Service) handleKill(w http.ResponseWriter, r *http.Request, sc scope.Scope) error {
	ref := r.PathValue("id")
	if err := s.killCalled(r, sc, ref); err != nil {
		return fmt.Errorf("cannot kill container: %s: %w", ref, err)
	}
	w.WriteHeader(http.StatusNoContent)
	return nil
}

func (s *Service) killCalled(r *http.Request, sc scope.Scope, ref string) error {
	signal := sigkill
	if q := r.URL.Query().Get("signal"); q != "" {
		n, err := ParseSignal(q)
		if err != nil {
			return err
		}
		signal = n
	}
	c, err := s.index.find(sc.Tenant, ref)
	if err != nil {
		return err
	}
	ctx := context.WithoutCancel(r.Context())
	if signal == sigkill {
		return s.kill(ctx, c)
	}
	return s.signal(ctx, c, signal)
}

// kill ends a container at once and waits until that is known.
func (s *Service) kill(ctx context.Context, c *item) error {
	w := c.wait(container.WaitConditionNextExit)
	defer c.unwait(w)
	if err := s.signal(ctx, c, sigkill); err != nil {
		return err
	}
	<-w.done
	return nil
}

// signal sends a signal. One that asks for the end makes the end final.
func (s *Service) signal(ctx context.Context, c *item, signal int) error {
	v := c.view()
	if !v.State.Running {
		return conflict("container %s is not running", v.ID)
	}
	// As Docker: without a stop signal of its own, every signal may be meant as the end.
	final := v.Config.StopSignal == "" || signal == sigkill || signal == stopSignal(v.Config.StopSignal)
	if !v.State.ManuallyStopped {
		if err := c.update(s.st, func(v *view) { v.State.ManuallyStopped = true }); err != nil {
			return err
		}
	}
	if final {
		c.endRestarts()
	}
	v = c.view()
	if v.State.Restarting || v.Task == nil {
		return nil // it ends instead of being restarted
	}
	// A process that has just ended gets no signal; its end will be seen in a moment.
	if err := v.Task.Kill(ctx, signal); err != nil && !errdefs.IsFailedPrecondition(err) {
		return fmt.Errorf("signal container: %w", err)
	}
	if final && v.State.Paused {
		// A frozen process gets no signal.
		if err := v.Task.Resume(ctx); err != nil && !errdefs.IsFailedPrecondition(err) {
			return fmt.Errorf("unpause container: %w", err)
		}
		if err := c.update(s.st, func(v *view) { v.State.Paused = false }); err != nil {
			return err
		}
		s.publish(v, events.ActionUnPause)
	}
	s.publish(v, events.ActionKill, "signal", strconv.Itoa(signal))
	return nil
}
