// Package store keeps the records of containers on disk: one JSON file each, replaced as a whole, and beside it a small
// file with the state, newer than the record's, that is written without waiting for the disk.
//
// Trust: the folder is the engine's own. Invariants: what Put or Delete acknowledged survives a crash of the engine; what
// a client made or changed survives a power cut. A file that a power cut emptied costs what it held alone: a record is
// never replaced without its content being on disk first. Failure: a failing write leaves the former record.
package store

import (
	"bytes"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"time"

	"github.com/moby/moby/api/types/container"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"stockade/engine/container/spec"
	"stockade/internal/failpoint"
)

// Record is everything about one container that outlives the engine.
type Record struct {
	ID       string    `json:"id"`
	Tenant   string    `json:"tenant"`
	Creator  *uint32   `json:"creator,omitempty"` // host uid of who made it; nil: not known
	Name     string    `json:"name"`              // without a slash
	Created  time.Time `json:"created"`
	Image    string    `json:"image"`    // image id
	ImageRef string    `json:"imageRef"` // as the client named it
	Platform string    `json:"platform"` // operating system

	Manifest  *ocispec.Descriptor   `json:"manifest,omitempty"`
	ImageSize int64                 `json:"imageSize,omitempty"`
	Layers    []string              `json:"layers"` // store names, top first
	Path      string                `json:"path"`
	Args      []string              `json:"args"`
	Config    *container.Config     `json:"config"`
	Host      *container.HostConfig `json:"hostConfig"`
	MAC       string                `json:"mac,omitempty"` // asked for
	Mounts    []spec.Mount          `json:"mounts,omitempty"`
	LogPath   string                `json:"logPath,omitempty"`
	State     State                 `json:"state"`
}

// State is what a container does; the zero value is "created".
type State struct {
	Running         bool      `json:"running,omitempty"`
	Paused          bool      `json:"paused,omitempty"`
	Restarting      bool      `json:"restarting,omitempty"`
	Removing        bool      `json:"removing,omitempty"`
	RemovingVolumes bool      `json:"removingVolumes,omitempty"` // those without a name, too
	Dead            bool      `json:"dead,omitempty"`
	OOMKilled       bool      `json:"oomKilled,omitempty"`
	ManuallyStopped bool      `json:"manuallyStopped,omitempty"`
	StartedBefore   bool      `json:"startedBefore,omitempty"`
	ExitCode        int       `json:"exitCode,omitempty"`
	RestartCount    int       `json:"restartCount,omitempty"`
	Error           string    `json:"error,omitempty"`
	StartedAt       time.Time `json:"startedAt,omitzero"`
	FinishedAt      time.Time `json:"finishedAt,omitzero"`
}

// Status is Docker's word for the state.
func (s State) Status() container.ContainerState {
	switch {
	case s.Removing:
		return container.StateRemoving
	case s.Dead:
		return container.StateDead
	case s.Running && s.Paused:
		return container.StatePaused
	case s.Running && s.Restarting:
		return container.StateRestarting
	case s.Running:
		return container.StateRunning
	case s.StartedAt.IsZero():
		return container.StateCreated
	}
	return container.StateExited
}

// Store is a folder of records.
type Store struct {
	dir string

	mu   sync.Mutex
	last map[string]written
}

// written is what the folder holds of a container.
type written struct {
	static [sha256.Size]byte // of the record without its state
	seq    uint64
}

// stored is the content of a record's file.
type stored struct {
	*Record
	Seq uint64 `json:"seq"`
}

// storedState is the content of a state's file; it counts while its number is above the record's.
type storedState struct {
	State State  `json:"state"`
	Seq   uint64 `json:"seq"`
}

const (
	suffix      = ".json"
	stateSuffix = ".state"
)

// Open opens or makes the folder, and removes what a crash left of a write.
func Open(dir string) (*Store, error) {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, fmt.Errorf("folder of container records: %w", err)
	}
	stale, err := filepath.Glob(filepath.Join(dir, "*.tmp"))
	if err != nil {
		return nil, err
	}
	for _, f := range stale {
		if err := os.Remove(f); err != nil {
			return nil, fmt.Errorf("remove half-written record: %w", err)
		}
	}
	states, err := filepath.Glob(filepath.Join(dir, "*"+stateSuffix))
	if err != nil {
		return nil, err
	}
	for _, f := range states {
		if _, err := os.Lstat(strings.TrimSuffix(f, stateSuffix) + suffix); !errors.Is(err, os.ErrNotExist) {
			continue
		}
		if err := os.Remove(f); err != nil {
			return nil, fmt.Errorf("remove state without a record: %w", err)
		}
	}
	return &Store{dir: dir, last: map[string]written{}}, nil
}

func (s *Store) path(id string) string      { return filepath.Join(s.dir, id+suffix) }
func (s *Store) statePath(id string) string { return filepath.Join(s.dir, id+stateSuffix) }

