// Package helper holds the messages of the privileged helpers' protocols: mountd, grantd, netd and cgroupd.
//
// Every message is one JSON object in one SOCK_SEQPACKET record of at most MaxMessage bytes, file descriptors
// attached. A connection starts with Hello and its answer; then each request gets exactly one Answer. A message that
// is unknown, too large, truncated, out of phase or that carries another number of descriptors than its request names
// ends the connection.
//
// Trust: the receiver believes nothing in these values; each helper checks them again (docs/dev/helper-protocol.md).
package helper

// Version of the protocol; a peer with another one is refused.
const Version = 1

// MaxMessage is the size limit of one message in bytes.
const MaxMessage = 64 << 10

// MaxFDs is the most descriptors that one message carries (the kernel's limit is 253).
const MaxFDs = 250

// Request is one request. Op picks the entry of the helper's table, and Body is that entry's type below.
type Request[T any] struct {
	Op   string `json:"op"`
	Body T      `json:"body"`
}

// Answer ends each request. Class is empty when the request was carried out.
type Answer[T any] struct {
	Class Class  `json:"class,omitempty"`
	Text  string `json:"text,omitempty"` // for a person; never parsed
	Body  T      `json:"body"`
}

// Class is the closed set of error classes.
type Class string

// The classes. The zero value means success in an Answer.
const (
	Invalid   Class = "invalid"   // the request can never be right
	Denied    Class = "denied"    // outside of the helper's scope or the caller's rights
	NotFound  Class = "not-found" // a name or path does not exist
	Conflict  Class = "conflict"  // in use, for example a port
	Exhausted Class = "exhausted" // a limit of the helper is reached
	Internal  Class = "internal"  // the kernel or disk failed
)

// Hello opens a connection in both directions: Op "hello".
type Hello struct {
	Version int `json:"version"`
}

// None is an empty body.
type None struct{}

// ---- mountd -------------------------------------------------------------------------------------------------

// Kinds of store folders that mountd clones; the folder is <kind>/<name>[/<sub>] beneath the store.
const (
	KindLayer  = "layers"  // layers/<name>/fs, always read-only
	KindRW     = "rw"      // rw/<name>
	KindVolume = "volumes" // volumes/<name>/data
)

// CloneItem names one folder of the store.
type CloneItem struct {
	Kind string `json:"kind"`         // KindLayer, KindRW or KindVolume
	Name string `json:"name"`         // [a-z0-9._-]{1,128}, not starting with a dot
	RO   bool   `json:"ro,omitempty"` // read-only clone (layers always are)
}

// Clone (mountd, from the engine; op "clone") asks for detached, id-mapped clones of store folders.
// fds: the user namespace that carries the id map, a child of U. Answer: CloneDone with one mount fd per item.
type Clone struct {
	Items []CloneItem `json:"items"` // 1…MaxFDs
}

// CloneDone answers Clone; the descriptors are in the order of the items.
type CloneDone struct{}

// Bind (mountd, from grantd's socket pair alone; op "bind"): fds: folder or file (O_PATH), user namespace with the map.
// Answer: None with one mount fd.
type Bind struct {
	RO bool `json:"ro,omitempty"`
}

// ---- grantd -------------------------------------------------------------------------------------------------

// Grant (grantd, from the gate; op "grant"): fds: the accepted client connection.
// The path is opened as that client at once, so a grant exists only for what the client can reach.
type Grant struct {
	Path   string `json:"path"`             // absolute, clean
	RO     bool   `json:"ro,omitempty"`     // later uses are read-only
	SubRW  bool   `json:"subRw,omitempty"`  // with RO: what is mounted beneath may be writable
	Create bool   `json:"create,omitempty"` // make a missing folder as the client could (docker -v)
	Tenant string `json:"tenant"`
}

// GrantDone answers Grant.
type GrantDone struct {
	ID  string `json:"id"` // 32 hex digits
	Dir bool   `json:"dir"`
	UID uint32 `json:"uid"` // the client's
}

