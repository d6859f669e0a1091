package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// Where the Stockade under measurement is.
const (
	ourData   = "/var/lib/" + prefix
	ourBin    = "/var/lib/" + prefix + "-bin" // programs, copied to where every user can reach them
	ourRun    = "/run/" + prefix
	ourConfig = ourBin + "/stockade.toml"
	ourGroup  = prefix + "-server"
)

// settings keep it apart from a production server and from those of tests. Logs have no limit, as those of the peers.
const settings = `data = "` + ourData + `"
run = "` + ourRun + `"
bin = "` + ourBin + `"
cgroup_parent = "` + prefix + `"
[ids]
first = 1996488704
count = 16777216
[network]
prefix = "` + prefix + `"
pool = "10.236.0.0/16"
[limits]
log_mib = 0
`

// startStockade starts a private server of the programs in bin.
func startStockade(ctx context.Context, bin string) (*side, error) {
	if err := os.Mkdir(ourBin, 0o755); err != nil {
		return nil, err
	}
	programs, err := filepath.Glob(filepath.Join(bin, "stockade*"))
	if err != nil {
		return nil, err
	}
	for _, p := range append(programs, filepath.Join(bin, "runc")) {
		if err := copyProgram(p, filepath.Join(ourBin, filepath.Base(p))); err != nil {
			return nil, fmt.Errorf("%w (make build tools)", err)
		}
	}
	if err := os.WriteFile(ourConfig, []byte(settings), 0o644); err != nil {
		return nil, err
	}
	if err := makeGroup(ourGroup); err != nil {
		return nil, err
	}
	// In memory, as /run is on most hosts; the peers have a /run of their own that is.
	if err := os.Mkdir(ourRun, 0o755); err != nil {
		return nil, err
	}
	if err := unix.Mount(prefix, ourRun, "tmpfs", unix.MS_NOSUID|unix.MS_NODEV, "mode=755"); err != nil {
		return nil, fmt.Errorf("mount the run folder: %w", err)
	}
	up, err := spawn(ourGroup, ourBin+"/server.log", filepath.Join(ourBin, "stockade"), "up", "--config", ourConfig)
	if err != nil {
		return nil, err
	}
	s := &side{name: ourName, host: ourRun + "/docker.sock", group: ourGroup, parent: prefix, program: "stockade-engine"}
	s.down = func() error {
		err := errors.Join(removeAll(ctx, s), exec.Command(filepath.Join(ourBin, "stockade"), "down", "--config", ourConfig).Run())
		_ = up.Wait()
		return err
	}
	s.pids = func() ([]int, []int, error) {
		server, err := members(ourGroup, false)
		waiting, werr := members(prefix, true) // stubs that wait in containers' control groups
		server = append(server, named(waiting, "stockade-shim")...)
		return server, named(server, "stockade-shim"), errors.Join(err, werr)
	}
	s.again = func(context.Context) error { return nil } // the supervisor does
	out, err := exec.CommandContext(ctx, filepath.Join(ourBin, "stockade"), "status", "--wait", "60s", "--config", ourConfig).CombinedOutput()
	if err != nil {
		text, _ := os.ReadFile(ourBin + "/server.log")
		return nil, errors.Join(fmt.Errorf("%w: %s\n%s", err, out, text), s.down())
	}
	return s, nil
}

// spawn starts a program in a control group and a session of its own.
func spawn(group, logFile, program string, args ...string) (*exec.Cmd, error) {
	log, err := os.OpenFile(logFile, os.O_WRONLY|os.O_CREATE|os.O_APPEND, 0o600)
	if err != nil {
		return nil, err
	}
	defer log.Close()
	// The shell enters the control group first, so that nothing that the program starts is outside.
	cmd := exec.Command("/bin/sh", append([]string{"-c", `echo $$ >` + accounting + "/" + group + `/cgroup.procs && exec "$0" "$@"`, program}, args...)...)
	cmd.Stdout, cmd.Stderr = log, log
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	return cmd, cmd.Start()
}

func copyProgram(from, to string) error {
	in, err := os.Open(from)
	if err != nil {
		return err
	}
	defer in.Close()
	out, err := os.OpenFile(to, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o755)
	if err != nil {
		return err
	}
	_, err = io.Copy(out, in)
	return errors.Join(err, out.Close())
}

func executable(path string) bool {
	st, err := os.Stat(path)
	return err == nil && st.Mode()&0o111 != 0
}

// pidOf is the pid of a container's first process.
func pidOf(ctx context.Context, s *side, id string) (int, error) {
	var c struct{ State struct{ Pid int } }
	err := api(ctx, s, "GET", "/containers/"+id+"/json", nil, &c)
	return c.State.Pid, err
}

// address finds a running container's address.
func address(ctx context.Context, s *side, id string) (string, error) {
	var c struct {
		NetworkSettings struct {
			Networks map[string]struct{ IPAddress string }
		}
	}
	if err := api(ctx, s, "GET", "/containers/"+id+"/json", nil, &c); err != nil {
		return "", err
	}
	for _, n := range c.NetworkSettings.Networks {
		return n.IPAddress, nil
	}
	b, _ := json.Marshal(c)
	return "", fmt.Errorf("no address in %s", b)
}

func median(v []float64) float64 {
	v = slices.Sorted(slices.Values(v))
	return v[len(v)/2]
}

// timed is how many ms f takes.
func timed(f func() error) (float64, error) {
	t := time.Now()
	err := f()
	return float64(time.Since(t).Microseconds()) / 1000, err
}
