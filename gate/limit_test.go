package gate

import (
	"bufio"
	"encoding/json"
	"io"
	"log/slog"
	"net"
	"net/http"
	"path/filepath"
	"strings"
	"testing"
)

// T-801: places go to one user up to the share, to several up to three quarters, and the rest to those with few.
func TestPlaces(t *testing.T) {
	files := 100_000
	l := newLimiter(nil, 2048, 512, func() int { return files }, slog.New(slog.DiscardHandler))
	fill := func(uid uint32) (n int) {
		for l.take(uid) {
			n++
		}
		return n
	}
	for _, c := range []struct {
		uid  uint32
		want int
	}{{1, 512}, {2, 512}, {3, 512}, {4, 16}, {5, 16}, {1, 0}} {
		if got := fill(c.uid); got != c.want {
			t.Errorf("uid %d got %d places, want %d", c.uid, got, c.want)
		}
	}
	for uid := uint32(6); l.total < 2048; uid++ {
		if fill(uid) == 0 {
			t.Fatalf("a new user is refused with %d connections open", l.total)
		}
	}
	if fill(0) != 0 {
		t.Error("more than all places were given")
	}
	for uid, n := range l.uids {
		for range n {
			l.give(uid)
		}
	}
	if l.total != 0 || len(l.uids) != 0 {
		t.Errorf("not given back: %d, %v", l.total, l.uids)
	}
	// With few descriptors there are fewer places, and descriptors are left.
	files = 460
	if got := fill(1); got != 25 {
		t.Errorf("one user got %d of 100 places, want 25", got)
	}
	for uid := uint32(2); fill(uid) > 0; uid++ {
	}
	if l.total != 100 {
		t.Errorf("%d places with 460 descriptors", l.total)
	}
}

// T-801: who is refused hears why, also after a request with a body.
func TestRefusedConnection(t *testing.T) {
	path := filepath.Join(t.TempDir(), "s")
	u, err := net.ListenUnix("unix", &net.UnixAddr{Name: path, Net: "unix"})
	if err != nil {
		t.Fatal(err)
	}
	l := newLimiter(u, 1, 1, func() int { return 1000 }, slog.New(slog.DiscardHandler))
	defer l.Close()
	go func() {
		for {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			defer conn.Close()
		}
	}()
	first, err := net.Dial("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	defer first.Close()
	for _, body := range []int{0, 100, 8 << 10} {
		conn, err := net.Dial("unix", path)
		if err != nil {
			t.Fatal(err)
		}
		req, err := http.NewRequest("POST", "http://localhost/containers/create", strings.NewReader(strings.Repeat("x", body)))
		if err != nil {
			t.Fatal(err)
		}
		if err := req.Write(conn); err != nil {
			t.Fatal(err)
		}
		resp, err := http.ReadResponse(bufio.NewReader(conn), req)
		if err != nil {
			t.Fatalf("body of %d bytes: %v", body, err)
		}
		data, err := io.ReadAll(resp.Body)
		var said struct{ Message string }
		if err != nil || json.Unmarshal(data, &said) != nil || resp.StatusCode != 503 || !strings.Contains(said.Message, "too many connections") {
			t.Errorf("body of %d bytes: %d %q %v", body, resp.StatusCode, data, err)
		}
		conn.Close()
	}
}
