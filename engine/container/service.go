package container

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"sync"

	"stockade/engine/container/store"
	"stockade/engine/httpapi"
)

// Service is the container part of the engine.
type Service struct {
	cfg      Config
	st       *store.Store
	index    *index
	accounts accounts

	// sharing is read-locked while a new container takes over mounts of others, and locked while grants are dropped.
	sharing sync.RWMutex

	execMu sync.Mutex
	execs  map[string]*execution // by exec id

	// ctx ends background work (restarts, health checks) with the engine.
	ctx    context.Context
	cancel context.CancelFunc
	tasks  sync.WaitGroup
}

// New opens the records. Reconcile must run before requests are served.
func New(cfg Config) (*Service, error) {
	dir := filepath.Join(cfg.Settings.Data, "containers")
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, fmt.Errorf("folder of containers: %w", err)
	}
	st, err := store.Open(filepath.Join(cfg.Settings.Data, "records"))
	if err != nil {
		return nil, err
	}
	s := &Service{cfg: cfg, st: st, index: newIndex(), execs: map[string]*execution{}}
	//nolint:containedctx // the service's own lifetime
	s.ctx, s.cancel = context.WithCancel(context.Background())
	records, err := st.All()
	if err != nil {
		return nil, err
	}
	for _, r := range records {
		if ok, other := s.index.reserve(r.Tenant, r.Name, r.ID); !ok {
			return nil, fmt.Errorf("containers %s and %s have the same name", r.ID, other)
		}
		s.index.add(newItem(r))
	}
	return s, nil
}

// Close ends background work; containers go on.
func (s *Service) Close() error {
	s.cancel()
	s.tasks.Wait()
	return nil
}

// background runs f until it returns; Close waits for it.
func (s *Service) background(f func()) {
	s.tasks.Add(1)
	go func() {
		defer s.tasks.Done()
		f()
	}()
}

// folder is where a container's log is kept.
func (s *Service) folder(id string) string {
	return filepath.Join(s.cfg.Settings.Data, "containers", id)
}

// Routes adds the container endpoints.
func (s *Service) Routes(rt *httpapi.Router) {
	rt.Handle("GET /containers/json", s.handleList)
	rt.Handle("POST /containers/create", s.handleCreate)
	rt.Handle("POST /containers/prune", s.handlePrune)
	rt.Handle("GET /containers/{id}/json", s.handleInspect)
	rt.Handle("GET /containers/{id}/logs", s.handleLogs)
	rt.Handle("GET /containers/{id}/top", s.handleTop)
	rt.Handle("GET /containers/{id}/stats", s.handleStats)
	rt.Handle("POST /containers/{id}/start", s.handleStart)
	rt.Handle("POST /containers/{id}/stop", s.handleStop)
	rt.Handle("POST /containers/{id}/restart", s.handleRestart)
	rt.Handle("POST /containers/{id}/kill", s.handleKill)
	rt.Handle("POST /containers/{id}/pause", s.handlePause)
	rt.Handle("POST /containers/{id}/unpause", s.handleUnpause)
	rt.Handle("POST /containers/{id}/rename", s.handleRename)
	rt.Handle("POST /containers/{id}/update", s.handleUpdate)
	rt.Handle("POST /containers/{id}/wait", s.handleWait)
	rt.Handle("POST /containers/{id}/resize", s.handleResize)
	rt.Handle("POST /containers/{id}/attach", s.handleAttach)
	rt.Handle("GET /containers/{id}/attach/ws", s.handleAttachWebSocket)
	rt.Handle("POST /containers/{id}/exec", s.handleExecCreate)
	rt.Handle("DELETE /containers/{id}", s.handleRemove)
	rt.Handle("POST /exec/{id}/start", s.handleExecStart)
	rt.Handle("POST /exec/{id}/resize", s.handleExecResize)
	rt.Handle("GET /exec/{id}/json", s.handleExecInspect)
}
