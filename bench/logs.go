package main

import (
	"bufio"
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strconv"
	"time"
)

const (
	logLines  = 6_000_000 // what the noisy container writes: its log file has about 1 GB
	readLines = 300_000   // what is read of it on every side
)

// measureLogs has a container write lines as fast as it can, starts others meanwhile, and then reads the log's end. On
// Stockade the whole log is read as well: no line may be missing.
func measureLogs(ctx context.Context, b *bench) (_ []result, err error) {
	rate := result{name: "log-write", what: "output of a container into its log", unit: "MB/s", values: map[string]float64{}}
	quiet := result{name: "start", what: "start by API on a quiet server", unit: "ms", values: map[string]float64{}}
	busy := result{name: "log-start", what: "start by API while another container writes its log", unit: "ms", values: map[string]float64{},
		bars: []bar{{against: name29, most: 1}}}
	ids := map[string]string{}
	defer func() {
		for _, s := range b.servers {
			err = errors.Join(err, removeAll(ctx, s))
		}
	}()
	for _, s := range b.servers {
		before, err := starts(ctx, s, func() bool { return true })
		if err != nil {
			return nil, fmt.Errorf("%s: %w", s.name, err)
		}
		id, err := create(ctx, s, "bench-log", "bench", "lines", strconv.Itoa(logLines))
		if err == nil {
			err = start(ctx, s, id)
		}
		if err != nil {
			return nil, fmt.Errorf("%s: %w", s.name, err)
		}
		ids[s.name] = id
		began := time.Now()
		ended := make(chan error, 1)
		go func() { ended <- wait(ctx, s, id) }()
		over := false
		meanwhile, err := starts(ctx, s, func() bool {
			select {
			case err = <-ended:
				over = true
			default:
			}
			return !over
		})
		if !over {
			err = errors.Join(err, <-ended)
		}
		if err != nil || len(meanwhile) == 0 {
			return nil, fmt.Errorf("%s: starts meanwhile: %d %w", s.name, len(meanwhile), err)
		}
		rate.values[s.name] = logLines * lineLength / 1e6 / time.Since(began).Seconds()
		quiet.values[s.name], busy.values[s.name] = median(before), median(meanwhile)
	}
	read, err := row{
		name: "log-read", what: fmt.Sprintf("the last %d lines of the log by API, each compared", readLines), unit: "MB/s", rounds: 3, sides: b.servers,
		round: func(ctx context.Context, s *side) (float64, error) {
			ms, err := timed(func() error { return verify(ctx, s, ids[s.name], readLines) })
			return readLines * lineLength / 1e3 / ms, err
		},
	}.alternate(ctx)
	if err == nil {
		err = verify(ctx, b.ours(), ids[ourName], logLines)
	}
	if err != nil {
		return nil, err
	}
	tail, err := row{
		name: "log-tail", what: "docker logs --tail 10 of a log of 1 GB, by API", unit: "ms", rounds: b.rounds, sides: b.servers,
		round: func(ctx context.Context, s *side) (float64, error) {
			return timed(func() error {
				return api(ctx, s, http.MethodGet, "/containers/"+ids[s.name]+"/logs?stdout=1&stderr=1&tail=10", nil, nil)
			})
		},
	}.alternate(ctx)
	return []result{rate, quiet, busy, read, tail}, err
}

// starts measures starts of containers that are created before, at most nine, as long as more says so.
func starts(ctx context.Context, s *side, more func() bool) ([]float64, error) {
	var v []float64
	for range 9 {
		id, err := create(ctx, s, "", "true")
		if err != nil {
			return nil, err
		}
		ms, err := timed(func() error { return start(ctx, s, id) })
		if err != nil {
			return nil, err
		}
		if !more() {
			return v, nil
		}
		v = append(v, ms)
		if err := errors.Join(wait(ctx, s, id), remove(ctx, s, id)); err != nil {
			return nil, err
		}
	}
	return v, nil
}

// verify reads the log's last lines and compares each.
func verify(ctx context.Context, s *side, id string, last int) error {
	r, err := s.open(ctx, http.MethodGet, fmt.Sprintf("/containers/%s/logs?stdout=1&stderr=1&tail=%d", id, last), nil)
	if err != nil {
		return err
	}
	defer r.Close()
	lines := bufio.NewReaderSize(&frames{r: bufio.NewReaderSize(r, 1<<20)}, 1<<20)
	want := make([]byte, lineLength)
	line(want, 0)
	for n := logLines - last; ; n++ {
		got, err := lines.ReadSlice('\n')
		if errors.Is(err, io.EOF) {
			if n != logLines || len(got) > 0 {
				return fmt.Errorf("the log ends after line %d of %d", n, logLines)
			}
			return nil
		}
		if err != nil {
			return err
		}
		for d, v := 8, n; d >= 0; d, v = d-1, v/10 {
			want[d] = byte('0' + v%10)
		}
		if !bytes.Equal(got, want) {
			return fmt.Errorf("line %d of the log is %q", n, got)
		}
	}
}

// frames reads the contents of a multiplexed stream.
type frames struct {
	r    *bufio.Reader
	left uint32
}

func (f *frames) Read(p []byte) (int, error) {
	for f.left == 0 {
		var head [8]byte
		if _, err := io.ReadFull(f.r, head[:]); err != nil {
			return 0, err
		}
		f.left = binary.BigEndian.Uint32(head[4:])
	}
	n, err := f.r.Read(p[:min(uint32(len(p)), f.left)])
	f.left -= uint32(n)
	return n, err
}
