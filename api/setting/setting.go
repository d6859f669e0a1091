// Package setting holds what the supervisor tells each process at its start: one struct per process, sent as
// JSON over the hand-over pipe (package boot) and decoded strictly.
//
// Trust: the writer is the supervisor, which runs as root; the values come from the administrator's configuration.
// Invariants: nothing here is secret; an unknown field stops the start.
package setting

// IDRange is a range of host ids, uids and gids alike.
type IDRange struct {
	First uint32 // first host id of the range
	Count uint32 // number of ids; 0 means an empty range
}

// Contains tells whether host id lies in the range.
func (r IDRange) Contains(id uint32) bool {
	return id >= r.First && uint64(id) < uint64(r.First)+uint64(r.Count)
}

// BlockSize is the number of ids that each running container gets, and the size of the store's own block.
const BlockSize = 65536

// IDs says how the engine's user namespace U maps: U id 0 is the engine's host uid; U id 1+n is host id Sub.First+n.
// Block 0 of Sub (U ids 1…65536) is the store's: what lies on disk. Block k ≥ 1 is lent to a running container.
type IDs struct {
	EngineUID uint32  // host uid and gid of the engine: root in U
	Sub       IDRange // host ids of U from id 1 on; Count is a multiple of BlockSize
}

// Gate is what stockade-gate needs. Hand-over fds: "api" (listening Unix socket), "audit" (append-only file).
type Gate struct {
	EngineSocket string   // path of the engine's private HTTP socket
	GrantdSocket string   // path of grantd's socket for the gate
	AdminGID     int64    // members may do what policy keeps for administrators; -1: nobody but uid 0
	LowPorts     []uint16 // host ports below 1024 that may be published
	BindPrefixes []string // for a caller with uid 0: binds only beneath these folders
	Runtimes     []string // names that HostConfig.Runtime may have
	Containers   IDRange  // host ids of containers, refused as callers: IDs.Sub
	Version      string   // the server's version
}

// Engine is what stockade-engine needs. Hand-over fds: "api" (listening Unix socket for the gate).
type Engine struct {
	Data          string // state on disk, owned by the engine; holds store/, content/, …
	Run           string // volatile state (bundles, shim sockets), owned by the engine
	MountdSocket  string
	GrantdSocket  string
	NetdSocket    string
	CgroupdSocket string
	ShimPath      string            // stockade-shim
	UnpackPath    string            // stockade-unpack
	InitPath      string            // static init for --init, or empty
	Runtimes      map[string]string // name → path of an OCI runtime
	// RuntimeOptions of some of them, by name.
	RuntimeOptions map[string]RuntimeOptions
	IDs            IDs
	Pool           string   // IPv4 prefix of the default bridge, for example 172.30.0.0/16; the first address is the bridge's
	CgroupV2       bool     // host has the unified hierarchy only
	Insecure       []string // registries (host[:port]) reached without TLS
	Proxy          Proxy    // to registries
	RegistryCA     string   // folder of PEM files trusted for registries besides the system's, or empty
	ABI32          bool     // containers may make 32-bit system calls
	NofileHard     uint64   // highest nofile limit that a container may get
	Memory         int64    // bytes that a container without a limit of memory may have; 0: no limit
	LogSize        int64    // bytes that the log of a container without max-size may have; 0: no limit
	Version        string
	GitCommit      string
	Built          string // RFC 3339, or empty
}

// Proxy is the way to registries; empty: directly.
type Proxy struct {
	HTTP, HTTPS string // URL of the proxy for registries without and with TLS
	No          string // hosts, domains, addresses and prefixes that are reached directly, with commas between
}

// RuntimeOptions say how an OCI runtime differs from runc.
type RuntimeOptions struct {
	Args []string // global arguments, before the command
	// OwnCommands: containers are started, entered and deleted by the runtime's own commands. Without it the server does
	// that itself, as runc would.
	OwnCommands bool
	// OwnUserns: the runtime makes a container's user namespace itself, with the container's id map, because it cannot enter
	// one that exists.
	OwnUserns bool
}

// Mountd is what stockade-mountd needs. Hand-over fds: "engine" (listener), "grantd" (socket pair end),
// "store" (O_PATH folder Data/store of the engine), "userns" (U).
type Mountd struct {
	EngineUID uint32
	Store     IDRange // owners that a store folder may have
}

// Grantd is what stockade-grantd needs. Hand-over fds: "gate" and "engine" (listeners), "mountd" (socket pair end),
// "userns" (U), "records" (folder of its own).
type Grantd struct {
	GateUID      uint32
	EngineUID    uint32
	APISockets   []string // paths that an accepted client connection may be bound to
	Sub          IDRange  // U's host ids from id 1 on; targets lie in block ≥ 1
	Ghost        IDRange  // ids that no process owns, outside U; at least 2^31-1-65536… ids for "every other id"
	RootPrefixes []string // a caller with uid 0 gets paths beneath these only
	Forbidden    []string // folders of the server itself: no grant for anything in them (state, run-time sockets)
	MaxGrants    int      // per caller uid
}

// Netd is what stockade-netd needs. Hand-over fds: "engine" (listener), "userns" (U), "records" (folder of its own).
type Netd struct {
	EngineUID uint32
	Prefix    string // of every link, chain and table that it may touch, for example "stk"; at most 6 bytes [a-z]
	Pool      string // IPv4 prefix of the default bridge
	LowPorts  []uint16
}

// Cgroupd is what stockade-cgroupd needs. Hand-over fds: "engine" (listener).
type Cgroupd struct {
	EngineUID uint32
	Parent    string // name of our subtree in each hierarchy, one path component, made by the supervisor
	Root      string // /sys/fs/cgroup
	V2        bool
	Sub       IDRange // host ids that a process to be moved may have (besides EngineUID)
}
