package main

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"net/http"
	"time"

	"golang.org/x/sys/unix"
)

// measureRestart kills the daemon of servers with running containers and waits until all are listed again.
func measureRestart(ctx context.Context, b *bench) (_ []result, err error) {
	defer func() {
		for _, s := range b.servers {
			err = errors.Join(err, removeAll(ctx, s))
		}
	}()
	var out []result
	have := 0
	for _, n := range []int{20, 100} {
		r, err := row{
			name: fmt.Sprintf("restart%d", n), what: fmt.Sprintf("kill -9 of the daemon until its %d running containers are listed", n), unit: "ms",
			bars: []bar{{against: name29, most: 0.3}}, rounds: 4, sides: b.servers,
			setup: func(ctx context.Context, s *side) error {
				return many(n-have, func(int) error {
					id, err := create(ctx, s, "", "sleep", "100000")
					if err != nil {
						return err
					}
					return start(ctx, s, id)
				})
			},
			round: func(ctx context.Context, s *side) (float64, error) { return killed(ctx, s, n) },
		}.alternate(ctx)
		if err != nil {
			return out, err
		}
		have = n
		out = append(out, r)
	}
	return out, nil
}

// killed measures one restart; no container may have been started again by it.
func killed(ctx context.Context, s *side, n int) (float64, error) {
	before, err := processes(ctx, s)
	if err != nil {
		return 0, err
	}
	group, err := members(s.group, false)
	if err != nil {
		return 0, err
	}
	daemon := named(group, s.program)
	if len(daemon) != 1 || len(before) != n {
		return 0, fmt.Errorf("%d containers and %d processes %s, want %d and 1", len(before), len(daemon), s.program, n)
	}
	// A daemon that has only just started is started again later, by any supervisor: that is not what is measured.
	select {
	case <-time.After(time.Until(s.since.Add(11 * time.Second))):
	case <-ctx.Done():
		return 0, ctx.Err()
	}
	ms, err := timed(func() error {
		if err := unix.Kill(daemon[0], unix.SIGKILL); err != nil {
			return err
		}
		if err := s.again(ctx); err != nil {
			return err
		}
		for end := time.Now().Add(2 * time.Minute); ; time.Sleep(2 * time.Millisecond) {
			if ids, err := running(ctx, s); err == nil && len(ids) == n {
				if group, err = members(s.group, false); err != nil {
					return err
				}
				if now := named(group, s.program); len(now) == 1 && now[0] != daemon[0] {
					return nil
				}
			}
			if ctx.Err() != nil || time.Now().After(end) {
				return errors.Join(ctx.Err(), errors.New("the containers are not listed again"))
			}
		}
	})
	if err != nil {
		return 0, err
	}
	s.since = time.Now()
	after, err := processes(ctx, s)
	if err == nil && !maps.Equal(before, after) {
		err = errors.New("a container was started again")
	}
	return ms, err
}

func running(ctx context.Context, s *side) ([]string, error) {
	var list []struct{ Id, State string }
	if err := api(ctx, s, http.MethodGet, "/containers/json", nil, &list); err != nil {
		return nil, err
	}
	var ids []string
	for _, c := range list {
		if c.State == "running" {
			ids = append(ids, c.Id)
		}
	}
	return ids, nil
}

// processes are the pids of all running containers by id.
func processes(ctx context.Context, s *side) (map[string]int, error) {
	ids, err := running(ctx, s)
	if err != nil {
		return nil, err
	}
	out := map[string]int{}
	for _, id := range ids {
		if out[id], err = pidOf(ctx, s, id); err != nil {
			return nil, err
		}
	}
	return out, nil
}
