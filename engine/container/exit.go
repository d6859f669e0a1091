package container

import (
	"context"
	"fmt"
	"strconv"
	"time"

	"github.com/containerd/errdefs"
	"github.com/moby/moby/api/types/container"
	"github.com/moby/moby/api/types/events"

	"stockade/engine/container/store"
	"stockade/engine/runtime"
	"stockade/internal/failpoint"
)

// Back-off between restarts, as Docker has it.
const (
	firstBackoff  = 100 * time.Millisecond
	longestWait   = time.Minute
	steadyRunning = 10 * time.Second // a run this long begins again with firstBackoff
)

// watch waits for a task's end and does what follows from it.
func (s *Service) watch(c *item, task runtime.Task) {
	select {
	case <-task.Done():
	case <-s.ctx.Done():
		return // the container goes on; the next engine finds it
	}
	s.ended(c, task)
}

// ended records the end of a task and restarts or removes the container.
func (s *Service) ended(c *item, task runtime.Task) {
	ctx := context.WithoutCancel(s.ctx)
	c.op.Lock()
	v := c.view()
	if v.Task != task {
		c.op.Unlock()
		return
	}
	s.endHealth(c)
	exit := task.Exit()
	if exit.At.IsZero() {
		exit.At = time.Now()
	}
	failpoint.Hit("container.exit.record")
	again, wait := c.decide(&v.Record, exit)
	autoRemove := v.Host.AutoRemove && !again && !c.kept()
	end := func(v *view) {
		v.Task = nil
		v.State.Paused = false
		v.State.Running, v.State.Restarting = again, again
		v.State.ExitCode, v.State.OOMKilled, v.State.FinishedAt, v.State.Error = exit.Code, exit.OOM, exit.At.UTC(), exit.Err
		if again {
			v.State.RestartCount++
		}
	}
	// Recorded before the release, which takes away what Recover would know the end by; but for a container that is about
	// to be removed.
	var recorded *view
	if !autoRemove {
		var err error
		if recorded, err = c.record(s.st, end); err != nil {
			s.cfg.Log.Error("record end of container", "container", v.ID, "err", err)
		}
	}
	failpoint.Hit("container.exit.recorded")
	// Before anybody hears of the end: who waited may want the same host port.
	if err := s.cfg.Runtime.Release(ctx, v.ID); err != nil {
		s.cfg.Log.Error("release container", "container", v.ID, "err", err)
	}
	failpoint.Hit("container.exit.released")
	st := s.st
	if autoRemove || c.view() == recorded {
		st = nil
	}
	if err := c.force(st, end); err != nil {
		s.cfg.Log.Error("record end of container", "container", v.ID, "err", err)
	}
	s.publishEnd(c.view(), task, exit)
	var stop chan struct{}
	if again {
		stop = make(chan struct{})
		c.mu.Lock()
		c.stopBackoff = stop
		c.mu.Unlock()
	}
	c.op.Unlock()
	switch {
	case again:
		s.background(func() { s.restartLater(c, wait, stop) })
	default:
		c.notify(false, "")
		if autoRemove {
			s.autoRemove(ctx, c)
		}
	}
}

func (s *Service) publishEnd(v *view, task runtime.Task, exit runtime.Exit) {
	if exit.OOM {
		s.publish(v, events.ActionOOM)
	}
	ran := max(exit.At.Sub(v.State.StartedAt), 0) // the clock may have been set back
	s.publish(v, events.ActionDie, "exitCode", strconv.Itoa(exit.Code), "execDuration", strconv.Itoa(int(ran.Seconds())))
	s.publishNetwork(v, events.ActionDisconnect, task.Endpoint())
	s.publishMounts(v, events.ActionUnmount)
}

func (s *Service) autoRemove(ctx context.Context, c *item) {
	if err := s.remove(ctx, c, removal{force: true, volumes: true}); err != nil && !errdefs.IsConflict(err) {
		s.cfg.Log.Error("remove ended container", "container", c.view().ID, "err", err)
	}
}

// decide applies the restart policy to an end and returns the time to wait.
func (c *item) decide(r *store.Record, exit runtime.Exit) (bool, time.Duration) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.noRestart || !ShouldRestart(r.Host.RestartPolicy, exit.Code, r.State.RestartCount, r.State.ManuallyStopped) {
		return false, 0
	}
	switch {
	case exit.At.Sub(r.State.StartedAt) >= steadyRunning || c.backoff == 0:
		c.backoff = firstBackoff
	default:
		c.backoff = min(2*c.backoff, longestWait)
	}
	return true, c.backoff
}

// ShouldRestart applies a restart policy to an end; count is how often the container was restarted already.
func ShouldRestart(p container.RestartPolicy, exitCode, count int, manuallyStopped bool) bool {
	switch p.Name {
	case container.RestartPolicyAlways:
		return true
	case container.RestartPolicyUnlessStopped:
		return !manuallyStopped
	case container.RestartPolicyOnFailure:
		return exitCode != 0 && (p.MaximumRetryCount == 0 || count < p.MaximumRetryCount)
	}
	return false
}

// restartLater starts the container again after its back-off, unless it is stopped in the meantime.
func (s *Service) restartLater(c *item, wait time.Duration, stop chan struct{}) {
	timer := time.NewTimer(wait)
	defer timer.Stop()
	select {
	case <-timer.C:
	case <-stop:
	case <-s.ctx.Done():
		return
	}
	ctx := context.WithoutCancel(s.ctx)
	c.op.Lock()
	c.mu.Lock()
	stopped := c.noRestart
	if c.stopBackoff == stop {
		c.stopBackoff = nil
	}
	c.mu.Unlock()
	v := c.view()
	if !v.State.Restarting {
		c.op.Unlock()
		return
	}
	var err error
	if stopped || v.State.Removing {
		err = c.force(s.st, func(v *view) { v.State.Running, v.State.Restarting = false, false })
	} else {
		err = s.startLocked(ctx, c, false)
	}
	running := c.view().State.Running
	c.op.Unlock()
	if err != nil {
		s.cfg.Log.Error("restart container", "container", v.ID, "err", fmt.Errorf("restart: %w", err))
	}
	if !running {
		c.notify(false, "")
		if v.Host.AutoRemove {
			s.autoRemove(ctx, c)
		}
	}
}

// endRestarts makes the next end final and ends a wait before a restart.
func (c *item) endRestarts() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.noRestart = true
	if c.stopBackoff != nil {
		close(c.stopBackoff)
		c.stopBackoff = nil
	}
}
