package container

import (
	"context"
	"encoding/binary"
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"os"
	"path/filepath"
	"strconv"
	"sync"
	"testing"
	"time"

	"github.com/containerd/errdefs"
	dockerspec "github.com/moby/docker-image-spec/specs-go/v1"
	"github.com/moby/moby/api/types/events"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"stockade/api/helper"
	"stockade/api/setting"
	"stockade/engine/runtime"
)

// fakeRuntime runs "containers" whose command says what they do: exit N, echo TEXT, sleep (until killed), cat (copies
// standard input), stubborn (ignores all but KILL), missing (cannot be started).
type fakeRuntime struct {
	mu       sync.Mutex
	root     string // what OpenRoot shows
	tasks    map[string]*fakeTask
	rw       map[string]bool
	starts   int
	released []string
	known    map[string]bool
	rootOpen int
	failRW   bool
	probe    func() int // exit code of the exec "probe"
}

func newFakeRuntime(t *testing.T) *fakeRuntime {
	root := t.TempDir()
	if err := os.MkdirAll(filepath.Join(root, "etc"), 0o755); err != nil {
		t.Fatal(err)
	}
	write := func(name, text string) {
		if err := os.WriteFile(filepath.Join(root, "etc", name), []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	write("passwd", "root:x:0:0:root:/root:/bin/sh\napp:x:1000:1000::/home/app:/bin/sh\n")
	write("group", "root:x:0:\napp:x:1000:\nwheel:x:10:root\n")
	return &fakeRuntime{root: root, tasks: map[string]*fakeTask{}, rw: map[string]bool{}}
}

func (f *fakeRuntime) Start(_ context.Context, s runtime.Spec, created func(runtime.Task) error) (runtime.Task, error) {
	args := s.OCI.Process.Args
	if args[0] == "missing" {
		return nil, &runtime.StartError{Code: 127, Text: `exec: "missing": executable file not found in $PATH`}
	}
	t := &fakeTask{spec: s, rt: f, started: time.Now(), done: make(chan struct{}), in: make(chan io.Reader, 1)}
	if s.Network != nil {
		t.endpoint = &runtime.Endpoint{Address: "172.30.0.2", MAC: "02:42:ac:1e:00:02", Gateway: "172.30.0.1", Bits: 16, Ports: s.Network.Ports}
		for i := range t.endpoint.Ports {
			if t.endpoint.Ports[i].HostPort == 0 {
				t.endpoint.Ports[i].HostPort = uint16(32768 + i)
			}
		}
	}
	f.mu.Lock()
	f.tasks[s.ID] = t
	f.starts++
	f.mu.Unlock()
	if err := created(t); err != nil {
		return nil, err
	}
	t.begin(args)
	return t, nil
}

func (f *fakeRuntime) Recover(_ context.Context, id string) (runtime.Task, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if t := f.tasks[id]; t != nil {
		return t, nil
	}
	return nil, fmt.Errorf("container %s: %w", id, errdefs.ErrNotFound)
}

func (f *fakeRuntime) Release(_ context.Context, id string) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	delete(f.tasks, id)
	f.released = append(f.released, id)
	return nil
}

func (f *fakeRuntime) Reconcile(_ context.Context, known, _ map[string]bool) error {
	f.known = known
	return nil
}

func (f *fakeRuntime) CreateRW(_ context.Context, id string) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.failRW {
		return fmt.Errorf("no space left on device")
	}
	f.rw[id] = true
	return nil
}

func (f *fakeRuntime) RemoveRW(_ context.Context, id string) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	delete(f.rw, id)
	return nil
}

func (f *fakeRuntime) OpenRoot(context.Context, string, []string, []runtime.Mount) (runtime.Root, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.rootOpen++
	return fakeRoot(f.root), nil
}

func (f *fakeRuntime) startCount() int {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.starts
}

type fakeRoot string

func (r fakeRoot) Path() string { return string(r) }
func (fakeRoot) Base() uint32   { return 1 }
func (fakeRoot) Close() error   { return nil }

type fakeTask struct {
	rt       *fakeRuntime
	spec     runtime.Spec
	started  time.Time
	endpoint *runtime.Endpoint
	done     chan struct{}
	in       chan io.Reader

	mu     sync.Mutex
	outs   []io.Writer
	exit   runtime.Exit
	ended  bool
	paused bool
	limits helper.Limits
}

