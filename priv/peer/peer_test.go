package peer

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"io"
	"log/slog"
	"os"
	"path/filepath"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"stockade/api/helper"
	"stockade/internal/seqpacket"
)

var quiet = slog.New(slog.DiscardHandler)

// table has one request without and one with a descriptor.
var table = Table{
	"list": Handle(0, func(_ context.Context, q helper.ListGrants, _ []*os.File) (helper.GrantList, []*os.File, error) {
		if q.After == "refused" {
			return helper.GrantList{}, nil, Errorf(helper.Denied, "not %s", q.After)
		}
		if q.After == "broken" {
			return helper.GrantList{}, nil, errors.New("disk")
		}
		return helper.GrantList{Grants: []helper.GrantInfo{{ID: q.After}}}, nil, nil
	}),
	"copy": Handle(1, func(_ context.Context, _ helper.None, fds []*os.File) (helper.None, []*os.File, error) {
		fd, err := unix.FcntlInt(fds[0].Fd(), unix.F_DUPFD_CLOEXEC, 0)
		if err != nil {
			return helper.None{}, nil, err
		}
		return helper.None{}, []*os.File{os.NewFile(uintptr(fd), "copy")}, nil
	}),
}

// serve runs a connection of the table; done is closed at its end.
func serve(t testing.TB) (c *seqpacket.Conn, done chan struct{}) {
	t.Helper()
	pair, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_SEQPACKET|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	ends := [2]*seqpacket.Conn{}
	for i, fd := range pair {
		if ends[i], err = seqpacket.New(fd); err != nil {
			t.Fatal(err)
		}
	}
	done = make(chan struct{})
	go func() {
		defer close(done)
		ServeConn(context.Background(), ends[1], table, quiet)
	}()
	t.Cleanup(func() { ends[0].Close(); <-done })
	return ends[0], done
}

func TestAnswers(t *testing.T) {
	c, _ := serve(t)
	if err := seqpacket.Greet(c); err != nil {
		t.Fatal(err)
	}
	for _, test := range []struct {
		after string
		class helper.Class
		text  string
	}{{"a", "", ""}, {"refused", helper.Denied, "not refused"}, {"broken", helper.Internal, "disk"}} {
		if err := c.Send(helper.Request[helper.ListGrants]{Op: "list", Body: helper.ListGrants{After: test.after}}); err != nil {
			t.Fatal(err)
		}
		var a helper.Answer[helper.GrantList]
		if _, err := c.Recv(&a, 0); err != nil {
			t.Fatal(err)
		}
		if a.Class != test.class || a.Text != test.text || (test.class == "" && a.Body.Grants[0].ID != test.after) {
			t.Errorf("%s: %+v", test.after, a)
		}
	}
}

// A socket that its owner uses without blocking must stay so when it is sent.
func TestDescriptorStaysNonblocking(t *testing.T) {
	c, _ := serve(t)
	if err := seqpacket.Greet(c); err != nil {
		t.Fatal(err)
	}
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	defer w.Close()
	if err := c.Send(helper.Request[helper.None]{Op: "copy"}, r); err != nil {
		t.Fatal(err)
	}
	var a helper.Answer[helper.None]
	files, err := c.Recv(&a, 1)
	if err != nil || len(files) != 1 {
		t.Fatalf("%v, %d descriptors", err, len(files))
	}
	defer files[0].Close()
	if flags, err := unix.FcntlInt(files[0].Fd(), unix.F_GETFL, 0); err != nil || flags&unix.O_NONBLOCK == 0 {
		t.Errorf("flags %#x, %v: blocking", flags, err)
	}
}

