package main

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"os"
	"slices"
	"time"
)

// measurement is one entry of the bench; it gives one result or several.
type measurement struct {
	name, what string
	run        func(ctx context.Context, b *bench) ([]result, error)
}

// measurements are all, in the order of a whole run: what fills the servers' memory comes last.
var measurements = []measurement{
	{"run", "docker run --rm, also with a published port", measureRun},
	{"cycle", "create, start, wait and remove by API, beside bare runc", measureCycle},
	{"cycle4", "the same by four clients at once", measureCycle4},
	{"exec", "docker exec", measureExec},
	{"ping", "GET /_ping", measurePing},
	{"cpu", "CPU time of docker run --rm", measureCPU},
	{"memory", "memory of idle servers and for each running container", measureMemory},
	{"list", "list of 200 created containers", measureList},
	{"logs", "a container that writes lines as fast as it can", measureLogs},
	{"attach", "a container's output through attach", measureAttach},
	{"restart", "kill -9 of the daemon until all running containers are listed", measureRestart},
	{"scale", "lists of 200, 1000 and 5000 containers", measureScale},
	{"port", "throughput of a published port", measurePort},
	{"podman", "podman run --rm, where it is installed", measurePodman},
}

// row is a measurement whose rounds alternate between the sides.
type row struct {
	name, what, unit string
	bars             []bar
	rounds           int
	sides            []*side
	setup, finish    func(ctx context.Context, s *side) error
	round            func(ctx context.Context, s *side) (float64, error)
}

// alternate measures every side once a round, each round beginning with another side, and takes medians.
func (r row) alternate(ctx context.Context) (res result, err error) {
	res = result{name: r.name, what: r.what, unit: r.unit, bars: r.bars, values: map[string]float64{}}
	if r.finish != nil {
		defer func() {
			for _, s := range r.sides {
				err = errors.Join(err, r.finish(context.WithoutCancel(ctx), s))
			}
		}()
	}
	if r.setup != nil {
		for _, s := range r.sides {
			if err := r.setup(ctx, s); err != nil {
				return res, fmt.Errorf("%s: %w", s.name, err)
			}
		}
	}
	values := map[string][]float64{}
	order := slices.Clone(r.sides)
	for range r.rounds {
		for _, s := range order {
			v, err := r.round(ctx, s)
			if err != nil {
				return res, fmt.Errorf("%s: %w", s.name, err)
			}
			values[s.name] = append(values[s.name], v)
		}
		if ctx.Err() != nil {
			return res, ctx.Err()
		}
		order = append(order[1:], order[0])
	}
	for name, v := range values {
		res.values[name] = median(v)
	}
	return res, nil
}

// one makes a measurement's answer of one row.
func one(ctx context.Context, r row) ([]result, error) {
	res, err := r.alternate(ctx)
	if err != nil {
		return nil, err
	}
	return []result{res}, nil
}

func measureRun(ctx context.Context, b *bench) ([]result, error) {
	r := row{
		name: "run", what: "docker run --rm busybox true", unit: "ms", bars: []bar{{against: name29, most: 0.25}}, rounds: b.rounds, sides: b.servers,
		round: func(ctx context.Context, s *side) (float64, error) {
			return timed(func() error { return cli(ctx, s, "run", "--rm", image, "true") })
		},
	}
	plain, err := r.alternate(ctx)
	if err != nil {
		return nil, err
	}
	r.name, r.what, r.bars = "run-p", "docker run --rm -p busybox true", nil
	r.round = func(ctx context.Context, s *side) (float64, error) {
		return timed(func() error { return cli(ctx, s, "run", "--rm", "-p", "127.0.0.1:35100:80", image, "true") })
	}
	published, err := r.alternate(ctx)
	return []result{plain, published}, err
}

func measureCycle(ctx context.Context, b *bench) (_ []result, err error) {
	runtime, err := newBare(ctx, b.bin)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, runtime.end()) }()
	return one(ctx, row{
		name: "cycle", what: "create+start+wait+remove by API, network included", unit: "ms",
		bars: []bar{{against: bareName, most: 2.5}}, rounds: max(b.rounds, 15), sides: append(slices.Clone(b.servers), &side{name: bareName}),
		round: func(ctx context.Context, s *side) (float64, error) {
			if s.name == bareName {
				return timed(func() error { return runtime.run(ctx) })
			}
			return timed(func() error { return cycle(ctx, s) })
		},
	})
}

func measureCycle4(ctx context.Context, b *bench) ([]result, error) {
	return one(ctx, row{
		name: "cycle4", what: "the same, 4 clients", unit: "containers/s", bars: []bar{{against: name29, least: 4}},
		rounds: max(b.rounds/3, 3), sides: b.servers,
		round: func(ctx context.Context, s *side) (float64, error) {
			const n = 12
			ms, err := timed(func() error { return many(n, func(int) error { return cycle(ctx, s) }) })
			return n * 1000 / ms, err
		},
	})
}

