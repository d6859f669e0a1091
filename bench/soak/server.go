package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// The server of our own. Its ids lie behind those of a production server and of the tests.
const (
	own       = "stks"
	ownData   = "/var/lib/" + own
	ownRun    = "/run/" + own
	ownBin    = "/var/lib/" + own + "-bin" // programs, copied to where every user can reach them
	ownSocket = ownRun + "/docker.sock"
	ownConfig = ownBin + "/stockade.toml"
	ownLog    = ownBin + "/server.log"
	settings  = `data = "` + ownData + `"
run = "` + ownRun + `"
bin = "` + ownBin + `"
cgroup_parent = "` + own + `"
[ids]
first = 1929379840
count = 16777216
[network]
prefix = "` + own + `"
pool = "10.232.0.0/16"
`
)

// startServer starts a server; end, which is never nil, takes it down and removes everything of it, its log excepted.
func startServer(ctx context.Context, bin string) (end func() error, err error) {
	end = func() error { return nil }
	// An earlier run may have been killed.
	if _, err := os.Stat(ownRun); err == nil {
		if err := down(); err != nil {
			return end, fmt.Errorf("take down what an earlier run left: %w", err)
		}
	}
	if err := errors.Join(os.RemoveAll(ownRun), os.RemoveAll(ownData), os.RemoveAll(ownBin), os.Mkdir(ownBin, 0o755), os.Chmod(ownBin, 0o755)); err != nil {
		return end, err
	}
	programs, err := filepath.Glob(filepath.Join(bin, "stockade*"))
	if err != nil || len(programs) == 0 {
		return end, fmt.Errorf("no programs in %s: make build (%v)", bin, err)
	}
	if err := exec.CommandContext(ctx, "cp", append(append([]string{"--"}, programs...), filepath.Join(bin, "runc"), ownBin)...).Run(); err != nil {
		return end, fmt.Errorf("copy programs from %s: %w", bin, err)
	}
	if err := os.WriteFile(ownConfig, []byte(settings), 0o644); err != nil {
		return end, err
	}
	log, err := os.Create(ownLog)
	if err != nil {
		return end, err
	}
	defer log.Close()
	cmd := exec.Command(filepath.Join(ownBin, "stockade"), "up", "--config", ownConfig)
	cmd.Stdout, cmd.Stderr = log, log
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true} // a terminal's interrupt is for us
	if err := cmd.Start(); err != nil {
		return end, err
	}
	end = func() error {
		_ = cmd.Process.Signal(unix.SIGTERM)
		if err := cmd.Wait(); err != nil {
			return fmt.Errorf("the supervisor ended with %w: see %s", err, ownLog)
		}
		return errors.Join(os.RemoveAll(ownRun), os.RemoveAll(ownData))
	}
	wait := exec.CommandContext(ctx, filepath.Join(ownBin, "stockade"), "status", "--wait", time.Minute.String(), "--config", ownConfig)
	if out, err := wait.CombinedOutput(); err != nil {
		return end, fmt.Errorf("%w: %s: see %s", err, out, ownLog)
	}
	return end, nil
}

func down() error {
	out, err := exec.Command(filepath.Join(ownBin, "stockade"), "down", "--config", ownConfig).CombinedOutput()
	if err != nil {
		return fmt.Errorf("stockade down: %w: %s", err, out)
	}
	return nil
}
