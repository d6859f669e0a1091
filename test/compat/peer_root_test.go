//go:build root

package compat

import (
	"bytes"
	"errors"
	"fmt"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"syscall"
	"testing"
	"time"

	"stockade/internal/demoimage"
	"stockade/test/harness"

	"golang.org/x/sys/unix"
)

// debianProgram is what the package docker.io installs. builtFolder is what "make peer" makes, within the source tree.
const (
	debianProgram = "/usr/sbin/dockerd"
	builtFolder   = "bin/peer"
)

type conn = net.Conn

// chosen is the peer that there is. STOCKADE_PEER=debian prefers the older one.
func chosen(t *testing.T) Peer {
	t.Helper()
	if _, err := exec.LookPath("iptables"); err != nil {
		t.Fatalf("the peer needs iptables: %v", err)
	}
	_, err := os.Stat(filepath.Join(harness.Get(t).Repo, builtFolder, "dockerd"))
	if err == nil && os.Getenv("STOCKADE_PEER") != "debian" {
		return Newest
	}
	if _, err := os.Stat(debianProgram); err != nil {
		t.Fatalf("the peer comes from \"make peer\" or Debian's package docker.io: %v", err)
	}
	return Debian
}

// startPeer starts the peer in network and mount namespaces of its own, so that neither its links, rules and mounts nor
// those of Stockade are seen by the other, and stops it with the test.
func startPeer(t *testing.T, s *harness.Server, kind Peer) *target {
	t.Helper()
	// Not t.TempDir: the ordinary user must get to the socket, and the path of a socket is short.
	dir, err := os.MkdirTemp("/run", "stkt-peer")
	if err != nil {
		t.Fatal(err)
	}
	if err := os.Chmod(dir, 0o711); err != nil {
		t.Fatal(err)
	}
	data, err := os.MkdirTemp("/var/lib", "stkt-peer")
	if err != nil {
		t.Fatal(err)
	}
	socket := filepath.Join(dir, "docker.sock")
	if err := os.WriteFile(filepath.Join(dir, "daemon.json"), []byte("{}"), 0o600); err != nil {
		t.Fatal(err)
	}
	log, err := os.Create(filepath.Join(dir, "log"))
	if err != nil {
		t.Fatal(err)
	}
	defer log.Close()
	program, env := debianProgram, os.Environ()
	if kind.Name == Newest.Name {
		built := filepath.Join(s.Repo, builtFolder)
		program, env = filepath.Join(built, "dockerd"), append(env, "PATH="+built+":"+os.Getenv("PATH"))
	}
	// The shell brings loopback up, and becomes the daemon. It starts its own containerd, which it finds in PATH.
	cmd := exec.Command("/bin/sh", "-c", `ip link set lo up && exec "$0" "$@"`, program, "--data-root", data,
		"--exec-root", filepath.Join(dir, "exec"), "--pidfile", filepath.Join(dir, "pid"), "--host", "unix://"+socket,
		"--group", "stockade", "--config-file", filepath.Join(dir, "daemon.json"))
	cmd.Env = env
	cmd.Stdout, cmd.Stderr = log, log
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true, Unshareflags: syscall.CLONE_NEWNET | syscall.CLONE_NEWNS}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := cmd.Process.Signal(unix.SIGTERM); err != nil {
			t.Errorf("stop the peer: %v", err)
		}
		ended := make(chan error, 1)
		go func() { ended <- cmd.Wait() }()
		select {
		case <-ended:
		case <-time.After(harness.Patience):
			t.Errorf("the peer does not stop: %v", cmd.Process.Kill())
			<-ended
		}
		if err := errors.Join(removeTree(dir), removeTree(data)); err != nil {
			t.Error(err)
		}
	})
	on := &target{name: "the peer", server: s, version: kind.Version, socket: socket, dial: func() (conn, error) { return harness.DialAs(socket, s.User) },
		places: map[string]string{socket: "<socket>", data: "<data>"}}
	harness.Poll(t, "the peer", func() (string, bool) {
		a, err := on.answer(get("/_ping"))
		if err != nil {
			text, _ := os.ReadFile(filepath.Join(dir, "log"))
			return err.Error() + "\n" + string(text), false
		}
		return fmt.Sprint(a.Code), a.Code == http.StatusOK
	})
	var archive bytes.Buffer
	if err := demoimage.WriteDemo(&archive); err != nil {
		t.Fatal(err)
	}
	if a, err := on.answer(post("/images/load", "").with(archive.Bytes())); err != nil || a.Code != http.StatusOK {
		t.Fatalf("load images into the peer: %v %+v", err, a)
	}
	return on
}

// removeTree removes a folder in which a namespace that is just ending may still have mounts.
func removeTree(dir string) error {
	var err error
	for end := time.Now().Add(10 * time.Second); time.Now().Before(end); time.Sleep(50 * time.Millisecond) {
		if err = os.RemoveAll(dir); err == nil {
			return nil
		}
		// Namespaces that the daemon pinned are mounts in its own mount namespace, seen nowhere else.
	}
	return err
}