// Use (grantd, from the engine; op "use") opens a grant again, as its owner, for one running container.
// The caller's own ids appear in the container as TargetUID and TargetGID.
type Use struct {
	ID        string `json:"id"`
	Tenant    string `json:"tenant"`
	RO        bool   `json:"ro,omitempty"`
	SubRW     bool   `json:"subRw,omitempty"`     // with RO: submounts stay writable where the grant allows it
	Recursive bool   `json:"recursive,omitempty"` // submounts, too
	TargetUID uint32 `json:"targetUid"`           // host id within block ≥ 1 of U
	TargetGID uint32 `json:"targetGid"`           // host id within the same block
}

// UseDone answers Use: mount fds in the order of Mounts.
type UseDone struct {
	Dir     bool      `json:"dir"`
	Mounts  []string  `json:"mounts"`            // paths relative to the granted one; the first is "."
	Skipped []Skipped `json:"skipped,omitempty"` // submounts that the kernel cannot id-map
}

// Skipped is one submount that is not shown.
type Skipped struct {
	Path   string `json:"path"`
	Reason string `json:"reason"`
}

// Drop (grantd, from the engine or the gate; op "drop") ends grants. Unknown ids are no error.
type Drop struct {
	IDs []string `json:"ids"` // at most 500
}

// Grants (grantd, from the engine; op "list" with None) lists a page of ids.
type ListGrants struct {
	After string `json:"after,omitempty"` // the last id of the page before
}

// GrantList answers ListGrants.
type GrantList struct {
	Grants []GrantInfo `json:"grants"` // at most 500, sorted by id; an empty page ends the list
}

// GrantInfo is one grant's id and age.
type GrantInfo struct {
	ID      string `json:"id"`
	Created int64  `json:"created"` // Unix seconds
}

// ---- netd ---------------------------------------------------------------------------------------------------

// Attach (netd, from the engine; op "attach"): fds: a network namespace whose owner descends from U.
// Makes a veth pair: one end on the default bridge, the other in the namespace, named eth0, down and without address
// (the engine sets both inside). Only packets from Address leave the host end.
type Attach struct {
	ID      string `json:"id"`            // endpoint: [a-z0-9]{1,64}
	Address string `json:"address"`       // IPv4 of the pool
	MAC     string `json:"mac,omitempty"` // wanted hardware address, or empty
}

// AttachDone answers Attach.
type AttachDone struct {
	Host    string `json:"host"` // name of the host's end
	MAC     string `json:"mac"`
	Gateway string `json:"gateway"` // the bridge's address
	Bits    int    `json:"bits"`    // prefix length of the pool
}

// Publish (netd, from the engine; op "publish") forwards host ports to an attached endpoint: all or none.
type Publish struct {
	ID    string `json:"id"`
	Ports []Port `json:"ports"` // at most 256
}

// Port is one published port.
type Port struct {
	Proto     string `json:"proto"`         // tcp or udp
	HostIP    string `json:"hostIp"`        // 0.0.0.0 or an IPv4 address of the host
	HostPort  uint16 `json:"hostPort"`      // 0: choose a free one from the host's ephemeral range, at or above 32768
	HostEnd   uint16 `json:"end,omitempty"` // with HostPort: choose the first free one in HostPort…HostEnd
	Container uint16 `json:"container"`     // port inside
}

// PublishDone answers Publish with every HostPort filled in, in the order asked.
type PublishDone struct {
	Ports []Port `json:"ports"`
}

// Detach (netd, from the engine; op "detach") ends endpoints: their rules, ports and links go. Unknown ids are no error.
type Detach struct {
	IDs []string `json:"ids"` // at most 500
}

// Endpoints (netd, from the engine; op "list" with None) answers EndpointList.
type EndpointList struct {
	IDs []string `json:"ids"`
}