func TestViolationsEndTheConnection(t *testing.T) {
	hello := `{"op":"hello","body":{"version":1}}`
	for _, test := range []struct {
		name  string
		first string // after which an answer comes, or empty
		data  []byte
	}{
		{"before hello", "", []byte(`{"op":"list","body":{}}`)},
		{"second hello", hello, []byte(hello)},
		{"other version", "", []byte(`{"op":"hello","body":{"version":2}}`)},
		{"hello with more", "", []byte(`{"op":"hello","body":{"version":1,"x":1}}`)},
		{"unknown request", hello, []byte(`{"op":"nothing","body":{}}`)},
		{"unknown field", hello, []byte(`{"op":"list","body":{},"x":1}`)},
		{"unknown field in body", hello, []byte(`{"op":"list","body":{"x":1}}`)},
		{"no body", hello, []byte(`{"op":"list"}`)},
		{"wrong type", hello, []byte(`{"op":"list","body":{"after":1}}`)},
		{"two values", hello, []byte(`{"op":"list","body":{}} {}`)},
		{"missing descriptor", hello, []byte(`{"op":"copy","body":{}}`)},
		{"oversized", hello, bytes.Repeat([]byte(" "), helper.MaxMessage+1)},
		{"empty", hello, []byte{}},
		{"not JSON", hello, []byte("x")},
	} {
		t.Run(test.name, func(t *testing.T) {
			c, done := serve(t)
			if test.first != "" {
				if err := c.Raw([]byte(test.first)); err != nil {
					t.Fatal(err)
				}
				if _, _, err := c.RecvRaw(0); err != nil {
					t.Fatal(err)
				}
			}
			if err := c.Raw(test.data); err != nil {
				t.Fatal(err)
			}
			if data, _, err := c.RecvRaw(0); !errors.Is(err, io.EOF) && !errors.Is(err, unix.ECONNRESET) {
				t.Errorf("got %q, %v; want the end", data, err)
			}
			<-done
		})
	}
}

// listen serves table for uid on a new socket.
func listen(t *testing.T, uid uint32) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "s")
	fd, err := unix.Socket(unix.AF_UNIX, unix.SOCK_SEQPACKET|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	file := os.NewFile(uintptr(fd), "listener")
	if err := errors.Join(unix.Bind(fd, &unix.SockaddrUnix{Name: path}), unix.Listen(fd, 4)); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error)
	go func() { done <- Listener{File: file, UID: uid, Table: table}.Serve(ctx, quiet) }()
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			t.Errorf("serve: %v", err)
		}
		file.Close()
	})
	return path
}

func dial(t *testing.T, path string) (*seqpacket.Conn, error) {
	t.Helper()
	c, err := seqpacket.Dial(path)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	return c, seqpacket.Greet(c)
}

func TestConnectionsAreBounded(t *testing.T) {
	path := listen(t, uint32(os.Getuid()))
	conns := make([]*seqpacket.Conn, maxConns)
	for i := range conns {
		var err error
		if conns[i], err = dial(t, path); err != nil {
			t.Fatalf("connection %d: %v", i, err)
		}
	}
	if _, err := dial(t, path); err == nil {
		t.Error("one connection too many was served")
	}
	conns[0].Close()
	for range 1000 { // its place becomes free
		if _, err := dial(t, path); err == nil {
			return
		}
		time.Sleep(10 * time.Millisecond)
	}
	t.Error("a closed connection keeps its place")
}

func TestListenerChecksUID(t *testing.T) {
	for _, test := range []struct {
		name string
		uid  uint32
		ok   bool
	}{{"own", uint32(os.Getuid()), true}, {"another", uint32(os.Getuid()) + 1, false}} {
		t.Run(test.name, func(t *testing.T) {
			if _, err := dial(t, listen(t, test.uid)); (err == nil) != test.ok {
				t.Errorf("greet: %v", err)
			}
		})
	}
}

// FuzzServeConn sends one record before or after hello: the connection is answered or ended, never stuck.
func FuzzServeConn(f *testing.F) {
	for _, s := range []string{`{"op":"hello","body":{"version":1}}`, `{"op":"list","body":{"after":"x"}}`, `{"op":"list","body":{"after":"refused"}}`,
		`{"op":"copy","body":{}}`, `{"op":"list","body":null}`, `{"op":"list","body":{}}{}`, `[]`, `null`, "", "\xff"} {
		f.Add(true, []byte(s))
		f.Add(false, []byte(s))
	}
	f.Fuzz(func(t *testing.T, greet bool, data []byte) {
		c, done := serve(t)
		if greet {
			if err := seqpacket.Greet(c); err != nil {
				t.Fatal(err)
			}
		}
		if err := c.Raw(data); err != nil {
			return // larger than the socket takes
		}
		_ = c.SetDeadline(time.Now().Add(time.Minute))
		answer, fds, err := c.RecvRaw(helper.MaxFDs)
		seqpacket.CloseAll(fds)
		if errors.Is(err, os.ErrDeadlineExceeded) {
			t.Fatalf("no answer to %q", data)
		}
		if err != nil {
			<-done
			return
		}
		var a helper.Answer[json.RawMessage]
		if err := seqpacket.Decode(answer, &a); err != nil {
			t.Fatalf("answer %q: %v", answer, err)
		}
	})
}
