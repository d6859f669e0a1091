// Package unpack turns the tar of an image layer into a folder that overlayfs can use as a lower layer.
//
// Both sides live here. The parent side (Config.Layer, Config.Digest) runs in the engine: it makes the folder, starts
// stockade-unpack and pipes the blob, compressed as it came, into it. The child side (Main) decompresses, parses and
// writes; it runs as root of S, a user namespace of its own whose ids are the ones that lie on disk, with its root
// folder changed to the layer's, in empty network, process and IPC namespaces, with six capabilities and a short list
// of system calls.
//
// Trust: every byte of the blob is hostile. The child is believed to be taken over by a clever blob; then it can write
// what it likes into the layer's folder, as ids of the store, and report any digest, which the caller compares with the
// one it expects. It has no way to the network, to other folders or to the engine.
// Invariants: nothing is written outside the folder; links are never followed out of it; no device node but the
// whiteout 0:0 exists in it; attributes in user.overlay.* come from whiteout files alone.
// Failure: a Layer that returns an error leaves a folder in an unknown state: the caller removes it.
package unpack

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"sync"
	"syscall"

	"github.com/containerd/errdefs"
	"github.com/opencontainers/go-digest"
	"golang.org/x/sys/unix"

	"stockade/api/setting"
)

// Limits bounds what one blob may cost. The zero value is DefaultLimits.
type Limits struct {
	Bytes   int64 // file contents and tar stream after decompression
	Sparse  int64 // part of Bytes that comes from sparse entries, whose bytes were never sent
	Ratio   int64 // bytes after decompression per compressed byte, beyond the first GiB
	Entries int64
	CPU     uint64 // seconds
}

// DefaultLimits lets the largest images in public use through.
var DefaultLimits = Limits{Bytes: 64 << 30, Sparse: 1 << 30, Ratio: 512, Entries: 2 << 20, CPU: 3600}

// Config says how children are started. The zero value refuses.
type Config struct {
	Path   string // the stockade-unpack binary
	Base   uint32 // id in the caller's user namespace of S's id 0; S has setting.BlockSize ids
	Limits Limits
}

// Result is what a child found out.
type Result struct {
	DiffID   digest.Digest `json:"diffID"`             // of the uncompressed stream
	Size     int64         `json:"size"`               // bytes in regular files
	Stream   int64         `json:"stream"`             // bytes of the uncompressed stream
	Entries  int64         `json:"entries"`            // tar entries
	Warnings []string      `json:"warnings,omitempty"` // what was left out, at most maxWarnings
}

// report is the child's one message on descriptor reportFD.
type report struct {
	Result
	Err   string `json:"err,omitempty"`
	Class string `json:"class,omitempty"` // invalid, limit, space or empty
}

// Layer makes folder dir, owned by the store's root with mode 0755, and fills it with blob: a tar, plain or compressed
// with gzip, zstd or bzip2. When it returns without error all of it is on disk.
//
// Errors: errdefs.ErrInvalidArgument the blob is no acceptable layer; ErrOutOfRange it exceeds a limit;
// ErrResourceExhausted the disk is full.
func (c Config) Layer(ctx context.Context, dir string, blob io.Reader) (Result, error) {
	return c.run(ctx, "layer", dir, blob)
}

// Digest finds out the digest of blob after decompression and writes nothing. Folder scratch is made for the child to
// be confined to; the caller removes it.
func (c Config) Digest(ctx context.Context, scratch string, blob io.Reader) (Result, error) {
	return c.run(ctx, "digest", scratch, blob)
}

