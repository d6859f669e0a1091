package container

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"os"
	"strings"

	"github.com/containerd/errdefs"
	"github.com/moby/moby/api/types/container"
	"github.com/moby/moby/api/types/events"

	"stockade/api/scope"
	"stockade/engine/container/spec"
	"stockade/engine/httpapi"
	"stockade/engine/runtime"
	"stockade/internal/failpoint"
)

// hostResolv is the host's resolver configuration; stubResolv is what systemd-resolved really uses.
const (
	hostResolv = "/etc/resolv.conf"
	stubResolv = "/run/systemd/resolve/resolv.conf"
)

func (s *Service) handleStart(w http.ResponseWriter, r *http.Request, sc scope.Scope) error {
	if q := r.URL.Query(); q.Get("checkpoint") != "" || q.Get("checkpoint-dir") != "" {
		return httpapi.NewError(errdefs.ErrNotImplemented, "checkpoints are not supported")
	}
	c, err := s.index.find(sc.Tenant, r.PathValue("id"))
	if err != nil {
		return err
	}
	// A start goes on although the client is gone.
	if err := s.start(context.WithoutCancel(r.Context()), c); err != nil {
		return err
	}
	w.WriteHeader(http.StatusNoContent)
	return nil
}

// start starts a container because somebody asked for it.
func (s *Service) start(ctx context.Context, c *item) error {
	c.op.Lock()
	v := c.view()
	if v.State.Paused {
		c.op.Unlock()
		return conflict("cannot start a paused container, try unpause instead")
	}
	if v.State.Running {
		c.op.Unlock()
		return httpapi.ErrNotModified
	}
	if v.State.Removing || v.State.Dead {
		c.op.Unlock()
		return conflict("container is marked for removal and cannot be started")
	}
	c.mu.Lock()
	c.noRestart, c.backoff = false, 0
	c.mu.Unlock()
	err := s.startLocked(ctx, c, true)
	c.op.Unlock()
	if err != nil && v.Host.AutoRemove {
		if rmErr := s.remove(ctx, c, removal{force: true, volumes: true}); rmErr != nil {
			s.cfg.Log.Warn("remove container after a failed start", "container", v.ID, "err", rmErr)
		}
	}
	return err
}

// startLocked starts a container that does not run; the caller holds c.op. manual resets the restart count.
func (s *Service) startLocked(ctx context.Context, c *item, manual bool) error {
	v := c.view()
	rs, config, err := s.runtimeSpec(ctx, v)
	var task runtime.Task
	if err == nil {
		task, err = s.cfg.Runtime.Start(ctx, *rs, c.connect)
	}
	if err != nil {
		return s.startFailed(c, err)
	}
	failpoint.Hit("container.start.record")
	err = c.update(s.st, func(v *view) {
		st := &v.State
		st.Running, st.Paused, st.Restarting, st.Dead, st.OOMKilled = true, false, false, false, false
		st.ExitCode, st.Error, st.StartedBefore, st.StartedAt = 0, "", true, task.Started().UTC()
		if manual {
			st.RestartCount, st.ManuallyStopped = 0, false
		}
		v.Config = config
		v.Task, v.Health = task, initialHealth(v.Config.Healthcheck)
	})
	if err != nil {
		// What cannot be recorded must not run: after a crash nobody would know it.
		killErr := task.Kill(ctx, sigkill)
		if killErr == nil {
			<-task.Done()
		}
		return s.startFailed(c, errors.Join(err, killErr, s.cfg.Runtime.Release(ctx, v.ID)))
	}
	failpoint.Hit("container.start.recorded")
	s.began(c, task)
	return nil
}

// began publishes a start and follows the task.
func (s *Service) began(c *item, task runtime.Task) {
	v := c.view()
	for _, sk := range task.Skipped() {
		s.cfg.Log.Warn("a submount of a bind is not shown", "container", v.ID, "path", sk.Path, "reason", sk.Reason)
	}
	s.publishMounts(v, events.ActionMount)
	s.publishNetwork(v, events.ActionConnect, task.Endpoint())
	s.publish(v, events.ActionStart)
	s.startHealth(c, task)
	s.background(func() { s.watch(c, task) })
}

