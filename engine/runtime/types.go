package runtime

import (
	"context"
	"io"
	"slices"
	"time"

	specs "github.com/opencontainers/runtime-spec/specs-go"

	"stockade/api/helper"
)

// Spec is everything that one start of a container needs; nothing else is looked up. The caller has resolved the image,
// merged the configuration and passed policy.
type Spec struct {
	ID      string   // container id, 64 hex digits
	Tenant  string   // owner, for grants
	Creator *uint32  // host uid of who made the container; nil: not known
	Runtime string   // name from the settings, "" for runc
	Layers  []string // store names of the image's layers, top first
	// Process, Hostname, Root.Readonly, Linux.{Sysctl,Seccomp,MaskedPaths,ReadonlyPaths}, Mounts of type tmpfs, proc,
	// sysfs, mqueue are taken as they stand. The runtime fills namespaces, id maps, root path, /dev nodes, the mounts
	// below and cgroup settings. Annotations stay empty (SECURITY T-303).
	OCI     *specs.Spec
	User    User     // the process's user, already resolved inside the root
	Mounts  []Mount  // volumes, images, grants and files made by the engine
	Network *Network // nil: no network but lo ("none")
	Limits  helper.Limits
	Log     Log
	TTY     bool
	Stdin   bool // keep standard input open
	// StdinOnce closes standard input when the first attached client that had it goes away.
	StdinOnce bool
	Init      bool // run the engine's init as the first process
	// Ephemeral: the writable layer ends with the container (--rm), so nothing in it needs to reach the disk.
	Ephemeral bool
	Files     Files // not used with Join.Net
	Join      Join
}

// Join names running containers of the same tenant, by id, whose namespaces a start takes instead of making its own; ""
// makes one. With any of them the container lives in the other's user namespace, with its ids.
type Join struct{ Net, PID, IPC string }

func (s Spec) member() member {
	return member{creator: s.Creator, binds: slices.ContainsFunc(s.Mounts, func(m Mount) bool { return m.Grant != "" })}
}

// User is a numeric identity inside the container.
type User struct {
	UID, GID   uint32
	Additional []uint32
}

// Mount is one thing to show in the container.
type Mount struct {
	Target  string // absolute path inside
	RO      bool
	Volume  string   // store name of a volume: volumes/<Volume>/data
	Layers  []string // store names of an image's layers, top first: the image is shown read-only
	Subpath string   // with Volume or Layers: what lies beneath, resolved inside it
	Grant   string   // id of a grant
	File    string   // host path of a file made by the engine (hosts, hostname, resolv.conf)
	// Recursive shows a grant's submounts, too; SubRW leaves them writable when RO is set.
	Recursive, SubRW bool
}

// Files are the contents of the three files that the engine makes in /etc; nil leaves the image's.
type Files struct {
	Hostname, Resolv []byte
	// Hosts is written when the address is known; it gets the address, or "" without network.
	Hosts func(address string) []byte
}

// Network is the wanted endpoint on the default bridge.
type Network struct {
	MAC   string
	Ports []helper.Port
}

// Endpoint is what a running container has on the network.
type Endpoint struct {
	Address, MAC, Gateway string
	Bits                  int
	Ports                 []helper.Port // with every host port filled in
}

// Log says where output goes.
type Log struct {
	Driver   string // "json-file", "local" or "none"
	MaxSize  int64  // bytes per file, 0: no limit
	MaxFile  int    // number of files, at least 1
	Attrs    map[string]string
	FilePath string // <data>/containers/<id>/<id>-json.log
}

// Exit is how a process ended.
type Exit struct {
	Code int       `json:"code"` // 128+n for signal n
	At   time.Time `json:"at"`
	OOM  bool      `json:"oom"` // the kernel killed something in the container for memory
	Err  string    `json:"err,omitempty"`
}

// StartError is a start that failed because of what was asked: Docker's exit codes 126 and 127.
type StartError struct {
	Code int // 126 not executable, 127 not found, 128 other
	Text string
}

func (e *StartError) Error() string { return e.Text }

