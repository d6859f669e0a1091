// Package store keeps the records of containers on disk: one bbolt file, one JSON record for each container.
//
// Trust: the file is the engine's own. Invariants: a record that Put or Delete acknowledged survives a crash.
// Failure: a failing write leaves the former record.
package store

import (
	"encoding/json"
	"fmt"
	"time"

	"github.com/moby/moby/api/types/container"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	bolt "go.etcd.io/bbolt"

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

var bucket = []byte("containers")

// Store is an open file of records.
type Store struct{ db *bolt.DB }

// Open opens or makes the file. Another process that has it open is an error within a few seconds.
func Open(path string) (*Store, error) {
	db, err := bolt.Open(path, 0o600, &bolt.Options{Timeout: 5 * time.Second, FreelistType: bolt.FreelistMapType})
	if err != nil {
		return nil, fmt.Errorf("open container records: %w", err)
	}
	err = db.Update(func(tx *bolt.Tx) error {
		_, err := tx.CreateBucketIfNotExists(bucket)
		return err
	})
	if err != nil {
		db.Close()
		return nil, fmt.Errorf("prepare container records: %w", err)
	}
	return &Store{db: db}, nil
}

// Close closes the file.
func (s *Store) Close() error { return s.db.Close() }

// All reads every record, in the order of ids.
func (s *Store) All() ([]*Record, error) {
	var out []*Record
	err := s.db.View(func(tx *bolt.Tx) error {
		return tx.Bucket(bucket).ForEach(func(k, v []byte) error {
			r := new(Record)
			if err := json.Unmarshal(v, r); err != nil {
				return fmt.Errorf("record of container %s: %w", k, err)
			}
			out = append(out, r)
			return nil
		})
	})
	return out, err
}

// Put writes a record.
func (s *Store) Put(r *Record) error {
	b, err := json.Marshal(r)
	if err != nil {
		return fmt.Errorf("record of container %s: %w", r.ID, err)
	}
	if err := s.db.Update(func(tx *bolt.Tx) error { return tx.Bucket(bucket).Put([]byte(r.ID), b) }); err != nil {
		return fmt.Errorf("write record of container %s: %w", r.ID, err)
	}
	return nil
}

// Delete removes a record; a missing one is no error.
func (s *Store) Delete(id string) error {
	if err := s.db.Update(func(tx *bolt.Tx) error { return tx.Bucket(bucket).Delete([]byte(id)) }); err != nil {
		return fmt.Errorf("delete record of container %s: %w", id, err)
	}
	return nil
}
