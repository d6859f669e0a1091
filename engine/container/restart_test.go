package container

import (
	"context"
	"errors"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/moby/moby/api/types/container"

	"stockade/api/scope"
	"stockade/engine/httpapi"
)

// make creates a container without HTTP.
func (w *world) make(t *testing.T, cfg container.Config, hc container.HostConfig) *item {
	t.Helper()
	cfg.Image = "busybox"
	resp, err := w.Create(t.Context(), scope.Scope{Tenant: "alice", Grants: []scope.Grant{{Source: "/srv", ID: "g1"}}}, "", "",
		container.CreateRequest{Config: &cfg, HostConfig: &hc})
	if err != nil {
		t.Fatal(err)
	}
	c, err := w.index.find("alice", resp.ID)
	if err != nil {
		t.Fatal(err)
	}
	return c
}

func (w *world) mustStart(t *testing.T, c *item) {
	t.Helper()
	if err := w.start(context.Background(), c); err != nil {
		t.Fatal(err)
	}
}

func (w *world) close(t *testing.T) {
	t.Helper()
	if err := w.Service.Close(); err != nil {
		t.Error(err)
	}
}

func policy(name container.RestartPolicyMode, n int) container.HostConfig {
	return container.HostConfig{RestartPolicy: container.RestartPolicy{Name: name, MaximumRetryCount: n}}
}

func TestShouldRestart(t *testing.T) {
	for _, c := range []struct {
		name    string
		policy  container.RestartPolicy
		code, n int
		manual  bool
		want    bool
	}{
		{"none", container.RestartPolicy{}, 1, 0, false, false},
		{"no", container.RestartPolicy{Name: "no"}, 1, 0, false, false},
		{"always after success", container.RestartPolicy{Name: "always"}, 0, 99, false, true},
		{"unless-stopped", container.RestartPolicy{Name: "unless-stopped"}, 0, 0, false, true},
		{"unless-stopped, stopped", container.RestartPolicy{Name: "unless-stopped"}, 0, 0, true, false},
		{"on-failure after success", container.RestartPolicy{Name: "on-failure"}, 0, 0, false, false},
		{"on-failure without limit", container.RestartPolicy{Name: "on-failure"}, 1, 99, false, true},
		{"on-failure below the limit", container.RestartPolicy{Name: "on-failure", MaximumRetryCount: 3}, 1, 2, false, true},
		{"on-failure at the limit", container.RestartPolicy{Name: "on-failure", MaximumRetryCount: 3}, 1, 3, false, false},
		{"unknown", container.RestartPolicy{Name: "sometimes"}, 1, 0, false, false},
	} {
		if got := ShouldRestart(c.policy, c.code, c.n, c.manual); got != c.want {
			t.Errorf("%s: %v", c.name, got)
		}
	}
}

func TestRestartBackoff(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		defer w.close(t)
		c := w.make(t, container.Config{Cmd: []string{"exit", "1"}}, policy("on-failure", 3))
		begin := time.Now()
		w.mustStart(t, c)
		res := <-c.wait(container.WaitConditionNotRunning).done
		if res.code != 1 || w.rt.startCount() != 4 || c.view().State.RestartCount != 3 {
			t.Errorf("code %d, %d starts, count %d", res.code, w.rt.startCount(), c.view().State.RestartCount)
		}
		if d := time.Since(begin); d != 700*time.Millisecond {
			t.Errorf("took %v", d)
		}
	})
}

func TestBackoffEndsAtOneMinuteAndBeginsAgain(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		defer w.close(t)
		c := w.make(t, container.Config{Cmd: []string{"exit", "1"}}, policy("always", 0))
		r := c.view().Record
		r.State.StartedAt = time.Now()
		exit := w.rtExit(1)
		var got []time.Duration
		for range 12 {
			_, d := c.decide(&r, exit)
			got = append(got, d)
		}
		if got[0] != 100*time.Millisecond || got[1] != 200*time.Millisecond || got[11] != time.Minute {
			t.Error(got)
		}
		exit.At = r.State.StartedAt.Add(10 * time.Second)
		if _, d := c.decide(&r, exit); d != 100*time.Millisecond {
			t.Errorf("after a steady run: %v", d)
		}
	})
}

// T-801: a clock that was set back or forward while a container ran makes it neither wait for long nor restart without pause
// more than once.
func TestBackoffWhenTheClockJumps(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		defer w.close(t)
		c := w.make(t, container.Config{Cmd: []string{"exit", "1"}}, policy("always", 0))
		r := c.view().Record
		started := time.Now().Round(0) // as read from its record: without the monotonic clock
		r.State.StartedAt = started
		exit := w.rtExit(1)
		for _, step := range []struct {
			jump, want time.Duration
		}{
			{0, 100 * time.Millisecond}, {0, 200 * time.Millisecond}, {-24 * time.Hour, 400 * time.Millisecond},
			{-24 * time.Hour, 800 * time.Millisecond}, {24 * time.Hour, 100 * time.Millisecond}, {0, 200 * time.Millisecond},
		} {
			exit.At = started.Add(step.jump)
			if again, wait := c.decide(&r, exit); !again || wait != step.want {
				t.Errorf("jump of %v: %v %v, want %v", step.jump, again, wait, step.want)
			}
		}
	})
}

