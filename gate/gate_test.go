package gate

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"stockade/api/helper"
	"stockade/api/scope"
	"stockade/api/setting"
	"stockade/gate/audit"
	"stockade/internal/seqpacket"
)

// backend records every byte that reaches the engine's socket.
type backend struct {
	mu       sync.Mutex
	bytes    int
	requests []*http.Request
	bodies   []string
	status   int                                       // of the answers, 0: 200
	header   http.Header                               // of the answers
	stream   func(conn net.Conn, reader *bufio.Reader) // takes over upgraded requests
}

func (b *backend) serve(l net.Listener) {
	for {
		conn, err := l.Accept()
		if err != nil {
			return
		}
		go b.conn(conn)
	}
}

// counted counts what is read.
type counted struct {
	net.Conn
	b *backend
}

func (c counted) Read(p []byte) (int, error) {
	n, err := c.Conn.Read(p)
	c.b.mu.Lock()
	c.b.bytes += n
	c.b.mu.Unlock()
	return n, err
}

func (b *backend) conn(conn net.Conn) {
	defer conn.Close()
	reader := bufio.NewReader(counted{conn, b})
	for {
		r, err := http.ReadRequest(reader)
		if err != nil {
			return
		}
		body, err := io.ReadAll(r.Body)
		if err != nil {
			return
		}
		b.mu.Lock()
		b.requests, b.bodies = append(b.requests, r), append(b.bodies, string(body))
		status, header, stream := b.status, b.header.Clone(), b.stream
		b.mu.Unlock()
		if stream != nil {
			stream(conn, reader)
			return
		}
		if status == 0 {
			status = http.StatusOK
		}
		resp := http.Response{StatusCode: status, ProtoMajor: 1, ProtoMinor: 1, Header: header, Request: r, ContentLength: 2, Body: io.NopCloser(strings.NewReader("{}"))}
		if err := resp.Write(conn); err != nil {
			return
		}
	}
}

// last returns the latest request and its body.
func (b *backend) last(t *testing.T) (*http.Request, string) {
	t.Helper()
	b.mu.Lock()
	defer b.mu.Unlock()
	if len(b.requests) == 0 {
		t.Fatal("nothing reached the backend")
	}
	return b.requests[len(b.requests)-1], b.bodies[len(b.bodies)-1]
}

func (b *backend) received() int {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.bytes
}

// fakeGrants stands for grantd.
type fakeGrants struct {
	mu      sync.Mutex
	made    []helper.Grant
	dropped []string
	deny    string // path that is refused
}

func (f *fakeGrants) grant(_ context.Context, conn *net.UnixConn, g helper.Grant) (helper.GrantDone, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	file, err := duplicate(conn)
	if err != nil {
		return helper.GrantDone{}, err
	}
	defer file.Close()
	if g.Path == f.deny {
		return helper.GrantDone{}, &seqpacket.Error{Op: "grant", Class: helper.Denied, Text: "permission denied"}
	}
	f.made = append(f.made, g)
	return helper.GrantDone{ID: fmt.Sprintf("id%d", len(f.made)), Dir: true, UID: uint32(os.Getuid())}, nil
}

func (f *fakeGrants) drop(_ context.Context, ids []string) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.dropped = append(f.dropped, ids...)
	return nil
}

// brokenWriter fails when it is told to.
type brokenWriter struct {
	bytes.Buffer
	broken bool
}

func (w *brokenWriter) Write(p []byte) (int, error) {
	if w.broken {
		return 0, errors.New("disk full")
	}
	return w.Buffer.Write(p)
}

type server struct {
	path    string
	backend *backend
	grants  *fakeGrants
	audit   *brokenWriter
}

// start runs a gate in front of a recording backend.
func start(t *testing.T) *server {
	t.Helper()
	dir := t.TempDir()
	s := &server{path: filepath.Join(dir, "docker.sock"), backend: &backend{header: http.Header{"Content-Type": {"application/json"}}},
		grants: &fakeGrants{}, audit: &brokenWriter{}}
	engine, err := net.Listen("unix", filepath.Join(dir, "engine.sock"))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { engine.Close() })
	go s.backend.serve(engine)
	l, err := net.ListenUnix("unix", &net.UnixAddr{Name: s.path, Net: "unix"})
	if err != nil {
		t.Fatal(err)
	}
	g := New(setting.Gate{EngineSocket: engine.Addr().String(), AdminGID: -1, BindPrefixes: []string{"/"}, Version: "test"}, audit.New(s.audit), slog.New(slog.DiscardHandler))
	g.grants = s.grants
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- g.Serve(ctx, l) }()
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			t.Errorf("serve: %v", err)
		}
	})
	return s
}

