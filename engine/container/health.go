package container

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/moby/moby/api/types/container"
	"github.com/moby/moby/api/types/events"
	"golang.org/x/sys/unix"

	"stockade/engine/runtime"
)

// Docker's defaults of health checks.
const (
	probeInterval      = 30 * time.Second
	probeTimeout       = 30 * time.Second
	probeStartInterval = 5 * time.Second
	probeRetries       = 3
	probeLog           = 5
	probeOutput        = 4096 // bytes of a probe's output that are kept
)

func checkHealth(h *container.HealthConfig) error {
	if h == nil {
		return nil
	}
	for _, d := range []struct {
		name string
		v    time.Duration
	}{{"Interval", h.Interval}, {"Timeout", h.Timeout}, {"StartPeriod", h.StartPeriod}, {"StartInterval", h.StartInterval}} {
		if d.v != 0 && d.v < container.MinimumDuration {
			return invalid("%s in Healthcheck cannot be less than %s", d.name, container.MinimumDuration)
		}
	}
	if h.Retries < 0 {
		return invalid("Retries in Healthcheck cannot be negative")
	}
	return nil
}

// probeCommand returns the command of a health check, nil without one.
func probeCommand(c *container.Config) []string {
	h := c.Healthcheck
	if h == nil || len(h.Test) == 0 {
		return nil
	}
	switch h.Test[0] {
	case "CMD":
		return h.Test[1:]
	case "CMD-SHELL":
		shell := c.Shell
		if len(shell) == 0 {
			shell = []string{"/bin/sh", "-c"}
		}
		return append(slices.Clone(shell), h.Test[1:]...)
	}
	return nil
}

func initialHealth(h *container.HealthConfig) *container.Health {
	if h == nil || len(probeCommand(&container.Config{Healthcheck: h})) == 0 {
		return nil
	}
	return &container.Health{Status: container.Starting, Log: []*container.HealthcheckResult{}}
}

// startHealth begins to probe a container that has just started.
func (s *Service) startHealth(c *item, task runtime.Task) {
	v := c.view()
	if len(probeCommand(v.Config)) == 0 {
		return
	}
	ctx, cancel := context.WithCancel(s.ctx)
	c.mu.Lock()
	c.stopHealth = cancel
	c.mu.Unlock()
	s.background(func() { s.probe(ctx, c, task) })
}

// endHealth ends the probing; an ended container is unhealthy if it was anything.
func (s *Service) endHealth(c *item) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.stopHealth == nil {
		return
	}
	c.stopHealth()
	c.stopHealth = nil
	v := *c.now.Load()
	if v.Health != nil {
		h := *v.Health
		h.Status = container.Unhealthy
		v.Health = &h
		c.now.Store(&v)
	}
}

func or(d, byDefault time.Duration) time.Duration {
	if d == 0 {
		return byDefault
	}
	return d
}

// probe runs the health check again and again.
func (s *Service) probe(ctx context.Context, c *item, task runtime.Task) {
	h := c.view().Config.Healthcheck
	startEnd := task.Started().Add(h.StartPeriod)
	for {
		wait := or(h.Interval, probeInterval)
		if status := c.view().Health; status != nil && status.Status == container.Starting && time.Now().Before(startEnd) {
			wait = or(h.StartInterval, probeStartInterval)
		}
		timer := time.NewTimer(wait)
		select {
		case <-timer.C:
		case <-ctx.Done():
			timer.Stop()
			return
		case <-task.Done():
			timer.Stop()
			return
		}
		if c.view().State.Paused {
			continue
		}
		r := s.probeOnce(ctx, c, task, or(h.Timeout, probeTimeout))
		if ctx.Err() != nil {
			return
		}
		s.recordProbe(c, task, r, startEnd)
	}
}

// probeOnce runs the health check once in the container.
func (s *Service) probeOnce(ctx context.Context, c *item, task runtime.Task, timeout time.Duration) *container.HealthcheckResult {
	r := &container.HealthcheckResult{Start: time.Now(), ExitCode: -1}
	code, output, err := s.runProbe(ctx, c, task, timeout)
	r.End, r.Output = time.Now(), output
	if err != nil {
		r.Output = err.Error()
		return r
	}
	r.ExitCode = code
	return r
}

func (s *Service) runProbe(ctx context.Context, c *item, task runtime.Task, timeout time.Duration) (int, string, error) {
	v := c.view()
	req := &container.ExecCreateRequest{Cmd: probeCommand(v.Config), AttachStdout: true, AttachStderr: true}
	id := newID()
	process, err := s.newExec(ctx, task, v, id, req)
	if err != nil {
		return 0, "", err
	}
	s.publish(v, events.Action("exec_create: "+strings.Join(req.Cmd, " ")), "execID", id)
	out := &limited{max: probeOutput}
	attached := make(chan error, 1)
	ready := make(chan struct{})
	var once sync.Once
	isReady := func() { once.Do(func() { close(ready) }) }
	attachCtx, cancel := context.WithCancel(ctx)
	defer cancel()
	go func() {
		err := process.Attach(attachCtx, runtime.Attach{Out: &demux{w: out}, Stdout: true, Stderr: true, Ready: isReady})
		isReady()
		attached <- err
	}()
	<-ready
	if err := process.Start(ctx); err != nil {
		cancel()
		<-attached
		return 0, "", execError(err)
	}
	s.publish(v, events.Action("exec_start: "+strings.Join(req.Cmd, " ")), "execID", id)
	timer := time.NewTimer(timeout)
	defer timer.Stop()
	select {
	case <-process.Done():
		select {
		case <-attached: // all of the output has arrived
		case <-timer.C: // something that the probe left behind holds its output open
		}
		code := process.Exit().Code
		s.publish(v, events.ActionExecDie, "execID", id, "exitCode", strconv.Itoa(code))
		return code, out.String(), nil
	case <-timer.C:
		killProcess(process)
		return 0, "", fmt.Errorf("Health check exceeded timeout (%v)", timeout) //nolint:staticcheck // Docker's text
	case <-ctx.Done():
		killProcess(process)
		return 0, "", ctx.Err()
	}
}

// killProcess ends a probe. Its pid is a child of the container's shim, which reaps it only after Done.
func killProcess(p runtime.Exec) {
	select {
	case <-p.Done():
		return
	default:
	}
	if pid := p.PID(); pid > 1 {
		if err := unix.Kill(pid, unix.SIGKILL); err != nil && !errors.Is(err, unix.ESRCH) {
			return // it ends with its container
		}
	}
}

// recordProbe takes a result into the container's health.
func (s *Service) recordProbe(c *item, task runtime.Task, r *container.HealthcheckResult, startEnd time.Time) {
	var before, after container.HealthStatus
	err := c.force(nil, func(v *view) {
		if v.Task != task || v.Health == nil {
			return
		}
		h := *v.Health
		before = h.Status
		h.Log = slices.Clone(h.Log)
		if len(h.Log) >= probeLog {
			h.Log = h.Log[len(h.Log)-probeLog+1:]
		}
		h.Log = append(h.Log, r)
		if r.ExitCode == 0 {
			h.FailingStreak, h.Status = 0, container.Healthy
		} else if h.Status != container.Starting || !r.Start.Before(startEnd) {
			h.FailingStreak++
			retries := v.Config.Healthcheck.Retries
			if retries == 0 {
				retries = probeRetries
			}
			if h.FailingStreak >= retries {
				h.Status = container.Unhealthy
			}
		}
		after = h.Status
		v.Health = &h
	})
	if err == nil && before != after {
		s.publish(c.view(), events.Action("health_status: "+string(after)))
	}
}
