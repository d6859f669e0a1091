package main

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"time"
)

// pour sends for a while and returns MB/s.
func pour(address string, d time.Duration) (float64, error) {
	var c net.Conn
	var err error
	for range 100 {
		if c, err = net.DialTimeout("tcp", address, time.Second); err == nil {
			break
		}
		time.Sleep(50 * time.Millisecond)
	}
	if err != nil {
		return 0, err
	}
	defer c.Close()
	buf := make([]byte, 256<<10)
	start, n := time.Now(), 0
	_ = c.SetDeadline(start.Add(d + 5*time.Second))
	for time.Since(start) < d {
		k, err := c.Write(buf)
		n += k
		if err != nil {
			return 0, err
		}
	}
	return float64(n) / 1e6 / time.Since(start).Seconds(), nil
}

// measurePort compares a published port with a plain veth pair into a network namespace, in alternating slices.
func measurePort(ctx context.Context, b *bench) (_ []result, err error) {
	const ns, out, in = prefix + "-veth", prefix + "o", prefix + "i"
	s := b.ours()
	ip := func(args ...string) error {
		if text, err := exec.CommandContext(ctx, "ip", args...).CombinedOutput(); err != nil {
			return fmt.Errorf("ip %v: %w: %s", args, err, text)
		}
		return nil
	}
	_ = exec.Command("ip", "netns", "del", ns).Run() // of a killed run
	if err := ip("netns", "add", ns); err != nil {
		return nil, err
	}
	defer func() { _ = exec.Command("ip", "netns", "del", ns).Run() }()
	for _, args := range [][]string{
		{"link", "add", out, "type", "veth", "peer", "name", in, "netns", ns},
		{"addr", "add", "198.18.77.1/24", "dev", out}, {"link", "set", out, "up"},
		{"-n", ns, "addr", "add", "198.18.77.2/24", "dev", in}, {"-n", ns, "link", "set", in, "up"},
	} {
		if err := ip(args...); err != nil {
			return nil, err
		}
	}
	self, err := os.Executable()
	if err != nil {
		return nil, err
	}
	plain := exec.Command("nsenter", "--net=/var/run/netns/"+ns, self, "sink", "198.18.77.2:5001")
	if err := plain.Start(); err != nil {
		return nil, err
	}
	defer func() { _ = plain.Process.Kill(); _ = plain.Wait() }()
	if err := cli(ctx, s, "run", "-d", "--name", "bench-sink", "-p", "127.0.0.1:35001:5001", image, "bench", "sink", ":5001"); err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, removeAll(ctx, s)) }()
	direct, err := address(ctx, s, "bench-sink")
	if err != nil {
		return nil, err
	}
	const veth, bridged = "veth", "container-address"
	where := map[string]string{veth: "198.18.77.2:5001", ourName: "127.0.0.1:35001", bridged: direct + ":5001"}
	return one(ctx, row{
		name: "port", what: "published port beside a plain veth pair", unit: "MB/s", bars: []bar{{against: veth, least: 0.9}}, rounds: 21,
		sides: []*side{{name: veth}, {name: ourName}, {name: bridged}},
		round: func(_ context.Context, s *side) (float64, error) {
			v, err := pour(where[s.name], 400*time.Millisecond)
			if err != nil {
				return 0, fmt.Errorf("pour to %s: %w", where[s.name], err)
			}
			return v, nil
		},
	})
}
