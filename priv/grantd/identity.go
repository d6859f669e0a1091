package grantd

import (
	"errors"
	"fmt"
	"os"
	"runtime"
	"slices"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"stockade/api/helper"
	"stockade/internal/confine"
	"stockade/internal/seqpacket"
	"stockade/priv/peer"
)

const (
	maxOpens  = 8                // per caller uid at once
	openLimit = 10 * time.Second // a file system that belongs to somebody may never answer
)

// opener carries out file-system calls as somebody else.
type opener struct {
	mu   sync.Mutex
	busy map[uint32]int // per uid; a call that never returns keeps its place
}

// as runs do with exactly c's rights to files: its file-system ids and groups, and no capability. It returns what do
// opened. do must not start goroutines.
//
// Only the file-system ids change (setfsuid(2)), and they decide everything about paths. The real, effective and saved
// ids stay, so the caller can neither signal nor trace the thread, which shares its memory with this whole process.
func (o *opener) as(c caller, do func() ([]*os.File, error)) ([]*os.File, error) {
	if !o.enter(c.UID) {
		return nil, peer.Errorf(helper.Exhausted, "user id %d has %d paths being opened", c.UID, maxOpens)
	}
	type result struct {
		files []*os.File
		err   error
	}
	done := make(chan result, 1)
	go onOwnThread(func() {
		defer o.leave(c.UID)
		if err := become(c); err != nil {
			done <- result{err: err}
			return
		}
		files, err := do()
		done <- result{files, err}
	})
	limit := time.NewTimer(openLimit)
	defer limit.Stop()
	select {
	case r := <-done:
		return r.files, r.err
	case <-limit.C:
		go func() { r := <-done; seqpacket.CloseAll(r.files) }()
		return nil, peer.Errorf(helper.Exhausted, "the file system does not answer")
	}
}

func (o *opener) enter(uid uint32) bool {
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.busy[uid] >= maxOpens {
		return false
	}
	o.busy[uid]++
	return true
}

func (o *opener) leave(uid uint32) {
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.busy[uid]--; o.busy[uid] == 0 {
		delete(o.busy, uid)
	}
}

// onOwnThread runs do on a thread that ends with it.
func onOwnThread(do func()) {
	runtime.LockOSThread() // never unlocked: the runtime ends the thread with the goroutine
	if unix.Gettid() != unix.Getpid() {
		do()
		return
	}
	// The main thread cannot end; occupy it while another one does the work.
	done := make(chan struct{})
	go func() {
		defer close(done)
		runtime.LockOSThread()
		do()
	}()
	<-done
	runtime.UnlockOSThread()
}

// become gives the calling thread c's file-system identity for good and reads it back.
func become(c caller) error {
	if err := setThreadGroups(c.Groups); err != nil {
		return fmt.Errorf("set groups: %w", err)
	}
	if _, err := unix.SetfsgidRetGid(int(c.GID)); err != nil {
		return fmt.Errorf("set group id: %w", err)
	}
	if _, err := unix.SetfsuidRetUid(int(c.UID)); err != nil {
		return fmt.Errorf("set user id: %w", err)
	}
	if err := dropThreadCaps(); err != nil {
		return fmt.Errorf("drop capabilities: %w", err)
	}
	// setfsuid and setfsgid report no errors; with -1 they change nothing and return what is set.
	uid, err := unix.SetfsuidRetUid(-1)
	if err != nil || uint32(uid) != c.UID {
		return fmt.Errorf("user id is %d (%v), want %d", uid, err, c.UID)
	}
	gid, err := unix.SetfsgidRetGid(-1)
	if err != nil || uint32(gid) != c.GID {
		return fmt.Errorf("group id is %d (%v), want %d", gid, err, c.GID)
	}
	groups, err := unix.Getgroups()
	if err != nil {
		return fmt.Errorf("read groups: %w", err)
	}
	got := make([]uint32, 0, len(groups))
	for _, g := range groups {
		got = append(got, uint32(g))
	}
	if !sameSet(got, c.Groups) {
		return errors.New("groups differ from what was set")
	}
	effective, permitted, inheritable, err := confine.Caps()
	if err != nil || effective|permitted|inheritable != 0 {
		return fmt.Errorf("capabilities remain: %#x %#x %#x (%v)", effective, permitted, inheritable, err)
	}
	return nil
}

func sameSet(a, b []uint32) bool {
	a, b = slices.Clone(a), slices.Clone(b)
	slices.Sort(a)
	slices.Sort(b)
	return slices.Equal(slices.Compact(a), slices.Compact(b))
}
