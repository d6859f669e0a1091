package container

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"sync"
	"time"

	"github.com/containerd/errdefs"
	"github.com/moby/moby/api/types/mount"

	"stockade/engine/container/spec"
	"stockade/engine/runtime"
)

// Reconcile brings records and reality together when the engine starts: running containers are found again, ended ones
// get their exit code, removals are finished, what belongs to nobody goes, and restart policies are applied.
func (s *Service) Reconcile(ctx context.Context) error {
	known, grants := map[string]bool{}, map[string]bool{}
	var list []*item
	for _, c := range s.index.all("") {
		v := c.view()
		if v.State.Removing || v.State.Dead {
			if err := s.finishRemoval(ctx, c); err != nil {
				s.cfg.Log.Error("finish removal", "container", v.ID, "err", err)
				known[v.ID] = true
			}
			continue
		}
		known[v.ID] = true
		for _, m := range v.Mounts {
			if m.Grant != "" {
				grants[m.Grant] = true
			}
			if m.Type != mount.TypeVolume {
				continue
			}
			if err := s.cfg.Volumes.Reference(v.Tenant, m.Name, v.ID); err != nil {
				s.cfg.Log.Error("volume of a container", "container", v.ID, "volume", m.Name, "err", err)
			}
		}
		list = append(list, c)
	}
	again, err := s.recoverAll(ctx, list)
	if err != nil {
		return err
	}
	if err := s.cfg.Runtime.Reconcile(ctx, known, grants); err != nil {
		return fmt.Errorf("reconcile the runtime: %w", err)
	}
	if err := s.removeFolders(known); err != nil {
		return err
	}
	// What joins another container waits for that one's turn. References go from newer to older containers, never in a
	// circle.
	turns := map[string]chan struct{}{}
	for _, c := range again {
		turns[c.view().ID] = make(chan struct{})
	}
	for _, c := range again {
		s.background(func() {
			v := c.view()
			defer close(turns[v.ID])
			for _, id := range joins(v.Host) {
				if turn := turns[id]; turn != nil {
					<-turn
				}
			}
			s.restartAtBoot(c)
		})
	}
	return nil
}

// atOnce is how many containers are found again at the same time: most of it is waiting for their monitors.
const atOnce = 8

// recoverAll finds out what became of containers and returns those that shall run again.
func (s *Service) recoverAll(ctx context.Context, list []*item) ([]*item, error) {
	restart, errs := make([]bool, len(list)), make([]error, len(list))
	next := make(chan int)
	var workers sync.WaitGroup
	for range min(atOnce, len(list)) {
		workers.Go(func() {
			for i := range next {
				if restart[i], errs[i] = s.recover(ctx, list[i]); errs[i] != nil {
					errs[i] = fmt.Errorf("recover container %s: %w", list[i].view().ID, errs[i])
				}
			}
		})
	}
	for i := range list {
		next <- i
	}
	close(next)
	workers.Wait()
	var again []*item
	for i, c := range list {
		if restart[i] {
			again = append(again, c)
		}
	}
	return again, errors.Join(errs...)
}

