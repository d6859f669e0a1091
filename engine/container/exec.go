package container

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"path"
	"strconv"
	"strings"
	"sync"

	"github.com/containerd/errdefs"
	"github.com/moby/moby/api/types/container"
	"github.com/moby/moby/api/types/events"

	"stockade/api/scope"
	"stockade/engine/container/spec"
	"stockade/engine/httpapi"
	"stockade/engine/runtime"
)

// maxExecs bounds the execs of one container, ended ones included (SECURITY T-801).
const maxExecs = 1000

// execution is a process added to a container: made by exec create, run once by exec start. It lives in memory only.
type execution struct {
	id   string
	c    *item
	req  container.ExecCreateRequest
	keys []byte

	mu      sync.Mutex
	started bool
	process runtime.Exec // nil before the start
	exit    *int
}

func (e *execution) state() (process runtime.Exec, running bool, exit *int) {
	e.mu.Lock()
	defer e.mu.Unlock()
	return e.process, e.process != nil && e.exit == nil, e.exit
}

func (s *Service) handleExecCreate(w http.ResponseWriter, r *http.Request, sc scope.Scope) error {
	var req container.ExecCreateRequest
	if err := httpapi.ReadJSON(r, &req); err != nil {
		return err
	}
	if len(req.Cmd) == 0 {
		return invalid("No exec command specified")
	}
	c, err := s.index.find(sc.Tenant, r.PathValue("id"))
	if err != nil {
		return err
	}
	task, _, err := runnable(c, r.PathValue("id"))
	if err != nil {
		return err
	}
	keys, err := detachKeys(req.DetachKeys)
	if err != nil {
		return invalid("Invalid escape keys (%s) provided", req.DetachKeys)
	}
	if req.User != "" {
		// Clients look for this mistake here; the start looks again.
		if _, err := s.account(r.Context(), &c.view().Record, req.User); err != nil {
			return err
		}
	}
	if req.WorkingDir != "" && !path.IsAbs(req.WorkingDir) {
		return invalid("working directory %q must be an absolute path", req.WorkingDir)
	}
	e := &execution{id: newID(), c: c, req: req, keys: keys}
	if err := s.addExec(e); err != nil {
		return err
	}
	task.ExpectExec()
	s.publish(c.view(), events.Action("exec_create: "+strings.Join(req.Cmd, " ")), "execID", e.id)
	return httpapi.WriteJSON(w, http.StatusCreated, container.ExecCreateResponse{ID: e.id})
}

// runnable returns the task of a container in which a process can be started.
func runnable(c *item, called string) (runtime.Task, *view, error) {
	task, v, err := c.running()
	if err != nil {
		return nil, v, err
	}
	if v.State.Paused {
		return nil, v, conflict("Container %s is paused, unpause the container before exec", called)
	}
	return task, v, nil
}

func (s *Service) addExec(e *execution) error {
	e.c.mu.Lock()
	defer e.c.mu.Unlock()
	if len(e.c.execs) >= maxExecs && !e.c.forgetOldExec(s) {
		return httpapi.NewError(errdefs.ErrResourceExhausted, "container %s has too many execs", e.c.view().ID)
	}
	e.c.execs[e.id] = e
	s.execMu.Lock()
	defer s.execMu.Unlock()
	s.execs[e.id] = e
	return nil
}

// forgetOldExec makes room by forgetting one that has ended; the caller holds c.mu.
func (c *item) forgetOldExec(s *Service) bool {
	for id, e := range c.execs {
		if _, _, exit := e.state(); exit != nil {
			delete(c.execs, id)
			s.execMu.Lock()
			delete(s.execs, id)
			s.execMu.Unlock()
			return true
		}
	}
	return false
}

// dropExecs forgets the execs of a container that goes away.
func (s *Service) dropExecs(c *item) {
	c.mu.Lock()
	gone := c.execs
	c.execs = map[string]*execution{}
	c.mu.Unlock()
	s.execMu.Lock()
	defer s.execMu.Unlock()
	for id := range gone {
		delete(s.execs, id)
	}
}

// exec finds an exec of the tenant. SECURITY(T-204): the id of another tenant's exec does not exist (CVE-2025-54289).
func (s *Service) exec(tenant, id string) (*execution, error) {
	s.execMu.Lock()
	defer s.execMu.Unlock()
	e := s.execs[id]
	if e == nil || e.c.view().Tenant != tenant {
		return nil, notFound("No such exec instance: %s", id)
	}
	return e, nil
}

