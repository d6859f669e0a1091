package supervisor

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"sync"

	"github.com/google/renameio/v2"

	"stockade/api/setting"
	"stockade/internal/userns"
)

// stateName is the state file in the run folder.
const stateName = "state.json"

// State is what a supervisor writes down for its successor and for "stockade status". It is no secret.
type State struct {
	Supervisor Instance   // the supervisor itself
	U          UState     // the user namespace
	Processes  []Instance // by name; those that run
}

// Instance is one running process.
type Instance struct {
	Name     string
	PID      int
	Start    uint64 // ticks since boot: with PID it identifies the process
	Restarts int    // how often it was started again
}

// Alive tells whether this very process still runs.
func (i Instance) Alive() bool {
	start, err := startTime(i.PID)
	return err == nil && start == i.Start
}

// UState identifies U.
type UState struct {
	ID  userns.ID
	IDs setting.IDs
}

// ReadState reads the state of the server with the given run folder.
func ReadState(run string) (State, error) {
	var st State
	data, err := os.ReadFile(filepath.Join(run, stateName))
	if err != nil {
		return st, err
	}
	if err := json.Unmarshal(data, &st); err != nil {
		return st, fmt.Errorf("state file: %w", err)
	}
	return st, nil
}

// stateFile is the state, written on each change.
type stateFile struct {
	mu   sync.Mutex
	path string
	State
}

// openState reads the state of the server before; a missing file is an empty state.
func openState(path string) (*stateFile, error) {
	st, err := ReadState(filepath.Dir(path))
	if errors.Is(err, os.ErrNotExist) {
		err = nil
	}
	return &stateFile{path: path, State: st}, err
}

func (s *stateFile) update(change func(*State)) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	change(&s.State)
	data, err := json.MarshalIndent(s.State, "", "  ")
	if err != nil {
		return err
	}
	return renameio.WriteFile(s.path, append(data, '\n'), 0o644, renameio.IgnoreUmask())
}
