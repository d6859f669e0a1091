//go:build root

package attack

import (
	"bufio"
	"fmt"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"

	"stockade/test/harness"
)

// owner is uid and gid of a file.
func owner(fi os.FileInfo) string {
	st := fi.Sys().(*syscall.Stat_t)
	return fmt.Sprintf("%d:%d", st.Uid, st.Gid)
}

// T-103: the sockets are for whom they are meant, and stay the first server's.
func TestSocketFiles(t *testing.T) {
	s := harness.Get(t)
	demo, outsider := s.User, s.Outsider
	gate, engine := harness.Lookup(t, "stockade-gate"), harness.Lookup(t, "stockade-engine")
	may := map[string]harness.User{ // who may connect besides root; nobody else
		"docker.sock":           demo,
		"engine.sock":           gate,
		"priv/grantd-gate.sock": gate,
		"priv/mountd.sock":      engine, "priv/netd.sock": engine, "priv/cgroupd.sock": engine, "priv/grantd-engine.sock": engine,
	}
	found := 0
	must(t, filepath.WalkDir(harness.Run, func(path string, d fs.DirEntry, err error) error {
		if err != nil || d.Type() != fs.ModeSocket {
			return err
		}
		name, _ := filepath.Rel(harness.Run, path)
		if strings.HasPrefix(name, "engine/") { // shims' own, in a folder of the engine's
			return nil
		}
		found++
		for _, u := range []harness.User{demo, outsider, gate, engine, {Name: "nobody", UID: 65534, GID: 65534}} {
			err := harness.As(u, func() error {
				kind := unix.SOCK_STREAM
				if strings.HasPrefix(name, "priv/") {
					kind = unix.SOCK_SEQPACKET
				}
				fd, err := unix.Socket(unix.AF_UNIX, kind|unix.SOCK_CLOEXEC, 0)
				if err != nil {
					return err
				}
				defer unix.Close(fd)
				return unix.Connect(fd, &unix.SockaddrUnix{Name: path})
			})
			allowed := may[name].Name == u.Name
			if allowed && err != nil {
				t.Errorf("control: %s cannot connect to %s: %v", u.Name, name, err)
			}
			if !allowed && err != unix.EACCES {
				t.Errorf("%s connects to %s: %v", u.Name, name, err)
			}
		}
		return nil
	}))
	if found != len(may) {
		t.Errorf("%d sockets, want %d", found, len(may))
	}
	before, err := os.Stat(harness.Socket)
	must(t, err)
	if got := before.Mode().Perm(); got != 0o660 {
		t.Errorf("mode of the API socket: %o", got)
	}
	if out, err := s.Stockade("up"); err == nil {
		t.Errorf("a second server was started: %s", out)
	}
	after, err := os.Stat(harness.Socket)
	must(t, err)
	if !os.SameFile(before, after) {
		t.Error("the second server took the socket's place")
	}
	if r := s.API(t, demo, "GET", "/_ping", nil); r.Status != 200 {
		t.Errorf("after the second server: %+v", r)
	}
}

// inodes returns the socket inodes that processes hold.
func inodes(t *testing.T, pids []int) map[string]int {
	t.Helper()
	held := map[string]int{}
	for _, pid := range pids {
		dir := fmt.Sprintf("/proc/%d/fd", pid)
		entries, err := os.ReadDir(dir)
		if os.IsNotExist(err) {
			continue // a shim that ended meanwhile
		}
		must(t, err)
		for _, e := range entries {
			link, err := os.Readlink(filepath.Join(dir, e.Name()))
			if err == nil && strings.HasPrefix(link, "socket:[") {
				held[strings.Trim(link, "socket:[]")] = pid
			}
		}
	}
	return held
}

// serverPIDs are all processes of the server: the supervisor and its children, and the engine's in U.
func serverPIDs(t *testing.T, s *harness.Server) []int {
	t.Helper()
	st, err := s.Status()
	must(t, err)
	var pids []int
	for _, p := range st.Processes {
		pids = append(pids, p.PID)
	}
	for _, entry := range s.Census(t)[harness.KindShims] { // "name(pid) uid …"
		_, rest, _ := strings.Cut(entry, "(")
		number, _, _ := strings.Cut(rest, ")")
		pid, err := strconv.Atoi(number)
		must(t, err)
		pids = append(pids, pid)
	}
	return pids
}

