package spec

import (
	"maps"
	"strconv"
	"strings"

	"github.com/docker/go-units"
	"github.com/moby/moby/api/types/container"
	specs "github.com/opencontainers/runtime-spec/specs-go"

	"stockade/engine/runtime"
)

// Input is everything that Build looks at.
type Input struct {
	ID, Tenant  string
	Creator     *uint32
	Join        runtime.Join
	Layers      []string // top first
	Config      *container.Config
	HostConfig  *container.HostConfig
	Mounts      []Mount
	Account     Account
	MAC         string
	Gateway     string // of the default bridge, for host-gateway
	HostResolv  []byte // the host's resolv.conf
	NofileHard  uint64
	Memory      int64 // that a container without a limit may have; 0: no limit
	LogSize     int64 // of a log without max-size; 0: no limit
	ABI32       bool  // 32-bit system calls are allowed
	LogPath     string
	LogAttrs    map[string]string
	HasInit     bool    // the server has an init program
	NoNetwork   bool    // of its own
	ConsoleSize [2]uint // height, width
}

// Build makes the runtime's specification of one start.
func Build(in Input) (*runtime.Spec, error) {
	c, hc := in.Config, in.HostConfig
	process, err := Process(c, hc, in.Account, in.NofileHard)
	if err != nil {
		return nil, err
	}
	if h, w := in.ConsoleSize[0], in.ConsoleSize[1]; c.Tty && h > 0 && w > 0 {
		process.ConsoleSize = &specs.Box{Height: h, Width: w}
	}
	sec, err := parseSecurity(hc.SecurityOpt)
	if err != nil {
		return nil, err
	}
	filter, err := seccompFor(hc, sec, process.Capabilities.Bounding, in.ABI32)
	if err != nil {
		return nil, err
	}
	mounts, err := ociMounts(hc, in.Mounts)
	if err != nil {
		return nil, err
	}
	ports, err := Ports(c, hc)
	if err != nil {
		return nil, err
	}
	log, err := LogOf(hc.LogConfig)
	if err != nil {
		return nil, err
	}
	if log.Driver == "json-file" && log.MaxSize == 0 && in.LogSize > 0 {
		// SECURITY(T-305): a log without a limit of its own does not fill the disk; the newest half is always there.
		log.MaxSize, log.MaxFile = in.LogSize/2, 2
	}
	log.FilePath, log.Attrs = in.LogPath, in.LogAttrs
	s := &runtime.Spec{
		ID: in.ID, Tenant: in.Tenant, Creator: in.Creator, Join: in.Join, Layers: in.Layers, User: in.Account.User, Mounts: RuntimeMounts(in.Mounts),
		Limits: Limits(&hc.Resources), Log: log, TTY: c.Tty, Stdin: c.OpenStdin, StdinOnce: c.StdinOnce,
		Init: hc.Init != nil && *hc.Init && hc.PidMode.IsPrivate(), // another's first process is the init there
	}
	if hc.Runtime != "runc" {
		s.Runtime = hc.Runtime
	}
	if s.Init && !in.HasInit {
		return nil, invalid("this server has no init program")
	}
	if s.Limits.Memory == 0 {
		// SECURITY(T-305): a container without a limit runs out of memory before all containers together do.
		s.Limits.Memory = in.Memory
	}
	// Annotations stay empty: SECURITY(T-303).
	s.OCI = &specs.Spec{
		Version: specs.Version, Process: process, Hostname: c.Hostname, Domainname: c.Domainname,
		Root:   &specs.Root{Readonly: hc.ReadonlyRootfs},
		Mounts: mounts,
		Linux: &specs.Linux{
			Sysctl: sysctls(hc, !in.NoNetwork), Seccomp: filter,
			MaskedPaths: hc.MaskedPaths, ReadonlyPaths: hc.ReadonlyPaths,
		},
	}
	s.Files = runtime.Files{Hostname: []byte(c.Hostname + "\n"), Resolv: Resolv(in.HostResolv, hc), Hosts: Hosts(c, hc, in.Gateway)}
	if !in.NoNetwork {
		s.Network = &runtime.Network{MAC: in.MAC, Ports: ports}
	}
	return s, nil
}

