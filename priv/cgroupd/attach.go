package cgroupd

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"

	"stockade/api/helper"
	"stockade/internal/failpoint"
	"stockade/priv/peer"
)

// attach moves one process of the engine into a group.
//
// A failure half-way leaves the process in some hierarchies only: the engine ends a container that it could not
// attach, and a repeat is safe.
func (s *Server) attach(_ context.Context, q helper.CgroupAttach, fds []*os.File) (helper.None, []*os.File, error) {
	none := helper.None{}
	id, err := s.existing(q.ID)
	if err != nil {
		return none, nil, err
	}
	pidfd := int(fds[0].Fd())
	// SECURITY(T-704): the number is only used between two proofs that the pidfd's process still lives, so it cannot
	// have passed to another process meanwhile.
	if err := samePid(pidfd, q.PID); err != nil {
		return none, nil, err
	}
	if err := s.movable(q.PID); err != nil {
		return none, nil, err
	}
	if err := alive(pidfd); err != nil {
		return none, nil, err
	}
	for _, h := range s.tree.all {
		if err := h.write(string(id)+"/cgroup.procs", strconv.Itoa(q.PID)); err != nil {
			return none, nil, classed(err, "move process %d to control group %s", q.PID, id)
		}
		failpoint.Hit("cgroupd.attach")
	}
	return none, nil, alive(pidfd)
}

// alive tells that a pidfd's process has not ended: the descriptor becomes readable when it does.
func alive(pidfd int) error {
	p := []unix.PollFd{{Fd: int32(pidfd), Events: unix.POLLIN}}
	for {
		n, err := unix.Poll(p, 0)
		switch {
		case errors.Is(err, unix.EINTR):
		case err != nil:
			return fmt.Errorf("poll pidfd: %w", err)
		case n != 0:
			return peer.Errorf(helper.NotFound, "the process has ended")
		default:
			return nil
		}
	}
}

// samePid checks that fd is a pidfd of the process pid.
func samePid(fd, pid int) error {
	f, err := os.Open("/proc/self/fdinfo/" + strconv.Itoa(fd))
	if err != nil {
		return err
	}
	defer f.Close()
	got, err := parseFDInfo(f)
	if err != nil {
		return err
	}
	switch {
	case got == 0:
		return peer.Errorf(helper.Invalid, "the descriptor is not a pidfd")
	case got == -1:
		return peer.Errorf(helper.NotFound, "the process has ended")
	case got != pid:
		return peer.Errorf(helper.Denied, "the pidfd is not of process %d", pid)
	}
	return nil
}

// parseFDInfo returns the value of the line "Pid:", 0 when there is none. -1 is the kernel's value for a process that
// has been waited for; a process of another pid namespace has 0 there.
func parseFDInfo(r io.Reader) (int, error) {
	lines := bufio.NewScanner(io.LimitReader(r, 64<<10))
	for lines.Scan() {
		if text, ok := strings.CutPrefix(lines.Text(), "Pid:"); ok {
			return strconv.Atoi(strings.TrimSpace(text))
		}
	}
	return 0, lines.Err()
}

// movable refuses processes that are not the engine's: real, effective, saved and filesystem uid must all be the
// engine's own or in its range. A kernel thread or init has uid 0 and is refused by that, too.
func (s *Server) movable(pid int) error {
	if pid <= 1 {
		return peer.Errorf(helper.Denied, "process %d may not be moved", pid)
	}
	f, err := os.Open("/proc/" + strconv.Itoa(pid) + "/status")
	if errors.Is(err, unix.ENOENT) {
		return peer.Errorf(helper.NotFound, "no process %d", pid)
	}
	if err != nil {
		return err
	}
	defer f.Close()
	uids, err := parseUIDs(f)
	if err != nil {
		return err
	}
	for _, uid := range uids {
		if uid != s.set.EngineUID && !s.set.Sub.Contains(uid) {
			return peer.Errorf(helper.Denied, "process %d is not the engine's", pid)
		}
	}
	return nil
}

// parseUIDs reads the four uids of /proc/PID/status.
func parseUIDs(r io.Reader) ([4]uint32, error) {
	var uids [4]uint32
	lines := bufio.NewScanner(io.LimitReader(r, 64<<10))
	for lines.Scan() {
		text, ok := strings.CutPrefix(lines.Text(), "Uid:")
		if !ok {
			continue
		}
		fields := strings.Fields(text)
		if len(fields) != len(uids) {
			break
		}
		for i, field := range fields {
			n, err := strconv.ParseUint(field, 10, 32)
			if err != nil {
				return uids, err
			}
			uids[i] = uint32(n)
		}
		return uids, nil
	}
	return uids, errors.Join(errors.New("no uids in process status"), lines.Err())
}
