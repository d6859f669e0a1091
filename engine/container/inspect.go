package container

import (
	"crypto/sha256"
	"encoding/hex"
	"io/fs"
	"net"
	"net/http"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"syscall"
	"time"

	"github.com/moby/moby/api/types/container"
	"github.com/moby/moby/api/types/mount"
	"github.com/moby/moby/api/types/network"
	"github.com/moby/moby/api/types/storage"

	"stockade/api/scope"
	"stockade/engine/container/spec"
	"stockade/engine/httpapi"
	"stockade/engine/runtime"
)

func (s *Service) handleInspect(w http.ResponseWriter, r *http.Request, sc scope.Scope) error {
	c, err := s.index.find(sc.Tenant, r.PathValue("id"))
	if err != nil {
		return err
	}
	resp := s.inspect(c)
	if boolOf(r.URL.Query().Get("size")) {
		v := c.view()
		rw := s.sizeRW(v.ID)
		root := rw + v.ImageSize
		resp.SizeRw, resp.SizeRootFs = &rw, &root
	}
	if httpapi.VersionLess(sc.Version, "1.48") {
		resp.ImageManifestDescriptor = nil
	}
	if httpapi.VersionLess(sc.Version, "1.52") {
		return httpapi.WriteJSON(w, http.StatusOK, withLegacyNetwork(resp))
	}
	return httpapi.WriteJSON(w, http.StatusOK, resp)
}

// driver is the name of what stores containers' files.
const driver = "overlayfs"

// inspect describes a container as Docker does.
func (s *Service) inspect(c *item) *container.InspectResponse {
	v := c.view()
	var task runtime.Task
	if v.State.Running {
		task = v.Task
	}
	resp := &container.InspectResponse{
		ID: v.ID, Created: stamp(v.Created), Path: v.Path, Args: v.Args, State: state(v), Image: v.Image, LogPath: v.LogPath,
		Name: "/" + v.Name, RestartCount: v.State.RestartCount, Driver: driver, Platform: v.Platform, ExecIDs: c.execIDs(),
		HostConfig: v.Host, Config: v.Config, Mounts: mountPoints(s.cfg.Settings.Data, v.Mounts), NetworkSettings: s.network(v, task),
		ImageManifestDescriptor: v.Manifest,
		Storage:                 &storage.Storage{RootFS: &storage.RootFSStorage{Snapshot: &storage.RootFSStorageSnapshot{Name: driver}}},
	}
	if task != nil { // they are made at each start
		resp.HostsPath, resp.HostnamePath, resp.ResolvConfPath = task.File("hosts"), task.File("hostname"), task.File("resolv.conf")
	}
	if resp.Args == nil {
		resp.Args = []string{}
	}
	return resp
}

func stamp(t time.Time) string { return t.UTC().Format(time.RFC3339Nano) }

func state(v *view) *container.State {
	st := v.State
	out := &container.State{
		Status: st.Status(), Running: st.Running, Paused: st.Paused, Restarting: st.Restarting, OOMKilled: st.OOMKilled, Dead: st.Dead,
		ExitCode: st.ExitCode, Error: st.Error, StartedAt: stamp(st.StartedAt), FinishedAt: stamp(st.FinishedAt), Health: v.Health,
	}
	if st.Running && v.Task != nil {
		out.Pid = v.Task.PID()
	}
	return out
}

func (c *item) execIDs() []string {
	c.mu.Lock()
	defer c.mu.Unlock()
	var out []string
	for id, e := range c.execs {
		if _, running, _ := e.state(); running {
			out = append(out, id)
		}
	}
	slices.Sort(out)
	return out
}

func mountPoints(data string, mounts []spec.Mount) []container.MountPoint {
	out := []container.MountPoint{}
	for _, m := range mounts {
		p := container.MountPoint{
			Type: m.Type, Name: m.Name, Source: m.Source, Destination: m.Destination, Driver: m.Driver, Mode: m.Mode, RW: m.RW,
			Propagation: m.Propagation,
		}
		if m.Type == mount.TypeVolume && p.Source == "" {
			p.Source = filepath.Join(data, "store", "volumes", m.Store, "data")
		}
		out = append(out, p)
	}
	return out
}