// Process is the first process of a container.
func Process(c *container.Config, hc *container.HostConfig, a Account, nofileHard uint64) (*specs.Process, error) {
	caps, err := Capabilities(hc.CapAdd, hc.CapDrop, hc.Privileged)
	if err != nil {
		return nil, err
	}
	sec, err := parseSecurity(hc.SecurityOpt)
	if err != nil {
		return nil, err
	}
	limits, err := rlimits(&hc.Resources, nofileHard)
	if err != nil {
		return nil, err
	}
	name, args := Command(c)
	p := &specs.Process{
		Terminal: c.Tty, Args: append([]string{name}, args...), Env: Environment(c, a.Home), Cwd: c.WorkingDir,
		User:         specs.User{UID: a.UID, GID: a.GID, AdditionalGids: a.Additional, Umask: hc.Umask},
		Capabilities: ociCapabilities(caps, a.UID), NoNewPrivileges: sec.noNewPrivileges, Rlimits: limits,
	}
	if p.Cwd == "" {
		p.Cwd = "/"
	}
	// SECURITY(T-305): never easier to spare than what surrounds it.
	oom := max(hc.OomScoreAdj, 0)
	p.OOMScoreAdj = &oom
	return p, nil
}

// ExecProcess is a process added to a running container: its limits and rights are the container's.
func ExecProcess(c *container.Config, hc *container.HostConfig, e *container.ExecCreateRequest, a Account, nofileHard uint64) (*specs.Process, error) {
	p, err := Process(c, hc, a, nofileHard)
	if err != nil {
		return nil, err
	}
	if e.Privileged {
		all, err := Capabilities(nil, nil, true)
		if err != nil {
			return nil, err
		}
		p.Capabilities = ociCapabilities(all, a.UID)
	}
	p.Terminal, p.Args = e.Tty, e.Cmd
	p.Env = ExecEnvironment(c, e.Env, e.Tty, a.Home)
	if e.WorkingDir != "" {
		p.Cwd = e.WorkingDir
	}
	if !strings.HasPrefix(p.Cwd, "/") {
		return nil, invalid("working directory %q must be an absolute path", p.Cwd)
	}
	if e.Tty && e.ConsoleSize != nil {
		p.ConsoleSize = &specs.Box{Height: e.ConsoleSize[0], Width: e.ConsoleSize[1]}
	}
	return p, nil
}

func sysctls(hc *container.HostConfig, network bool) map[string]string {
	out := map[string]string{}
	if network {
		out["net.ipv4.ip_unprivileged_port_start"] = "0"
		out["net.ipv4.ping_group_range"] = "0 65535" // all groups that a container has
	}
	maps.Copy(out, hc.Sysctls)
	return out
}

// LogOf reads a log configuration. SECURITY(T-307): no driver dials out or reads files.
func LogOf(lc container.LogConfig) (runtime.Log, error) {
	l := runtime.Log{Driver: lc.Type, MaxFile: 1}
	switch lc.Type {
	case "", "json-file":
		l.Driver = "json-file"
	case "local":
		l.MaxSize, l.MaxFile = 20<<20, 5
	case "none":
		return l, nil
	default:
		return l, invalid("logger: no log driver named '%s' is registered", lc.Type)
	}
	for k, v := range lc.Config {
		switch k {
		case "max-size":
			n, err := units.FromHumanSize(v)
			if err != nil || n < 0 {
				return l, invalid("invalid log opt max-size: %q", v)
			}
			l.MaxSize = n
		case "max-file":
			n, err := strconv.Atoi(v)
			if err != nil || n < 1 {
				return l, invalid("max-file cannot be less than 1")
			}
			l.MaxFile = n
		case "labels", "labels-regex", "env", "env-regex", "tag", "compress", "mode", "max-buffer-size":
		default:
			return l, invalid("unknown log opt '%s' for %s log driver", k, l.Driver)
		}
	}
	if l.MaxFile > 1 && l.MaxSize <= 0 {
		return l, invalid("max-file option has to be used with max-size")
	}
	return l, nil
}

// LogAttrs picks the labels and variables that log options name.
func LogAttrs(lc container.LogConfig, c *container.Config) map[string]string {
	out := map[string]string{}
	for k := range strings.SplitSeq(lc.Config["labels"], ",") {
		if v, ok := c.Labels[k]; ok && k != "" {
			out[k] = v
		}
	}
	for k := range strings.SplitSeq(lc.Config["env"], ",") {
		for _, e := range c.Env {
			if name, v, ok := strings.Cut(e, "="); ok && name == k && k != "" {
				out[k] = v
			}
		}
	}
	if len(out) == 0 {
		return nil
	}
	return out
}