func (s *Service) handleExecStart(w http.ResponseWriter, r *http.Request, sc scope.Scope) error {
	var req container.ExecStartRequest
	if err := httpapi.ReadJSON(r, &req); err != nil {
		return err
	}
	e, err := s.exec(sc.Tenant, r.PathValue("id"))
	if err != nil {
		return err
	}
	if req.ConsoleSize != nil && !e.req.Tty {
		return invalid("console size is only supported when TTY is enabled")
	}
	process, err := s.prepareExec(context.WithoutCancel(r.Context()), e, req)
	if err != nil && !req.Detach && r.Header.Get("Upgrade") != "" {
		return s.refuseAttached(w, r, sc, e, err)
	}
	if err != nil {
		return err
	}
	if req.Detach {
		return s.runDetached(w, r, e, process)
	}
	return s.runAttached(w, r, sc, e, process)
}

// prepareExec makes the process of an exec, which can be done once.
func (s *Service) prepareExec(ctx context.Context, e *execution, req container.ExecStartRequest) (_ runtime.Exec, err error) {
	e.mu.Lock()
	if e.started {
		e.mu.Unlock()
		return nil, conflict("exec command %s has already run", e.id)
	}
	e.started = true
	e.mu.Unlock()
	defer func() {
		if err != nil {
			s.execEnded(e, 126, false)
		}
	}()
	task, v, err := runnable(e.c, e.c.view().ID)
	if err != nil {
		return nil, err
	}
	er := e.req
	if req.ConsoleSize != nil {
		er.ConsoleSize = req.ConsoleSize
	}
	process, err := s.newExec(ctx, task, v, e.id, &er)
	if err != nil {
		return nil, err
	}
	e.mu.Lock()
	e.process = process
	e.mu.Unlock()
	return process, nil
}

// newExec asks the runtime for a process in the container.
func (s *Service) newExec(ctx context.Context, task runtime.Task, v *view, id string, req *container.ExecCreateRequest) (runtime.Exec, error) {
	user := req.User
	if user == "" {
		user = v.Config.User
	}
	account, err := s.account(ctx, &v.Record, user)
	if err != nil {
		return nil, err
	}
	p, err := spec.ExecProcess(v.Config, v.Host, req, account, s.cfg.Settings.NofileHard)
	if err != nil {
		return nil, err
	}
	process, err := task.Exec(ctx, runtime.ExecSpec{ID: id, Process: p, TTY: req.Tty, Stdin: req.AttachStdin})
	if err != nil {
		return nil, execError(err)
	}
	return process, nil
}

// execError gives a failed exec Docker's text, from which the CLI reads 126 and 127.
func execError(err error) error {
	var se *runtime.StartError
	if !errors.As(err, &se) {
		return fmt.Errorf("exec: %w", err)
	}
	_, text := startError("", se)
	const prefix = "OCI runtime exec failed: "
	msg := strings.TrimPrefix(strings.TrimPrefix(text.Error(), "failed to create task for container: "), prefix)
	return &httpapi.Error{Class: errdefs.ErrInvalidArgument, Message: prefix + msg}
}

func exitOf(err error) int {
	var se *runtime.StartError
	if errors.As(err, &se) && se.Code != 0 {
		return se.Code
	}
	return 126
}

func (s *Service) runDetached(w http.ResponseWriter, r *http.Request, e *execution, process runtime.Exec) error {
	if err := process.Start(context.WithoutCancel(r.Context())); err != nil {
		s.execEnded(e, exitOf(err), false)
		return execError(err)
	}
	s.execBegan(e, process)
	w.WriteHeader(http.StatusOK)
	return nil
}

// refuseAttached tells a client that asked for an upgraded connection why there is no process: in the stream, as Docker
// does, for such clients do not read the body of an error.
func (s *Service) refuseAttached(w http.ResponseWriter, r *http.Request, sc scope.Scope, e *execution, cause error) error {
	stream, err := httpapi.Hijack(w, r, contentType(e.req.Tty, sc.Version))
	if err != nil {
		return err
	}
	defer stream.Close()
	return errors.Join(cause, closed(writeText(stream, e.req.Tty, cause.Error()+"\r\n")))
}

