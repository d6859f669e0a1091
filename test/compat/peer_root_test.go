//go:build root

package compat

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"syscall"
	"testing"
	"time"

	"stockade/internal/demoimage"
	"stockade/test/harness"

	"golang.org/x/sys/unix"
)

const peerProgram = "/usr/sbin/dockerd"

type conn = net.Conn

// startPeer starts the peer in network and mount namespaces of its own, so that neither its links, rules and mounts nor
// those of Stockade are seen by the other, and stops it with the test.
func startPeer(t *testing.T, s *harness.Server) *target {
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
	// The shell brings loopback up, and becomes the daemon.
	cmd := exec.Command("/bin/sh", "-c", `ip link set lo up && exec "$0" "$@"`, peerProgram, "--data-root", data,
		"--exec-root", filepath.Join(dir, "exec"), "--pidfile", filepath.Join(dir, "pid"), "--host", "unix://"+socket,
		"--group", "stockade", "--config-file", filepath.Join(dir, "daemon.json"))
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
	on := &target{name: "the peer", server: s, socket: socket, dial: func() (conn, error) { return harness.DialAs(socket, s.User) },
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

// request makes one call of the API, on a connection of its own.
func (on *target) request(ctx context.Context, s Step) (Answer, error) {
	c, err := on.dial()
	if err != nil {
		return Answer{}, err
	}
	defer c.Close()
	if deadline, ok := ctx.Deadline(); ok {
		if err := c.SetDeadline(deadline); err != nil {
			return Answer{}, err
		}
	}
	var head bytes.Buffer
	fmt.Fprintf(&head, "%s %s HTTP/1.1\r\nHost: docker\r\n", s.Method, s.Target())
	body := []byte(s.Body)
	if s.Input != nil && !s.Hijack {
		body = s.Input
	}
	if s.Type != "" {
		head.WriteString("Content-Type: " + s.Type + "\r\n")
	}
	if s.Hijack {
		head.WriteString("Connection: Upgrade\r\nUpgrade: tcp\r\n")
	}
	if s.Method != "GET" && s.Method != "HEAD" {
		head.WriteString("Content-Length: " + strconv.Itoa(len(body)) + "\r\n")
	}
	head.WriteString("\r\n")
	if _, err := c.Write(append(head.Bytes(), body...)); err != nil {
		return Answer{}, err
	}
	r := bufio.NewReader(c)
	resp, err := http.ReadResponse(r, &http.Request{Method: s.Method})
	if err != nil {
		return Answer{}, err
	}
	defer resp.Body.Close()
	from := io.Reader(resp.Body)
	if resp.StatusCode == http.StatusSwitchingProtocols {
		if _, err := c.Write(s.Input); err != nil {
			return Answer{}, err
		}
		if half, ok := c.(interface{ CloseWrite() error }); ok {
			if err := half.CloseWrite(); err != nil {
				return Answer{}, err
			}
		}
		from = r
	}
	text, err := io.ReadAll(from)
	if err != nil {
		return Answer{}, fmt.Errorf("read answer: %w", err)
	}
	return Answer{Code: resp.StatusCode, Type: resp.Header.Get("Content-Type"), Body: append([]byte{}, text...)}, nil
}
