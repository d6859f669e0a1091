// Package store keeps the records of containers on disk: one JSON file each, replaced as a whole.
//
// Trust: the folder is the engine's own. Invariants: what Put or Delete acknowledged survives a crash of the engine; what
// a client made or changed survives a power cut. Failure: a failing write leaves the former record.
package store

import (
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
)

// Record is everything about one container that outlives the engine.
type Record struct {
	ID       string    `json:"id"`
	Tenant   string    `json:"tenant"`
	Name     string    `json:"name"` // without a slash
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

	mu     sync.Mutex
	static map[string][sha256.Size]byte // what was last synced of each record, its State left out
}

const suffix = ".json"

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
	return &Store{dir: dir, static: map[string][sha256.Size]byte{}}, nil
}

func (s *Store) path(id string) string { return filepath.Join(s.dir, id+suffix) }

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
		data, err := os.ReadFile(s.path(id))
		if err != nil {
			return nil, fmt.Errorf("record of container %s: %w", id, err)
		}
		r := new(Record)
		if err := json.Unmarshal(data, r); err != nil {
			return nil, fmt.Errorf("record of container %s: %w", id, err)
		}
		out = append(out, r)
	}
	return out, nil
}

// needsSync tells whether a power cut must not undo a change. What a container does at the moment is over after a power
// cut, except that restart policies ask whether it was stopped by hand; a container that removes itself at its end is
// removed then.
func (s *Store) needsSync(r *Record) (bool, [sha256.Size]byte, error) {
	still := *r
	still.State = State{}
	b, err := json.Marshal(still)
	if err != nil {
		return false, [sha256.Size]byte{}, err
	}
	sum := sha256.Sum256(b)
	if r.Host != nil && r.Host.AutoRemove {
		return false, sum, nil
	}
	if r.Host != nil && !r.Host.RestartPolicy.IsNone() {
		return true, sum, nil
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.static[r.ID] != sum, sum, nil
}

// Put writes a record. A killed engine finds it; see needsSync for power cuts.
func (s *Store) Put(r *Record) error {
	b, err := json.Marshal(r)
	if err != nil {
		return fmt.Errorf("record of container %s: %w", r.ID, err)
	}
	sync, sum, err := s.needsSync(r)
	if err == nil {
		err = s.write(s.path(r.ID), b, sync)
	}
	if err != nil {
		return fmt.Errorf("write record of container %s: %w", r.ID, err)
	}
	s.mu.Lock()
	s.static[r.ID] = sum
	s.mu.Unlock()
	return nil
}

func (s *Store) write(path string, data []byte, sync bool) error {
	f, err := os.OpenFile(path+".tmp", os.O_WRONLY|os.O_CREATE|os.O_TRUNC, 0o600)
	if err != nil {
		return err
	}
	_, err = f.Write(data)
	if err == nil && sync {
		err = f.Sync()
	}
	err = errors.Join(err, f.Close())
	if err == nil {
		err = os.Rename(path+".tmp", path)
	}
	if err != nil {
		_ = os.Remove(path + ".tmp")
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
	delete(s.static, id)
	s.mu.Unlock()
	if err := os.Remove(s.path(id)); err != nil && !errors.Is(err, os.ErrNotExist) {
		return fmt.Errorf("delete record of container %s: %w", id, err)
	}
	return nil
}
