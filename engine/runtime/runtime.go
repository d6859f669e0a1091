package runtime

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"sync"
	"time"

	"github.com/containerd/errdefs"
	"golang.org/x/sys/unix"

	"stockade/api/helper"
	"stockade/api/setting"
	"stockade/engine/runtime/filter"
	"stockade/internal/failpoint"
	"stockade/internal/seqpacket"
)

// Addresses hands out IPv4 addresses of the default bridge.
type Addresses interface {
	// Allocate takes a free address for an endpoint, or the wanted one if that is not "".
	Allocate(ctx context.Context, endpoint, wanted string) (string, error)
	Free(endpoint string)
}

// Runtime implements Service.
type Runtime struct {
	cfg     setting.Engine
	log     *slog.Logger
	addrs   Addresses
	mountd  *seqpacket.Client
	grantd  *seqpacket.Client
	netd    *seqpacket.Client
	cgroupd *seqpacket.Client

	store   string // <data>/store
	bundles string // <run>/c, one folder per slot

	// Changing the file system uid of a thread makes the whole process non-dumpable for a moment; a user namespace
	// cannot be set up then. See mountOverlay.
	dumpable sync.RWMutex

	mu     sync.Mutex
	blocks blocks
	idmaps map[uint32]*os.File // by block, see idmap
	tasks  map[string]*task
	locks  map[string]*sync.Mutex // per container
	pool   []*slot
	filling,
	closed bool
	left       map[string]bundle // of an engine before us, by container; read by leftBehind
	background sync.WaitGroup
	known      filter.Known // of the library in runc; nil until it was asked for

	cleared chan struct{} // closed when what an engine before us left has ended: its id ranges and addresses are free
}

// poolSize is how many slots wait for a start.
const poolSize = 2

// New makes the service. Nothing is started before Reconcile.
func New(cfg setting.Engine, addrs Addresses, log *slog.Logger) (*Runtime, error) {
	r := &Runtime{
		cfg: cfg, log: log, addrs: addrs,
		mountd: seqpacket.NewClient(cfg.MountdSocket), grantd: seqpacket.NewClient(cfg.GrantdSocket),
		netd: seqpacket.NewClient(cfg.NetdSocket), cgroupd: seqpacket.NewClient(cfg.CgroupdSocket),
		store: filepath.Join(cfg.Data, "store"), bundles: filepath.Join(cfg.Run, "c"),
		blocks: blocks{0: {reserved: {}}}, idmaps: map[uint32]*os.File{}, tasks: map[string]*task{}, locks: map[string]*sync.Mutex{},
		cleared: make(chan struct{}),
	}
	// The container's root passes through these folders by name to its own bundle (makeSlot).
	for _, dir := range []string{cfg.Run, r.bundles, filepath.Join(cfg.Run, "r")} {
		if err := os.MkdirAll(dir, 0o711); err != nil {
			return nil, err
		}
		if err := os.Chmod(dir, 0o711); err != nil {
			return nil, err
		}
	}
	for _, kind := range []string{helper.KindLayer, helper.KindRW, helper.KindVolume, "trash"} {
		if err := os.MkdirAll(filepath.Join(r.store, kind), 0o711); err != nil {
			return nil, err
		}
	}
	for _, dir := range []string{r.store, filepath.Join(r.store, helper.KindLayer), filepath.Join(r.store, helper.KindRW), filepath.Join(r.store, helper.KindVolume)} {
		if err := os.Chmod(dir, 0o711); err != nil {
			return nil, err
		}
	}
	return r, nil
}

// Close gives back the slots that wait. Running containers stay.
func (r *Runtime) Close() {
	r.mu.Lock()
	r.closed = true
	pool := r.pool
	r.pool = nil
	r.mu.Unlock()
	for _, s := range pool {
		r.dropSlot(s)
	}
	r.background.Wait()
}

// lock serialises work on one container.
func (r *Runtime) lock(id string) func() {
	r.mu.Lock()
	l := r.locks[id]
	if l == nil {
		l = &sync.Mutex{}
		r.locks[id] = l
	}
	r.mu.Unlock()
	l.Lock()
	return l.Unlock
}

func (r *Runtime) task(id string) *task {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.tasks[id]
}

// Start implements Service.
func (r *Runtime) Start(ctx context.Context, s Spec, created func(Task) error) (Task, error) {
	// What was begun is finished or undone, whether or not the client waits.
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), 2*time.Minute)
	defer cancel()
	defer r.lock(s.ID)()
	if old := r.task(s.ID); old != nil {
		select {
		case <-old.done:
			r.releaseTask(ctx, old)
		default:
			return nil, fmt.Errorf("container is running: %w", errdefs.ErrFailedPrecondition)
		}
	}
	sl, err := r.slotFor(ctx, s)
	if err != nil {
		return nil, err
	}
	failpoint.Hit("runtime.start.slot")
	t := newTask(r, s, sl)
	if err := r.launch(ctx, t, s, created); err != nil {
		t.abort()
		r.unmountSlot(sl)
		r.dropSlot(sl)
		r.refill()
		return nil, err
	}
	r.mu.Lock()
	r.tasks[s.ID] = t
	r.mu.Unlock()
	r.refill()
	return t, nil
}

// slotFor makes or takes the slot of one start.
func (r *Runtime) slotFor(ctx context.Context, s Spec) (*slot, error) {
	if s.Join != (Join{}) {
		return r.joinSlot(ctx, s)
	}
	sl, err := r.takeSlot(ctx, s.Network)
	if err != nil {
		return nil, fmt.Errorf("prepare namespaces: %w", err)
	}
	r.holdBlock(sl.block, sl.id, s.member())
	return sl, nil
}

