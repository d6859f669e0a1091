package runtime

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"time"

	"github.com/containerd/errdefs"
	"golang.org/x/sys/unix"

	"stockade/api/helper"
	"stockade/engine/shim"
	"stockade/internal/seqpacket"
)

// grantGrace is how long a grant may be without a container: the create request that it was made for may be under way.
const grantGrace = 10 * time.Minute

// Recover implements Service.
func (r *Runtime) Recover(ctx context.Context, id string) (Task, error) {
	defer r.lock(id)()
	if t := r.task(id); t != nil {
		return t, nil
	}
	left, err := r.leftBehind()
	if err != nil {
		return nil, err
	}
	r.mu.Lock()
	bundle, ok := left[id]
	delete(left, id)
	r.mu.Unlock()
	if !ok {
		return nil, fmt.Errorf("container %s has left nothing: %w", id, errdefs.ErrNotFound)
	}
	t := r.recover(ctx, bundle.slot, bundle.state)
	r.mu.Lock()
	r.tasks[id] = t
	r.mu.Unlock()
	return t, nil
}

// bundle is what an engine before us has left of a started container.
type bundle struct {
	slot  string
	state state
}

// leftBehind reads the bundles that were there when it is first called, by container. What it returns is guarded by mu.
func (r *Runtime) leftBehind() (map[string]bundle, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.left != nil {
		return r.left, nil
	}
	entries, err := os.ReadDir(r.bundles)
	if err != nil {
		return nil, err
	}
	r.left = map[string]bundle{}
	for _, e := range entries {
		st, err := readState(filepath.Join(r.bundles, e.Name()))
		if err != nil || st.Started.IsZero() {
			continue
		}
		// Of a container that was started again there may be a second one, being given back.
		if other, ok := r.left[st.Container]; !ok || st.Started.After(other.state.Started) {
			r.left[st.Container] = bundle{e.Name(), st}
		}
	}
	return r.left, nil
}

func (r *Runtime) recover(ctx context.Context, name string, st state) *task {
	sl := &slot{id: name, block: st.Block, bundle: filepath.Join(r.bundles, name), endpoint: st.Endpoint, pidShared: st.PIDShared}
	t := &task{r: r, id: st.Container, slot: sl, state: st, tty: st.TTY, skipped: st.Skipped, done: make(chan struct{})}
	r.holdBlock(st.Block, name, st.member())
	if st.Endpoint != nil {
		if _, err := r.addrs.Allocate(ctx, name, st.Endpoint.Address); err != nil {
			r.log.Error("address of a running container", "container", st.Container, "err", err)
		}
	}
	if fd, err := unix.PidfdOpen(st.PID, 0); err == nil {
		f := os.NewFile(uintptr(fd), "pidfd")
		// Held by pidfd first, compared then: the pid cannot change its meaning in between.
		if at, err := startTime(st.PID); err == nil && at == st.StartTime {
			t.pidfd = f
		} else {
			f.Close()
		}
	}
	client, err := shim.Connect(ctx, sl.bundle)
	if err != nil {
		t.finish(t.lost())
		return t
	}
	sl.shim = client
	t.watch()
	return t
}

// Reconcile implements Service.
func (r *Runtime) Reconcile(ctx context.Context, known map[string]bool, grants map[string]bool) error {
	var errs []error
	slots := map[string]bool{}
	r.mu.Lock()
	for _, t := range r.tasks {
		slots[t.slot.id] = true
	}
	r.mu.Unlock()
	var stray strays
	entries, err := os.ReadDir(r.bundles)
	if err != nil {
		return err
	}
	for _, e := range entries {
		if !slots[e.Name()] {
			stray.bundles = append(stray.bundles, e.Name())
		}
	}
	cgroups, _, err := seqpacket.Call[helper.None, helper.CgroupList](ctx, r.cgroupd, "list", helper.None{})
	if err != nil {
		errs = append(errs, err)
	}
	for _, id := range cgroups.IDs {
		if !slots[id] {
			stray.cgroups = append(stray.cgroups, id)
		}
	}
	endpoints, _, err := seqpacket.Call[helper.None, helper.EndpointList](ctx, r.netd, "list", helper.None{})
	if err != nil {
		errs = append(errs, err)
	}
	for _, id := range endpoints.IDs {
		if !slots[id] {
			stray.endpoints = append(stray.endpoints, id)
		}
	}
	errs = append(errs, r.dropStrayGrants(ctx, grants))
	dirs, err := os.ReadDir(filepath.Join(r.store, helper.KindRW))
	errs = append(errs, err)
	for _, d := range dirs {
		if !known[d.Name()] {
			errs = append(errs, r.RemoveRW(ctx, d.Name()))
		}
	}
	trash, err := os.ReadDir(filepath.Join(r.store, "trash"))
	errs = append(errs, err)
	for _, d := range trash {
		path := filepath.Join(r.store, "trash", d.Name())
		r.later(func() { _ = os.RemoveAll(path) })
	}
	// Runtime state whose container is gone, roots that were open for a copy.
	for _, dir := range []string{"r", "roots"} {
		list, err := os.ReadDir(filepath.Join(r.cfg.Run, dir))
		if err != nil && !errors.Is(err, os.ErrNotExist) {
			errs = append(errs, err)
		}
		for _, e := range list {
			if !slots[e.Name()] {
				errs = append(errs, removeBundle(filepath.Join(r.cfg.Run, dir, e.Name())))
			}
		}
	}
	// Nothing else need wait until they have ended.
	r.later(func() {
		defer close(r.cleared)
		r.endStrays(stray)
	})
	r.refill()
	return errors.Join(errs...)
}

