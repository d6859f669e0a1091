package harness

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"os/user"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"

	"stockade/internal/demoimage"
)

// User is a person on the host.
type User struct {
	Name   string
	UID    uint32
	GID    uint32
	Groups []uint32 // supplementary
	Home   string
}

// Root is uid 0.
var Root = User{Name: "root", Home: "/root"}

func lookup(name string) (User, error) {
	u, err := user.Lookup(name)
	if err != nil {
		return User{}, err
	}
	groups, err := u.GroupIds()
	if err != nil {
		return User{}, err
	}
	numbers := []uint32{}
	for _, text := range append([]string{u.Uid, u.Gid}, groups...) {
		n, err := strconv.ParseUint(text, 10, 32)
		if err != nil {
			return User{}, err
		}
		numbers = append(numbers, uint32(n))
	}
	return User{Name: name, UID: numbers[0], GID: numbers[1], Groups: numbers[2:], Home: u.HomeDir}, nil
}

// Result is how a command ended.
type Result struct {
	Args   []string
	Stdout string
	Stderr string
	Code   int
}

func (r Result) String() string {
	return fmt.Sprintf("%s: exit code %d\nstdout: %s\nstderr: %s", strings.Join(r.Args, " "), r.Code, r.Stdout, r.Stderr)
}

// Command is a command that runs as u, in u's home.
func (s *Server) Command(ctx context.Context, u User, name string, args ...string) *exec.Cmd {
	cmd := exec.CommandContext(ctx, name, args...)
	cmd.Env = []string{"PATH=/usr/local/bin:/usr/bin:/bin:/usr/sbin:/sbin", "HOME=" + u.Home, "USER=" + u.Name, "LANG=C.UTF-8", "DOCKER_HOST=unix://" + Socket}
	cmd.Dir = u.Home
	cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: u.UID, Gid: u.GID, Groups: u.Groups}}
	return cmd
}

// Exec runs a command as u with the given standard input (may be nil) and returns how it ended.
func (s *Server) Exec(t testing.TB, u User, stdin io.Reader, name string, args ...string) Result {
	t.Helper()
	cmd := s.Command(Context(t), u, name, args...)
	var stdout, stderr bytes.Buffer
	cmd.Stdin, cmd.Stdout, cmd.Stderr = stdin, &stdout, &stderr
	err := cmd.Run()
	var exit *exec.ExitError
	if err != nil && !errors.As(err, &exit) {
		t.Fatalf("run %s: %v", name, err)
	}
	return Result{Args: append([]string{filepath.Base(name)}, args...), Stdout: stdout.String(), Stderr: stderr.String(), Code: cmd.ProcessState.ExitCode()}
}

// DockerPath is the newest Docker client; DockerOldPath the distribution's or another older one.
func (s *Server) DockerPath() string { return filepath.Join(Bin, "docker29") }

// DockerOldPath is an older Docker client that the machine has.
func (s *Server) DockerOldPath() string {
	for _, path := range []string{"/usr/local/bin/docker", "/usr/bin/docker"} {
		if _, err := os.Stat(path); err == nil {
			return path
		}
	}
	return "docker"
}

// DockerAs runs the newest Docker client as u.
func (s *Server) DockerAs(t testing.TB, u User, args ...string) Result {
	t.Helper()
	return s.Exec(t, u, nil, s.DockerPath(), args...)
}

// Docker runs the newest Docker client as the ordinary user.
func (s *Server) Docker(t testing.TB, args ...string) Result {
	t.Helper()
	return s.DockerAs(t, s.User, args...)
}

// Must is Docker, and the test ends if the command fails. It returns the trimmed standard output.
func (s *Server) Must(t testing.TB, args ...string) string {
	t.Helper()
	r := s.Docker(t, args...)
	if r.Code != 0 {
		t.Fatal(r)
	}
	return strings.TrimSpace(r.Stdout)
}

// Dial connects to the API socket as u: the kernel records u's ids and groups with the connection.
func (s *Server) Dial(u User) (net.Conn, error) { return DialAs(Socket, u) }