// network describes the container's place on the default bridge.
func (s *Service) network(v *view, task runtime.Task) *container.NetworkSettings {
	ns := &container.NetworkSettings{Ports: network.PortMap{}, Networks: map[string]*network.EndpointSettings{}}
	if v.Host.NetworkMode.IsNone() {
		ns.Networks[network.NetworkNone] = &network.EndpointSettings{}
		return ns
	}
	if v.Host.NetworkMode.IsContainer() {
		return ns
	}
	id, name, gateway, _ := s.cfg.Networks.Bridge(v.Tenant)
	ep := &network.EndpointSettings{NetworkID: id}
	ns.Networks[name] = ep
	if mac, err := net.ParseMAC(v.MAC); err == nil {
		ep.MacAddress = network.HardwareAddr(mac)
	}
	if task == nil {
		return ns
	}
	sandbox := derived("sandbox", v.ID, stamp(v.State.StartedAt))
	ns.SandboxID, ns.SandboxKey = sandbox, "/var/run/docker/netns/"+sandbox[:12]
	e := task.Endpoint()
	if e == nil {
		return ns
	}
	ns.Ports = spec.PortMap(v.Config.ExposedPorts, e.Ports)
	ep.EndpointID = derived("endpoint", v.ID, stamp(v.State.StartedAt))
	ep.IPPrefixLen = e.Bits
	if a, err := netip.ParseAddr(e.Address); err == nil {
		ep.IPAddress = a
	}
	if e.Gateway != "" {
		gateway = e.Gateway
	}
	if a, err := netip.ParseAddr(gateway); err == nil {
		ep.Gateway = a
	}
	if mac, err := net.ParseMAC(e.MAC); err == nil {
		ep.MacAddress = network.HardwareAddr(mac)
	}
	return ns
}

// derived makes the id of something that Docker gives one: the same for one start of a container.
func derived(parts ...string) string {
	h := sha256.New()
	for _, p := range parts {
		h.Write([]byte(p))
		h.Write([]byte{0})
	}
	return hex.EncodeToString(h.Sum(nil))
}

// legacyNetwork has the fields of the default bridge that API versions before 1.52 repeat.
type legacyNetwork struct {
	*container.NetworkSettings
	Bridge                 string
	HairpinMode            bool
	LinkLocalIPv6Address   string
	LinkLocalIPv6PrefixLen int
	SecondaryIPAddresses   []string
	SecondaryIPv6Addresses []string
	EndpointID             string
	Gateway                netip.Addr
	GlobalIPv6Address      string
	GlobalIPv6PrefixLen    int
	IPAddress              netip.Addr
	IPPrefixLen            int
	IPv6Gateway            string
	MacAddress             string
}

type legacyInspect struct {
	*container.InspectResponse
	NetworkSettings legacyNetwork
}

func withLegacyNetwork(r *container.InspectResponse) legacyInspect {
	l := legacyNetwork{NetworkSettings: r.NetworkSettings}
	if ep := r.NetworkSettings.Networks[network.NetworkBridge]; ep != nil {
		l.EndpointID, l.Gateway, l.IPAddress, l.IPPrefixLen = ep.EndpointID, ep.Gateway, ep.IPAddress, ep.IPPrefixLen
		l.MacAddress = ep.MacAddress.String()
	}
	return legacyInspect{InspectResponse: r, NetworkSettings: l}
}

// sizeRW adds up what a container's writable layer holds. Files with several names count once.
func (s *Service) sizeRW(id string) int64 {
	var total int64
	seen := map[[2]uint64]bool{}
	// SECURITY(T-401): the container may swap folders and links meanwhile; os.Root never leaves the layer.
	root, err := os.OpenRoot(filepath.Join(s.cfg.Settings.Data, "store", "rw", id, "upper"))
	if err != nil {
		return 0
	}
	defer root.Close()
	// What vanishes or cannot be read while we look is not counted.
	_ = fs.WalkDir(root.FS(), ".", func(_ string, d fs.DirEntry, err error) error {
		if err != nil {
			return nil //nolint:nilerr // see above
		}
		info, err := d.Info()
		if err != nil || !info.Mode().IsRegular() {
			return nil //nolint:nilerr // see above
		}
		if st, ok := info.Sys().(*syscall.Stat_t); ok && st.Nlink > 1 {
			k := [2]uint64{uint64(st.Dev), st.Ino}
			if seen[k] {
				return nil
			}
			seen[k] = true
		}
		total += info.Size()
		return nil
	})
	return total
}
