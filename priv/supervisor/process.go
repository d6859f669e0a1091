package supervisor

import (
	"errors"
	"fmt"
	"os"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"stockade/api/setting"
	"stockade/internal/userns"
)

// processesIn lists the processes whose user namespace is u or descends from it.
func processesIn(u userns.ID) ([]int, error) {
	own, err := os.Readlink("/proc/self/ns/user")
	if err != nil {
		return nil, err
	}
	return processes(func(pid int) bool { return lives(pid, u, own) })
}

// lives tells whether a process is in u. One that has ended is not.
func lives(pid int, u userns.ID, own string) bool {
	path := "/proc/" + strconv.Itoa(pid) + "/ns/user"
	link, err := os.Readlink(path)
	if err != nil || link == own {
		return false
	}
	if _, err := startTime(pid); err != nil {
		return false
	}
	f, err := os.Open(path)
	if err != nil {
		return false
	}
	defer f.Close()
	if id, err := userns.Identify(f, unix.CLONE_NEWUSER); err == nil && id == u {
		return true
	}
	descends, err := userns.Descends(f, u)
	return err == nil && descends
}

// processesOf lists the processes with any uid of the range.
func processesOf(r setting.IDRange) ([]int, error) {
	return processes(func(pid int) bool {
		data, err := os.ReadFile("/proc/" + strconv.Itoa(pid) + "/status")
		if err != nil {
			return false
		}
		for line := range strings.Lines(string(data)) {
			if strings.HasPrefix(line, "State:\tZ") {
				return false
			}
			if rest, ok := strings.CutPrefix(line, "Uid:"); ok {
				for _, f := range strings.Fields(rest) {
					if id, err := strconv.ParseUint(f, 10, 32); err == nil && r.Contains(uint32(id)) {
						return true
					}
				}
			}
		}
		return false
	})
}

func processes(want func(pid int) bool) ([]int, error) {
	entries, err := os.ReadDir("/proc")
	if err != nil {
		return nil, err
	}
	var pids []int
	for _, e := range entries {
		if pid, err := strconv.Atoi(e.Name()); err == nil && want(pid) {
			pids = append(pids, pid)
		}
	}
	return pids, nil
}

// startTime is when a process started, in ticks since boot: with the pid it identifies one for good. A process that has
// ended but was not yet waited for is none.
func startTime(pid int) (uint64, error) {
	data, err := os.ReadFile("/proc/" + strconv.Itoa(pid) + "/stat")
	if err != nil {
		return 0, err
	}
	return parseStat(string(data))
}

// parseStat reads the start from a line of /proc/PID/stat: state is the third field, the start the 22nd.
func parseStat(stat string) (uint64, error) {
	// The second field, the command in parentheses, may hold anything.
	f := strings.Fields(stat[strings.LastIndexByte(stat, ')')+1:])
	if len(f) < 20 {
		return 0, errors.New("unexpected /proc/PID/stat")
	}
	if f[0] == "Z" || f[0] == "X" {
		return 0, os.ErrProcessDone
	}
	return strconv.ParseUint(f[19], 10, 64)
}

// signal signals a process that still is what same says, by its pidfd: the number cannot pass to another meanwhile.
func signal(pid int, sig unix.Signal, same func() bool) error {
	fd, err := unix.PidfdOpen(pid, 0)
	if errors.Is(err, unix.ESRCH) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("pidfd_open %d: %w", pid, err)
	}
	defer unix.Close(fd)
	if !same() {
		return nil
	}
	if err := unix.PidfdSendSignal(fd, sig, nil, 0); err != nil && !errors.Is(err, unix.ESRCH) {
		return fmt.Errorf("signal %d: %w", pid, err)
	}
	return nil
}

// patience is how long ended processes may take to be gone.
const patience = 20 * time.Second

// gone repeats until find finds nothing, killing what it finds.
func gone(find func() ([]int, error), same func(pid int) bool) error {
	deadline := time.Now().Add(patience)
	for {
		pids, err := find()
		if err != nil || len(pids) == 0 {
			return err
		}
		for _, pid := range pids {
			if err := signal(pid, unix.SIGKILL, func() bool { return same(pid) }); err != nil {
				return err
			}
		}
		if time.Now().After(deadline) {
			return fmt.Errorf("processes %v do not end", pids)
		}
		time.Sleep(10 * time.Millisecond)
	}
}