// listening returns the processes of pids with abstract Unix sockets or listening TCP sockets.
func listening(t *testing.T, pids []int) []string {
	t.Helper()
	held := inodes(t, pids)
	var found []string
	for _, name := range []string{"unix", "tcp", "tcp6"} {
		data, err := os.ReadFile("/proc/net/" + name)
		must(t, err)
		for line := range strings.Lines(string(data)) {
			f := strings.Fields(line)
			switch {
			case name == "unix" && len(f) > 7 && strings.HasPrefix(f[7], "@"):
				if pid, ok := held[f[6]]; ok {
					found = append(found, fmt.Sprintf("process %d: abstract socket %s", pid, f[7]))
				}
			case name != "unix" && len(f) > 9 && f[3] == "0A":
				if pid, ok := held[f[9]]; ok {
					found = append(found, fmt.Sprintf("process %d: listens on %s", pid, f[1]))
				}
			}
		}
	}
	return found
}

// T-103, T-101: nothing listens where file modes do not protect it (CVE-2020-15257), nor where a network can reach it.
func TestNoOpenListeners(t *testing.T) {
	s := harness.Get(t)
	id := s.Must(t, "run", "-d", "-p", "127.0.0.1::80", "busybox", "sleep", "1000")
	t.Cleanup(func() { s.Must(t, "rm", "-f", id) })
	pids := serverPIDs(t, s)
	if len(pids) < 8 {
		t.Errorf("only %d processes", len(pids))
	}
	for _, l := range listening(t, pids) {
		if !strings.Contains(l, "0100007F:") { // netd holds the published port, which is meant
			t.Error(l)
		}
	}
	abstract, err := net.Listen("unix", "@stkt-attack")
	must(t, err)
	defer abstract.Close()
	tcp, err := net.Listen("tcp4", "127.0.0.2:0")
	must(t, err)
	defer tcp.Close()
	if got := listening(t, []int{os.Getpid()}); len(got) != 2 {
		t.Errorf("control: %q", got)
	}
}

// T-103: nobody but the server reads what it keeps, not even files that are open to everybody inside an image
// (CVE-2021-41091, CVE-2024-25621).
func TestDataIsClosed(t *testing.T) {
	s := harness.Get(t)
	id := s.Must(t, "run", "-d", "-v", "attack-data:/v", "busybox", "sh", "-c", "echo secret >/v/f; chmod 777 /v /v/f; echo x >/open; chmod 4777 /open; sleep 1000")
	t.Cleanup(func() { s.Must(t, "rm", "-f", id); s.Must(t, "volume", "rm", "attack-data") })
	harness.Poll(t, "the container's files", func() (string, bool) {
		r := s.Docker(t, "exec", id, "test", "-u", "/open")
		return r.String(), r.Code == 0
	})
	var paths []string
	for _, dir := range []string{harness.Data, harness.Run} {
		must(t, filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
			if os.IsNotExist(err) {
				return nil
			}
			if err == nil && d.Type()&(fs.ModeSymlink|fs.ModeSocket) == 0 {
				paths = append(paths, path)
			}
			return err
		}))
	}
	open := 0 // files whose own mode lets everybody read them: only the folders above protect them
	for _, path := range paths {
		if fi, err := os.Stat(path); err == nil && fi.Mode().IsRegular() && fi.Mode().Perm()&0o004 != 0 {
			open++
		}
	}
	if open < 10 {
		t.Errorf("control: only %d of %d files are readable by their own mode", open, len(paths))
	}
	gate := harness.Lookup(t, "stockade-gate")
	public := map[string]bool{ // to read: where the sockets are and what "stockade status" tells anybody
		harness.Run: true, harness.Run + "/state.json": true,
	}
	for _, u := range []harness.User{s.User, s.Outsider, gate} {
		must(t, harness.As(u, func() error {
			for _, path := range paths {
				if unix.Access(path, unix.R_OK) == nil && !public[path] || unix.Access(path, unix.W_OK) == nil {
					t.Errorf("%s may open %s", u.Name, path)
				}
			}
			return nil
		}))
	}
}

// ask sends one raw request as u and returns the status.
func ask(t *testing.T, s *harness.Server, u harness.User, text string) (status int, body string) {
	t.Helper()
	conn, err := s.Dial(u)
	must(t, err)
	defer conn.Close()
	return askOn(t, conn, text)
}