// As carries do out on a thread that has u's identity and no capability, and that ends afterwards.
func As(u User, do func() error) error {
	done := make(chan error, 1)
	go func() {
		runtime.LockOSThread() // never unlocked: the thread with u's identity ends with the goroutine
		if err := become(u); err != nil {
			done <- fmt.Errorf("become %s: %w", u.Name, err)
			return
		}
		done <- do()
	}()
	return <-done
}

// Lookup returns a user of the host, for example one of the server's own.
func Lookup(t testing.TB, name string) User {
	t.Helper()
	u, err := lookup(name)
	if err != nil {
		t.Fatal(err)
	}
	return u
}

// DialAs connects to a stream socket as u.
func DialAs(path string, u User) (conn net.Conn, err error) {
	err = As(u, func() error {
		fd, err := unix.Socket(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
		if err != nil {
			return err
		}
		f := os.NewFile(uintptr(fd), path)
		defer f.Close()
		if err := unix.Connect(fd, &unix.SockaddrUnix{Name: path}); err != nil {
			return fmt.Errorf("connect %s as %s: %w", path, u.Name, err)
		}
		conn, err = net.FileConn(f)
		return err
	})
	return conn, err
}

// Client returns an HTTP client of the API whose connections are u's. Use URLs of the form http://localhost/v1.51/….
func (s *Server) Client(t testing.TB, u User) *http.Client {
	tr := &http.Transport{DialContext: func(context.Context, string, string) (net.Conn, error) { return s.Dial(u) }}
	t.Cleanup(tr.CloseIdleConnections)
	return &http.Client{Transport: tr}
}

// Response is an answer of the API, read whole.
type Response struct {
	Status int
	Header http.Header
	Body   string
}

// API sends one request as u. body may be nil, a string, an io.Reader, or a value to send as JSON. path begins with /.
func (s *Server) API(t testing.TB, u User, method, path string, body any) Response {
	t.Helper()
	var r io.Reader
	contentType := ""
	switch b := body.(type) {
	case nil:
	case string:
		r, contentType = strings.NewReader(b), "application/json"
	case io.Reader:
		r, contentType = b, "application/x-tar"
	default:
		data, err := json.Marshal(b)
		if err != nil {
			t.Fatal(err)
		}
		r, contentType = bytes.NewReader(data), "application/json"
	}
	req, err := http.NewRequestWithContext(Context(t), method, "http://localhost"+path, r)
	if err != nil {
		t.Fatal(err)
	}
	if contentType != "" {
		req.Header.Set("Content-Type", contentType)
	}
	client := s.Client(t, u)
	defer client.CloseIdleConnections() // a user may have some hundreds only
	resp, err := client.Do(req)
	if err != nil {
		t.Fatalf("%s %s: %v", method, path, err)
	}
	defer resp.Body.Close()
	data, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatalf("%s %s: read answer: %v", method, path, err)
	}
	return Response{Status: resp.StatusCode, Header: resp.Header, Body: string(data)}
}

// LoadDemo loads the images busybox:latest and stockade/demo:latest as the ordinary user.
func (s *Server) LoadDemo() error {
	var archive bytes.Buffer
	if err := demoimage.WriteDemo(&archive); err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(context.Background(), Patience)
	defer cancel()
	cmd := s.Command(ctx, s.User, s.DockerPath(), "load")
	cmd.Stdin = &archive
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("docker load: %w: %s", err, out)
	}
	return nil
}

// warm runs one container, so that folders which are made with the first one are no difference between two censuses.
func (s *Server) warm() error {
	ctx, cancel := context.WithTimeout(context.Background(), Patience)
	defer cancel()
	if out, err := s.Command(ctx, s.User, s.DockerPath(), "run", "--rm", "busybox", "true").CombinedOutput(); err != nil {
		return fmt.Errorf("docker run busybox true: %w: %s", err, out)
	}
	return nil
}
