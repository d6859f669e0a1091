package system

import (
	"encoding/json"
	"net/http"
	"net/netip"
	"os"
	"runtime"
	"strings"
	"time"

	"github.com/moby/moby/api/types/container"
	"github.com/moby/moby/api/types/registry"
	"github.com/moby/moby/api/types/swarm"
	"github.com/moby/moby/api/types/system"

	"stockade/api/scope"
	"stockade/engine/httpapi"
)

const (
	defaultRuntime = "runc"
	indexServer    = "https://index.docker.io/v1/"
)

func (s *Service) version(w http.ResponseWriter, _ *http.Request, _ scope.Scope) error {
	e := s.cfg.Engine
	kernel, _ := utsname()
	return httpapi.WriteJSON(w, http.StatusOK, system.VersionResponse{
		Platform: system.PlatformInfo{Name: "Stockade"},
		Version:  e.Version, APIVersion: s.cfg.APIVersion, MinAPIVersion: s.cfg.MinAPIVersion,
		Os: runtime.GOOS, Arch: runtime.GOARCH,
		GitCommit: e.GitCommit, BuildTime: e.Built, GoVersion: runtime.Version(), KernelVersion: kernel,
		Components: []system.ComponentVersion{{
			Name: "Engine", Version: e.Version,
			Details: map[string]string{
				"ApiVersion": s.cfg.APIVersion, "MinAPIVersion": s.cfg.MinAPIVersion, "GitCommit": e.GitCommit, "BuildTime": e.Built,
				"GoVersion": runtime.Version(), "KernelVersion": kernel, "Os": runtime.GOOS, "Arch": runtime.GOARCH,
				"Experimental": "false",
			},
		}},
	})
}

func (s *Service) info(w http.ResponseWriter, _ *http.Request, sc scope.Scope) error {
	e := s.cfg.Engine
	var running, paused, stopped int
	for _, c := range s.cfg.Containers.All(sc.Tenant, false) {
		switch c.State {
		case container.StateRunning, container.StateRestarting:
			running++
		case container.StatePaused:
			paused++
		default:
			stopped++
		}
	}
	c := readControllers(e.CgroupV2, "/sys/fs/cgroup", "/proc/cgroups")
	kernel, machine := utsname()
	osName, osVersion := osRelease("/etc/os-release")
	host, _ := os.Hostname()
	forward, _ := os.ReadFile("/proc/sys/net/ipv4/ip_forward")
	fds, _ := os.ReadDir("/proc/self/fd")
	i := system.Info{
		ID: s.id, Name: host, ServerVersion: e.Version,
		Containers: running + paused + stopped, ContainersRunning: running, ContainersPaused: paused, ContainersStopped: stopped,
		Images:       s.cfg.Images.Count(sc.Tenant),
		Driver:       "overlayfs", // as containers and images tell it
		DriverStatus: [][2]string{{"Backing Filesystem", backing(e.Data)}, {"Supports d_type", "true"}, {"userxattr", "true"}},
		Plugins: system.PluginsInfo{
			Volume: []string{"local"}, Network: []string{"bridge", "null"}, Log: []string{"json-file", "local"},
		},
		MemoryLimit: c.memory, SwapLimit: c.memory && c.swap, CPUCfsPeriod: c.cpu, CPUCfsQuota: c.cpu, CPUShares: c.cpu,
		CPUSet: c.cpuset, PidsLimit: c.pids,
		IPv4Forwarding: strings.TrimSpace(string(forward)) == "1",
		NFd:            len(fds), NGoroutines: runtime.NumGoroutine(), NEventsListener: s.cfg.Events.Listeners(),
		SystemTime:    time.Now().Format(time.RFC3339Nano),
		LoggingDriver: "json-file", CgroupDriver: "cgroupfs", CgroupVersion: "1",
		KernelVersion: kernel, OperatingSystem: osName, OSVersion: osVersion, OSType: "linux", Architecture: machine,
		HTTPProxy: e.Proxy.HTTP, HTTPSProxy: e.Proxy.HTTPS, NoProxy: e.Proxy.No,
		IndexServerAddress: indexServer, RegistryConfig: s.registries(),
		NCPU: runtime.NumCPU(), MemTotal: memTotal("/proc/meminfo"),
		DockerRootDir: e.Data, Labels: []string{},
		Runtimes: map[string]system.RuntimeWithStatus{}, DefaultRuntime: defaultRuntime,
		Swarm:              swarm.Info{LocalNodeState: swarm.LocalNodeStateInactive},
		LiveRestoreEnabled: true, // shims keep containers running without the engine
		InitBinary:         e.InitPath,
		ContainerdCommit:   system.Commit{ID: "N/A"}, RuncCommit: system.Commit{ID: "N/A"}, InitCommit: system.Commit{ID: "N/A"},
		SecurityOptions: []string{"name=seccomp,profile=builtin", "name=userns"},
		FirewallBackend: &system.FirewallInfo{Driver: "nftables"},
		CDISpecDirs:     []string{},
		Warnings:        []string{},
	}
	if e.CgroupV2 {
		i.CgroupVersion = "2"
	}
	for name, path := range e.Runtimes {
		i.Runtimes[name] = system.RuntimeWithStatus{Runtime: system.Runtime{Path: path}}
	}
	for _, limit := range []struct {
		has  bool
		name string
	}{
		{i.MemoryLimit, "memory limit"}, {i.SwapLimit, "swap limit"}, {i.CPUCfsQuota, "cpu cfs quota"},
		{i.CPUShares, "cpu shares"}, {i.CPUSet, "cpuset"}, {i.PidsLimit, "pids limit"},
	} {
		if !limit.has {
			i.Warnings = append(i.Warnings, "WARNING: No "+limit.name+" support")
		}
	}
	if !i.IPv4Forwarding {
		i.Warnings = append(i.Warnings, "WARNING: IPv4 forwarding is disabled")
	}
	return httpapi.WriteJSON(w, http.StatusOK, infoFor(sc.Version, i))
}

func (s *Service) registries() *registry.ServiceConfig {
	rc := &registry.ServiceConfig{
		InsecureRegistryCIDRs: []netip.Prefix{},
		IndexConfigs:          map[string]*registry.IndexInfo{"docker.io": {Name: "docker.io", Mirrors: []string{}, Secure: true, Official: true}},
		Mirrors:               []string{},
	}
	for _, host := range s.cfg.Engine.Insecure {
		rc.IndexConfigs[host] = &registry.IndexInfo{Name: host, Mirrors: []string{}}
	}
	return rc
}

// infoFor adds and removes what other API versions had.
func infoFor(version string, i system.Info) any {
	if httpapi.VersionLess(version, "1.49") {
		i.FirewallBackend = nil
	}
	if !httpapi.VersionLess(version, "1.50") {
		return i
	}
	m := map[string]any{}
	b, err := json.Marshal(i)
	if err != nil || json.Unmarshal(b, &m) != nil {
		return i
	}
	m["BridgeNfIptables"], m["BridgeNfIp6tables"] = false, false
	if httpapi.VersionLess(version, "1.49") {
		for _, c := range []string{"ContainerdCommit", "RuncCommit", "InitCommit"} {
			if commit, ok := m[c].(map[string]any); ok {
				commit["Expected"] = commit["ID"]
			}
		}
	}
	if rc, ok := m["RegistryConfig"].(map[string]any); ok && httpapi.VersionLess(version, "1.47") {
		rc["AllowNondistributableArtifactsCIDRs"], rc["AllowNondistributableArtifactsHostnames"] = nil, nil
	}
	return m
}
