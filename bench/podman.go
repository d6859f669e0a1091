package main

import (
	"bytes"
	"context"
	"fmt"
	"os/exec"
	"path/filepath"
)

// measurePodman is the time of "podman run --rm" of the same image, if podman is installed.
func measurePodman(ctx context.Context, b *bench) ([]result, error) {
	if _, err := exec.LookPath("podman"); err != nil {
		return nil, nil
	}
	dir := "/var/lib/" + prefix + "-podman"
	podman := func(in *bytes.Buffer, args ...string) error {
		cmd := exec.CommandContext(ctx, "podman", append([]string{"--root", filepath.Join(dir, "root"), "--runroot", filepath.Join(dir, "run"), "--cgroup-manager", "cgroupfs"}, args...)...)
		if in != nil {
			cmd.Stdin = in
		}
		if out, err := cmd.CombinedOutput(); err != nil {
			return fmt.Errorf("podman %s: %w: %s", args[0], err, out)
		}
		return nil
	}
	layer, err := imageLayer()
	if err != nil {
		return nil, err
	}
	if err := podman(layer, "import", "-", image); err != nil {
		return nil, err
	}
	defer func() {
		_ = podman(nil, "system", "reset", "--force")
		_ = exec.Command("ip", "link", "del", "cni-podman0").Run() // its network's bridge stays otherwise
	}()
	return one(ctx, row{
		name: "podman", what: "podman run --rm busybox true beside docker run", unit: "ms", rounds: b.rounds, sides: []*side{b.ours(), {name: "podman"}},
		round: func(ctx context.Context, s *side) (float64, error) {
			if s.name == ourName {
				return timed(func() error { return cli(ctx, s, "run", "--rm", image, "true") })
			}
			return timed(func() error {
				return podman(nil, "run", "--rm", "--ulimit", "nofile=1024:1024", "--ulimit", "nproc=1024:1024", image, "true")
			})
		},
	})
}