func (s *server) dial(t *testing.T) *net.UnixConn {
	t.Helper()
	conn, err := net.DialUnix("unix", nil, &net.UnixAddr{Name: s.path, Net: "unix"})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	if err := conn.SetDeadline(time.Now().Add(30 * time.Second)); err != nil {
		t.Fatal(err)
	}
	return conn
}

// raw sends bytes on a new connection and reads the first answer.
func (s *server) raw(t *testing.T, text string) (*http.Response, string) {
	t.Helper()
	conn := s.dial(t)
	if _, err := io.WriteString(conn, text); err != nil {
		t.Fatal(err)
	}
	method, _, _ := strings.Cut(text, " ")
	resp, err := http.ReadResponse(bufio.NewReader(conn), &http.Request{Method: method})
	if err != nil {
		t.Fatalf("%.80q: %v", text, err)
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	return resp, string(body)
}

// post makes the text of a request with a body.
func post(line, body string, headers ...string) string {
	return line + " HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n" + strings.Join(append(headers, ""), "\r\n") +
		fmt.Sprintf("Content-Length: %d\r\n\r\n%s", len(body), body)
}

func get(line string, headers ...string) string {
	return line + " HTTP/1.1\r\nHost: localhost\r\n" + strings.Join(append(headers, ""), "\r\n") + "\r\n"
}

const (
	create = "POST /v1.50/containers/create?name=n"
	evil   = `{"Image":"x","HostConfig":{"Privileged":true}}`
	good   = `{"Image":"x","HostConfig":{"Memory":1000}}`
)

// SECURITY(T-101) SECURITY(T-201) SECURITY(T-203) SECURITY(T-205) SECURITY(T-308).
// Each of these is refused and not one byte of it reaches the engine; the control shows that the backend would notice.
func TestRefusedRequestsNeverReachTheEngine(t *testing.T) {
	s := start(t)
	chunked := func(body string) string {
		return create + " HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nTransfer-Encoding: chunked\r\n\r\n" +
			fmt.Sprintf("%x\r\n%s\r\n0\r\n\r\n", len(body), body)
	}
	for _, tc := range []struct {
		name, text string
		status     int
	}{
		{"privileged", post(create, evil), 403},
		{"privileged in chunks", chunked(evil), 403},
		{"content length 0", create + " HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nContent-Length: 0\r\n\r\n" + evil, 400},
		{"no body at all", get(create), 400},
		{"both lengths", create + " HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nContent-Length: 4\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", 400},
		{"two lengths", create + " HTTP/1.1\r\nHost: localhost\r\nContent-Length: 4\r\nContent-Length: 5\r\n\r\n{}{}x", 400},
		{"odd transfer encoding", create + " HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n", 501},
		{"repeated object", post(create, `{"Image":"x","HostConfig":{},"HostConfig":{"Privileged":true}}`), 400},
		{"lower case", post(create, `{"Image":"x","hostConfig":{"privileged":true}}`), 400},
		{"long s", post(create, `{"Image":"x","Ho`+"\u017f"+`tConfig":{"Privileged":true}}`), 400},
		{"trailing value", post(create, good+evil), 400},
		{"form", strings.Replace(post(create, good), "application/json", "application/x-www-form-urlencoded", 1), 400},
		{"escaped word", get("GET /v1.50/containers/a/%61rchive?path=/"), 404},
		{"version of three numbers", get("GET /v9.9.9/info"), 404},
		{"old version", get("GET /v1.24/info"), 400},
		{"dots", get("GET /v1.50/containers/../info"), 400},
		{"escaped dots", get("GET /v1.50/containers/%2e%2e/json"), 400},
		{"absolute form", get("GET http://localhost/info"), 400},
		{"two slashes", get("GET //info"), 404},
		{"connect", get("CONNECT /info"), 404},
		{"unknown parameter", get("GET /containers/json?x=1"), 400},
		{"repeated parameter", get("GET /containers/json?all=0&all=1"), 400},
		{"semicolon", get("GET /containers/json?all=0;all=1"), 400},
		{"body where none belongs", post("POST /containers/a/start", `{"Binds":["/:/x"]}`), 400},
		{"exec privileged", post("POST /containers/a/exec", `{"Cmd":["sh"],"Privileged":true}`), 403},
		{"update of devices", post("POST /containers/a/update", `{"Devices":[{"PathOnHost":"/dev/sda"}]}`), 403},
		{"volume that is a mount", post("POST /volumes/create", `{"Driver":"local","DriverOpts":{"type":"none","o":"bind","device":"/"}}`), 403},
		{"import of a URL", get("POST /images/create?fromSrc=http%3A%2F%2F169.254.169.254%2F", "Content-Length: 0"), 403},
		{"commit with a bad user", post("POST /commit?container=a", `{"User":"4294967296"}`), 403},
		{"plugin", get("POST /plugins/pull?remote=x", "Content-Length: 0"), 501},
		{"swarm", post("POST /services/create", `{}`), 501},
		{"build", get("POST /build", "Content-Length: 0"), 501},
		{"session by h2c", get("POST /session", "Connection: Upgrade", "Upgrade: h2c", "Content-Length: 0"), 501},
		{"upgrade of another route", get("GET /info", "Connection: Upgrade", "Upgrade: h2c"), 400},
		{"upgrade to another protocol", get("POST /containers/a/attach?stream=1", "Connection: Upgrade", "Upgrade: websocket", "Content-Length: 0"), 400},
		{"browser", get("GET /info", "Origin: http://localhost"), 403},
		{"browser without origin", get("GET /info", "Sec-Fetch-Site: cross-site"), 403},
		{"rebound name", strings.Replace(get("GET /info"), "localhost", "evil.example", 1), 403},
		{"rebound name with port", strings.Replace(get("GET /info"), "localhost", "evil.example:2375", 1), 403},
		{"repeated auth", get("POST /images/create?fromImage=x", "X-Registry-Auth: e30=", "X-Registry-Auth: e30=", "Content-Length: 0"), 400},
	} {
		resp, body := s.raw(t, tc.text)
		if resp.StatusCode != tc.status {
			t.Errorf("%s: status %d %q, want %d", tc.name, resp.StatusCode, body, tc.status)
		}
		if n := s.backend.received(); n != 0 {
			t.Fatalf("%s: %d bytes reached the engine", tc.name, n)
		}
	}
	// Control: allowed requests do arrive.
	if resp, body := s.raw(t, post(create, good)); resp.StatusCode != http.StatusOK {
		t.Fatalf("control: %d %q", resp.StatusCode, body)
	}
	if r, body := s.backend.last(t); r.RequestURI != "/containers/create?name=n" || !strings.Contains(body, `"Memory":1000`) || s.backend.received() == 0 {
		t.Errorf("control: %s %q", r.RequestURI, body)
	}
	if resp, _ := s.raw(t, chunked(good)); resp.StatusCode != http.StatusOK {
		t.Errorf("control in chunks: %d", resp.StatusCode)
	}
}

// SECURITY(T-104): what a client says about itself does not reach the engine.
func TestHeadersAreNotForwarded(t *testing.T) {
	s := start(t)
	s.backend.header = http.Header{"Content-Type": {"text/plain"}, "Server": {"evil"}, "Set-Cookie": {"a=b"}, "Stockade-Tenant": {"x"}, "X-Docker-Container-Path-Stat": {"eyJ9"}}
	resp, _ := s.raw(t, get("GET /v1.45/containers/abc/archive?path=%2F", "Stockade-Tenant: other", "Stockade-Caller: 0", "Stockade-Admin: 1", "stockade-grants: []",
		"X-Forwarded-For: 1.2.3.4", "Cookie: a=b", "Authorization: Basic x", "X-Registry-Auth: e30="))
	r, _ := s.backend.last(t)
	sc, err := scope.From(r.Header)
	if err != nil {
		t.Fatal(err)
	}
	if sc.Tenant != "default" || sc.UID != uint32(os.Getuid()) || sc.Admin != (os.Getuid() == 0) || sc.Version != "1.45" || sc.Grants != nil {
		t.Errorf("scope %+v", sc)
	}
	for name, values := range r.Header {
		switch name {
		case scope.HeaderTenant, scope.HeaderCaller, scope.HeaderAdmin, scope.HeaderVersion, "User-Agent":
			if len(values) != 1 {
				t.Errorf("%s: %q", name, values)
			}
		default:
			t.Errorf("header %s: %q reached the engine", name, values)
		}
	}
	for name, want := range map[string]string{"Server": "Stockade/test", "Api-Version": "1.57", "Ostype": "linux", "Set-Cookie": "", "Stockade-Tenant": "",
		"X-Docker-Container-Path-Stat": "eyJ9", "Content-Type": "text/plain"} {
		if got := resp.Header.Get(name); got != want {
			t.Errorf("answer's header %s: %q, want %q", name, got, want)
		}
	}
}

// SECURITY(T-701): a create request reaches the engine only with a grant for each bind.
func TestGrants(t *testing.T) {
	body := `{"Image":"x","HostConfig":{"Binds":["/a/:/x:ro","vol:/v","/a:/y"],"Mounts":[{"Type":"bind","Source":"/b","Target":"/z","ReadOnly":true}]}}`
	t.Run("made", func(t *testing.T) {
		s := start(t)
		s.backend.status = http.StatusCreated
		if resp, text := s.raw(t, post(create, body)); resp.StatusCode != http.StatusCreated {
			t.Fatalf("%d %s", resp.StatusCode, text)
		}
		r, _ := s.backend.last(t)
		sc, err := scope.From(r.Header)
		if err != nil {
			t.Fatal(err)
		}
		uid := uint32(os.Getuid())
		want := []scope.Grant{{Source: "/a", ID: "id1", Dir: true, UID: uid}, {Source: "/b", ID: "id2", Dir: true, UID: uid}}
		if fmt.Sprint(sc.Grants) != fmt.Sprint(want) {
			t.Errorf("grants %v, want %v", sc.Grants, want)
		}
		wantMade := []helper.Grant{{Path: "/a", Create: true, Tenant: "default"}, {Path: "/b", RO: true, Tenant: "default"}}
		if fmt.Sprint(s.grants.made) != fmt.Sprint(wantMade) || s.grants.dropped != nil {
			t.Errorf("made %v, dropped %v", s.grants.made, s.grants.dropped)
		}
		if !strings.Contains(s.audit.String(), `"binds":["/a","/a","/b"]`) {
			t.Errorf("audit: %s", s.audit.String())
		}
	})
	t.Run("dropped when the engine refuses", func(t *testing.T) {
		s := start(t)
		s.backend.status = http.StatusConflict
		s.raw(t, post(create, body))
		if fmt.Sprint(s.grants.dropped) != "[id1 id2]" {
			t.Errorf("dropped %v", s.grants.dropped)
		}
	})
	t.Run("refused", func(t *testing.T) {
		s := start(t)
		s.grants.deny = "/b"
		resp, text := s.raw(t, post(create, body))
		if resp.StatusCode != http.StatusForbidden || !strings.Contains(text, "rule grant") || s.backend.received() != 0 {
			t.Errorf("%d %s, %d bytes to the engine", resp.StatusCode, text, s.backend.received())
		}
		if fmt.Sprint(s.grants.dropped) != "[id1]" {
			t.Errorf("dropped %v", s.grants.dropped)
		}
	})
}

func TestAuditComesFirst(t *testing.T) {
	s := start(t)
	s.raw(t, post(create, evil))
	s.raw(t, get("GET /v1.50/info"))
	s.raw(t, get("GET /_ping"))
	s.raw(t, post("POST /auth", `{"username":"me","password":"secret"}`))
	var got []string
	for line := range strings.Lines(s.audit.String()) {
		var r audit.Record
		if err := json.Unmarshal([]byte(line), &r); err != nil {
			t.Fatal(err)
		}
		if r.UID != uint32(os.Getuid()) || r.PID != int32(os.Getpid()) || r.Tenant != "default" || len(r.ID) != 16 {
			t.Errorf("record %+v", r)
		}
		got = append(got, fmt.Sprintf("%s %s %s %s", r.Operation, r.Object, r.Decision, r.Rule))
	}
	want := []string{"ContainerCreate n refused privileged", "SystemInfo  allowed ", "SystemAuth  allowed "}
	if strings.Join(got, "|") != strings.Join(want, "|") {
		t.Errorf("records %q, want %q", got, want)
	}
	if strings.Contains(s.audit.String(), "secret") {
		t.Error("a secret is in the audit log")
	}
	before := s.backend.received()
	s.audit.broken = true
	if resp, _ := s.raw(t, post(create, good)); resp.StatusCode != http.StatusInternalServerError || s.backend.received() != before {
		t.Errorf("without a record: %d, %d bytes to the engine", resp.StatusCode, s.backend.received()-before)
	}
}
