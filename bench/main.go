// Command bench measures Stockade beside Docker's own daemons: same machine, same run, alternating order. Only ratios mean
// something; absolute times belong to the machine and the hour.
//
// It needs root and cgroup v1, starts every server itself with folders, control groups and network of its own, sends
// traffic to this machine only, and takes everything down again, also when it is interrupted; what a killed run left is
// removed by the next one.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"slices"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

func main() {
	if len(os.Args) > 2 && inside(os.Args[1], os.Args[2]) {
		return
	}
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM, syscall.SIGHUP)
	defer stop()
	if err := run(ctx); err != nil {
		fmt.Fprintln(os.Stderr, "bench:", err)
		os.Exit(1)
	}
}

// bench is one run.
type bench struct {
	servers []*side // Stockade first
	rounds  int
	bin     string // folder of the built programs
}

func (b *bench) ours() *side { return b.servers[0] }

func run(ctx context.Context) (err error) {
	b := &bench{}
	only := flag.String("only", "", "names of measurements, separated by commas; see -list")
	without := flag.String("without", "", "peers to leave out: dockerd29, docker20")
	list := flag.Bool("list", false, "print the names of the measurements")
	flag.IntVar(&b.rounds, "rounds", 15, "rounds of each alternating measurement")
	flag.StringVar(&b.bin, "bin", "bin", "folder of the built programs")
	flag.StringVar(&docker, "docker", "docker", "docker CLI; one that speaks to every peer")
	system := flag.String("dockerd", "/usr/sbin/dockerd", "the distribution's daemon")
	flag.Parse()
	if *list {
		for _, m := range measurements {
			fmt.Printf("%s\t%s\n", m.name, m.what)
		}
		return nil
	}
	if os.Getuid() != 0 {
		return errors.New("needs root, to start the servers and to read memory of other processes")
	}
	chosen, err := choose(*only)
	if err != nil {
		return err
	}
	unlock, err := lock()
	if err != nil {
		return err
	}
	defer unlock()
	if err := sweep(); err != nil {
		return fmt.Errorf("remove what an earlier run left: %w", err)
	}
	defer func() {
		for _, s := range slices.Backward(b.servers) {
			err = errors.Join(err, s.down())
		}
		err = errors.Join(err, sweep())
	}()
	if err := b.start(ctx, *system, strings.Split(*without, ",")); err != nil {
		return err
	}
	t := newTable(b.servers)
	for _, m := range chosen {
		began := time.Now()
		results, err := m.run(ctx, b)
		for _, r := range results {
			t.add(r)
		}
		if ctx.Err() != nil {
			return errors.Join(ctx.Err(), t.end())
		}
		if err != nil {
			t.failed(m.name, err)
		}
		fmt.Fprintf(os.Stderr, "bench: %s took %.0f s\n", m.name, time.Since(began).Seconds())
	}
	return t.end()
}

// lock keeps two runs from taking each other down.
func lock() (func(), error) {
	f, err := os.OpenFile("/run/stockade-bench.lock", os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return nil, err
	}
	if err := unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB); err != nil {
		return nil, fmt.Errorf("another bench runs: %w", err)
	}
	return func() { _ = f.Close() }, nil
}

// start starts every server and loads the image.
func (b *bench) start(ctx context.Context, system string, without []string) error {
	s, err := startStockade(ctx, b.bin)
	if err != nil {
		return fmt.Errorf("start Stockade: %w", err)
	}
	b.servers = append(b.servers, s)
	for _, p := range peers(b.bin, system) {
		if slices.Contains(without, p.name) {
			continue
		}
		if !executable(p.dockerd) {
			fmt.Fprintf(os.Stderr, "bench: %s is left out: no %s (%s)\n", p.name, p.dockerd, p.from)
			continue
		}
		s, err := p.start(ctx)
		if err != nil {
			return fmt.Errorf("start %s: %w", p.name, err)
		}
		b.servers = append(b.servers, s)
	}
	for _, s := range b.servers {
		if err := errors.Join(s.negotiate(ctx), importImage(ctx, s)); err != nil {
			return fmt.Errorf("%s: %w", s.name, err)
		}
		s.since = time.Now()
	}
	return nil
}

// choose finds measurements by name; "" means all.
func choose(names string) ([]measurement, error) {
	if names == "" {
		return measurements, nil
	}
	var out []measurement
	for _, n := range strings.Split(names, ",") {
		i := slices.IndexFunc(measurements, func(m measurement) bool { return m.name == n })
		if i < 0 {
			return nil, fmt.Errorf("no measurement %q; -list prints them", n)
		}
		out = append(out, measurements[i])
	}
	return out, nil
}