// runtimeSpec translates a record for the runtime. The second value is the configuration of this start: who shares
// another's network has its name.
func (s *Service) runtimeSpec(ctx context.Context, v *view) (*runtime.Spec, *container.Config, error) {
	join, network, err := s.joined(v)
	if err != nil {
		return nil, nil, err
	}
	config := v.Config
	if network != nil {
		c := *v.Config
		c.Hostname, c.Domainname = network.Config.Hostname, network.Config.Domainname
		config = &c
	}
	account, err := s.account(ctx, &v.Record, v.Config.User)
	if err != nil {
		return nil, nil, err
	}
	_, _, gateway, _ := s.cfg.Networks.Bridge(v.Tenant)
	rs, err := spec.Build(spec.Input{
		ID: v.ID, Tenant: v.Tenant, Creator: v.Creator, Join: join, Layers: v.Layers, Config: config, HostConfig: v.Host, Mounts: v.Mounts, Account: account,
		MAC: v.MAC, Gateway: gateway, HostResolv: readResolv(), NofileHard: s.cfg.Settings.NofileHard, Memory: s.cfg.Settings.Memory, LogSize: s.cfg.Settings.LogSize, ABI32: s.cfg.Settings.ABI32, LogPath: v.LogPath,
		LogAttrs: spec.LogAttrs(v.Host.LogConfig, v.Config), HasInit: s.cfg.Settings.InitPath != "",
		NoNetwork: v.Host.NetworkMode.IsNone() || network != nil, ConsoleSize: v.Host.ConsoleSize,
	})
	return rs, config, err
}

func readResolv() []byte {
	b, err := os.ReadFile(hostResolv)
	if err != nil {
		return nil // without one Docker's fall-back servers are used
	}
	if strings.Contains(string(b), "nameserver 127.0.0.53") {
		if stub, err := os.ReadFile(stubResolv); err == nil {
			return stub
		}
	}
	return b
}

// startFailed records why a start failed and returns Docker's error for it.
func (s *Service) startFailed(c *item, cause error) error {
	code, err := startError(c.view().Name, cause)
	if saveErr := c.force(s.st, func(v *view) {
		v.State.ExitCode, v.State.Error = code, err.Error()
		v.State.Running, v.State.Paused, v.State.Restarting, v.Task = false, false, false, nil
	}); saveErr != nil {
		s.cfg.Log.Error("record failed start", "container", c.view().ID, "err", saveErr)
	}
	c.dropPending()
	return err
}

// startError gives a failed start its exit code and text. The docker CLI reads 126 and 127 out of the text.
func startError(name string, cause error) (int, error) {
	var se *runtime.StartError
	if !errors.As(cause, &se) {
		// netd knows its endpoint by the id only.
		const driver = "driver failed programming external connectivity on endpoint "
		if _, endpoint, ok := strings.Cut(cause.Error(), driver); ok {
			id, reason, _ := strings.Cut(endpoint, ": ")
			text := fmt.Sprintf("failed to set up container networking: %s%s (%s): %s", driver, name, id, reason)
			return 128, &httpapi.Error{Class: errdefs.ErrInternal, Message: text}
		}
		var shown *httpapi.Error
		var join *runtime.JoinError
		if errors.As(cause, &shown) || errors.As(cause, &join) {
			return 128, cause
		}
		return 128, fmt.Errorf("failed to start container: %w", cause)
	}
	text := strings.TrimSuffix(se.Text, ": unknown") // containerd's class, which Docker does not show any more
	switch {
	case se.Code == 127 && !strings.Contains(text, "executable file not found") && !strings.Contains(text, "no such file or directory"):
		text += ": executable file not found in $PATH"
	case se.Code == 126 && !strings.Contains(text, "permission denied") && !strings.Contains(text, "not a directory"):
		text += ": permission denied"
	}
	if !strings.HasPrefix(text, "failed to create task for container") {
		text = "failed to create task for container: " + text
	}
	code := se.Code
	if code == 126 || code == 127 {
		return code, &httpapi.Error{Class: errdefs.ErrInvalidArgument, Message: text}
	}
	return 128, &httpapi.Error{Class: errdefs.ErrInternal, Message: text}
}
