package main

import (
	"context"
	"errors"
	"fmt"
	"net/http"
)

// fill creates containers until there are n, several at a time. They remove themselves, so that their records need not be
// on the disk before the answer.
func fill(ctx context.Context, s *side, from, n int) error {
	return many(n-from, func(int) error {
		_, err := createWith(ctx, s, "", map[string]any{"AutoRemove": true}, "true")
		return err
	})
}

func list(ctx context.Context, s *side) (float64, error) {
	return timed(func() error { return api(ctx, s, http.MethodGet, "/containers/json?all=1", nil, nil) })
}

func measureList(ctx context.Context, b *bench) ([]result, error) {
	return one(ctx, row{
		name: "list", what: "list of 200 created containers", unit: "ms", bars: []bar{{against: name29, most: 0.02}, {against: name20, most: 0.2}},
		rounds: b.rounds, sides: b.servers, finish: removeAll, round: list,
		setup: func(ctx context.Context, s *side) error {
			for range 200 {
				if _, err := create(ctx, s, "", "true"); err != nil {
					return err
				}
			}
			return nil
		},
	})
}

// measureScale lists more and more containers on Stockade alone: the time for each must not grow.
func measureScale(ctx context.Context, b *bench) (_ []result, err error) {
	s := b.ours()
	defer func() { err = errors.Join(err, removeAll(ctx, s)) }()
	var out []result
	var first float64
	have := 0
	for _, n := range []int{200, 1000, 5000} {
		if err := fill(ctx, s, have, n); err != nil {
			return nil, err
		}
		have = n
		var v []float64
		for range max(b.rounds, 9) {
			ms, err := list(ctx, s)
			if err != nil {
				return nil, err
			}
			v = append(v, ms*1000/float64(n))
		}
		r := result{name: fmt.Sprintf("list%d", n), what: fmt.Sprintf("list of %d created containers, for each", n), unit: "µs",
			values: map[string]float64{ourName: median(v)}}
		if n == 200 {
			first = median(v)
		} else {
			r.values["list200"] = first
		}
		if n == 5000 {
			r.bars = []bar{{against: "list200", most: 1.3}}
		}
		out = append(out, r)
	}
	return out, nil
}
