package monitor

import (
	"errors"
	"os"
	"os/signal"
	"sync"
	"syscall"
)

// reaper collects every child of this process, also those inherited as subreaper.
type reaper struct {
	mu      sync.Mutex
	ended   map[int]syscall.WaitStatus // not yet asked for
	waiting map[int]chan syscall.WaitStatus
}

func newReaper() *reaper {
	r := &reaper{ended: map[int]syscall.WaitStatus{}, waiting: map[int]chan syscall.WaitStatus{}}
	signals := make(chan os.Signal, 16)
	signal.Notify(signals, syscall.SIGCHLD)
	go func() {
		for range signals {
			r.collect()
		}
	}()
	return r
}

func (r *reaper) collect() {
	for {
		var ws syscall.WaitStatus
		pid, err := syscall.Wait4(-1, &ws, syscall.WNOHANG, nil)
		if errors.Is(err, syscall.EINTR) {
			continue
		}
		if err != nil || pid <= 0 {
			return
		}
		r.mu.Lock()
		if ch := r.waiting[pid]; ch != nil {
			delete(r.waiting, pid)
			ch <- ws
		} else {
			r.ended[pid] = ws
			if len(r.ended) > 4096 { // orphans nobody asks for
				clear(r.ended)
			}
		}
		r.mu.Unlock()
	}
}

// watch yields the status of a child once.
func (r *reaper) watch(pid int) <-chan syscall.WaitStatus {
	ch := make(chan syscall.WaitStatus, 1)
	r.mu.Lock()
	if ws, ok := r.ended[pid]; ok {
		delete(r.ended, pid)
		ch <- ws
	} else {
		r.waiting[pid] = ch
	}
	r.mu.Unlock()
	return ch
}
