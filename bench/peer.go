package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"sync"
	"syscall"
	"time"
)

// peer is one of Docker's own daemons with its containerd, each started as its packages do: containerd beside the daemon,
// without its Kubernetes part, and containers that survive the daemon (--live-restore).
type peer struct {
	name, from          string
	dockerd, containerd string
	path                string // where they find shim, runtime and proxy

	dir    string
	holder *exec.Cmd
	mu     sync.Mutex
	daemon *exec.Cmd
	runs   *exec.Cmd // containerd
}

func peers(bin, system string) []*peer {
	abs, err := filepath.Abs(filepath.Join(bin, "peer"))
	if err != nil {
		abs = bin
	}
	const path = "/usr/sbin:/usr/bin:/sbin:/bin"
	return []*peer{
		{name: name29, from: "make peer", dockerd: filepath.Join(abs, "dockerd"), containerd: filepath.Join(abs, "containerd"), path: abs + ":" + path},
		{name: name20, from: "Debian's docker.io", dockerd: system, containerd: "/usr/bin/containerd", path: path},
	}
}

func (p *peer) group() string  { return prefix + "-" + p.name }
func (p *peer) parent() string { return prefix + "-" + p.name + "-c" }
func (p *peer) hold() string   { return prefix + "-" + p.name + "-ns" }

// start starts the peer in a network and a mount namespace of its own, with a /run of its own: its links, rules and mounts
// end with it. A third process holds the namespaces, so that the daemon can be killed and started again in them.
func (p *peer) start(ctx context.Context) (*side, error) {
	p.dir = "/var/lib/" + prefix + "-" + p.name
	if err := os.Mkdir(p.dir, 0o711); err != nil {
		return nil, err
	}
	for _, g := range []string{p.group(), p.hold()} {
		if err := makeGroup(g); err != nil {
			return nil, err
		}
	}
	s := &side{name: p.name, host: filepath.Join(p.dir, "docker.sock"), group: p.group(), parent: p.parent(), program: "dockerd", again: p.again}
	s.down = func() error { return errors.Join(removeAll(ctx, s), p.stop()) }
	s.pids = func() ([]int, []int, error) {
		server, err := members(p.group(), false)
		return server, named(server, "containerd-shim-runc-v2", "containerd-shim"), err
	}
	config := fmt.Sprintf(`version = 2
root = %q
state = "/run/containerd"
disabled_plugins = ["io.containerd.grpc.v1.cri", "io.containerd.cri.v1.images", "io.containerd.cri.v1.runtime"]
[grpc]
address = "/run/containerd.sock"
`, filepath.Join(p.dir, "containerd"))
	err := errors.Join(os.WriteFile(p.file("containerd.toml"), []byte(config), 0o600), os.WriteFile(p.file("daemon.json"), []byte("{}"), 0o600))
	if err == nil {
		err = p.namespaces(ctx)
	}
	if err == nil {
		p.runs, err = p.within(p.containerd, "--config", p.file("containerd.toml"))
	}
	if err == nil {
		err = p.again(ctx)
	}
	for range 600 {
		if err != nil || ctx.Err() != nil {
			break
		}
		if s.negotiate(ctx) == nil {
			return s, nil
		}
		time.Sleep(100 * time.Millisecond)
	}
	text, _ := os.ReadFile(p.file("log"))
	return nil, errors.Join(err, ctx.Err(), fmt.Errorf("it does not answer: %s", text), p.stop())
}

func (p *peer) file(name string) string { return filepath.Join(p.dir, name) }

// namespaces starts the holder and waits until it is ready.
func (p *peer) namespaces(ctx context.Context) error {
	const script = `mount --make-rprivate / && mount -t tmpfs -o mode=755 none /run && ip link set lo up && echo ready && exec sleep infinity`
	var err error
	if p.holder, err = spawn(p.hold(), p.file("ready"), "unshare", "--net", "--mount", "sh", "-c", script); err != nil {
		return err
	}
	for range 500 {
		if text, _ := os.ReadFile(p.file("ready")); string(text) == "ready\n" {
			return nil
		}
		if ctx.Err() != nil {
			return ctx.Err()
		}
		time.Sleep(10 * time.Millisecond)
	}
	return errors.New("no namespaces of its own")
}

// within starts a program in the peer's namespaces and control group.
func (p *peer) within(program string, args ...string) (*exec.Cmd, error) {
	args = append([]string{"-t", strconv.Itoa(p.holder.Process.Pid), "-m", "-n", "--", "/usr/bin/env", "PATH=" + p.path, program}, args...)
	return spawn(p.group(), p.file("log"), "nsenter", args...)
}

// again starts the daemon, after the former one has ended.
func (p *peer) again(context.Context) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.daemon != nil {
		_ = p.daemon.Wait()
	}
	cmd, err := p.within(p.dockerd, "--data-root", p.file("data"), "--exec-root", "/run/docker", "--pidfile", "/run/docker.pid",
		"--host", "unix://"+p.file("docker.sock"), "--containerd", "/run/containerd.sock", "--config-file", p.file("daemon.json"),
		"--cgroup-parent", "/"+p.parent(), "--live-restore")
	p.daemon = cmd
	return err
}

// stop ends the daemon, containerd and the namespaces' holder, in this order.
func (p *peer) stop() error {
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, cmd := range []*exec.Cmd{p.daemon, p.runs, p.holder} {
		if cmd == nil || cmd.Process == nil {
			continue
		}
		_ = cmd.Process.Signal(syscall.SIGTERM)
		late := time.AfterFunc(20*time.Second, func() { _ = cmd.Process.Kill() })
		_ = cmd.Wait()
		late.Stop()
	}
	return nil
}
