package main

import (
	"archive/tar"
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"time"
)

// startPeer starts a dockerd with folders of its own.
func startPeer(ctx context.Context, program string) (side, func(), error) {
	dir, err := os.MkdirTemp("", "bench-peer")
	if err != nil {
		return side{}, nil, err
	}
	s := side{name: "peer", host: filepath.Join(dir, "docker.sock")}
	log, err := os.Create(filepath.Join(dir, "log"))
	if err != nil {
		return side{}, nil, err
	}
	defer log.Close()
	// In a network namespace of its own, so that its bridge and rules end with it.
	cmd := exec.Command("unshare", "--net", program, "--data-root", filepath.Join(dir, "data"), "--exec-root", filepath.Join(dir, "exec"),
		"--pidfile", filepath.Join(dir, "pid"), "-H", "unix://"+s.host)
	cmd.Stdout, cmd.Stderr = log, log
	if err := cmd.Start(); err != nil {
		os.RemoveAll(dir)
		return side{}, nil, fmt.Errorf("start the peer (Debian's docker.io): %w", err)
	}
	end := func() {
		_ = cmd.Process.Signal(os.Interrupt)
		_ = cmd.Wait()
		_ = os.RemoveAll(dir)
	}
	s.pids = func() []int { return family(cmd.Process.Pid) }
	for range 300 {
		if api(ctx, s, http.MethodGet, "/_ping", nil, nil) == nil {
			return s, end, nil
		}
		time.Sleep(100 * time.Millisecond)
	}
	text, _ := os.ReadFile(filepath.Join(dir, "log"))
	end()
	return side{}, nil, fmt.Errorf("the peer does not answer: %s", text)
}

// imageLayer is busybox and this program as a tar.
func imageLayer() (*bytes.Buffer, error) {
	busybox, err := os.ReadFile("/bin/busybox")
	if err != nil {
		return nil, fmt.Errorf("%w (Debian's busybox-static)", err)
	}
	self, err := os.ReadFile("/proc/self/exe")
	if err != nil {
		return nil, err
	}
	var layer bytes.Buffer
	w := tar.NewWriter(&layer)
	add := func(h tar.Header, data []byte) {
		h.Size = int64(len(data))
		err = errors.Join(err, w.WriteHeader(&h))
		_, werr := w.Write(data)
		err = errors.Join(err, werr)
	}
	for _, d := range []string{"bin/", "etc/", "tmp/", "proc/", "sys/", "dev/"} {
		add(tar.Header{Name: d, Typeflag: tar.TypeDir, Mode: 0o755}, nil)
	}
	add(tar.Header{Name: "bin/busybox", Typeflag: tar.TypeReg, Mode: 0o755}, busybox)
	add(tar.Header{Name: "bin/bench", Typeflag: tar.TypeReg, Mode: 0o755}, self)
	for _, n := range []string{"sh", "true", "sleep", "cat", "echo"} {
		add(tar.Header{Name: "bin/" + n, Typeflag: tar.TypeSymlink, Linkname: "busybox", Mode: 0o777}, nil)
	}
	return &layer, errors.Join(err, w.Close())
}

// loadImage imports the image.
func loadImage(ctx context.Context, s side) error {
	layer, err := imageLayer()
	if err != nil {
		return err
	}
	cmd := exec.CommandContext(ctx, docker, "import", "-", image)
	cmd.Env = []string{"DOCKER_HOST=unix://" + s.host, "PATH=/usr/sbin:/usr/bin:/sbin:/bin", "HOME=/nonexistent"}
	cmd.Stdin = layer
	out, err := cmd.CombinedOutput()
	if err != nil {
		return fmt.Errorf("%w: %s", err, out)
	}
	return nil
}

// podmanRun is the median time of "podman run --rm" of the same image, if podman is installed.
func podmanRun(ctx context.Context, rounds int) (float64, error) {
	dir, err := os.MkdirTemp("", "bench-podman")
	if err != nil {
		return 0, err
	}
	defer os.RemoveAll(dir)
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
		return 0, err
	}
	if err := podman(layer, "import", "-", image); err != nil {
		return 0, err
	}
	defer func() {
		_ = podman(nil, "system", "reset", "--force")
		_ = exec.Command("ip", "link", "del", "cni-podman0").Run() // its network's bridge stays otherwise
	}()
	var v []float64
	for range rounds {
		ms, err := timed(func() error {
			return podman(nil, "run", "--rm", "--ulimit", "nofile=1024:1024", "--ulimit", "nproc=1024:1024", image, "true")
		})
		if err != nil {
			return 0, err
		}
		v = append(v, ms)
	}
	return median(v), nil
}

func children(pid int) []int {
	var list []int
	tasks, _ := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/children", pid))
	for _, t := range tasks {
		data, err := os.ReadFile(t)
		if err != nil {
			continue
		}
		for _, f := range strings.Fields(string(data)) {
			if n, err := strconv.Atoi(f); err == nil {
				list = append(list, n)
			}
		}
	}
	return list
}

// family is a process and its descendants, and those of the peer's shims, which become init's children; processes
// inside containers are left out.
func family(pid int) []int {
	list := []int{pid}
	for _, c := range children(pid) {
		list = append(list, family(c)...)
	}
	if len(list) > 1 {
		list = append(list, pidsNamed("containerd-shim")...)
	}
	return list
}

func pidsNamed(prefix string) []int {
	var list []int
	dirs, _ := filepath.Glob("/proc/[0-9]*")
	for _, d := range dirs {
		exe, err := os.Readlink(d + "/exe")
		if err != nil || !strings.HasPrefix(filepath.Base(exe), prefix) {
			continue
		}
		if n, err := strconv.Atoi(filepath.Base(d)); err == nil {
			list = append(list, n)
		}
	}
	return list
}

// pss adds up proportional set sizes in MB.
func pss(pids []int) (float64, error) {
	if len(pids) == 0 {
		return 0, errors.New("no processes")
	}
	seen := map[int]bool{}
	total := 0.0
	for _, pid := range pids {
		if seen[pid] {
			continue
		}
		seen[pid] = true
		f, err := os.Open(fmt.Sprintf("/proc/%d/smaps_rollup", pid))
		if err != nil {
			continue // it ended meanwhile
		}
		sc := bufio.NewScanner(f)
		for sc.Scan() {
			if rest, ok := strings.CutPrefix(sc.Text(), "Pss:"); ok {
				kb, err := strconv.Atoi(strings.Fields(rest)[0])
				if err != nil {
					f.Close()
					return 0, err
				}
				total += float64(kb) / 1024
			}
		}
		f.Close()
	}
	return total, nil
}

// address finds a running container's address.
func address(ctx context.Context, s side, name string) (string, error) {
	var c struct {
		NetworkSettings struct {
			Networks map[string]struct{ IPAddress string }
		}
	}
	if err := api(ctx, s, http.MethodGet, "/containers/"+name+"/json", nil, &c); err != nil {
		return "", err
	}
	for _, n := range c.NetworkSettings.Networks {
		return n.IPAddress, nil
	}
	b, _ := json.Marshal(c)
	return "", fmt.Errorf("no address in %s", b)
}
