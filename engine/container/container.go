package container

import (
	"errors"
	"sync"
	"sync/atomic"
	"time"

	"github.com/containerd/errdefs"
	"github.com/moby/moby/api/types/container"

	"stockade/engine/container/store"
	"stockade/engine/httpapi"
	"stockade/engine/runtime"
)

// view is the state of a container at one moment. It is never changed once it is published.
type view struct {
	store.Record
	Task   runtime.Task // nil unless running
	Health *container.Health
}

// item is one container in memory. Readers take view(); writers hold mu. op is held for as long as a start, the
// handling of an end or a removal takes; no timer runs under it.
type item struct {
	op  sync.Mutex
	mu  sync.Mutex
	now atomic.Pointer[view]

	line atomic.Pointer[encoded] // of the last list

	waiters     []*waiter
	pending     map[*pending]struct{} // attachments that wait for a start
	execs       map[string]*execution
	noRestart   bool          // a stop was asked for: the next end is final
	keep        bool          // the next end does not remove the container: it is being restarted
	backoff     time.Duration // before the next restart
	stopBackoff chan struct{} // closing it ends the wait before a restart; nil without one
	stopHealth  func()
}

func newItem(r *store.Record) *item {
	c := &item{pending: map[*pending]struct{}{}, execs: map[string]*execution{}}
	c.now.Store(&view{Record: *r})
	return c
}

func (c *item) view() *view { return c.now.Load() }

// update publishes a changed view. With st it is written first, and a failing write changes nothing.
func (c *item) update(st *store.Store, f func(*view)) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	v := *c.now.Load()
	f(&v)
	if st != nil {
		if err := st.Put(&v.Record); err != nil {
			// It may be on disk all the same, and perhaps nobody could tell the difference until the next start.
			return errors.Join(err, st.Put(&c.now.Load().Record))
		}
	}
	c.now.Store(&v)
	return nil
}

// force publishes a changed view although it may not reach the disk: for what has happened anyway.
func (c *item) force(st *store.Store, f func(*view)) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	v := *c.now.Load()
	f(&v)
	c.now.Store(&v)
	if st == nil {
		return nil
	}
	return st.Put(&v.Record)
}

// record writes a changed view that is published later, and returns the one that it was made from: whoever finds another
// one then must write again.
func (c *item) record(st *store.Store, f func(*view)) (of *view, err error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	of = c.now.Load()
	v := *of
	f(&v)
	if err := st.Put(&v.Record); err != nil {
		return nil, err
	}
	return of, nil
}

func (c *item) setKeep(keep bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.keep = keep
}

func (c *item) kept() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.keep
}

// running returns the task of a running container, or Docker's error.
func (c *item) running() (runtime.Task, *view, error) {
	v := c.view()
	if !v.State.Running || v.Task == nil {
		if v.State.Restarting {
			return nil, v, conflict("Container %s is restarting, wait until the container is running", v.ID)
		}
		return nil, v, conflict("container %s is not running", v.ID)
	}
	return v.Task, v, nil
}

// result is what a waiter gets.
type result struct {
	code int
	err  string
}

type waiter struct {
	removed bool // wants the removal
	done    chan result
}

// wait returns a channel that gets one result when the condition is met.
func (c *item) wait(cond container.WaitCondition) *waiter {
	c.mu.Lock()
	defer c.mu.Unlock()
	w := &waiter{removed: cond == container.WaitConditionRemoved, done: make(chan result, 1)}
	v := c.now.Load()
	if !v.State.Running && (cond == container.WaitConditionNotRunning || cond == "") {
		w.done <- result{code: v.State.ExitCode, err: v.State.Error}
		return w
	}
	c.waiters = append(c.waiters, w)
	return w
}

// unwait forgets a waiter.
func (c *item) unwait(w *waiter) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for i, o := range c.waiters {
		if o == w {
			c.waiters = append(c.waiters[:i], c.waiters[i+1:]...)
			return
		}
	}
}

// notify answers waiters for an end and, when the container is gone, for the removal.
func (c *item) notify(gone bool, removal string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	st := c.now.Load().State
	var keep []*waiter
	for _, w := range c.waiters {
		switch {
		case !w.removed:
			w.done <- result{code: st.ExitCode, err: st.Error}
		case gone || removal != "":
			w.done <- result{code: st.ExitCode, err: removal}
		default:
			keep = append(keep, w)
		}
	}
	c.waiters = keep
}

func conflict(format string, a ...any) error {
	return httpapi.NewError(errdefs.ErrConflict, format, a...)
}

func invalid(format string, a ...any) error {
	return httpapi.NewError(errdefs.ErrInvalidArgument, format, a...)
}

func notFound(format string, a ...any) error {
	return httpapi.NewError(errdefs.ErrNotFound, format, a...)
}