// Task is a running container.
type Task interface {
	PID() int
	Started() time.Time
	Endpoint() *Endpoint
	// Done is closed when the first process has ended and its output is in the log.
	Done() <-chan struct{}
	Exit() Exit // valid after Done
	Kill(ctx context.Context, signal int) error
	Resize(ctx context.Context, height, width uint) error
	Pause(ctx context.Context) error
	Resume(ctx context.Context) error
	Update(ctx context.Context, l helper.Limits) error
	Stats(ctx context.Context) (helper.CgroupStat, error)
	Pids(ctx context.Context) ([]int, error)
	// Attach connects to standard streams until the task ends, the client closes or ctx ends.
	Attach(ctx context.Context, a Attach) error
	Exec(ctx context.Context, e ExecSpec) (Exec, error)
	// ExpectExec makes ready for an Exec that will probably come within seconds. It returns at once.
	ExpectExec()
	// Skipped lists submounts of binds that could not be shown.
	Skipped() []helper.Skipped
	// File is where on the host one of the files lies that the engine makes in /etc: hosts, hostname or resolv.conf.
	File(name string) string
}

// Attach says which streams are wanted. Output arrives on Out: raw with a terminal, else multiplexed as in the Engine API.
type Attach struct {
	In     io.Reader // nil: no standard input
	Out    io.Writer
	Stdout bool
	Stderr bool
	// Ready is called once the streams are connected, before anything is copied.
	Ready func()
	// DetachKeys ends the attachment when the client types them (terminal only); nil for the default ctrl-p ctrl-q.
	DetachKeys []byte
}

// ErrDetached is returned by Attach when the client typed the detach keys.
type detached struct{}

func (detached) Error() string { return "detached" }

// ErrDetached is what Attach returns when the client typed the detach keys.
var ErrDetached error = detached{}

// ExecSpec is a process to be added to a running container.
type ExecSpec struct {
	ID      string // exec id, 64 hex digits
	Process *specs.Process
	TTY     bool
	Stdin   bool
}

// Exec is an added process. Its streams are connected by Attach before Start.
type Exec interface {
	PID() int
	Done() <-chan struct{}
	Exit() Exit
	Resize(ctx context.Context, height, width uint) error
	Attach(ctx context.Context, a Attach) error
	// Start lets the process begin; a *StartError tells that it could not be executed.
	Start(ctx context.Context) error
}

// Service is what package container needs of this package.
type Service interface {
	// Start starts a container. Attachments that must see the first byte are made between: attach is called with the
	// created task before its first process begins.
	Start(ctx context.Context, s Spec, created func(Task) error) (Task, error)
	// Recover finds a container again that was running when the engine ended; an ended one yields a task that is Done.
	// errdefs.ErrNotFound: there is nothing of it left.
	Recover(ctx context.Context, id string) (Task, error)
	// Release frees what an ended task still holds (bundle, id range, address). Safe to repeat.
	Release(ctx context.Context, id string) error
	// Reconcile removes what belongs to no known container: bundles, mounts, cgroups, endpoints, grants, rw folders.
	Reconcile(ctx context.Context, known map[string]bool, grants map[string]bool) error
	// CreateRW makes the writable layer of a new container, RemoveRW ends it.
	CreateRW(ctx context.Context, id string) error
	RemoveRW(ctx context.Context, id string) error
	// OpenRoot opens the root folder of a container, running or not, for reading and writing as the container's root
	// (copy, export, user look-up): paths are resolved beneath it only. Close it soon.
	// volumes are shown where they would be mounted; binds are seen in running containers only.
	OpenRoot(ctx context.Context, id string, layers []string, volumes []Mount) (Root, error)
}

// Root is an open container root: work on it happens in a child process whose root is the container's.
type Root interface {
	// Path is a folder of the engine's mount namespace where the root is mounted. Resolve beneath it with
	// openat2(RESOLVE_IN_ROOT) only (SECURITY T-401).
	Path() string
	// Base is the U id of the root's id 0: id i inside is U id Base+i, for 65536 ids. A child process that shall work on
	// the files gets a user namespace with the map 0 Base 65536 and makes Path its root folder.
	Base() uint32
	Close() error
}
