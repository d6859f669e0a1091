package container

import (
	"context"
	"sync"
	"time"

	"github.com/moby/moby/api/types/container"
)

// StopAll ends every running container because the server is being taken down. Nothing of it counts as a stop that a
// client asked for: restart policies start containers again with the next server.
func (s *Service) StopAll(ctx context.Context) {
	var all sync.WaitGroup
	for _, c := range s.index.all("") {
		c.endRestarts()
		v := c.view()
		if v.Task == nil || !v.State.Running {
			continue
		}
		all.Go(func() {
			w := c.wait(container.WaitConditionNotRunning)
			defer c.unwait(w)
			timeout := defaultStopTimeout
			if v.Config.StopTimeout != nil && *v.Config.StopTimeout >= 0 {
				timeout = min(*v.Config.StopTimeout, defaultStopTimeout)
			}
			if v.State.Paused {
				if err := v.Task.Resume(ctx); err != nil {
					s.cfg.Log.Warn("resume container", "container", v.ID, "err", err)
				}
			}
			if err := v.Task.Kill(ctx, stopSignal(v.Config.StopSignal)); err != nil {
				timeout = 0
			}
			select {
			case <-w.done:
				return
			case <-ctx.Done():
			case <-time.After(time.Duration(timeout) * time.Second):
			}
			if err := v.Task.Kill(context.WithoutCancel(ctx), sigkill); err != nil {
				s.cfg.Log.Warn("kill container", "container", v.ID, "err", err)
			}
			select {
			case <-w.done:
			case <-time.After(10 * time.Second):
			}
		})
	}
	all.Wait()
}
