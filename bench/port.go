package main

import (
	"context"
	"fmt"
	"net"
	"os"
	"os/exec"
	"slices"
	"strings"
	"time"
)

// sink swallows what it gets on a port, for ever.
func sink(listen string) {
	l, err := net.Listen("tcp", listen)
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	for {
		c, err := l.Accept()
		if err != nil {
			return
		}
		go func() {
			defer c.Close()
			buf := make([]byte, 256<<10)
			for {
				if _, err := c.Read(buf); err != nil {
					return
				}
			}
		}()
	}
}

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

// portThroughput compares a published port with a plain veth pair into a network namespace, in alternating slices.
func portThroughput(ctx context.Context, s side, only string) error {
	if only != "" && !slices.Contains(strings.Split(only, ","), "port") {
		return nil
	}
	const ns, out, in = "stkb-peer", "stkb0", "stkb1"
	ip := func(args ...string) error {
		if text, err := exec.CommandContext(ctx, "ip", args...).CombinedOutput(); err != nil {
			return fmt.Errorf("ip %v: %w: %s", args, err, text)
		}
		return nil
	}
	if err := ip("netns", "add", ns); err != nil {
		return err
	}
	defer func() { _ = exec.Command("ip", "netns", "del", ns).Run() }()
	for _, args := range [][]string{
		{"link", "add", out, "type", "veth", "peer", "name", in, "netns", ns},
		{"addr", "add", "198.18.77.1/24", "dev", out}, {"link", "set", out, "up"},
		{"-n", ns, "addr", "add", "198.18.77.2/24", "dev", in}, {"-n", ns, "link", "set", in, "up"},
	} {
		if err := ip(args...); err != nil {
			return err
		}
	}
	self, err := os.Executable()
	if err != nil {
		return err
	}
	plain := exec.Command("nsenter", "--net=/var/run/netns/"+ns, self, "sink", "198.18.77.2:5001")
	if err := plain.Start(); err != nil {
		return err
	}
	defer func() { _ = plain.Process.Kill(); _ = plain.Wait() }()
	if err := cli(ctx, s, "run", "-d", "--name", "bench-sink", "-p", "127.0.0.1:35001:5001", image, "bench", "sink", ":5001"); err != nil {
		return err
	}
	defer func() { _ = removeAll(context.WithoutCancel(ctx), s) }()
	direct, err := address(ctx, s, "bench-sink")
	if err != nil {
		return err
	}
	var veth, published, bridged []float64
	for range 21 {
		for _, m := range []struct {
			to   string
			into *[]float64
		}{{"198.18.77.2:5001", &veth}, {"127.0.0.1:35001", &published}, {direct + ":5001", &bridged}} {
			v, err := pour(m.to, 400*time.Millisecond)
			if err != nil {
				return fmt.Errorf("pour to %s: %w", m.to, err)
			}
			*m.into = append(*m.into, v)
		}
	}
	a, b, c := median(published), median(veth), median(bridged)
	fmt.Printf("port: published %.0f MB/s, container address %.0f MB/s, plain veth pair %.0f MB/s, published/veth %.2f (bar ≥ 0.90)\n", a, c, b, a/b)
	return nil
}
