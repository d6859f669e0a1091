package harness

import (
	"encoding/binary"
	"os"
	"path/filepath"
	"slices"
	"testing"

	"stockade/internal/failpoint"
)

// Arm has something happen when a process meets a failpoint for the nth time from now on. pid 0 means every process.
// Options.Failpoints must be set. It stays armed until Disarm.
func (s *Server) Arm(t testing.TB, name string, action failpoint.Action, nth, pid int) {
	t.Helper()
	i := slices.Index(failpoint.Names, name)
	if i < 0 {
		t.Fatalf("no failpoint %s", name)
	}
	s.epoch++
	f := openFailpoints(t)
	defer f.Close()
	base := int64(i * failpoint.SlotWords * 4)
	set := func(word int, value uint32) {
		t.Helper()
		if _, err := f.WriteAt(binary.NativeEndian.AppendUint32(nil, value), base+int64(word*4)); err != nil {
			t.Fatal(err)
		}
	}
	set(failpoint.WordAction, uint32(failpoint.None))
	set(failpoint.WordNth, uint32(nth))
	set(failpoint.WordPID, uint32(pid))
	set(failpoint.WordEpoch, s.epoch)
	set(failpoint.WordAction, uint32(action))
}

// Disarm disarms all failpoints.
func (s *Server) Disarm(t testing.TB) {
	t.Helper()
	f := openFailpoints(t)
	defer f.Close()
	if _, err := f.WriteAt(make([]byte, failpoint.Size), 0); err != nil {
		t.Fatal(err)
	}
}

func openFailpoints(t testing.TB) *os.File {
	t.Helper()
	f, err := os.OpenFile(filepath.Join(Bin, failpoint.FileName), os.O_WRONLY, 0)
	if err != nil {
		t.Fatal(err)
	}
	return f
}