// strays is what belongs to no container.
type strays struct{ bundles, cgroups, endpoints []string }

func (r *Runtime) endStrays(s strays) {
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	for _, name := range s.bundles {
		r.endStray(ctx, name)
	}
	for _, id := range s.cgroups {
		if !slices.Contains(s.bundles, id) { // its cgroup went with it
			r.endCgroup(ctx, id)
		}
	}
	for len(s.endpoints) > 0 {
		n := min(len(s.endpoints), 500)
		if _, _, err := seqpacket.Call[helper.Detach, helper.None](ctx, r.netd, "detach", helper.Detach{IDs: s.endpoints[:n]}); err != nil {
			r.log.Error("detach endpoints of nobody", "err", err) // they harm nobody until the next start
		}
		s.endpoints = s.endpoints[n:]
	}
}

// endStray ends a bundle that belongs to no container: a slot that waited, or a start that was not acknowledged.
func (r *Runtime) endStray(ctx context.Context, name string) {
	bundle := filepath.Join(r.bundles, name)
	cctx, cancel := context.WithTimeout(ctx, 3*time.Second)
	defer cancel()
	if c, err := shim.Connect(cctx, bundle); err == nil {
		if pid := c.Hello().PID; pid > 0 && c.Hello().Exit == nil {
			if fd, err := unix.PidfdOpen(pid, 0); err == nil {
				f := os.NewFile(uintptr(fd), "pidfd")
				sigkill(f)
				waitPidfd(f)
				f.Close()
			}
		}
		_, _ = c.Do(cctx, shim.Request{Op: shim.OpRelease})
		c.Close()
	}
	if st, err := readState(bundle); !r.endCgroup(ctx, name) && err == nil {
		r.holdBlock(st.Block, name, st.member()) // for good: SECURITY(T-503)
	}
	if err := removeBundle(bundle); err != nil {
		r.log.Warn("remove stray bundle", "slot", name, "err", err)
	}
}

// endCgroup kills what is left in a cgroup of ours and removes it. It tells whether nothing is left.
func (r *Runtime) endCgroup(ctx context.Context, id string) bool {
	ctx, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	r.emptyCgroup(id)
	return r.removeCgroup(ctx, id)
}

func (r *Runtime) dropStrayGrants(ctx context.Context, known map[string]bool) error {
	after := ""
	var stray []string
	for {
		page, _, err := seqpacket.Call[helper.ListGrants, helper.GrantList](ctx, r.grantd, "list", helper.ListGrants{After: after})
		if err != nil {
			return err
		}
		if len(page.Grants) == 0 {
			break
		}
		for _, g := range page.Grants {
			if !known[g.ID] && time.Since(time.Unix(g.Created, 0)) > grantGrace {
				stray = append(stray, g.ID)
			}
		}
		after = page.Grants[len(page.Grants)-1].ID
	}
	return r.DropGrants(ctx, stray)
}

// DropGrants ends grants of removed containers.
func (r *Runtime) DropGrants(ctx context.Context, ids []string) error {
	for len(ids) > 0 {
		n := min(len(ids), 500)
		if _, _, err := seqpacket.Call[helper.Drop, helper.None](ctx, r.grantd, "drop", helper.Drop{IDs: ids[:n]}); err != nil {
			return err
		}
		ids = ids[n:]
	}
	return nil
}
