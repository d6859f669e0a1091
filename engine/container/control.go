package container

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"strconv"
	"strings"

	"github.com/moby/moby/api/types/events"

	"stockade/api/scope"
	"stockade/internal/failpoint"
)

func encode(w http.ResponseWriter, v any) error { return json.NewEncoder(w).Encode(v) }

func (s *Service) handlePause(w http.ResponseWriter, r *http.Request, sc scope.Scope) error {
	return s.freeze(w, r, sc, true)
}

func (s *Service) handleUnpause(w http.ResponseWriter, r *http.Request, sc scope.Scope) error {
	return s.freeze(w, r, sc, false)
}

func (s *Service) freeze(w http.ResponseWriter, r *http.Request, sc scope.Scope, pause bool) error {
	c, err := s.index.find(sc.Tenant, r.PathValue("id"))
	if err != nil {
		return err
	}
	c.op.Lock()
	defer c.op.Unlock()
	task, v, err := c.running()
	if err != nil {
		return err
	}
	if pause == v.State.Paused {
		if pause {
			return conflict("container %s is already paused", v.ID)
		}
		return conflict("Container %s is not paused", v.ID)
	}
	ctx := context.WithoutCancel(r.Context())
	do, undo, action := task.Resume, task.Pause, events.ActionUnPause
	if pause {
		do, undo, action = task.Pause, task.Resume, events.ActionPause
	}
	if err := do(ctx); err != nil {
		return fmt.Errorf("cannot %s container %s: %w", action, v.ID, err)
	}
	failpoint.Hit("container.pause.frozen")
	if err := c.update(s.st, func(v *view) { v.State.Paused = pause }); err != nil {
		return errors.Join(err, undo(ctx))
	}
	failpoint.Hit("container.pause.recorded")
	s.publish(v, action)
	w.WriteHeader(http.StatusNoContent)
	return nil
}

func (s *Service) handleRename(w http.ResponseWriter, r *http.Request, sc scope.Scope) error {
	c, err := s.index.find(sc.Tenant, r.PathValue("id"))
	if err != nil {
		return err
	}
	name := strings.TrimPrefix(r.URL.Query().Get("name"), "/")
	if name == "" {
		return invalid("Neither old nor new names may be empty")
	}
	c.op.Lock()
	defer c.op.Unlock()
	v := c.view()
	if v.State.Removing {
		return notFound("No such container: %s", r.PathValue("id"))
	}
	if v.Name == name {
		return invalid("Renaming a container with the same name as its current name")
	}
	if _, err := s.takeName(v.Tenant, name, v.ID); err != nil {
		return fmt.Errorf("Error when allocating new name: %w", err) //nolint:staticcheck // Docker's text
	}
	failpoint.Hit("container.rename.record")
	if err := c.update(s.st, func(v *view) { v.Name = name }); err != nil {
		s.index.release(v.Tenant, name, v.ID)
		return err
	}
	failpoint.Hit("container.rename.recorded")
	s.index.release(v.Tenant, v.Name, v.ID)
	s.publish(c.view(), events.ActionRename, "oldName", "/"+v.Name)
	w.WriteHeader(http.StatusNoContent)
	return nil
}

func (s *Service) handleResize(w http.ResponseWriter, r *http.Request, sc scope.Scope) error {
	height, width, err := sizeOf(r)
	if err != nil {
		return err
	}
	c, err := s.index.find(sc.Tenant, r.PathValue("id"))
	if err != nil {
		return err
	}
	task, v, err := c.running()
	if err != nil {
		return err
	}
	if err := task.Resize(r.Context(), height, width); err != nil {
		return fmt.Errorf("resize: %w", err)
	}
	s.publish(v, events.ActionResize, "height", strconv.Itoa(int(height)), "width", strconv.Itoa(int(width)))
	w.WriteHeader(http.StatusOK)
	return nil
}
