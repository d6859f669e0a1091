//go:build failpoint

package failpoint

import (
	"fmt"
	"os"
	"path/filepath"
	"sync"
	"time"

	"golang.org/x/sys/unix"
)

// armed is the file; nil without one.
var armed = load()

var (
	slots = func() map[string]int {
		m := map[string]int{}
		for i, name := range Names {
			m[name] = i
		}
		return m
	}()
	mu   sync.Mutex
	hits = map[string]hit{}
)

type hit struct{ epoch, count uint32 }

func load() []uint32 {
	exe, err := os.Readlink("/proc/self/exe")
	if err != nil {
		return nil
	}
	f, err := os.Open(filepath.Join(filepath.Dir(exe), FileName))
	if err != nil {
		return nil
	}
	defer f.Close()
	data, err := unix.Mmap(int(f.Fd()), 0, Size, unix.PROT_READ, unix.MAP_SHARED)
	if err != nil {
		return nil
	}
	return words(data)
}

// Hit is a failpoint where a process can be killed or delayed.
func Hit(name string) { _ = Fail(name) }

// Fail is a failpoint where, besides, an error can be returned.
func Fail(name string) error {
	i, ok := slots[name]
	if !ok {
		panic("failpoint without a line in the table: " + name)
	}
	if armed == nil {
		return nil
	}
	slot := armed[i*SlotWords : (i+1)*SlotWords]
	action := Action(word(slot, WordAction))
	if action == None {
		return nil
	}
	pid := os.Getpid()
	if want := word(slot, WordPID); want != 0 && want != uint32(pid) {
		return nil
	}
	mu.Lock()
	h := hits[name]
	if epoch := word(slot, WordEpoch); h.epoch != epoch {
		h = hit{epoch: epoch}
	}
	h.count++
	hits[name] = h
	mu.Unlock()
	if h.count != word(slot, WordNth) {
		return nil
	}
	// The test reads the server's log: this is how it learns of a hit that nothing else shows.
	fmt.Fprintf(os.Stderr, "failpoint %s: action %d in process %d\n", name, action, pid)
	switch action {
	case Kill:
		// To a thread, as system call filters let the runtime do: the signal ends the whole process.
		_ = unix.Tgkill(pid, unix.Gettid(), unix.SIGKILL)
		select {}
	case Error:
		return fmt.Errorf("failpoint %s", name)
	case Delay:
		time.Sleep(300 * time.Millisecond)
	}
	return nil
}
