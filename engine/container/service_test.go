package container

import (
	"bufio"
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/coder/websocket"
	"github.com/google/go-cmp/cmp"
	"github.com/moby/moby/api/pkg/stdcopy"
	"github.com/moby/moby/api/types/container"

	"stockade/api/scope"
	"stockade/engine/httpapi"
)

// api is a world behind its HTTP routes.
type api struct {
	*world
	t      *testing.T
	srv    *httptest.Server
	tenant string
	uid    uint32
}

func newAPI(t *testing.T) *api {
	w := newWorld(t)
	a := &api{world: w, t: t, tenant: "alice", uid: 1000}
	a.serve()
	t.Cleanup(func() {
		a.srv.CloseClientConnections()
		w.cancel()
		a.srv.Close()
		if err := w.Service.Close(); err != nil {
			t.Error(err)
		}
	})
	return a
}

func (a *api) serve() {
	rt := httpapi.NewRouter(slog.New(slog.NewTextHandler(io.Discard, nil)))
	a.Routes(rt)
	a.srv = httptest.NewServer(rt)
}

func (a *api) request(method, path string, body any) *http.Request {
	a.t.Helper()
	var r io.Reader
	if body != nil {
		b, err := json.Marshal(body)
		if err != nil {
			a.t.Fatal(err)
		}
		r = bytes.NewReader(b)
	}
	req, err := http.NewRequestWithContext(a.t.Context(), method, a.srv.URL+path, r)
	if err != nil {
		a.t.Fatal(err)
	}
	scope.Scope{Tenant: a.tenant, UID: a.uid, Version: "1.52", Grants: []scope.Grant{{Source: "/srv", ID: "g1", UID: a.uid}}}.Set(req.Header)
	return req
}