// ---- cgroupd ------------------------------------------------------------------------------------------------

// Limits of one cgroup. Zero means: leave it as it is (no limit in a new one).
type Limits struct {
	Memory      int64  `json:"memory,omitempty"`      // bytes
	MemorySwap  int64  `json:"memorySwap,omitempty"`  // bytes, memory and swap together; -1: no limit
	Reservation int64  `json:"reservation,omitempty"` // bytes, soft limit
	Pids        int64  `json:"pids,omitempty"`        // -1: no limit
	CPUQuota    int64  `json:"cpuQuota,omitempty"`    // microseconds per period; -1: no limit
	CPUPeriod   uint64 `json:"cpuPeriod,omitempty"`   // microseconds
	CPUShares   uint64 `json:"cpuShares,omitempty"`   // v1 scale, 2…262144
	CpusetCPUs  string `json:"cpusetCpus,omitempty"`  // list format of cpuset(7)
	CpusetMems  string `json:"cpusetMems,omitempty"`
	BlkioWeight uint16 `json:"blkioWeight,omitempty"` // 10…1000
	Swappiness  *int64 `json:"swappiness,omitempty"`  // 0…100, v1 only
	DisableOOM  bool   `json:"disableOom,omitempty"`  // always refused; listed so that a request naming it is refused by name
}

// CgroupCreate (cgroupd; op "create") makes the container's group and sets limits. An existing one gets the limits.
type CgroupCreate struct {
	ID     string `json:"id"` // [a-z0-9]{1,64}
	Limits Limits `json:"limits"`
}

// CgroupSet (cgroupd; op "set") changes limits of a group; the answer is SetDone.
type CgroupSet = CgroupCreate

// SetDone answers create and set: limits that this host's controllers cannot hold.
type SetDone struct {
	Skipped []string `json:"skipped,omitempty"`
}

// CgroupAttach (cgroupd; op "attach") moves one process; fds: its pidfd.
type CgroupAttach struct {
	ID  string `json:"id"`
	PID int    `json:"pid"`
}

// CgroupID is the body of ops "remove", "stat", "freeze", "thaw", "kill" and "pids".
type CgroupID struct {
	ID string `json:"id"`
}

// CgroupPids answers "pids": host pids in the group (at most 4096).
type CgroupPids struct {
	Pids []int `json:"pids"`
}

// CgroupList answers "list" (None): all our groups.
type CgroupList struct {
	IDs []string `json:"ids"`
}

// CgroupStat answers "stat". Units as in the Engine API: nanoseconds and bytes.
type CgroupStat struct {
	OOMKills     uint64            `json:"oomKills"`
	Memory       uint64            `json:"memory"`                // bytes in use
	MemoryMax    uint64            `json:"memoryMax"`             // highest use, 0 where the host does not record it
	MemoryLimit  uint64            `json:"memoryLimit"`           // 0: none
	MemoryStats  map[string]uint64 `json:"memoryStats,omitempty"` // memory.stat
	Failcnt      uint64            `json:"failcnt"`
	CPUTotal     uint64            `json:"cpuTotal"`
	CPUUser      uint64            `json:"cpuUser"`
	CPUSystem    uint64            `json:"cpuSystem"`
	CPUPerCPU    []uint64          `json:"cpuPerCpu,omitempty"`
	Periods      uint64            `json:"periods"`
	Throttled    uint64            `json:"throttled"`
	ThrottledFor uint64            `json:"throttledFor"`
	Pids         uint64            `json:"pids"`
	PidsLimit    uint64            `json:"pidsLimit"` // 0: none
	Blkio        []BlkioEntry      `json:"blkio,omitempty"`
	Frozen       bool              `json:"frozen"`
}

// BlkioEntry is one line of the block I/O byte counters.
type BlkioEntry struct {
	Major, Minor uint64
	Op           string // read, write, sync, async, total…
	Value        uint64
}