func (r *Runtime) launch(ctx context.Context, t *task, s Spec, created func(Task) error) error {
	sl := t.slot
	st := t.state
	st.Endpoint = sl.endpoint
	if err := sl.record(st); err != nil {
		return err
	}
	failpoint.Hit("runtime.start.recorded")
	limits := make(chan error, 1)
	go func() { limits <- r.limit(ctx, sl, s.Limits) }()
	published := make(chan error, 1)
	go func() { published <- r.publish(ctx, t, s) }()
	err := r.mountAll(ctx, t, s)
	if err == nil {
		err = failpoint.Fail("runtime.start.overlay")
	}
	if err == nil {
		err = sl.attachShm()
	}
	if err == nil {
		err = r.writeConfig(t, s)
	}
	err = errors.Join(err, <-limits, <-published)
	if err != nil {
		return err
	}
	if err := t.create(ctx, s); err != nil {
		return err
	}
	if err := failpoint.Fail("runtime.start.created"); err != nil {
		return err
	}
	if created != nil {
		if err := created(t); err != nil {
			return err
		}
	}
	return t.begin(ctx)
}

func (r *Runtime) limit(ctx context.Context, sl *slot, l helper.Limits) error {
	if l == (helper.Limits{}) {
		return nil
	}
	done, _, err := seqpacket.Call[helper.CgroupSet, helper.SetDone](ctx, r.cgroupd, "set", helper.CgroupSet{ID: sl.id, Limits: l})
	if err != nil {
		return fmt.Errorf("set limits: %w", err)
	}
	if len(done.Skipped) > 0 {
		r.log.Warn("limits that this host cannot hold", "slot", sl.id, "skipped", done.Skipped)
	}
	return nil
}

func (r *Runtime) publish(ctx context.Context, t *task, s Spec) error {
	if s.Network == nil || len(s.Network.Ports) == 0 {
		return nil
	}
	done, _, err := seqpacket.Call[helper.Publish, helper.PublishDone](ctx, r.netd, "publish", helper.Publish{ID: t.slot.id, Ports: s.Network.Ports})
	if err != nil {
		var herr *seqpacket.Error
		if errors.As(err, &herr) {
			return fmt.Errorf("%s", herr.Text)
		}
		return fmt.Errorf("publish ports: %w", err)
	}
	t.slot.mu.Lock()
	t.slot.endpoint.Ports = done.Ports
	t.slot.mu.Unlock()
	return nil
}

// state is what a restarted engine must know of a running container; it lies in the slot's bundle.
type state struct {
	Container string           `json:"container"`
	Tenant    string           `json:"tenant"`
	Runtime   string           `json:"runtime,omitempty"` // name from the settings
	Block     uint32           `json:"block"`
	PID       int              `json:"pid,omitempty"`
	StartTime uint64           `json:"startTime,omitempty"` // of the process, against reuse of its pid
	Started   time.Time        `json:"started,omitzero"`
	Endpoint  *Endpoint        `json:"endpoint,omitempty"`
	Skipped   []helper.Skipped `json:"skipped,omitempty"`
	Volumes   int              `json:"volumes,omitempty"` // mounts beneath v/
	TTY       bool             `json:"tty,omitempty"`
	PIDShared bool             `json:"pidShared,omitempty"` // no pid namespace ends with the first process
	Creator   *uint32          `json:"creator,omitempty"`
	Binds     bool             `json:"binds,omitempty"`
}

func (s state) member() member { return member{creator: s.Creator, binds: s.Binds} }

const stateFile = "state.json"

func readState(bundle string) (state, error) {
	var st state
	data, err := os.ReadFile(filepath.Join(bundle, stateFile))
	if err != nil {
		return st, err
	}
	return st, json.Unmarshal(data, &st)
}

// writeJSON replaces a file of volatile state. It lies in memory, so there is nothing to sync.
func writeJSON(path string, v any) error {
	data, err := json.Marshal(v)
	if err != nil {
		return err
	}
	if err := os.WriteFile(path+".tmp", data, 0o600); err != nil {
		return err
	}
	return os.Rename(path+".tmp", path)
}

// CreateRW implements Service.
func (r *Runtime) CreateRW(_ context.Context, id string) error {
	root := int(storeBase)
	dir := filepath.Join(r.store, helper.KindRW, id)
	for _, d := range []string{dir, filepath.Join(dir, "upper"), filepath.Join(dir, "work")} {
		if err := os.Mkdir(d, 0o755); err != nil {
			return fmt.Errorf("make writable layer: %w", err)
		}
		if err := os.Chown(d, root, root); err != nil {
			return fmt.Errorf("make writable layer: %w", err)
		}
		if err := failpoint.Fail("runtime.layer.made"); err != nil {
			return err
		}
	}
	return nil
}

// RemoveRW implements Service.
func (r *Runtime) RemoveRW(_ context.Context, id string) error {
	dir := filepath.Join(r.store, helper.KindRW, id)
	trash := filepath.Join(r.store, "trash", id+"-"+randomID())
	err := os.Rename(dir, trash)
	if errors.Is(err, os.ErrNotExist) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("remove writable layer: %w", err)
	}
	failpoint.Hit("runtime.layer.trashed")
	r.later(func() {
		if err := os.RemoveAll(trash); err != nil {
			r.log.Warn("empty trash", "err", err)
		}
	})
	return nil
}

// later runs work that nobody waits for but Close.
func (r *Runtime) later(f func()) {
	r.background.Add(1)
	go func() {
		defer r.background.Done()
		f()
	}()
}

// sigkill ends a process that is certainly ours.
func sigkill(pidfd *os.File) {
	if pidfd != nil {
		_ = unix.PidfdSendSignal(int(pidfd.Fd()), unix.SIGKILL, nil, 0)
	}
}
