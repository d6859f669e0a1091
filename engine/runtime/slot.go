package runtime

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"stockade/api/helper"
	"stockade/api/setting"
	"stockade/engine/shim"
	"stockade/internal/failpoint"
	"stockade/internal/seqpacket"
	"stockade/internal/userns"
)

// storeBase is the U id of store id 0.
const storeBase = 1

// base is the U id of id 0 in block k.
func base(block uint32) uint32 { return 1 + block*setting.BlockSize }

// slot is everything of a container that does not depend on what it will run: an id range, its user and network
// namespaces, an address, a monitor whose stub is in the slot's cgroup already. Slots are made before they are needed.
type slot struct {
	id     string // names the bundle, the cgroup and the endpoint
	block  uint32
	bundle string
	user   *os.File // namespace of the container
	net    *os.File
	idmap  *os.File // namespace that maps store ids to the block; the block's, not the slot's
	cmd    *exec.Cmd
	shim   *shim.Client

	// Of a container that joins another one; else nil. Its user namespace, and net perhaps, are the other's, too.
	pid, ipc  *os.File
	shm       *os.File // detached copy of the other's /dev/shm
	files     string   // bundle whose hosts, hostname and resolv.conf are shown
	pidShared bool     // no pid namespace ends with the container's first process

	mu       sync.Mutex
	endpoint *Endpoint // nil: not attached
}

func randomID() string {
	var b [10]byte
	_, _ = rand.Read(b[:])
	return hex.EncodeToString(b[:])
}

func (s *slot) record(st state) error { return writeJSON(filepath.Join(s.bundle, stateFile), st) }

// takeSlot returns a prepared slot where one fits, or makes one.
func (r *Runtime) takeSlot(ctx context.Context, n *Network) (*slot, error) {
	if n != nil && n.MAC == "" {
		r.mu.Lock()
		for len(r.pool) > 0 {
			s := r.pool[0]
			r.pool = r.pool[1:]
			select {
			case <-s.shim.Closed(): // its monitor was killed
				r.mu.Unlock()
				r.dropSlot(s)
				r.mu.Lock()
				continue
			default:
			}
			// SECURITY(T-305): when all containers together run out of memory, the kernel may end a waiting stub.
			if err := unix.Kill(s.shim.Hello().StubPID, 0); errors.Is(err, unix.ESRCH) {
				r.mu.Unlock()
				r.dropSlot(s)
				r.mu.Lock()
				continue
			}
			r.mu.Unlock()
			return s, nil
		}
		r.mu.Unlock()
	}
	return r.makeSlot(ctx, n)
}

// refill makes slots in the background until the pool is full.
func (r *Runtime) refill() {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.filling || r.closed {
		return
	}
	r.filling = true
	r.later(func() {
		for {
			r.mu.Lock()
			if r.closed || len(r.pool) >= poolSize {
				r.filling = false
				r.mu.Unlock()
				return
			}
			r.mu.Unlock()
			ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
			s, err := r.makeSlot(ctx, &Network{})
			cancel()
			r.mu.Lock()
			if err != nil {
				r.filling = false
				r.mu.Unlock()
				r.log.Warn("prepare namespaces in advance", "err", err)
				return
			}
			if r.closed {
				r.filling = false
				r.mu.Unlock()
				r.dropSlot(s)
				return
			}
			r.pool = append(r.pool, s)
			r.mu.Unlock()
		}
	})
}

// makeSlot makes a slot; n == nil leaves out the endpoint.
func (r *Runtime) makeSlot(ctx context.Context, n *Network) (_ *slot, err error) {
	select {
	case <-r.cleared:
	case <-ctx.Done():
		return nil, ctx.Err()
	}
	s := &slot{id: randomID()}
	if s.block, err = r.takeBlock(s.id); err != nil {
		return nil, err
	}
	defer func() {
		if err != nil {
			r.dropSlot(s)
		}
	}()
	return s, r.furnish(ctx, s, n)
}

// furnish makes what a slot has besides its ids.
func (r *Runtime) furnish(ctx context.Context, s *slot, n *Network) error {
	s.bundle = filepath.Join(r.bundles, s.id)
	// SECURITY(T-103): the files in it must be readable to every user of the container, so nobody else may enter.
	if err := errors.Join(os.Mkdir(s.bundle, 0o700), os.Chown(s.bundle, 0, int(base(s.block))), os.Chmod(s.bundle, 0o710)); err != nil {
		return err
	}
	monitored := make(chan error, 1)
	go func() { monitored <- r.startMonitor(ctx, s) }()
	err := r.makeNamespaces(ctx, s, n)
	return errors.Join(err, <-monitored)
}

