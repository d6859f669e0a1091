//go:build root

package compat

import (
	"encoding/json"
	"fmt"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"testing"

	"golang.org/x/sys/unix"

	"stockade/test/harness"
)

// TestLogDriversOfThePeer is the control of test/attack's TestLogDrivers. T-307: asked by an ordinary user, Docker's daemon dials a
// socket of the host as root, with two of its log drivers; asked the same, Stockade refuses and nobody dials.
func TestLogDriversOfThePeer(t *testing.T) {
	s := harness.Get(t)
	kind := chosen(t)
	peer := startPeer(t, s, kind)
	ours := &target{name: "ours", server: s, version: kind.Version, socket: harness.Socket, dial: func() (conn, error) { return s.Dial(s.User) }}
	dir, err := os.MkdirTemp("/run", "stkt-log")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	dialled := make(chan uint32, 16) // uids of who did
	for driver, option := range map[string]string{"syslog": "syslog-address", "fluentd": "fluentd-address"} {
		path := filepath.Join(dir, driver)
		l, err := net.Listen("unix", path)
		if err != nil {
			t.Fatal(err)
		}
		defer l.Close()
		go func() {
			for {
				c, err := l.Accept()
				if err != nil {
					return
				}
				raw, err := c.(*net.UnixConn).SyscallConn()
				if err == nil {
					_ = raw.Control(func(fd uintptr) {
						if cred, err := unix.GetsockoptUcred(int(fd), unix.SOL_SOCKET, unix.SO_PEERCRED); err == nil {
							dialled <- cred.Uid
						}
					})
				}
				c.Close()
			}
		}()
		body := fmt.Sprintf(`{"Image":"busybox","Cmd":["echo","said"],"HostConfig":{"NetworkMode":"none","LogConfig":{"Type":%q,"Config":{%q:"unix://%s"}}}}`, driver, option, path)
		if a, err := ours.answer(post("/containers/create", body)); err != nil || a.Code != http.StatusForbidden {
			t.Errorf("%s here: %v %d %s", driver, err, a.Code, a.Body)
		}
		if len(dialled) > 0 {
			t.Errorf("%s: somebody dialled", driver)
		}
		a, err := peer.answer(post("/containers/create", body))
		if err != nil || a.Code != http.StatusCreated {
			t.Fatalf("control: %s: %v %d %s", driver, err, a.Code, a.Body)
		}
		var made struct{ Id string } //nolint:revive // Docker's name
		if err := json.Unmarshal(a.Body, &made); err != nil {
			t.Fatal(err)
		}
		if _, err := peer.answer(post("/containers/"+made.Id+"/start", "")); err != nil { // the daemon may not like what it hears
			t.Fatal(err)
		}
		harness.Poll(t, "control: the peer to dial", func() (string, bool) { return driver, len(dialled) > 0 })
		for len(dialled) > 0 {
			if uid := <-dialled; uid != 0 {
				t.Errorf("control: uid %d dialled", uid)
			}
		}
	}
}
