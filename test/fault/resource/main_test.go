//go:build root

package resource

import (
	"encoding/json"
	"fmt"
	"os"
	"strconv"
	"strings"
	"testing"

	"stockade/test/harness"
)

// inodes is how many files the data folder's file system may have.
const inodes = 12000

func TestMain(m *testing.M) {
	harness.MainWith(m, harness.Options{Disk: "1g", Inodes: inodes})
}

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// status reads a number from /proc/PID/status, such as VmRSS (in kB).
func status(t testing.TB, pid int, field string) int64 {
	t.Helper()
	data, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	must(t, err)
	for line := range strings.Lines(string(data)) {
		if rest, ok := strings.CutPrefix(line, field+":"); ok {
			n, err := strconv.ParseInt(strings.Fields(rest)[0], 10, 64)
			must(t, err)
			return n
		}
	}
	t.Fatalf("no %s of process %d", field, pid)
	return 0
}

// memory is a process's own memory in bytes, files that it maps left out.
func memory(t testing.TB, pid int) int64 { return status(t, pid, "RssAnon") << 10 }

// descriptors is how many a process has open.
func descriptors(t testing.TB, pid int) int {
	t.Helper()
	entries, err := os.ReadDir(fmt.Sprintf("/proc/%d/fd", pid))
	must(t, err)
	return len(entries)
}

// ticks is the processor time of a process, in hundredths of a second.
func ticks(t testing.TB, pid int) int64 {
	t.Helper()
	data, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	must(t, err)
	f := strings.Fields(string(data[strings.LastIndexByte(string(data), ')')+1:]))
	user, err := strconv.ParseInt(f[11], 10, 64)
	must(t, err)
	system, err := strconv.ParseInt(f[12], 10, 64)
	must(t, err)
	return user + system
}

// message is the text of an error in Docker's shape.
func message(t testing.TB, r harness.Response) string {
	t.Helper()
	var m struct {
		Message string `json:"message"`
	}
	if err := json.Unmarshal([]byte(r.Body), &m); err != nil || m.Message == "" {
		t.Errorf("not an error in Docker's shape: %+v", r)
	}
	return m.Message
}

// served runs a container as another user than the one who makes trouble.
func served(t testing.TB, s *harness.Server) {
	t.Helper()
	if r := s.DockerAs(t, harness.Root, "run", "--rm", "busybox", "echo", "served"); strings.TrimSpace(r.Stdout) != "served" {
		t.Errorf("another user is not served: %v", r)
	}
}