func (r *Runtime) makeNamespaces(ctx context.Context, s *slot, n *Network) error {
	own := []userns.Map{{Inside: 0, Outside: base(s.block), Count: setting.BlockSize}}
	joined := s.net != nil
	r.dumpable.RLock()
	var files map[string]*os.File
	var err error
	switch {
	case joined:
	case s.user != nil:
		if files, err = userns.CreateIn(s.user, unix.CLONE_NEWNET, "net"); err == nil {
			s.net = files["net"]
		}
	default:
		if files, err = userns.Create(unix.CLONE_NEWNET, own, own, "net"); err == nil {
			s.user, s.net = files["user"], files["net"]
		}
	}
	if err == nil {
		s.idmap, err = r.idmap(s.block)
	}
	r.dumpable.RUnlock()
	if err != nil {
		return fmt.Errorf("user namespace: %w", err)
	}
	switch {
	case joined: // it is up
		return nil
	case n == nil:
		return configureLink(s.net, nil)
	}
	address, err := r.addrs.Allocate(ctx, s.id, "")
	if err != nil {
		return err
	}
	done, _, err := seqpacket.Call[helper.Attach, helper.AttachDone](ctx, r.netd, "attach", helper.Attach{ID: s.id, Address: address, MAC: n.MAC}, s.net)
	if err != nil {
		return fmt.Errorf("network: %w", err)
	}
	s.endpoint = &Endpoint{Address: address, MAC: done.MAC, Gateway: done.Gateway, Bits: done.Bits}
	return configureLink(s.net, s.endpoint)
}

// shimEnv keeps a monitor, of which there is one per container, small: each thread of Go's runtime has its own stacks.
var shimEnv = []string{"GOMAXPROCS=1"}

