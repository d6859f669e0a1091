// Command bench measures Stockade beside a peer dockerd: same machine, same run, alternating order. Only ratios mean
// something; absolute times belong to the machine and the hour.
//
// It needs root, a running server (see -host), Debian's docker.io as the peer (started here with folders of its own and
// stopped again), and sends traffic to this machine only.
package main

import (
	"context"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"os/signal"
	"slices"
	"strings"
	"syscall"
	"text/tabwriter"
	"time"
)

// side is one server under measurement.
type side struct {
	name string
	host string // socket path
	pids func() []int
}

// row is one measurement: a function returns the value of one round, lower is better unless higher is set.
type row struct {
	name   string
	unit   string
	bar    float64 // wanted ratio, 0: none
	higher bool
	rounds int
	setup  func(ctx context.Context, s side) error
	round  func(ctx context.Context, s side) (float64, error)
	finish func(ctx context.Context, s side) error
}

func main() {
	if len(os.Args) > 1 && os.Args[1] == "sink" {
		sink(os.Args[2])
		return
	}
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	if err := run(ctx); err != nil {
		fmt.Fprintln(os.Stderr, "bench:", err)
		os.Exit(1)
	}
}

func run(ctx context.Context) error {
	host := flag.String("host", "/run/stockade/docker.sock", "Stockade's socket")
	dockerd := flag.String("dockerd", "dockerd", "the peer's program")
	cli := flag.String("docker", "docker", "docker CLI")
	rounds := flag.Int("rounds", 15, "rounds of each measurement")
	only := flag.String("only", "", "names of rows, separated by commas")
	flag.Parse()
	if os.Getuid() != 0 {
		return fmt.Errorf("needs root, to start the peer and to read memory of other processes")
	}
	docker = *cli
	if *only == "port" {
		s := side{name: "stockade", host: *host}
		if err := loadImage(ctx, s); err != nil {
			return err
		}
		return portThroughput(ctx, s, *only)
	}
	peer, end, err := startPeer(ctx, *dockerd)
	if err != nil {
		return err
	}
	defer end()
	ours := side{name: "stockade", host: *host, pids: func() []int { return pidsNamed("stockade") }}
	for _, s := range []side{ours, peer} {
		if err := loadImage(ctx, s); err != nil {
			return fmt.Errorf("%s: load image: %w", s.name, err)
		}
	}
	w := tabwriter.NewWriter(os.Stdout, 0, 4, 2, ' ', 0)
	fmt.Fprintln(w, "what\tunit\tstockade\tpeer\tratio\tbar\t")
	for _, r := range rows(*rounds) {
		if *only != "" && !slices.Contains(strings.Split(*only, ","), r.name) {
			continue
		}
		a, b, err := measure(ctx, r, ours, peer)
		if err != nil {
			fmt.Fprintf(w, "%s\t%s\terror: %v\t\t\t\t\n", r.name, r.unit, err)
			w.Flush()
			continue
		}
		bar := ""
		if r.bar > 0 {
			sign := "≤"
			if r.higher {
				sign = "≥"
			}
			bar = fmt.Sprintf("%s %.2f", sign, r.bar)
		}
		fmt.Fprintf(w, "%s\t%s\t%.2f\t%.2f\t%.2f\t%s\t\n", r.name, r.unit, a, b, a/b, bar)
		w.Flush()
	}
	if _, err := exec.LookPath("podman"); err == nil && (*only == "" || strings.Contains(*only, "podman")) {
		if ms, err := podmanRun(ctx, *rounds); err != nil {
			fmt.Println("podman: error:", err)
		} else {
			fmt.Printf("podman: run --rm of the same image %.2f ms\n", ms)
		}
	}
	return portThroughput(ctx, ours, *only)
}

// measure alternates the order of the sides from round to round and returns both medians.
func measure(ctx context.Context, r row, ours, peer side) (float64, float64, error) {
	values := map[string][]float64{}
	sides := []side{ours, peer}
	for _, s := range sides {
		if r.setup != nil {
			if err := r.setup(ctx, s); err != nil {
				return 0, 0, fmt.Errorf("%s: %w", s.name, err)
			}
		}
	}
	defer func() {
		for _, s := range sides {
			if r.finish != nil {
				if err := r.finish(context.WithoutCancel(ctx), s); err != nil {
					fmt.Fprintln(os.Stderr, "bench:", s.name, err)
				}
			}
		}
	}()
	for i := range r.rounds {
		if i%2 == 1 {
			slices.Reverse(sides)
		}
		for _, s := range sides {
			v, err := r.round(ctx, s)
			if err != nil {
				return 0, 0, fmt.Errorf("%s: %w", s.name, err)
			}
			values[s.name] = append(values[s.name], v)
		}
		if ctx.Err() != nil {
			return 0, 0, ctx.Err()
		}
	}
	return median(values[ours.name]), median(values[peer.name]), nil
}

func median(v []float64) float64 {
	slices.Sort(v)
	return v[len(v)/2]
}

func timed(f func() error) (float64, error) {
	t := time.Now()
	err := f()
	return float64(time.Since(t).Microseconds()) / 1000, err
}