func TestStopDuringBackoff(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		defer w.close(t)
		c := w.make(t, container.Config{Cmd: []string{"run", "1s"}}, policy("always", 0))
		w.mustStart(t, c)
		time.Sleep(1050 * time.Millisecond)
		if got := c.view().State.Status(); got != container.StateRestarting {
			t.Fatalf("state %s", got)
		}
		if err := w.start(t.Context(), c); !errors.Is(err, httpapi.ErrNotModified) {
			t.Errorf("start of a restarting container: %v", err)
		}
		if err := w.stop(t.Context(), c, stopOptions{}); err != nil {
			t.Fatal(err)
		}
		time.Sleep(time.Hour)
		if got := c.view().State.Status(); got != container.StateExited || w.rt.startCount() != 1 {
			t.Errorf("state %s, %d starts", got, w.rt.startCount())
		}
		w.mustStart(t, c) // a new start applies the policy again
		time.Sleep(1500 * time.Millisecond)
		if n := w.rt.startCount(); n != 3 {
			t.Errorf("%d starts", n)
		}
	})
}

func TestRemoveDuringBackoff(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		defer w.close(t)
		c := w.make(t, container.Config{Cmd: []string{"exit", "1"}}, policy("always", 0))
		w.mustStart(t, c)
		time.Sleep(400 * time.Millisecond)
		if err := w.remove(t.Context(), c, removal{}); err == nil {
			t.Error("a restarting container was removed without force")
		}
		if err := w.remove(t.Context(), c, removal{force: true}); err != nil {
			t.Fatal(err)
		}
		starts := w.rt.startCount()
		time.Sleep(time.Hour)
		if len(w.index.all("alice")) != 0 || w.rt.startCount() != starts {
			t.Error("it is still there")
		}
	})
}

func TestStopOfAnEndedProcess(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		defer w.close(t)
		c := w.make(t, container.Config{Cmd: []string{"dying"}}, container.HostConfig{})
		w.mustStart(t, c)
		if err := w.stop(t.Context(), c, stopOptions{}); err != nil {
			t.Fatal(err)
		}
		w.mustStart(t, c)
		if err := w.remove(t.Context(), c, removal{force: true}); err != nil {
			t.Fatal(err)
		}
	})
}

func TestStopTimeout(t *testing.T) {
	three := 3
	for _, c := range []struct {
		name string
		conf *int
		ask  *int
		want time.Duration
	}{
		{"default", nil, nil, 10 * time.Second},
		{"configured", &three, nil, 3 * time.Second},
		{"asked", nil, new(int), 0},
	} {
		t.Run(c.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				w := newWorld(t)
				defer w.close(t)
				i := w.make(t, container.Config{Cmd: []string{"stubborn"}, StopTimeout: c.conf}, container.HostConfig{})
				w.mustStart(t, i)
				begin := time.Now()
				if err := w.stop(t.Context(), i, stopOptions{timeout: c.ask}); err != nil {
					t.Fatal(err)
				}
				if d := time.Since(begin); d != c.want || i.view().State.ExitCode != 137 {
					t.Errorf("took %v, code %d", d, i.view().State.ExitCode)
				}
				if diff := cmp.Diff([]string{"create", "start", "kill", "kill", "die", "stop"}, w.f.actions()); diff != "" {
					t.Error(diff)
				}
			})
		})
	}
}

func TestHealth(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		var code atomic.Int64
		code.Store(1)
		w.rt.probe = func() int { return int(code.Load()) }
		defer w.close(t)
		c := w.make(t, container.Config{Healthcheck: &container.HealthConfig{
			Test: []string{"CMD", "probe"}, Interval: 10 * time.Second, StartPeriod: 5 * time.Second, StartInterval: time.Second, Retries: 2,
		}}, container.HostConfig{})
		w.mustStart(t, c)
		step := func(d time.Duration, status container.HealthStatus, streak int) {
			t.Helper()
			time.Sleep(d)
			synctest.Wait()
			h := c.view().Health
			if h == nil || h.Status != status || h.FailingStreak != streak {
				t.Fatalf("%+v, want %s %d", h, status, streak)
			}
		}
		step(4500*time.Millisecond, container.Starting, 0) // failures of the start period do not count
		code.Store(0)
		step(time.Second, container.Healthy, 0)
		code.Store(1)
		step(10*time.Second, container.Healthy, 1)
		step(10*time.Second, container.Unhealthy, 2)
		if n := len(c.view().Health.Log); n != 5 {
			t.Errorf("%d results kept", n)
		}
		if got := statusText(c.view(), c.view().State.StartedAt.Add(5*time.Second)); got != "Up 5 seconds (unhealthy)" {
			t.Error(got)
		}
		code.Store(0)
		step(10*time.Second, container.Healthy, 0)
		var health []string
		for _, a := range w.f.actions() {
			if len(a) > 13 && a[:13] == "health_status" {
				health = append(health, a)
			}
		}
		if diff := cmp.Diff([]string{"health_status: healthy", "health_status: unhealthy", "health_status: healthy"}, health); diff != "" {
			t.Error(diff)
		}
	})
}

func TestHealthTimeout(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		defer w.close(t)
		c := w.make(t, container.Config{Healthcheck: &container.HealthConfig{
			Test: []string{"CMD", "hang"}, Interval: time.Second, Timeout: 2 * time.Second, Retries: 1,
		}}, container.HostConfig{})
		w.mustStart(t, c)
		time.Sleep(3500 * time.Millisecond)
		h := c.view().Health
		if h.Status != container.Unhealthy || h.Log[0].ExitCode != -1 || h.Log[0].Output != "Health check exceeded timeout (2s)" {
			t.Errorf("%+v", h)
		}
	})
}