// do sends a request and returns the status and the body.
func (a *api) do(method, path string, body any) (int, string) {
	a.t.Helper()
	resp, err := a.srv.Client().Do(a.request(method, path, body))
	if err != nil {
		a.t.Fatal(err)
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(resp.Body)
	if err != nil {
		a.t.Fatal(err)
	}
	return resp.StatusCode, string(b)
}

// want sends a request that must have a status.
func (a *api) want(status int, method, path string, body any) string {
	a.t.Helper()
	got, text := a.do(method, path, body)
	if got != status {
		a.t.Fatalf("%s %s: status %d (%s), want %d", method, path, got, text, status)
	}
	return text
}

func (a *api) create(name string, cfg container.Config, hc *container.HostConfig) string {
	a.t.Helper()
	if cfg.Image == "" {
		cfg.Image = "busybox"
	}
	text := a.want(201, "POST", "/containers/create?name="+name, container.CreateRequest{Config: &cfg, HostConfig: hc})
	var resp container.CreateResponse
	if err := json.Unmarshal([]byte(text), &resp); err != nil {
		a.t.Fatal(err)
	}
	return resp.ID
}

func (a *api) inspectOf(id string) container.InspectResponse {
	a.t.Helper()
	var out container.InspectResponse
	if err := json.Unmarshal([]byte(a.want(200, "GET", "/containers/"+id+"/json", nil)), &out); err != nil {
		a.t.Fatal(err)
	}
	return out
}

func message(text string) string {
	var m struct{ Message string }
	if err := json.Unmarshal([]byte(text), &m); err != nil {
		return text
	}
	return m.Message
}

// until polls for a condition.
func until(t *testing.T, what string, ok func() bool) {
	t.Helper()
	for range 1000 {
		if ok() {
			return
		}
		time.Sleep(10 * time.Millisecond)
	}
	t.Fatalf("never: %s", what)
}

// hijack opens an upgraded stream.
func (a *api) hijack(path string, body any) (net.Conn, *bufio.Reader) {
	a.t.Helper()
	conn, err := net.Dial("tcp", a.srv.Listener.Addr().String())
	if err != nil {
		a.t.Fatal(err)
	}
	a.t.Cleanup(func() { conn.Close() })
	req := a.request("POST", path, body)
	req.Header.Set("Connection", "Upgrade")
	req.Header.Set("Upgrade", "tcp")
	if err := req.Write(conn); err != nil {
		a.t.Fatal(err)
	}
	br := bufio.NewReader(conn)
	resp, err := http.ReadResponse(br, req)
	if err != nil {
		a.t.Fatal(err)
	}
	if resp.StatusCode != 101 {
		b, _ := io.ReadAll(resp.Body)
		a.t.Fatalf("%s: %s %s", path, resp.Status, b)
	}
	return conn, br
}

// TestRun does what "docker run --rm busybox echo hello" does.
func TestRun(t *testing.T) {
	a := newAPI(t)
	id := a.create("", container.Config{Cmd: []string{"echo", "hello"}}, &container.HostConfig{AutoRemove: true})
	_, out := a.hijack("/containers/"+id+"/attach?stream=1&stdout=1&stderr=1", nil)
	wait, err := a.srv.Client().Do(a.request("POST", "/containers/"+id+"/wait?condition=removed", nil))
	if err != nil {
		t.Fatal(err)
	}
	defer wait.Body.Close()
	a.want(204, "POST", "/containers/"+id+"/start", nil)
	var stdout, stderr bytes.Buffer
	if _, err := stdcopy.StdCopy(&stdout, &stderr, out); err != nil {
		t.Fatal(err)
	}
	if stdout.String() != "hello\n" || stderr.Len() > 0 {
		t.Errorf("output %q, errors %q", &stdout, &stderr)
	}
	var res container.WaitResponse
	if err := json.NewDecoder(wait.Body).Decode(&res); err != nil {
		t.Fatal(err)
	}
	if res.StatusCode != 0 || res.Error != nil {
		t.Errorf("wait: %+v", res)
	}
	if got := message(a.want(404, "GET", "/containers/"+id+"/json", nil)); got != "No such container: "+id {
		t.Errorf("inspect after removal: %q", got)
	}
	if diff := cmp.Diff([]string{"create", "attach", "start", "die", "destroy"}, a.f.actions()); diff != "" {
		t.Error(diff)
	}
	if len(a.rt.rw) != 0 {
		t.Errorf("writable layers left: %v", a.rt.rw)
	}
}

func TestStandardInput(t *testing.T) {
	a := newAPI(t)
	id := a.create("", container.Config{Cmd: []string{"cat"}, OpenStdin: true, StdinOnce: true}, nil)
	conn, out := a.hijack("/containers/"+id+"/attach?stream=1&stdin=1&stdout=1", nil)
	a.want(204, "POST", "/containers/"+id+"/start", nil)
	fmt.Fprint(conn, "ping")
	if err := conn.(*net.TCPConn).CloseWrite(); err != nil {
		t.Fatal(err)
	}
	var stdout bytes.Buffer
	if _, err := stdcopy.StdCopy(&stdout, io.Discard, out); err != nil {
		t.Fatal(err)
	}
	if stdout.String() != "ping" {
		t.Errorf("output %q", &stdout)
	}
	if logs := a.want(200, "GET", "/containers/"+id+"/logs?stdout=1", nil); !strings.HasSuffix(logs, "ping") {
		t.Errorf("logs %q", logs)
	}
}

func TestWebSocket(t *testing.T) {
	a := newAPI(t)
	for _, tty := range []bool{false, true} {
		id := a.create("", container.Config{Cmd: []string{"cat"}, OpenStdin: true, StdinOnce: true, Tty: tty}, nil)
		header := a.request("GET", "/", nil).Header
		conn, _, err := websocket.Dial(t.Context(), a.srv.URL+"/containers/"+id+"/attach/ws?stream=1&stdin=1&stdout=1&stderr=1", &websocket.DialOptions{HTTPHeader: header})
		if err != nil {
			t.Fatal(err)
		}
		a.want(204, "POST", "/containers/"+id+"/start", nil)
		for _, part := range []string{"pi", "ng"} {
			if err := conn.Write(t.Context(), websocket.MessageText, []byte(part)); err != nil {
				t.Fatal(err)
			}
		}
		var out strings.Builder
		for out.Len() < 4 {
			kind, data, err := conn.Read(t.Context())
			if err != nil || kind != websocket.MessageBinary {
				t.Fatalf("after %q: %v %v", out.String(), kind, err)
			}
			out.Write(data)
		}
		if out.String() != "ping" {
			t.Errorf("output %q", out.String())
		}
		a.want(204, "POST", "/containers/"+id+"/kill", nil)
		if _, _, err := conn.Read(t.Context()); websocket.CloseStatus(err) != websocket.StatusNormalClosure {
			t.Errorf("end: %v", err)
		}
	}
	a.want(404, "GET", "/containers/none/attach/ws", nil)
}

func TestLifecycle(t *testing.T) {
	a := newAPI(t)
	id := a.create("web", container.Config{}, nil)
	if got := a.inspectOf("web"); got.State.Status != "created" || got.Name != "/web" || got.Config.Hostname != id[:12] {
		t.Errorf("created: %+v", got.State)
	}
	a.want(204, "POST", "/containers/web/start", nil)
	a.want(304, "POST", "/containers/web/start", nil)
	got := a.inspectOf(id[:6])
	if got.State.Status != "running" || got.State.Pid != 4242 || got.NetworkSettings.Networks["bridge"].IPAddress.String() != "172.30.0.2" {
		t.Errorf("running: %+v %+v", got.State, got.NetworkSettings.Networks["bridge"])
	}
	if m := message(a.want(409, "DELETE", "/containers/web", nil)); m != `cannot remove container "web": container is running: stop the container before removing or force remove` {
		t.Error(m)
	}
	a.want(204, "POST", "/containers/web/pause", nil)
	a.want(409, "POST", "/containers/web/pause", nil)
	if got := a.inspectOf("web"); got.State.Status != "paused" || !got.State.Running {
		t.Errorf("paused: %+v", got.State)
	}
	a.want(204, "POST", "/containers/web/unpause", nil)
	a.want(204, "POST", "/containers/web/rename?name=www", nil)
	a.want(404, "GET", "/containers/web/json", nil)
	a.want(204, "POST", "/containers/www/restart?t=1", nil)
	a.want(204, "POST", "/containers/www/stop", nil)
	a.want(304, "POST", "/containers/www/stop", nil)
	if got := a.inspectOf("www"); got.State.Status != "exited" || got.State.ExitCode != 143 {
		t.Errorf("stopped: %+v", got.State)
	}
	if m := message(a.want(409, "POST", "/containers/www/kill", nil)); m != "cannot kill container: www: container "+id+" is not running" {
		t.Error(m)
	}
	a.want(204, "DELETE", "/containers/www", nil)
	a.want(404, "DELETE", "/containers/www", nil)
	want := []string{
		"create", "start", "pause", "unpause", "rename", "kill", "die", "stop", "start", "restart", "kill", "die", "stop", "destroy",
	}
	if diff := cmp.Diff(want, a.f.actions()); diff != "" {
		t.Error(diff)
	}
}

func TestForceRemove(t *testing.T) {
	a := newAPI(t)
	id := a.create("xx", container.Config{Cmd: []string{"stubborn"}, Volumes: map[string]struct{}{"/data": {}}}, nil)
	a.want(204, "POST", "/containers/xx/start", nil)
	a.want(204, "DELETE", "/containers/xx?force=1&v=1", nil)
	if len(a.f.volumes) != 0 {
		t.Errorf("anonymous volumes left: %v", a.f.volumes)
	}
	a.want(404, "GET", "/containers/"+id+"/json", nil)
}

func TestNames(t *testing.T) {
	a := newAPI(t)
	id := a.create("xx", container.Config{}, nil)
	body := container.CreateRequest{Config: &container.Config{Image: "busybox"}}
	want := fmt.Sprintf("Conflict. The container name \"/xx\" is already in use by container %q. You have to remove (or rename) that container to be able to reuse that name.", id)
	if m := message(a.want(409, "POST", "/containers/create?name=xx", body)); m != want {
		t.Error(m)
	}
	if m := message(a.want(400, "POST", "/containers/create?name=-x", body)); !strings.HasPrefix(m, "Invalid container name (-x)") {
		t.Error(m)
	}
	a.rt.failRW = true
	a.want(500, "POST", "/containers/create?name=yy", body)
	a.rt.failRW = false
	a.create("yy", container.Config{}, nil) // the name of the failed one is free again
	a.tenant = "bob"
	if m := message(a.want(404, "GET", "/containers/"+id+"/json", nil)); m != "No such container: "+id {
		t.Error(m)
	}
	a.create("xx", container.Config{}, nil) // each tenant has names of its own
	if text := a.want(200, "GET", "/containers/json?all=1", nil); strings.Contains(text, id) {
		t.Error("another tenant's container is listed")
	}
}

func TestCreateRefusals(t *testing.T) {
	a := newAPI(t)
	for _, c := range []struct {
		name   string
		cfg    container.Config
		hc     container.HostConfig
		status int
		text   string
	}{
		{"no image", container.Config{Image: "nope"}, container.HostConfig{}, 404, "No such image: nope:latest"},
		{"ungranted bind", container.Config{}, container.HostConfig{Binds: []string{"/etc:/x"}}, 403, `bind source "/etc" was not granted`},
		{"rm and restart", container.Config{}, container.HostConfig{AutoRemove: true, RestartPolicy: container.RestartPolicy{Name: "always"}}, 400, "can't create 'AutoRemove' container with restart policy"},
		{"capability", container.Config{}, container.HostConfig{CapAdd: []string{"NOPE"}}, 400, `invalid CapAdd: unknown capability: "CAP_NOPE"`},
		{"memory", container.Config{}, container.HostConfig{Resources: container.Resources{Memory: 1}}, 400, "Minimum memory limit allowed is 6MB"},
		{"log driver", container.Config{}, container.HostConfig{LogConfig: container.LogConfig{Type: "syslog"}}, 400, "logger: no log driver named 'syslog' is registered"},
		{"signal", container.Config{StopSignal: "SIGNOPE"}, container.HostConfig{}, 400, "invalid signal: SIGNOPE"},
		{"network", container.Config{}, container.HostConfig{NetworkMode: "host"}, 404, "network host not found"},
	} {
		t.Run(c.name, func(t *testing.T) {
			if c.cfg.Image == "" {
				c.cfg.Image = "busybox"
			}
			status, text := a.do("POST", "/containers/create", container.CreateRequest{Config: &c.cfg, HostConfig: &c.hc})
			if status != c.status || message(text) != c.text {
				t.Errorf("%d %s", status, text)
			}
		})
	}
	if len(a.rt.rw) != 0 || len(a.f.events) != 0 {
		t.Error("a refused create left something")
	}
}

func TestStartFailure(t *testing.T) {
	a := newAPI(t)
	id := a.create("xx", container.Config{Cmd: []string{"missing"}}, nil)
	m := message(a.want(400, "POST", "/containers/xx/start", nil))
	if m != `failed to create task for container: exec: "missing": executable file not found in $PATH` {
		t.Error(m)
	}
	if got := a.inspectOf(id); got.State.ExitCode != 127 || got.State.Status != "created" || got.State.Error != m {
		t.Errorf("%+v", got.State)
	}
	a.create("yy", container.Config{Cmd: []string{"missing"}}, &container.HostConfig{AutoRemove: true})
	a.want(400, "POST", "/containers/yy/start", nil)
	a.want(404, "GET", "/containers/yy/json", nil)
}

func TestExec(t *testing.T) {
	a := newAPI(t)
	id := a.create("xx", container.Config{}, nil)
	exec := container.ExecCreateRequest{Cmd: []string{"id"}, User: "app", AttachStdout: true}
	if m := message(a.want(409, "POST", "/containers/xx/exec", exec)); m != "container "+id+" is not running" {
		t.Error(m)
	}
	a.want(204, "POST", "/containers/xx/start", nil)
	run := func(req container.ExecCreateRequest) (string, container.ExecInspectResponse) {
		var created container.ExecCreateResponse
		if err := json.Unmarshal([]byte(a.want(201, "POST", "/containers/xx/exec", req)), &created); err != nil {
			t.Fatal(err)
		}
		_, out := a.hijack("/exec/"+created.ID+"/start", container.ExecStartRequest{})
		var stdout bytes.Buffer
		if _, err := stdcopy.StdCopy(&stdout, &stdout, out); err != nil {
			t.Fatal(err)
		}
		var inspect container.ExecInspectResponse
		if err := json.Unmarshal([]byte(a.want(200, "GET", "/exec/"+created.ID+"/json", nil)), &inspect); err != nil {
			t.Fatal(err)
		}
		a.want(409, "POST", "/exec/"+created.ID+"/start", container.ExecStartRequest{})
		a.tenant = "bob"
		a.want(404, "GET", "/exec/"+created.ID+"/json", nil)
		a.tenant = "alice"
		return stdout.String(), inspect
	}
	if out, got := run(exec); out != "1000:1000\n" || got.ExitCode == nil || *got.ExitCode != 0 || got.Running {
		t.Errorf("%q %+v", out, got)
	}
	if _, got := run(container.ExecCreateRequest{Cmd: []string{"exit", "3"}}); got.ExitCode == nil || *got.ExitCode != 3 {
		t.Errorf("%+v", got)
	}
	out, got := run(container.ExecCreateRequest{Cmd: []string{"missing"}, AttachStdout: true})
	if !strings.HasPrefix(out, "OCI runtime exec failed: exec failed: ") || got.ExitCode == nil || *got.ExitCode != 127 {
		t.Errorf("%q %+v", out, got)
	}
}

func TestPublishedPorts(t *testing.T) {
	a := newAPI(t)
	var hc container.HostConfig
	if err := json.Unmarshal([]byte(`{"PortBindings":{"80/tcp":[{"HostIp":"","HostPort":"8080"}],"53/udp":[{}]}}`), &hc); err != nil {
		t.Fatal(err)
	}
	a.create("xx", container.Config{}, &hc)
	a.want(204, "POST", "/containers/xx/start", nil)
	var list []container.Summary
	if err := json.Unmarshal([]byte(a.want(200, "GET", "/containers/json", nil)), &list); err != nil {
		t.Fatal(err)
	}
	if len(list) != 1 || len(list[0].Ports) != 2 || list[0].Ports[1].PublicPort != 8080 || list[0].Ports[1].IP.String() != "0.0.0.0" {
		t.Errorf("%+v", list)
	}
	if !strings.HasPrefix(list[0].Status, "Up ") {
		t.Error(list[0].Status)
	}
}

// TestTogether lets many clients work on one name and one container at once: one wins each time, and nothing is left.
func TestTogether(t *testing.T) {
	a := newAPI(t)
	body := container.CreateRequest{Config: &container.Config{Image: "busybox"}}
	for range 5 {
		var all sync.WaitGroup
		var made atomic.Int64
		for range 8 {
			all.Go(func() {
				if status, text := a.do("POST", "/containers/create?name=one", body); status == 201 {
					made.Add(1)
				} else if status != 409 {
					t.Errorf("create: %d %s", status, text)
				}
			})
		}
		all.Wait()
		if made.Load() != 1 {
			t.Fatalf("%d containers of one name", made.Load())
		}
		for _, r := range []string{"POST start", "POST stop", "POST start", "POST kill", "POST restart", "DELETE", "POST start", "DELETE"} {
			method, op, _ := strings.Cut(r, " ")
			all.Go(func() {
				path := "/containers/one?force=1"
				if op != "" {
					path = "/containers/one/" + op
				}
				if status, text := a.do(method, path, nil); status >= 500 {
					t.Errorf("%s: %d %s", r, status, text)
				}
			})
		}
		all.Wait()
		if status, text := a.do("DELETE", "/containers/one?force=1", nil); status != 204 && status != 404 {
			t.Fatalf("%d %s", status, text)
		}
		if n := len(a.index.all("")); n != 0 {
			t.Fatalf("%d containers left", n)
		}
	}
	a.rt.mu.Lock()
	defer a.rt.mu.Unlock()
	if len(a.rt.tasks)+len(a.rt.rw) != 0 {
		t.Errorf("left: %d tasks, %d writable layers", len(a.rt.tasks), len(a.rt.rw))
	}
}
