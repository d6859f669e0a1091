package container

import (
	"os"
	"testing"
	"time"

	"github.com/moby/moby/api/types/container"

	"stockade/engine/runtime"
)

func (w *world) rtExit(code int) runtime.Exit { return runtime.Exit{Code: code, At: time.Now()} }

// again finds a container after a crash of the engine.
func (w *world) again(t *testing.T, c *item) *item {
	t.Helper()
	found, err := w.index.find("alice", c.view().ID)
	if err != nil {
		t.Fatal(err)
	}
	return found
}

func TestCrashKeepsRunning(t *testing.T) {
	w := newWorld(t)
	c := w.make(t, container.Config{}, container.HostConfig{Binds: []string{"/srv:/srv", "data:/data"}})
	w.mustStart(t, c)
	w.reopen(t)
	defer w.close(t)
	c = w.again(t, c)
	if st := c.view().State; !st.Running || c.view().Task == nil {
		t.Fatalf("%+v", st)
	}
	if !w.rt.known[c.view().ID] {
		t.Error("the runtime was told to forget it")
	}
	if err := w.stop(t.Context(), c, stopOptions{}); err != nil {
		t.Fatal(err)
	}
}

func TestCrashSeesTheEnd(t *testing.T) {
	w := newWorld(t)
	c := w.make(t, container.Config{}, container.HostConfig{})
	w.mustStart(t, c)
	gone := w.make(t, container.Config{}, container.HostConfig{})
	w.mustStart(t, gone)
	rm := w.make(t, container.Config{}, container.HostConfig{AutoRemove: true})
	w.mustStart(t, rm)
	tasks := w.rt.tasks
	if err := w.Service.Close(); err != nil {
		t.Fatal(err)
	}
	tasks[c.view().ID].finish(7)
	tasks[rm.view().ID].finish(0)
	delete(tasks, gone.view().ID) // as after a boot of the host
	w.open(t)
	defer w.close(t)
	if st := w.again(t, c).view().State; st.Running || st.ExitCode != 7 {
		t.Errorf("%+v", st)
	}
	if st := w.again(t, gone).view().State; st.Running || st.ExitCode != 255 {
		t.Errorf("%+v", st)
	}
	if _, err := w.index.find("alice", rm.view().ID); err == nil {
		t.Error("--rm container is still there")
	}
	if len(w.rt.tasks) != 0 {
		t.Errorf("not released: %v", w.rt.tasks)
	}
}

// A start that the runtime carried out but nobody recorded any more is adopted, not lost.
func TestCrashDuringStart(t *testing.T) {
	w := newWorld(t)
	c := w.make(t, container.Config{}, container.HostConfig{})
	rs, _, err := w.runtimeSpec(t.Context(), c.view())
	if err != nil {
		t.Fatal(err)
	}
	if _, err := w.rt.Start(t.Context(), *rs, func(runtime.Task) error { return nil }); err != nil {
		t.Fatal(err)
	}
	w.reopen(t)
	defer w.close(t)
	if st := w.again(t, c).view().State; !st.Running {
		t.Errorf("%+v", st)
	}
}

func TestCrashDuringRemoval(t *testing.T) {
	w := newWorld(t)
	c := w.make(t, container.Config{}, container.HostConfig{Binds: []string{"data:/data"}})
	if err := c.update(w.st, func(v *view) { v.State.Removing = true }); err != nil {
		t.Fatal(err)
	}
	stray := w.folder("stray")
	if err := os.Mkdir(stray, 0o700); err != nil {
		t.Fatal(err)
	}
	w.reopen(t)
	defer w.close(t)
	if _, err := w.index.find("alice", c.view().ID); err == nil {
		t.Error("still there")
	}
	if _, err := os.Stat(stray); !os.IsNotExist(err) {
		t.Errorf("folder of an unknown container: %v", err)
	}
	if len(w.f.volumes) != 1 {
		t.Error("a named volume was removed")
	}
}

func TestRestartAtBoot(t *testing.T) {
	for _, c := range []struct {
		name   string
		policy container.HostConfig
		stop   bool
		want   bool
	}{
		{"no", policy("no", 0), false, false},
		{"always", policy("always", 0), false, true},
		{"always, stopped by hand", policy("always", 0), true, true},
		{"unless-stopped", policy("unless-stopped", 0), false, true},
		{"unless-stopped, stopped by hand", policy("unless-stopped", 0), true, false},
	} {
		t.Run(c.name, func(t *testing.T) {
			w := newWorld(t)
			i := w.make(t, container.Config{}, c.policy)
			never := w.make(t, container.Config{}, c.policy)
			w.mustStart(t, i)
			if c.stop {
				if err := w.stop(t.Context(), i, stopOptions{}); err != nil {
					t.Fatal(err)
				}
			}
			if err := w.Service.Close(); err != nil {
				t.Fatal(err)
			}
			clear(w.rt.tasks) // the host booted
			w.open(t)
			defer w.close(t)
			i = w.again(t, i)
			if c.want {
				until(t, "running", func() bool { return i.view().State.Running })
			} else if i.view().State.Running {
				t.Error("was started")
			}
			if w.again(t, never).view().State.Running {
				t.Error("a container that never ran was started")
			}
		})
	}
}
