package store

import (
	"os"
	"path/filepath"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/moby/moby/api/types/container"
)

func open(t *testing.T, dir string) *Store {
	t.Helper()
	s, err := Open(dir)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func put(t *testing.T, s *Store, r *Record) {
	t.Helper()
	if err := s.Put(r); err != nil {
		t.Fatal(err)
	}
}

// all reads what another engine would find.
func all(t *testing.T, dir string) []*Record {
	t.Helper()
	list, err := open(t, dir).All()
	if err != nil {
		t.Fatal(err)
	}
	return list
}

func record(id string) *Record {
	return &Record{ID: id, Tenant: "alice", Name: "n" + id, Config: &container.Config{Image: "i"}, Host: &container.HostConfig{}}
}

func TestStore(t *testing.T) {
	dir := t.TempDir()
	s := open(t, dir)
	a, b := record("a"), record("b")
	put(t, s, a)
	put(t, s, b)
	a.State = State{Running: true, StartedBefore: true}
	put(t, s, a)
	if diff := cmp.Diff([]*Record{a, b}, all(t, dir)); diff != "" {
		t.Error(diff)
	}
	a.Name, a.State.ExitCode = "other", 7
	put(t, s, a)
	if diff := cmp.Diff([]*Record{a, b}, all(t, dir)); diff != "" {
		t.Errorf("the older state beside a newer record counts: %s", diff)
	}
	// The engine that comes next goes on where this one was.
	s = open(t, dir)
	if _, err := s.All(); err != nil {
		t.Fatal(err)
	}
	a.State.Running = false
	put(t, s, a)
	if diff := cmp.Diff([]*Record{a, b}, all(t, dir)); diff != "" {
		t.Error(diff)
	}
	for range 2 {
		if err := s.Delete("a"); err != nil {
			t.Fatal(err)
		}
	}
	if diff := cmp.Diff([]*Record{b}, all(t, dir)); diff != "" {
		t.Error(diff)
	}
	if left, err := filepath.Glob(filepath.Join(dir, "a.*")); err != nil || len(left) > 0 {
		t.Errorf("left: %v, %v", left, err)
	}
}

// TestPowerCut empties files that were not synced, as some file systems do.
func TestPowerCut(t *testing.T) {
	dir := t.TempDir()
	s := open(t, dir)
	kept, rm := record("kept"), record("rm")
	rm.Host.AutoRemove = true
	put(t, s, kept)
	put(t, s, rm)
	created := *kept
	kept.State.Running = true
	put(t, s, kept)
	for _, f := range []string{"kept.state", "rm.json"} {
		if err := os.Truncate(filepath.Join(dir, f), 0); err != nil {
			t.Fatal(err)
		}
	}
	for _, f := range []string{"x.json.tmp", "gone.state"} {
		if err := os.WriteFile(filepath.Join(dir, f), []byte("{"), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	if diff := cmp.Diff([]*Record{&created}, all(t, dir)); diff != "" {
		t.Error(diff)
	}
	entries, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	var names []string
	for _, e := range entries {
		names = append(names, e.Name())
	}
	if diff := cmp.Diff([]string{"kept.json", "kept.state"}, names); diff != "" {
		t.Error(diff)
	}
	if err := os.WriteFile(filepath.Join(dir, "bad.json"), []byte("{"), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := open(t, dir).All(); err == nil {
		t.Error("a broken record is passed over")
	}
}