func (t *fakeTask) begin(args []string) {
	switch args[0] {
	case "exit":
		n, _ := strconv.Atoi(args[1])
		t.finish(n)
	case "run":
		d, _ := time.ParseDuration(args[1])
		time.AfterFunc(d, func() { t.finish(1) })
	case "echo":
		t.output(args[1] + "\n")
		t.finish(0)
	case "cat":
		go func() {
			in := <-t.in
			buf := make([]byte, 1024)
			for {
				n, err := in.Read(buf)
				if n > 0 {
					t.output(string(buf[:n]))
				}
				if err != nil {
					t.finish(0)
					return
				}
			}
		}()
	}
}

func (t *fakeTask) output(s string) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.spec.Log.FilePath != "" {
		b, _ := json.Marshal(map[string]any{"log": s, "stream": "stdout", "time": time.Now().UTC()})
		f, err := os.OpenFile(t.spec.Log.FilePath, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
		if err == nil {
			f.Write(append(b, '\n'))
			f.Close()
		}
	}
	for _, w := range t.outs {
		if t.spec.TTY {
			io.WriteString(w, s)
			continue
		}
		head := [8]byte{1}
		binary.BigEndian.PutUint32(head[4:], uint32(len(s)))
		w.Write(append(head[:], s...))
	}
}

func (t *fakeTask) finish(code int) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.ended {
		return
	}
	t.ended = true
	t.exit = runtime.Exit{Code: code, At: time.Now()}
	close(t.done)
}

func (t *fakeTask) PID() int                            { return 4242 }
func (t *fakeTask) Started() time.Time                  { return t.started }
func (t *fakeTask) Endpoint() *runtime.Endpoint         { return t.endpoint }
func (t *fakeTask) Done() <-chan struct{}               { return t.done }
func (t *fakeTask) Exit() runtime.Exit                  { t.mu.Lock(); defer t.mu.Unlock(); return t.exit }
func (t *fakeTask) Skipped() []helper.Skipped           { return nil }
func (t *fakeTask) File(name string) string             { return "/run/bundle/" + name }
func (t *fakeTask) Pids(context.Context) ([]int, error) { return []int{os.Getpid()}, nil }

func (t *fakeTask) Kill(_ context.Context, signal int) error {
	if t.spec.OCI.Process.Args[0] == "dying" { // the process is gone, its end not yet seen
		time.AfterFunc(50*time.Millisecond, func() { t.finish(0) })
		return errdefs.ErrFailedPrecondition
	}
	if signal == sigkill || t.spec.OCI.Process.Args[0] != "stubborn" {
		t.finish(128 + signal)
	}
	return nil
}

func (t *fakeTask) ExpectExec() {}

func (t *fakeTask) Resize(context.Context, uint, uint) error { return nil }

func (t *fakeTask) Pause(context.Context) error {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.paused = true
	return nil
}
func (t *fakeTask) Resume(context.Context) error {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.paused = false
	return nil
}

func (t *fakeTask) Update(_ context.Context, l helper.Limits) error {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.limits = l
	return nil
}

func (t *fakeTask) Stats(context.Context) (helper.CgroupStat, error) {
	return helper.CgroupStat{Memory: 1 << 20, CPUTotal: 12345, Pids: 1}, nil
}

func (t *fakeTask) Attach(ctx context.Context, a runtime.Attach) error {
	if a.Out != nil {
		t.mu.Lock()
		t.outs = append(t.outs, a.Out)
		t.mu.Unlock()
	}
	if a.In != nil {
		select {
		case t.in <- a.In:
		default:
		}
	}
	if a.Ready != nil {
		a.Ready()
	}
	select {
	case <-t.done:
	case <-ctx.Done():
	}
	return nil
}

func (t *fakeTask) Exec(_ context.Context, e runtime.ExecSpec) (runtime.Exec, error) {
	return &fakeExec{task: t, spec: e, done: make(chan struct{})}, nil
}

type fakeExec struct {
	task *fakeTask
	spec runtime.ExecSpec
	out  io.Writer
	done chan struct{}
	code int
}

func (e *fakeExec) PID() int                                 { return 0 }
func (e *fakeExec) Done() <-chan struct{}                    { return e.done }
func (e *fakeExec) Exit() runtime.Exit                       { return runtime.Exit{Code: e.code, At: time.Now()} }
func (e *fakeExec) Resize(context.Context, uint, uint) error { return nil }

func (e *fakeExec) Attach(ctx context.Context, a runtime.Attach) error {
	e.out = a.Out
	a.Ready()
	select {
	case <-e.done:
	case <-ctx.Done():
	}
	return nil
}