func (s *Service) runAttached(w http.ResponseWriter, r *http.Request, sc scope.Scope, e *execution, process runtime.Exec) error {
	stream, err := httpapi.Hijack(w, r, contentType(e.req.Tty, sc.Version))
	if err != nil {
		s.execEnded(e, 126, false)
		return err
	}
	defer stream.Close()
	ctx, cancel := context.WithCancel(s.ctx)
	defer cancel()
	ready := make(chan struct{})
	var once sync.Once
	a := runtime.Attach{
		Out: stream, Stdout: e.req.AttachStdout, Stderr: e.req.AttachStderr, DetachKeys: e.keys,
		Ready: func() { once.Do(func() { close(ready) }) },
	}
	if e.req.AttachStdin {
		a.In = stream
	}
	attached := make(chan error, 1)
	go func() {
		err := process.Attach(ctx, a)
		a.Ready() // also when it failed before it was connected
		attached <- err
	}()
	<-ready
	if err := process.Start(context.WithoutCancel(r.Context())); err != nil {
		s.execEnded(e, exitOf(err), false)
		cancel()
		<-attached
		// The answer has begun, so the client reads the reason from the stream, as with Docker.
		return errors.Join(err, closed(writeText(stream, e.req.Tty, execError(err).Error()+"\r\n")))
	}
	s.execBegan(e, process)
	err = <-attached
	if errors.Is(err, runtime.ErrDetached) {
		s.publish(e.c.view(), events.ActionExecDetach, "execID", e.id)
		return nil
	}
	if err == nil {
		// The exit code is known before the stream ends: clients ask for it at once.
		s.awaitExit(e, process)
		err = stream.CloseWrite()
	}
	return closed(err)
}

func (s *Service) awaitExit(e *execution, process runtime.Exec) {
	select {
	case <-process.Done():
		s.execEnded(e, process.Exit().Code, true)
	case <-s.ctx.Done():
	}
}

// execBegan publishes the start and follows the process.
func (s *Service) execBegan(e *execution, process runtime.Exec) {
	s.publish(e.c.view(), events.Action("exec_start: "+strings.Join(e.req.Cmd, " ")), "execID", e.id)
	s.background(func() {
		s.awaitExit(e, process)
		if task, _, err := runnable(e.c, e.c.view().ID); err == nil {
			task.ExpectExec() // one is seldom the last
		}
	})
}

// execEnded records the exit code, once.
func (s *Service) execEnded(e *execution, code int, ran bool) {
	e.mu.Lock()
	if e.exit != nil {
		e.mu.Unlock()
		return
	}
	e.exit = &code
	e.mu.Unlock()
	if ran {
		s.publish(e.c.view(), events.ActionExecDie, "execID", e.id, "exitCode", strconv.Itoa(code))
	}
}

func (s *Service) handleExecResize(w http.ResponseWriter, r *http.Request, sc scope.Scope) error {
	height, width, err := sizeOf(r)
	if err != nil {
		return err
	}
	e, err := s.exec(sc.Tenant, r.PathValue("id"))
	if err != nil {
		return err
	}
	process, running, _ := e.state()
	if !running {
		return conflict("exec %s is not running", e.id)
	}
	if err := process.Resize(r.Context(), height, width); err != nil {
		return fmt.Errorf("resize: %w", err)
	}
	w.WriteHeader(http.StatusOK)
	return nil
}

func (s *Service) handleExecInspect(w http.ResponseWriter, r *http.Request, sc scope.Scope) error {
	e, err := s.exec(sc.Tenant, r.PathValue("id"))
	if err != nil {
		return err
	}
	process, running, exit := e.state()
	resp := container.ExecInspectResponse{
		ID: e.id, Running: running, ExitCode: exit, OpenStdin: e.req.AttachStdin, OpenStdout: e.req.AttachStdout,
		OpenStderr: e.req.AttachStderr, CanRemove: exit != nil, ContainerID: e.c.view().ID, DetachKeys: e.keys,
		ProcessConfig: &container.ExecProcessConfig{
			Tty: e.req.Tty, Entrypoint: e.req.Cmd[0], Arguments: e.req.Cmd[1:], User: e.req.User, Privileged: &e.req.Privileged,
		},
	}
	if resp.DetachKeys == nil {
		resp.DetachKeys = []byte{}
	}
	if running {
		resp.Pid = process.PID()
	}
	return httpapi.WriteJSON(w, http.StatusOK, resp)
}
