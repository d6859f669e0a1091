package runtime

import (
	"context"
	"os"
	"slices"
	"time"

	"golang.org/x/sys/unix"

	"stockade/api/helper"
	"stockade/internal/seqpacket"
)

// A container with a pid namespace of its own ends with its first process: the kernel kills the others. One that joined
// another's does not; what it leaves is found in its cgroup.

// watchRest ends the rest of the container with its first process. What is left may hold the streams open, so the
// monitor's word of the end would come late.
func (t *task) watchRest() {
	if !t.slot.pidShared || t.pidfd == nil {
		return
	}
	fd, err := unix.FcntlInt(t.pidfd.Fd(), unix.F_DUPFD_CLOEXEC, 0)
	if err != nil {
		return // finish comes later, and does the same
	}
	_ = unix.SetNonblock(fd, true) // the Go runtime waits for such descriptors without a thread
	f := os.NewFile(uintptr(fd), "pidfd")
	conn, err := f.SyscallConn()
	if err != nil {
		f.Close()
		return
	}
	go func() {
		defer f.Close()
		ended := func(fd uintptr) bool {
			n, err := unix.Poll([]unix.PollFd{{Fd: int32(fd), Events: unix.POLLIN}}, 0)
			return err == nil && n > 0
		}
		if conn.Read(ended) == nil {
			t.endRest()
		}
	}()
}

// endRest ends what the first process has left. It is safe to repeat.
func (t *task) endRest() {
	if t.slot.pidShared {
		t.r.emptyCgroup(t.slot.id)
	}
}

// freezeAfter is the round from which a cgroup stands still while its processes are killed: a few fork faster than we
// kill.
const freezeAfter = 3

// emptyCgroup kills everything in a cgroup of ours and waits until it is empty, at most ten seconds.
func (r *Runtime) emptyCgroup(id string) {
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	q := helper.CgroupID{ID: id}
	for round := 0; ctx.Err() == nil; round++ {
		frozen := false
		if round >= freezeAfter {
			_, _, err := seqpacket.Call[helper.CgroupID, helper.None](ctx, r.cgroupd, "freeze", q)
			frozen = err == nil
		}
		left, err := r.killCgroup(ctx, q)
		if err == nil && left == 0 || err != nil && seqpacket.ClassOf(err) == helper.NotFound {
			return
		}
		if frozen || round == 0 { // it may have been paused before
			_, _, _ = seqpacket.Call[helper.CgroupID, helper.None](ctx, r.cgroupd, "thaw", q)
		}
		select {
		case <-ctx.Done():
		case <-time.After(time.Duration(min(round+1, 10)) * 5 * time.Millisecond):
		}
	}
	r.log.Warn("processes of an ended container do not end", "slot", id)
}

// killCgroup kills the processes of a cgroup once and tells how many there were. A number that it was given may be
// another process's by the time of the kill: only a pidfd that was opened before the number was seen in the cgroup again
// is of one in it.
func (r *Runtime) killCgroup(ctx context.Context, q helper.CgroupID) (int, error) {
	first, _, err := seqpacket.Call[helper.CgroupID, helper.CgroupPids](ctx, r.cgroupd, "pids", q)
	if err != nil || len(first.Pids) == 0 {
		return 0, err
	}
	held := map[int]*os.File{}
	for _, pid := range first.Pids[:min(len(first.Pids), 512)] { // descriptors are finite; the rest has its turn
		if fd, err := unix.PidfdOpen(pid, 0); err == nil {
			held[pid] = os.NewFile(uintptr(fd), "pidfd")
		}
	}
	second, _, err := seqpacket.Call[helper.CgroupID, helper.CgroupPids](ctx, r.cgroupd, "pids", q)
	for pid, f := range held {
		if err == nil && slices.Contains(second.Pids, pid) {
			sigkill(f)
		}
		f.Close()
	}
	return len(second.Pids), err
}
