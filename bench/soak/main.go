// Command soak uses a server for a while as several people would, and shows what it costs over time: operations and their
// latency, errors, memory, descriptors, threads, and everything on the host that could be left over.
//
// It needs root, to read other processes' memory and descriptors. With -host it drives a server that runs already and that
// nobody else may use meanwhile; without, it starts one with folders, links, control groups and ids of its own (prefix
// stks) from the programs in -bin, and takes it down at the end.
//
// At the end of each interval the clients pause until the server is at rest; only then is it measured, so that work in
// flight is no growth. The exit code is 1 when the last third of the samples shows more than the first third, or when an
// operation failed.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"path/filepath"
	"syscall"
	"time"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	if err := run(ctx); err != nil {
		fmt.Fprintln(os.Stderr, "soak:", err)
		os.Exit(1)
	}
}

func run(ctx context.Context) (err error) {
	host := flag.String("host", "", "socket of a running server; empty: start one")
	bin := flag.String("bin", "bin", "folder of the programs of the server that is started")
	prefix := flag.String("prefix", "stk", "prefix of the links of the server at -host")
	parent := flag.String("cgroup", "stk", "parent of the control groups of the server at -host")
	data := flag.String("data", "/var/lib/stockade", "data folder of the server at -host")
	minutes := flag.Float64("minutes", 10, "how long")
	interval := flag.Duration("interval", 20*time.Second, "time between samples")
	clients := flag.Int("clients", 4, "how many clients work at once")
	seed := flag.Uint64("seed", uint64(time.Now().UnixNano()), "seed of the order of operations")
	flag.Parse()
	if os.Getuid() != 0 {
		return errors.New("needs root, to read memory and descriptors of other processes")
	}
	place := place{prefix: *prefix, cgroup: *parent, data: *data}
	if *host == "" {
		end, serr := startServer(ctx, *bin)
		defer func() { err = errors.Join(err, end()) }()
		if serr != nil {
			return serr
		}
		*host, place.prefix, place.cgroup, place.data = ownSocket, own, own, ownData
	}
	place.run = filepath.Dir(*host)
	fmt.Printf("soak: %v minutes, %d clients, seed %d\n", *minutes, *clients, *seed)
	s := newSoak(*host, *seed)
	if err := s.prepare(ctx); err != nil {
		return fmt.Errorf("prepare: %w", err)
	}
	defer func() { err = errors.Join(err, s.finish(context.WithoutCancel(ctx))) }()
	w := s.work(*clients)
	var samples []sample
	for began := time.Now(); time.Since(began).Minutes() < *minutes && ctx.Err() == nil; {
		w.resume()
		select {
		case <-time.After(*interval):
		case <-ctx.Done():
		}
		w.pause()
		one, err := s.measure(ctx, place)
		if err != nil && ctx.Err() == nil {
			return fmt.Errorf("measure: %w", err)
		}
		if ctx.Err() != nil {
			break
		}
		one.at = time.Since(began)
		samples = append(samples, one)
		s.ops.printInterval(os.Stdout, one.at, *interval)
		one.print(os.Stdout)
	}
	w.end()
	s.ops.printTotal(os.Stdout)
	printCurves(os.Stdout, samples)
	return errors.Join(judge(samples), s.ops.failed())
}