// All reads every record, in the order of ids.
func (s *Store) All() ([]*Record, error) {
	entries, err := os.ReadDir(s.dir)
	if err != nil {
		return nil, fmt.Errorf("read container records: %w", err)
	}
	var out []*Record
	for _, e := range entries {
		id, ok := strings.CutSuffix(e.Name(), suffix)
		if !ok {
			continue
		}
		r, err := s.read(id)
		if err != nil {
			return nil, fmt.Errorf("record of container %s: %w", id, err)
		}
		if r != nil {
			out = append(out, r)
		}
	}
	return out, nil
}

// read reads one record; nil without an error is one that a power cut emptied before its container was acknowledged as
// lasting (see lasting), and that is removed.
func (s *Store) read(id string) (*Record, error) {
	data, err := os.ReadFile(s.path(id))
	if err != nil {
		return nil, err
	}
	if len(bytes.Trim(data, "\x00")) == 0 {
		return nil, s.Delete(id)
	}
	rec := stored{Record: new(Record)}
	if err := json.Unmarshal(data, &rec); err != nil {
		return nil, err
	}
	var newer storedState
	// One that is missing or cut off leaves the record's own state: the start of the engine finds out what is true.
	if data, err := os.ReadFile(s.statePath(id)); err == nil && json.Unmarshal(data, &newer) == nil && newer.Seq > rec.Seq {
		rec.State, rec.Seq = newer.State, newer.Seq
	}
	sum, err := static(rec.Record)
	if err != nil {
		return nil, err
	}
	s.mu.Lock()
	s.last[id] = written{static: sum, seq: rec.Seq}
	s.mu.Unlock()
	return rec.Record, nil
}

func static(r *Record) (sum [sha256.Size]byte, err error) {
	still := *r
	still.State = State{}
	b, err := json.Marshal(still)
	if err != nil {
		return sum, err
	}
	return sha256.Sum256(b), nil
}

// lasting tells whether a container is there after a power cut: one that removes itself at its end is not.
func lasting(r *Record) bool { return r.Host == nil || !r.Host.AutoRemove }

// stateMatters tells whether a power cut must not undo a change of the state alone. What a container does at the moment
// is over after a power cut, but restart policies ask how it ended and whether it was stopped by hand.
func stateMatters(r *Record) bool { return r.Host != nil && !r.Host.RestartPolicy.IsNone() }

// Put writes a record. A killed engine finds it; see lasting and stateMatters for power cuts.
func (s *Store) Put(r *Record) error {
	if err := s.put(r); err != nil {
		return fmt.Errorf("write record of container %s: %w", r.ID, err)
	}
	return nil
}

func (s *Store) put(r *Record) error {
	sum, err := static(r)
	if err != nil {
		return err
	}
	s.mu.Lock()
	last, known := s.last[r.ID]
	s.mu.Unlock()
	next := written{static: sum, seq: last.seq + 1}
	var data []byte
	if known && last.static == sum && !stateMatters(r) {
		if data, err = json.Marshal(storedState{State: r.State, Seq: next.seq}); err == nil {
			err = s.write(s.statePath(r.ID), data, false)
		}
	} else if data, err = json.Marshal(stored{Record: r, Seq: next.seq}); err == nil {
		err = s.write(s.path(r.ID), data, lasting(r))
	}
	if err != nil {
		next.static = [sha256.Size]byte{} // what is on disk is not known: the next record is written as a whole
	}
	s.mu.Lock()
	s.last[r.ID] = next
	s.mu.Unlock()
	return err
}

func (s *Store) write(path string, data []byte, sync bool) error {
	if err := failpoint.Fail("store.record.write"); err != nil {
		return err
	}
	f, err := os.OpenFile(path+".tmp", os.O_WRONLY|os.O_CREATE|os.O_TRUNC, 0o600)
	if err != nil {
		return err
	}
	_, err = f.Write(data)
	if err == nil && sync {
		err = f.Sync()
	}
	err = errors.Join(err, f.Close(), failpoint.Fail("store.record.beside"))
	if err == nil {
		err = os.Rename(path+".tmp", path)
	}
	if err != nil {
		_ = os.Remove(path + ".tmp")
		return err
	}
	if err := failpoint.Fail("store.record.renamed"); err != nil {
		return err
	}
	if !sync {
		return nil
	}
	dir, err := os.Open(s.dir)
	if err != nil {
		return err
	}
	return errors.Join(dir.Sync(), dir.Close())
}

// Delete removes a record; a missing one is no error.
func (s *Store) Delete(id string) error {
	s.mu.Lock()
	delete(s.last, id)
	s.mu.Unlock()
	for i, path := range []string{s.path(id), s.statePath(id)} {
		if i > 0 {
			failpoint.Hit("store.record.deleted")
		}
		if err := os.Remove(path); err != nil && !errors.Is(err, os.ErrNotExist) {
			return fmt.Errorf("delete record of container %s: %w", id, err)
		}
	}
	return nil
}