func (c Config) run(ctx context.Context, mode, dir string, blob io.Reader) (Result, error) {
	if c.Path == "" || c.Base == 0 {
		return Result{}, fmt.Errorf("unpack: no program or no id range set: %w", errdefs.ErrFailedPrecondition)
	}
	if c.Limits == (Limits{}) {
		c.Limits = DefaultLimits
	}
	root, err := c.makeRoot(dir)
	if err != nil {
		return Result{}, err
	}
	defer root.Close()
	limits, err := json.Marshal(c.Limits)
	if err != nil {
		return Result{}, err
	}
	out, outW, err := os.Pipe()
	if err != nil {
		return Result{}, err
	}
	defer out.Close()
	defer outW.Close()

	in := &errorReader{r: blob}
	cmd := exec.CommandContext(ctx, c.Path, mode, string(limits))
	cmd.Env = []string{"GOMAXPROCS=2", "GOMEMLIMIT=256MiB", "GOTRACEBACK=none"}
	cmd.Dir = "/"
	cmd.Stdin = in
	var said complaint
	cmd.Stderr = &said
	cmd.ExtraFiles = []*os.File{root, outW} // rootFD, reportFD
	maps := []syscall.SysProcIDMap{{ContainerID: 0, HostID: int(c.Base), Size: setting.BlockSize}}
	// SECURITY(T-402): a blob that takes over the child finds no network, no process and no folder but its own.
	cmd.SysProcAttr = &syscall.SysProcAttr{
		Cloneflags: unix.CLONE_NEWUSER | unix.CLONE_NEWNS | unix.CLONE_NEWNET | unix.CLONE_NEWIPC | unix.CLONE_NEWPID |
			unix.CLONE_NEWUTS,
		UidMappings:                maps,
		GidMappings:                maps,
		GidMappingsEnableSetgroups: true,
		Credential:                 &syscall.Credential{Uid: 0, Gid: 0},
	}
	if err := cmd.Start(); err != nil {
		return Result{}, fmt.Errorf("start unpack: %w", err)
	}
	outW.Close()
	var r report
	decodeErr := json.NewDecoder(io.LimitReader(out, 1<<20)).Decode(&r)
	waitErr := cmd.Wait()
	switch {
	case ctx.Err() != nil:
		return Result{}, ctx.Err()
	case in.failed() != nil:
		return Result{}, fmt.Errorf("read layer: %w", in.failed())
	case r.Err != "":
		return Result{}, classify(r)
	case waitErr != nil || decodeErr != nil:
		return Result{}, fmt.Errorf("unpack ended without a report: %w (%s)", errors.Join(waitErr, decodeErr), said)
	}
	if err := r.DiffID.Validate(); err != nil {
		return Result{}, fmt.Errorf("unpack: digest: %w", err)
	}
	return r.Result, nil
}

// makeRoot makes dir for the store's root and opens it.
func (c Config) makeRoot(dir string) (*os.File, error) {
	if err := os.Mkdir(dir, 0o700); err != nil {
		return nil, err
	}
	f, err := os.OpenFile(dir, os.O_RDONLY|unix.O_DIRECTORY|unix.O_NOFOLLOW, 0)
	if err != nil {
		return nil, err
	}
	if err := errors.Join(f.Chown(int(c.Base), int(c.Base)), f.Chmod(0o755)); err != nil {
		f.Close()
		return nil, err
	}
	return f, nil
}

func classify(r report) error {
	class, ok := map[string]error{
		classInvalid: errdefs.ErrInvalidArgument,
		classLimit:   errdefs.ErrOutOfRange,
		classSpace:   errdefs.ErrResourceExhausted,
	}[r.Class]
	if !ok {
		class = errdefs.ErrInternal
	}
	if len(r.Err) > 1024 {
		r.Err = r.Err[:1024]
	}
	return fmt.Errorf("unpack layer: %s: %w", r.Err, class)
}

// errorReader remembers why reading failed: a child that then complains about a short stream is not to blame.
type errorReader struct {
	r   io.Reader
	mu  sync.Mutex
	err error
}

func (e *errorReader) Read(p []byte) (int, error) {
	n, err := e.r.Read(p)
	if err != nil && !errors.Is(err, io.EOF) {
		e.mu.Lock()
		e.err = err
		e.mu.Unlock()
	}
	return n, err
}

func (e *errorReader) failed() error {
	e.mu.Lock()
	defer e.mu.Unlock()
	return e.err
}

// complaint keeps the first bytes of what a child says when it breaks.
type complaint []byte

func (c *complaint) Write(p []byte) (int, error) {
	*c = append(*c, p[:min(len(p), 512-len(*c))]...)
	return len(p), nil
}
