package container

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"os"
	"strconv"

	"github.com/moby/moby/api/types/container"
	"github.com/moby/moby/api/types/events"
	"github.com/moby/moby/api/types/mount"

	"stockade/api/scope"
	"stockade/internal/failpoint"
)

type removal struct {
	force, volumes bool
	called         string // how the client names the container; empty: as it is named
}

func (s *Service) handleRemove(w http.ResponseWriter, r *http.Request, sc scope.Scope) error {
	q := r.URL.Query()
	if boolOf(q.Get("link")) {
		return conflict("Cannot remove link: links are not supported")
	}
	c, err := s.index.find(sc.Tenant, r.PathValue("id"))
	if err != nil {
		return err
	}
	o := removal{force: boolOf(q.Get("force")), volumes: boolOf(q.Get("v")), called: r.PathValue("id")}
	if err := s.remove(context.WithoutCancel(r.Context()), c, o); err != nil {
		return err
	}
	w.WriteHeader(http.StatusNoContent)
	return nil
}

// boolOf reads a query flag as Docker does.
func boolOf(v string) bool {
	switch v {
	case "", "0", "no", "false", "none":
		return false
	}
	return true
}

// remove removes a container; with force, a running one is killed first.
func (s *Service) remove(ctx context.Context, c *item, o removal) error {
	if o.called == "" {
		o.called = c.view().Name
	}
	if err := c.beginRemoval(o); err != nil {
		return err
	}
	// A start that was under way when the removal began is waited for, and ended again.
	for {
		if c.view().State.Running {
			if !o.force {
				c.endRemoval()
				return conflict("cannot remove container %q: container is running: stop the container before removing or force remove", o.called)
			}
			if err := s.kill(ctx, c); err != nil && c.view().State.Running {
				c.endRemoval()
				return fmt.Errorf("cannot remove container %q: could not kill container: %w", o.called, err)
			}
		}
		c.op.Lock()
		if !c.view().State.Running {
			break
		}
		c.op.Unlock()
	}
	defer c.op.Unlock()
	if err := s.takeApart(ctx, c, o.volumes); err != nil {
		if saveErr := c.force(s.st, func(v *view) {
			v.State.Removing, v.State.Dead, v.State.Error = false, true, err.Error()
		}); saveErr != nil {
			err = errors.Join(err, saveErr)
		}
		c.notify(false, err.Error())
		return fmt.Errorf("cannot remove container %q: %w", o.called, err)
	}
	return nil
}

// beginRemoval takes the only turn at removing a container.
func (c *item) beginRemoval(o removal) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	v := *c.now.Load()
	if v.State.Removing {
		return conflict("removal of container %s is already in progress", o.called)
	}
	if v.State.Running && !o.force {
		if v.State.Paused {
			return conflict("cannot remove container %q: container is paused and must be unpaused first", o.called)
		}
		return conflict("cannot remove container %q: container is %s: stop the container before removing or force remove", o.called, v.State.Status())
	}
	v.State.Removing = true
	c.now.Store(&v)
	return nil
}

func (c *item) endRemoval() {
	c.mu.Lock()
	defer c.mu.Unlock()
	v := *c.now.Load()
	v.State.Removing = false
	c.now.Store(&v)
}

// takeApart removes what a container has. The record goes before the writable layer: after a crash Reconcile removes
// layers that no record names, while a record without its layer would be a container that cannot start.
func (s *Service) takeApart(ctx context.Context, c *item, volumes bool) error {
	v := c.view()
	if len(v.Mounts) > 0 {
		// "Removing" is on disk before volumes go; on a full disk they go without, as nothing else makes room.
		if err := c.update(s.st, func(v *view) { v.State.RemovingVolumes = volumes }); err != nil {
			s.cfg.Log.Error("record removal", "container", v.ID, "err", err)
		}
	}
	if err := failpoint.Fail("container.remove.begin"); err != nil {
		return err
	}
	if err := s.cfg.Runtime.Release(ctx, v.ID); err != nil {
		return fmt.Errorf("release: %w", err)
	}
	failpoint.Hit("container.remove.released")
	c.dropPending()
	s.dropExecs(c)
	for _, m := range v.Mounts {
		if m.Type != mount.TypeVolume {
			continue
		}
		s.cfg.Volumes.Unreference(v.Tenant, m.Name, v.ID)
		if volumes && m.Anonymous {
			// A volume that another container uses still, stays.
			if err := s.cfg.Volumes.Remove(ctx, v.Tenant, m.Name); err != nil {
				s.cfg.Log.Warn("remove anonymous volume", "container", v.ID, "volume", m.Name, "err", err)
			}
		}
	}
	failpoint.Hit("container.remove.volumes")
	if err := s.st.Delete(v.ID); err != nil {
		return err
	}
	failpoint.Hit("container.remove.recorded")
	s.index.remove(c)
	if err := errors.Join(s.cfg.Runtime.RemoveRW(ctx, v.ID), os.RemoveAll(s.folder(v.ID)), s.dropGrants(ctx, v)); err != nil {
		s.cfg.Log.Warn("remove the rest of a container", "container", v.ID, "err", err)
	}
	s.publish(v, events.ActionDestroy)
	c.notify(true, "")
	return nil
}

// dropGrants ends the grants that only this container referred to.
func (s *Service) dropGrants(ctx context.Context, v *view) error {
	var ids []string
	for _, m := range v.Mounts {
		if m.Grant != "" {
			ids = append(ids, m.Grant)
		}
	}
	if len(ids) == 0 {
		return nil
	}
	s.sharing.Lock()
	defer s.sharing.Unlock()
	used := map[string]bool{}
	for _, c := range s.index.all(v.Tenant) {
		for _, m := range c.view().Mounts {
			used[m.Grant] = true
		}
	}
	var drop []string
	for _, id := range ids {
		if !used[id] {
			drop = append(drop, id)
		}
	}
	if len(drop) == 0 {
		return nil
	}
	return s.cfg.Grants.Drop(ctx, drop)
}

func (s *Service) handleWait(w http.ResponseWriter, r *http.Request, sc scope.Scope) error {
	cond := container.WaitCondition(r.URL.Query().Get("condition"))
	switch cond {
	case "":
		cond = container.WaitConditionNotRunning
	case container.WaitConditionNotRunning, container.WaitConditionNextExit, container.WaitConditionRemoved:
	default:
		return invalid("invalid condition: %q", cond)
	}
	c, err := s.index.find(sc.Tenant, r.PathValue("id"))
	if err != nil {
		return err
	}
	waiter := c.wait(cond)
	defer c.unwait(waiter)
	// The client starts the container once it sees that we wait.
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(http.StatusOK)
	if err := http.NewResponseController(w).Flush(); err != nil {
		return fmt.Errorf("flush: %w", err)
	}
	select {
	case res := <-waiter.done:
		resp := container.WaitResponse{StatusCode: int64(res.code)}
		if res.err != "" {
			resp.Error = &container.WaitExitError{Message: res.err}
		}
		return encode(w, resp)
	case <-r.Context().Done():
		return nil
	case <-s.ctx.Done():
		return nil
	}
}

// sizeOf reads a terminal size from a query.
func sizeOf(r *http.Request) (h, w uint, err error) {
	q := r.URL.Query()
	hh, err := strconv.ParseUint(q.Get("h"), 10, 16)
	if err != nil {
		return 0, 0, invalid("invalid resize height %q", q.Get("h"))
	}
	ww, err := strconv.ParseUint(q.Get("w"), 10, 16)
	if err != nil {
		return 0, 0, invalid("invalid resize width %q", q.Get("w"))
	}
	return uint(hh), uint(ww), nil
}