// recover finds out what became of one container. The runtime is asked about every container: one whose start was not
// recorded any more runs without its record saying so.
func (s *Service) recover(ctx context.Context, c *item) (restart bool, err error) {
	v := c.view()
	task, err := s.cfg.Runtime.Recover(ctx, v.ID)
	if err != nil && !errdefs.IsNotFound(err) {
		return false, err
	}
	if task != nil {
		select {
		case <-task.Done():
		default:
			// What the record says already need not be written again.
			st := s.st
			if old := v.State; old.Running && !old.Restarting && old.StartedBefore && old.StartedAt.Equal(task.Started()) && old.ExitCode == 0 && old.Error == "" {
				st = nil
			}
			err := c.force(st, func(v *view) {
				v.State.Running, v.State.Restarting, v.State.StartedBefore = true, false, true
				v.State.StartedAt, v.State.ExitCode, v.State.Error = task.Started().UTC(), 0, ""
				v.Task, v.Health = task, initialHealth(v.Config.Healthcheck)
			})
			if err != nil { // a full disk must not keep the server from starting
				s.cfg.Log.Error("record running container", "container", v.ID, "err", err)
			}
			s.enforce(ctx, v, task)
			s.startHealth(c, task)
			s.background(func() { s.watch(c, task) })
			return false, nil
		}
	}
	if v.State.Running {
		exit := runtime.Exit{Code: 255, At: time.Now()} // how it ended, nobody saw
		if task != nil {
			exit = task.Exit()
		} else if v.State.Restarting {
			exit = runtime.Exit{Code: v.State.ExitCode, At: v.State.FinishedAt}
		}
		if err := c.force(s.st, func(v *view) {
			v.State.Running, v.State.Paused, v.State.Restarting = false, false, false
			v.State.ExitCode, v.State.OOMKilled, v.State.FinishedAt, v.State.Error = exit.Code, exit.OOM, exit.At.UTC(), exit.Err
		}); err != nil {
			s.cfg.Log.Error("record end of container", "container", v.ID, "err", err)
		}
	}
	if task != nil {
		if err := s.cfg.Runtime.Release(ctx, v.ID); err != nil {
			return false, err
		}
	}
	v = c.view()
	if v.Host.AutoRemove && v.State.StartedBefore {
		if err := s.remove(ctx, c, removal{force: true, volumes: true}); err != nil {
			s.cfg.Log.Error("remove ended container", "container", v.ID, "err", err)
		}
		return false, nil
	}
	st := v.State
	return st.StartedBefore && ShouldRestart(v.Host.RestartPolicy, st.ExitCode, st.RestartCount, st.ManuallyStopped), nil
}

// enforce makes a running container stand still or go on, and has it keep its limits, as its record says: a crash may have
// come between the two, and a commit lets a container stand still that nobody paused.
func (s *Service) enforce(ctx context.Context, v *view, task runtime.Task) {
	hold := task.Resume
	if v.State.Paused {
		hold = task.Pause
	}
	// One that has just ended has neither.
	if err := hold(ctx); err != nil && !errdefs.IsFailedPrecondition(err) {
		s.cfg.Log.Error("pause or resume a running container", "container", v.ID, "paused", v.State.Paused, "err", err)
	}
	if err := task.Update(ctx, spec.Limits(&v.Host.Resources)); err != nil {
		s.cfg.Log.Error("limits of a running container", "container", v.ID, "err", err)
	}
}

func (s *Service) restartAtBoot(c *item) {
	c.op.Lock()
	defer c.op.Unlock()
	v := c.view()
	if s.ctx.Err() != nil || v.State.Running || v.State.Removing {
		return
	}
	if err := s.startLocked(context.WithoutCancel(s.ctx), c, false); err != nil {
		s.cfg.Log.Error("start container by its restart policy", "container", v.ID, "err", err)
	}
}

// finishRemoval ends a removal that a crash or an error interrupted.
func (s *Service) finishRemoval(ctx context.Context, c *item) error {
	c.op.Lock()
	defer c.op.Unlock()
	if task, err := s.cfg.Runtime.Recover(ctx, c.view().ID); err == nil {
		select {
		case <-task.Done():
		default:
			if err := task.Kill(ctx, sigkill); err != nil {
				return err
			}
			<-task.Done()
		}
	} else if !errdefs.IsNotFound(err) {
		return err
	}
	return s.takeApart(ctx, c, c.view().State.RemovingVolumes)
}

// removeFolders removes the logs of containers that do not exist.
func (s *Service) removeFolders(known map[string]bool) error {
	dir := filepath.Join(s.cfg.Settings.Data, "containers")
	entries, err := os.ReadDir(dir)
	if err != nil {
		return fmt.Errorf("list folders of containers: %w", err)
	}
	var errs error
	for _, e := range entries {
		if !known[e.Name()] {
			errs = errors.Join(errs, os.RemoveAll(filepath.Join(dir, e.Name())))
		}
	}
	return errs
}
