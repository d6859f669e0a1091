package image

import (
	"context"
	"os"
	"path/filepath"
	"time"

	"github.com/opencontainers/go-digest"
	bolt "go.etcd.io/bbolt"

	"stockade/internal/failpoint"
)

// Sweep asks for a search for layers and blobs that nothing uses any more; it does not wait for it. Package container
// calls it when a container is gone.
func (s *Store) Sweep() {
	select {
	case s.sweep <- struct{}{}:
	default: // one is due already
	}
}

func (s *Store) sweeper(ctx context.Context) {
	tick := time.NewTicker(sweepEvery)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		case <-s.sweep:
		}
		if err := s.collect(ctx); err != nil && ctx.Err() == nil {
			s.cfg.Log.Error("sweep images", "err", err)
		}
	}
}

// collect forgets deleted images whose containers are gone, then removes unused layers and blobs.
func (s *Store) collect(ctx context.Context) error {
	s.collecting.Lock()
	defer s.collecting.Unlock()
	for _, g := range s.gone() {
		if len(s.cfg.InUse(g.tenant, g.id.String())) > 0 {
			continue
		}
		s.mu.Lock()
		var err error
		// It may have been pulled again in between.
		if r := s.images[g.tenant][g.id]; r != nil && r.Gone && !s.fresh(g) {
			err = s.drop(ctx, g.tenant, g.id)
		}
		s.mu.Unlock()
		if err != nil {
			return err
		}
	}
	s.mu.Lock()
	for k := range s.resolved {
		if !s.fresh(k) {
			delete(s.resolved, k)
		}
	}
	s.mu.Unlock()
	trash, err := s.detachLayers()
	for _, dir := range trash {
		if err := os.RemoveAll(dir); err != nil {
			s.cfg.Log.Error("remove layer", "err", err)
		}
	}
	if err != nil {
		return err
	}
	_, err = s.db.GarbageCollect(ctx)
	return err
}

func (s *Store) gone() (out []key) {
	s.mu.RLock()
	defer s.mu.RUnlock()
	for tenant, mine := range s.images {
		for id, r := range mine {
			if r.Gone {
				out = append(out, key{tenant, id})
			}
		}
	}
	return out
}

// detachLayers takes unused layers out of the records and moves their folders aside.
func (s *Store) detachLayers() (trash []string, _ error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	used := map[digest.Digest]bool{}
	for _, mine := range s.images {
		for _, r := range mine {
			for _, c := range r.Chains {
				used[c] = true
			}
		}
	}
	for chain := range s.layers {
		if used[chain] || s.pins[chain] > 0 {
			continue
		}
		if err := s.db.Update(func(tx *bolt.Tx) error { return tx.Bucket(bucketLayers).Delete([]byte(chain)) }); err != nil {
			return trash, err
		}
		failpoint.Hit("image.collect.record")
		delete(s.layers, chain)
		// Should this fail, the folder is removed at the next start, having no record.
		aside := filepath.Join(s.dir, tempPrefix+"old-"+chain.Encoded())
		if err := os.Rename(filepath.Join(s.dir, chain.Encoded()), aside); err != nil {
			return trash, err
		}
		failpoint.Hit("image.collect.moved")
		trash = append(trash, aside)
	}
	return trash, nil
}