func (e *fakeExec) Start(context.Context) error {
	args := e.spec.Process.Args
	switch args[0] {
	case "missing":
		return &runtime.StartError{Code: 127, Text: `exec failed: unable to start container process: exec: "missing": executable file not found in $PATH`}
	case "id":
		if e.out == nil {
			break
		}
		s := fmt.Sprintf("%d:%d\n", e.spec.Process.User.UID, e.spec.Process.User.GID)
		head := [8]byte{1}
		binary.BigEndian.PutUint32(head[4:], uint32(len(s)))
		e.out.Write(append(head[:], s...))
	case "exit":
		e.code, _ = strconv.Atoi(args[1])
	case "probe":
		e.code = e.task.rt.probe()
	case "hang":
		return nil
	}
	close(e.done)
	return nil
}

// fakes are the other packages.
type fakes struct {
	mu      sync.Mutex
	events  []event
	volumes map[string]string // name → store
	refs    map[string]int
	filled  []string
	dropped []string
	config  dockerspec.DockerOCIImageConfig
}

type event struct {
	Type   events.Type
	Action events.Action
	ID     string
	Attrs  map[string]string
}

func newFakes() *fakes {
	f := &fakes{volumes: map[string]string{}, refs: map[string]int{}}
	f.config.Cmd = []string{"sleep"}
	f.config.Env = []string{"FROM=image"}
	return f
}

func (f *fakes) Resolve(_ context.Context, _, ref string, _ *ocispec.Platform) (Image, error) {
	if ref == "nope" {
		return Image{}, errdefs.ErrNotFound
	}
	return Image{ID: "sha256:" + fmt.Sprintf("%064x", 7), Ref: ref, Config: &f.config, Layers: []string{"l2", "l1"}, Size: 1000}, nil
}

func (f *fakes) Ensure(_ context.Context, _, name string, _, _ map[string]string) (string, string, bool, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if name == "" {
		name = newID()
	}
	store, ok := f.volumes[name]
	if !ok {
		store = "store-" + name
		f.volumes[name] = store
	}
	return name, store, !ok, nil
}

func (f *fakes) Populate(_ context.Context, store string, _ runtime.Root, path string) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.filled = append(f.filled, store+":"+path)
	return nil
}

func (f *fakes) Reference(_, name, _ string) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.refs[name]++
	return nil
}

func (f *fakes) Unreference(_, name, _ string) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.refs[name]--
}

func (f *fakes) Remove(_ context.Context, _, name string) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.refs[name] > 0 {
		return errdefs.ErrConflict
	}
	delete(f.volumes, name)
	return nil
}

func (f *fakes) Publish(_ string, typ events.Type, action events.Action, id string, attrs map[string]string) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.events = append(f.events, event{typ, action, id, attrs})
}

func (f *fakes) actions() []string {
	f.mu.Lock()
	defer f.mu.Unlock()
	var out []string
	for _, e := range f.events {
		if e.Type == events.ContainerEventType {
			out = append(out, string(e.Action))
		}
	}
	return out
}

func (f *fakes) Bridge(string) (string, string, string, int) { return "b0", "bridge", "172.30.0.1", 16 }

func (f *fakes) Drop(_ context.Context, ids []string) error {
	f.dropped = append(f.dropped, ids...)
	return nil
}

// world is a service with all its fakes.
type world struct {
	*Service
	rt   *fakeRuntime
	f    *fakes
	data string
}

func newWorld(t *testing.T) *world {
	w := &world{rt: newFakeRuntime(t), f: newFakes(), data: t.TempDir()}
	w.open(t)
	return w
}

func (w *world) open(t *testing.T) {
	t.Helper()
	s, err := New(Config{
		Settings: setting.Engine{Data: w.data, NofileHard: 4096}, Runtime: w.rt, Images: w.f, Volumes: w.f, Events: w.f, Networks: w.f,
		Grants: w.f, Log: slog.New(slog.NewTextHandler(io.Discard, nil)),
	})
	if err != nil {
		t.Fatal(err)
	}
	w.Service = s
	if err := s.Reconcile(t.Context()); err != nil {
		t.Fatal(err)
	}
}

// reopen is a crash of the engine: containers go on, memory is lost.
func (w *world) reopen(t *testing.T) {
	t.Helper()
	if err := w.Service.Close(); err != nil {
		t.Fatal(err)
	}
	w.open(t)
}