func measureExec(ctx context.Context, b *bench) ([]result, error) {
	const target = "bench-target"
	return one(ctx, row{
		name: "exec", what: "docker exec true", unit: "ms", bars: []bar{{against: name29, most: 0.35}}, rounds: b.rounds, sides: b.servers,
		setup: func(ctx context.Context, s *side) error {
			return cli(ctx, s, "run", "-d", "--name", target, image, "sleep", "100000")
		},
		finish: removeAll,
		round: func(ctx context.Context, s *side) (float64, error) {
			return timed(func() error { return cli(ctx, s, "exec", target, "true") })
		},
	})
}

func measurePing(ctx context.Context, b *bench) ([]result, error) {
	return one(ctx, row{
		name: "ping", what: "GET /_ping", unit: "ms", bars: []bar{{against: name29, most: 1.3}, {against: name20, most: 1.3}},
		rounds: 60 * b.rounds, sides: b.servers,
		round: func(ctx context.Context, s *side) (float64, error) {
			return timed(func() error { return api(ctx, s, http.MethodGet, "/_ping", nil, nil) })
		},
	})
}

// measureCPU counts the time of the client, the server's processes and those of the containers: each has a control group.
func measureCPU(ctx context.Context, b *bench) (_ []result, err error) {
	const n, client = 10, prefix + "-client"
	if err := makeGroup(client); err != nil {
		return nil, err
	}
	if err := enter(client, os.Getpid()); err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, enter(".", os.Getpid())) }()
	shares := map[string][]float64{} // of the server and its containers alone
	r := row{
		name: "cpu", what: "CPU time of docker run --rm busybox true: client, server and runtime", unit: "ms",
		bars: []bar{{against: name29, most: 0.35}, {against: name20, most: 0.35}}, rounds: 3, sides: b.servers,
		round: func(ctx context.Context, s *side) (float64, error) {
			used := func() (own, all float64, err error) {
				for _, g := range []string{s.group, s.parent, client} {
					ms, gerr := cpu(g)
					if all, err = all+ms, errors.Join(err, gerr); g != client {
						own += ms
					}
				}
				return own, all, err
			}
			own, all, err := used()
			for range n {
				if err == nil {
					err = cli(ctx, s, "run", "--rm", image, "true")
				}
			}
			time.Sleep(time.Second) // what is done after the answer counts, too
			ownAfter, allAfter, aerr := used()
			shares[s.name] = append(shares[s.name], (ownAfter-own)/n)
			return (allAfter - all) / n, errors.Join(err, aerr)
		},
	}
	whole, err := r.alternate(ctx)
	if err != nil {
		return nil, err
	}
	server := result{name: "cpu-server", what: "the same without the client", unit: "ms", values: map[string]float64{}}
	for name, v := range shares {
		server.values[name] = median(v)
	}
	return []result{whole, server}, nil
}

func measureMemory(ctx context.Context, b *bench) ([]result, error) {
	const n = 10
	idle := result{name: "idle", what: "memory of all processes of an idle server, PSS", unit: "MB", values: map[string]float64{},
		bars: []bar{{against: name29, most: 0.7}, {against: name20, most: 0.7}}}
	each := result{name: "running", what: "the same for each running container", unit: "MB", values: map[string]float64{},
		bars: []bar{{against: name29 + "-shim", most: 0.25}, {against: name20 + "-shim", most: 0.25}}}
	for _, s := range b.servers { // what grows with the first containers only is no container's
		if err := many(2*n, func(int) error { return cycle(ctx, s) }); err != nil {
			return nil, fmt.Errorf("%s: %w", s.name, err)
		}
	}
	time.Sleep(2 * time.Second)
	for _, s := range b.servers {
		server, _, err := s.pids()
		if err != nil {
			return nil, err
		}
		before, err := pss(server)
		if err != nil {
			return nil, err
		}
		for range n {
			id, err := create(ctx, s, "", "sleep", "100000")
			if err == nil {
				err = start(ctx, s, id)
			}
			if err != nil {
				return nil, errors.Join(err, removeAll(ctx, s))
			}
		}
		time.Sleep(2 * time.Second)
		server, shims, err := s.pids()
		if err != nil {
			return nil, errors.Join(err, removeAll(ctx, s))
		}
		after, err := pss(server)
		idle.values[s.name], each.values[s.name] = before, (after-before)/n
		if s.name != ourName {
			var alone float64
			alone, serr := pss(shims)
			each.values[s.name+"-shim"], err = alone/float64(len(shims)), errors.Join(err, serr)
		}
		if err := errors.Join(err, removeAll(ctx, s)); err != nil {
			return nil, err
		}
	}
	return []result{idle, each}, nil
}
