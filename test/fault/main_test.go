//go:build root

package fault

import (
	"fmt"
	"math/rand/v2"
	"os"
	"strconv"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"stockade/test/harness"
)

func TestMain(m *testing.M) { harness.Main(m) }

// seeded returns the source of a test's moments.
func seeded(t *testing.T) *rand.Rand {
	t.Helper()
	seed := uint64(time.Now().UnixNano())
	if text := os.Getenv("STOCKADE_FAULT_SEED"); text != "" {
		var err error
		if seed, err = strconv.ParseUint(text, 10, 64); err != nil {
			t.Fatal(err)
		}
	}
	t.Cleanup(func() {
		if t.Failed() {
			t.Logf("STOCKADE_FAULT_SEED=%d", seed)
		}
	})
	return rand.New(rand.NewPCG(seed, 0))
}

// ledger is what the server has acknowledged.
type ledger struct {
	made    map[string]bool // kind and name
	removed map[string]bool // acknowledged
	asked   map[string]bool // removal asked for, perhaps not acknowledged
}

// work does a bit of everything once, under names that no other work has. A request that fails is let go: the server may
// just have been killed.
func work(t *testing.T, s *harness.Server, name string, archive []byte) ledger {
	l := ledger{map[string]bool{}, map[string]bool{}, map[string]bool{}}
	do := func(args ...string) bool { return docker(s, nil, args...) == nil }
	if do("volume", "create", name) {
		l.made["volume "+name] = true
	}
	if do("create", "--name", name, "-v", name+":/v", "-p", "127.0.0.1::80", "-m", "32m", "busybox", "sleep", "1000") {
		l.made["container "+name] = true
	}
	do("start", name)
	do("exec", name, "sh", "-c", "echo x >>/v/file")
	if docker(s, archive, "load") == nil {
		l.made["image fault/"+name] = true
	}
	do("stop", "-t", "0", name)
	do("start", name)
	do("run", "--rm", "busybox", "true")
	if do("create", "--name", name+"-gone", "busybox") {
		l.made["container "+name+"-gone"] = true
	}
	l.asked["container "+name+"-gone"] = true
	if do("rm", "-f", name+"-gone") {
		l.removed["container "+name+"-gone"] = true
	}
	return l
}

// check compares the ledger with what there is.
func (l ledger) check(t *testing.T, s *harness.Server) {
	t.Helper()
	there := objects(t, s)
	for name := range l.made {
		if !there[name] && !l.asked[name] {
			t.Errorf("%s was acknowledged and is lost", name)
		}
	}
	for name := range l.removed {
		if there[name] {
			t.Errorf("%s was removed and is there", name)
		}
	}
}

// objects are all containers, volumes and images.
func objects(t *testing.T, s *harness.Server) map[string]bool {
	t.Helper()
	there := map[string]bool{}
	for kind, args := range map[string][]string{
		"container": {"ps", "-a", "--format", "{{.Names}}"}, "volume": {"volume", "ls", "-q"}, "image": {"image", "ls", "--format", "{{.Repository}}"},
	} {
		for _, name := range strings.Fields(s.Must(t, args...)) {
			there[kind+" "+name] = true
		}
	}
	return there
}

// clear removes everything but the demonstration images. Each removal must work at last.
func clear(t *testing.T, s *harness.Server) {
	t.Helper()
	for name := range objects(t, s) {
		kind, name, _ := strings.Cut(name, " ")
		args := map[string][]string{"container": {"rm", "-f", "-v", name}, "volume": {"volume", "rm", "-f", name}, "image": {"rmi", "-f", name}}[kind]
		if kind == "image" && (name == "busybox" || name == "stockade/demo") || kind == "volume" {
			continue
		}
		s.Must(t, args...)
	}
	for name := range objects(t, s) {
		if kind, name, _ := strings.Cut(name, " "); kind == "volume" {
			s.Must(t, "volume", "rm", name)
		}
	}
}

// docker runs a client command whose failure is no failure of the test.
func docker(s *harness.Server, stdin []byte, args ...string) error {
	cmd, cancel := command(s, args...)
	defer cancel()
	if stdin != nil {
		cmd.Stdin = strings.NewReader(string(stdin))
	}
	out, err := cmd.CombinedOutput()
	if err != nil {
		return fmt.Errorf("docker %s: %w: %s", strings.Join(args, " "), err, out)
	}
	return nil
}

// kill ends the process of a pidfd.
func kill(t *testing.T, fd int) {
	t.Helper()
	if err := unix.PidfdSendSignal(fd, unix.SIGKILL, nil, 0); err != nil && err != unix.ESRCH {
		t.Fatal(err)
	}
	unix.Close(fd)
}

// terminate asks the process of a pidfd to end.
func terminate(fd int) error {
	defer unix.Close(fd)
	return unix.PidfdSendSignal(fd, unix.SIGTERM, nil, 0)
}

// hold opens a pidfd; ok is false when the process has ended.
func hold(t *testing.T, pid int) (fd int, ok bool) {
	t.Helper()
	fd, err := unix.PidfdOpen(pid, 0)
	if err == unix.ESRCH {
		return 0, false
	}
	if err != nil {
		t.Fatal(err)
	}
	return fd, true
}
