package container

import (
	"fmt"
	"net/netip"
	"testing"

	"github.com/moby/moby/api/types/container"
	"github.com/moby/moby/api/types/network"

	"stockade/engine/runtime"
)

// started returns what the runtime was last asked to start for a container.
func (a *api) started(id string) runtime.Spec {
	a.t.Helper()
	a.rt.mu.Lock()
	defer a.rt.mu.Unlock()
	task := a.rt.tasks[id]
	if task == nil {
		a.t.Fatalf("%s was not started", id)
	}
	return task.spec
}

func TestJoin(t *testing.T) {
	a := newAPI(t)
	target := a.create("target", container.Config{Hostname: "host", Domainname: "example.org"}, &container.HostConfig{IpcMode: "shareable"})
	joiner := a.create("joiner", container.Config{}, &container.HostConfig{
		NetworkMode: "container:target", PidMode: container.PidMode("container:" + target[:12]), IpcMode: "container:/target", Init: new(true),
	})
	a.want(204, "POST", "/containers/target/rename?name=renamed", nil)
	if m := message(a.want(409, "POST", "/containers/joiner/start", nil)); m != "cannot join network of a non running container: "+target {
		t.Error(m)
	}
	a.want(204, "POST", "/containers/"+target+"/start", nil)
	a.want(204, "POST", "/containers/joiner/start", nil)
	s := a.started(joiner)
	if want := (runtime.Join{Net: target, PID: target, IPC: target}); s.Join != want {
		t.Errorf("joins %+v", s.Join)
	}
	if s.Network != nil || s.Init || s.OCI.Hostname != "host" || s.OCI.Domainname != "example.org" || s.Creator == nil || *s.Creator != a.uid || len(s.OCI.Linux.Sysctl) > 0 {
		t.Errorf("network %v, init %v, host name %s.%s, creator %v, sysctls %v", s.Network, s.Init, s.OCI.Hostname, s.OCI.Domainname, s.Creator, s.OCI.Linux.Sysctl)
	}
	for _, m := range s.OCI.Mounts {
		if m.Destination == "/dev/shm" {
			t.Error("shared memory of its own")
		}
	}
	v := a.inspectOf(joiner)
	mode := "container:" + target
	if string(v.HostConfig.NetworkMode) != mode || string(v.HostConfig.PidMode) != mode || string(v.HostConfig.IpcMode) != mode || v.Config.Hostname != "host" {
		t.Errorf("modes %s, %s, %s, host name %s", v.HostConfig.NetworkMode, v.HostConfig.PidMode, v.HostConfig.IpcMode, v.Config.Hostname)
	}
	if n := v.NetworkSettings; len(n.Networks) != 0 || len(n.Ports) != 0 || n.SandboxID != "" {
		t.Errorf("network settings %+v", n)
	}
	a.want(204, "DELETE", "/containers/"+target+"?force=1", nil)
	a.want(204, "POST", "/containers/joiner/stop?t=0", nil)
	if m := message(a.want(404, "POST", "/containers/joiner/start", nil)); m != "No such container: "+target {
		t.Error(m)
	}
}

func TestJoinErrors(t *testing.T) {
	a := newAPI(t)
	target := a.create("target", container.Config{}, &container.HostConfig{IpcMode: "shareable"})
	private := a.create("private", container.Config{}, nil)
	a.want(204, "POST", "/containers/private/start", nil)
	create := func(hc container.HostConfig) container.CreateRequest {
		return container.CreateRequest{Config: &container.Config{Image: "busybox"}, HostConfig: &hc}
	}
	for _, hc := range []container.HostConfig{{NetworkMode: "container:x"}, {PidMode: "container:x"}, {IpcMode: "container:x"}} {
		if m := message(a.want(400, "POST", "/containers/create", create(hc))); m != "No such container: x" {
			t.Error(m)
		}
	}
	// SECURITY(T-204): another tenant's is as none.
	a.tenant = "mallory"
	for _, ref := range []string{"target", target, target[:8]} {
		if m := message(a.want(400, "POST", "/containers/create", create(container.HostConfig{PidMode: container.PidMode("container:" + ref)}))); m != "No such container: "+ref {
			t.Error(m)
		}
	}
	a.tenant = "alice"
	for _, c := range []struct {
		status int
		hc     container.HostConfig
		text   string
	}{
		{409, container.HostConfig{PidMode: "container:target"}, "failed to join PID namespace: container " + target + " is not running"},
		{409, container.HostConfig{IpcMode: "container:target"}, "failed to join IPC namespace: container " + target + " is not running"},
		{400, container.HostConfig{IpcMode: "container:private"}, "failed to join IPC namespace: container " + private + ": non-shareable IPC (hint: use IpcMode:shareable for the donor container)"},
	} {
		id := a.create("", container.Config{}, &c.hc)
		if m := message(a.want(c.status, "POST", "/containers/"+id+"/start", nil)); m != c.text {
			t.Errorf("%q, want %q", m, c.text)
		}
	}
	port := network.MustParsePort("80/tcp")
	for _, c := range []struct {
		text   string
		change func(*container.CreateRequest)
	}{
		{"hostname and the network mode", func(r *container.CreateRequest) { r.Config.Hostname = "x" }},
		{"dns and the network mode", func(r *container.CreateRequest) { r.HostConfig.DNS = []netip.Addr{netip.MustParseAddr("10.0.0.1")} }},
		{"custom host-to-IP mapping and the network mode", func(r *container.CreateRequest) { r.HostConfig.ExtraHosts = []string{"a:10.0.0.1"} }},
		{"port publishing and the container type network mode", func(r *container.CreateRequest) { r.HostConfig.PublishAllPorts = true }},
		{"port publishing and the container type network mode", func(r *container.CreateRequest) { r.HostConfig.PortBindings = network.PortMap{port: nil} }},
		{"port exposing and the container type network mode", func(r *container.CreateRequest) { r.Config.ExposedPorts = network.PortSet{port: {}} }},
		{"mac-address and the network mode", func(r *container.CreateRequest) { r.NetworkingConfig = endpoint("container:target") }},
	} {
		r := create(container.HostConfig{NetworkMode: "container:target"})
		c.change(&r)
		if m := message(a.want(400, "POST", "/containers/create", r)); m != "conflicting options: "+c.text {
			t.Errorf("%q, want %q", m, c.text)
		}
	}
}

func endpoint(name string) *network.NetworkingConfig {
	return &network.NetworkingConfig{EndpointsConfig: map[string]*network.EndpointSettings{name: {MacAddress: network.HardwareAddr{2, 0, 0, 0, 0, 1}}}}
}

// After a crash of everything, what joins others starts after them, however many there are.
func TestJoinersStartInTurn(t *testing.T) {
	a := newAPI(t)
	always := func(target string) *container.HostConfig {
		hc := &container.HostConfig{RestartPolicy: container.RestartPolicy{Name: container.RestartPolicyAlways}}
		if target != "" {
			hc.PidMode = container.PidMode("container:" + target)
		}
		return hc
	}
	var ids []string
	last := ""
	for i := range 8 {
		last = a.create(fmt.Sprintf("c%d", i), container.Config{}, always(last))
		ids = append(ids, last)
		a.want(204, "POST", "/containers/"+last+"/start", nil)
	}
	a.rt.mu.Lock()
	clear(a.rt.tasks)
	a.rt.mu.Unlock()
	a.reopen(t)
	a.srv.Close()
	a.serve()
	for _, id := range ids {
		until(t, "all run", func() bool { return a.inspectOf(id).State.Running })
	}
}