// idmap returns the namespace that maps store ids to a block. Nothing ever lives in it and it says nothing but the map, so
// each block has one for good: to make it takes a copy of this process.
func (r *Runtime) idmap(block uint32) (*os.File, error) {
	r.mu.Lock()
	f := r.idmaps[block]
	r.mu.Unlock()
	if f != nil {
		return f, nil
	}
	// Inside: ids as they are on disk, in the host's numbers; outside: the block, in U's.
	disk := []userns.Map{{Inside: r.cfg.IDs.Sub.First, Outside: base(block), Count: setting.BlockSize}}
	files, err := userns.Create(0, disk, disk)
	if err != nil {
		return nil, err
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	if f := r.idmaps[block]; f != nil { // made meanwhile, for another container in the block
		files["user"].Close()
		return f, nil
	}
	r.idmaps[block] = files["user"]
	return files["user"], nil
}

// startMonitor starts the monitor and puts its stub into the slot's cgroup.
func (r *Runtime) startMonitor(ctx context.Context, s *slot) error {
	// Bound through a short path: the address of a Unix socket has at most 107 bytes.
	l, err := net.ListenUnix("unix", &net.UnixAddr{Name: filepath.Join(s.bundle, shim.SocketFile), Net: "unix"})
	if err != nil {
		return err
	}
	l.SetUnlinkOnClose(false)
	defer l.Close()
	file, err := l.File()
	if err != nil {
		return err
	}
	defer file.Close()
	cmd := &exec.Cmd{
		Path: r.cfg.ShimPath, Args: []string{"stockade-shim", s.bundle}, Env: shimEnv,
		ExtraFiles: []*os.File{file}, Stderr: os.Stderr, SysProcAttr: &syscall.SysProcAttr{Setsid: true},
	}
	if err := cmd.Start(); err != nil {
		return fmt.Errorf("start monitor: %w", err)
	}
	s.cmd = cmd
	go func() { _ = cmd.Wait() }() // collect it; its end is seen at the connection
	if s.shim, err = shim.Connect(ctx, s.bundle); err != nil {
		return fmt.Errorf("connect to monitor: %w", err)
	}
	if err := failpoint.Fail("runtime.slot.monitor"); err != nil {
		return err
	}
	if _, _, err := seqpacket.Call[helper.CgroupCreate, helper.SetDone](ctx, r.cgroupd, "create", helper.CgroupCreate{ID: s.id}); err != nil {
		return fmt.Errorf("cgroup: %w", err)
	}
	return r.intoCgroup(ctx, s.id, s.shim.Hello().StubPID)
}

// intoCgroup moves a process of ours into a slot's cgroup.
func (r *Runtime) intoCgroup(ctx context.Context, id string, pid int) error {
	fd, err := unix.PidfdOpen(pid, 0)
	if err != nil {
		return fmt.Errorf("pidfd: %w", err)
	}
	f := os.NewFile(uintptr(fd), "pidfd")
	defer f.Close()
	if _, _, err := seqpacket.Call[helper.CgroupAttach, helper.None](ctx, r.cgroupd, "attach", helper.CgroupAttach{ID: id, PID: pid}, f); err != nil {
		return fmt.Errorf("cgroup: %w", err)
	}
	return nil
}

// dropSlot gives back everything of a slot; its mounts are gone already.
//
// SECURITY(T-503): its ids are free when none of its processes is left, not before.
func (r *Runtime) dropSlot(s *slot) {
	if s.shim != nil {
		ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
		_, _ = s.shim.Do(ctx, shim.Request{Op: shim.OpRelease})
		cancel()
		s.shim.Close()
	} else if s.cmd != nil {
		_ = s.cmd.Process.Kill() // nobody has spoken to it, so it waits for somebody; an error means that it has ended
	}
	for _, f := range []*os.File{s.user, s.net, s.pid, s.ipc, s.shm} {
		if f != nil {
			f.Close()
		}
	}
	s.mu.Lock()
	attached := s.endpoint != nil
	s.mu.Unlock()
	r.later(func() {
		ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
		defer cancel()
		failpoint.Hit("runtime.drop.begin")
		if attached {
			if _, _, err := seqpacket.Call[helper.Detach, helper.None](ctx, r.netd, "detach", helper.Detach{IDs: []string{s.id}}); err != nil {
				r.log.Warn("detach", "slot", s.id, "err", err)
			}
		}
		r.addrs.Free(s.id)
		failpoint.Hit("runtime.drop.detached")
		if s.pidShared && s.shim != nil {
			r.emptyCgroup(s.id)
		}
		empty := r.removeCgroup(ctx, s.id)
		failpoint.Hit("runtime.drop.cgroup")
		if s.bundle != "" {
			r.dropBundle(ctx, s)
		}
		failpoint.Hit("runtime.drop.bundle")
		_ = os.RemoveAll(filepath.Join(r.cfg.Run, "r", s.id))
		if !empty {
			r.log.Error("processes of an ended container do not end: its ids stay taken", "slot", s.id)
			return
		}
		r.freeBlock(s.block, s.id)
	})
}

// dropBundle removes a slot's bundle. Without a free descriptor it does not work for now (T-801).
func (r *Runtime) dropBundle(ctx context.Context, s *slot) {
	for err := removeBundle(s.bundle); err != nil; err = removeBundle(s.bundle) {
		select {
		case <-ctx.Done():
		case <-time.After(100 * time.Millisecond):
			continue
		}
		r.log.Warn("remove bundle", "slot", s.id, "err", err)
		break
	}
}

// removeCgroup removes a slot's cgroup; the last processes in it may still be ending. It tells whether none is left.
func (r *Runtime) removeCgroup(ctx context.Context, id string) bool {
	for {
		_, _, err := seqpacket.Call[helper.CgroupID, helper.None](ctx, r.cgroupd, "remove", helper.CgroupID{ID: id})
		class := seqpacket.ClassOf(err)
		switch {
		case err == nil || class == helper.NotFound:
			return true
		case class != helper.Conflict || ctx.Err() != nil:
			r.log.Warn("remove cgroup", "slot", id, "err", err)
			return class != helper.Conflict
		}
		select {
		case <-ctx.Done():
		case <-time.After(10 * time.Millisecond):
		}
	}
}

// removeBundle removes a bundle in which nothing is mounted any more; a busy folder is an error, never followed.
func removeBundle(dir string) error {
	mounts, err := mountsBeneath(dir)
	if err != nil {
		return err
	}
	for i := len(mounts) - 1; i >= 0; i-- {
		if err := unix.Unmount(mounts[i], unix.MNT_DETACH|unix.UMOUNT_NOFOLLOW); err != nil {
			return fmt.Errorf("unmount %s: %w", mounts[i], err)
		}
	}
	return os.RemoveAll(dir)
}

// mountsBeneath lists mount points beneath a folder in this mount namespace, in mount order.
func mountsBeneath(dir string) ([]string, error) {
	data, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil {
		return nil, err
	}
	var list []string
	for line := range strings.Lines(string(data)) {
		if f := strings.Fields(line); len(f) > 4 && strings.HasPrefix(f[4], dir+"/") {
			list = append(list, f[4])
		}
	}
	return list, nil
}