func askOn(t *testing.T, conn net.Conn, text string) (status int, body string) {
	t.Helper()
	if _, err := conn.Write([]byte(text)); err != nil {
		return 0, err.Error()
	}
	resp, err := readResponse(bufio.NewReader(conn))
	if err != nil {
		return 0, err.Error()
	}
	return resp.Status, resp.Body
}

// T-101: what only a browser or a proxy sends is refused, whoever sends it.
func TestBrowsers(t *testing.T) {
	s := harness.Get(t)
	get := func(head string) string {
		return "GET /v1.51/containers/json HTTP/1.1\r\n" + head + "Connection: close\r\n\r\n"
	}
	for _, c := range []struct {
		name, head string
		status     int
	}{
		{"control", "Host: localhost\r\n", 200},
		{"control: the client's own", "Host: api.moby.localhost\r\n", 200},
		{"rebound name", "Host: evil.example\r\n", 403},
		{"rebound name with a port", "Host: evil.example:2375\r\n", 403},
		{"name that contains it", "Host: localhost.evil.example\r\n", 403},
		{"address", "Host: 127.0.0.1\r\n", 403},
		{"two", "Host: localhost\r\nHost: evil.example\r\n", 400},
		{"none", "", 400},
		{"origin", "Host: localhost\r\nOrigin: http://localhost\r\n", 403},
		{"null origin", "Host: localhost\r\nOrigin: null\r\n", 403},
		{"fetch metadata", "Host: localhost\r\nSec-Fetch-Site: same-origin\r\n", 403},
		{"WebSocket", "Host: localhost\r\nSec-WebSocket-Key: x\r\n", 403},
	} {
		if status, body := ask(t, s, s.User, get(c.head)); status != c.status {
			t.Errorf("%s: %d %s, want %d", c.name, status, body, c.status)
		}
	}
}

// T-104: who somebody is, the kernel says; headers say nothing. The control speaks as the gate to the engine, where the
// same header does choose the tenant.
func TestForgedIdentity(t *testing.T) {
	s := harness.Get(t)
	if _, err := s.Dial(s.Outsider); err == nil {
		t.Error("an outsider connects")
	}
	id := s.Must(t, "create", "busybox")
	t.Cleanup(func() { s.Must(t, "rm", id) })
	const list = "GET %s HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\nStockade-Tenant: other\r\nStockade-Caller: 0\r\nStockade-Admin: 1\r\nStockade-Version: 1.51\r\nStockade-Grants: []\r\n%s\r\n"
	if status, body := ask(t, s, s.User, fmt.Sprintf(list, "/v1.51/containers/json?all=1", "")); status != 200 || !strings.Contains(body, id) {
		t.Errorf("a header changed the tenant: %d %s", status, body)
	}
	const unlimited = `{"Image":"busybox","HostConfig":{"PidsLimit":-1}}` // a right of administrators
	post := fmt.Sprintf("Content-Type: application/json\r\nContent-Length: %d\r\n", len(unlimited))
	if status, body := ask(t, s, s.User, fmt.Sprintf(list, "/v1.51/containers/create", post)+unlimited); status < 400 {
		t.Errorf("a header made an administrator: %d %s", status, body)
	}
	if status, body := ask(t, s, s.User, strings.Replace(fmt.Sprintf(list, "/v1.51/containers/create", post)+unlimited, "GET", "POST", 1)); status != 403 {
		t.Errorf("a header made an administrator: %d %s", status, body)
	}
	r := s.API(t, harness.Root, "POST", "/v1.51/containers/create", unlimited)
	if r.Status != 201 {
		t.Errorf("control: root: %+v", r)
	} else {
		s.API(t, harness.Root, "DELETE", "/v1.51/containers/"+field(t, r.Body, "Id"), nil)
	}
	conn, err := harness.DialAs(harness.Run+"/engine.sock", harness.Lookup(t, "stockade-gate"))
	must(t, err)
	defer conn.Close()
	status, body := askOn(t, conn, "GET /containers/json?all=1 HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\nStockade-Tenant: other\r\nStockade-Caller: 1\r\nStockade-Version: 1.51\r\n\r\n")
	if status != 200 || strings.Contains(body, id) {
		t.Errorf("control: the engine, asked by the gate for another tenant: %d %s", status, body)
	}
}
