package container

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"

	"stockade/engine/container/spec"
	"stockade/engine/container/store"
)

// accounts remembers the user files of images: opening a root for each start costs more than the start of small
// containers. An entry is used only while the container's writable layer has no /etc of its own.
type accounts struct {
	mu    sync.Mutex
	users map[string]spec.Users // layers → files
}

// Bounds of what is remembered: images and bytes of one image's files.
const (
	maxAccounts    = 256
	maxAccountSize = 64 << 10
)

// account resolves a user inside the container's root.
func (s *Service) account(ctx context.Context, rec *store.Record, user string) (spec.Account, error) {
	users, err := s.userFiles(ctx, rec)
	if err != nil {
		return spec.Account{}, err
	}
	return users.Lookup(user, rec.Host.GroupAdd)
}

func (s *Service) userFiles(ctx context.Context, rec *store.Record) (spec.Users, error) {
	key := strings.Join(rec.Layers, ",")
	_, err := os.Lstat(filepath.Join(s.cfg.Settings.Data, "store", "rw", rec.ID, "upper", "etc"))
	pristine := errors.Is(err, os.ErrNotExist)
	if pristine {
		s.accounts.mu.Lock()
		u, ok := s.accounts.users[key]
		s.accounts.mu.Unlock()
		if ok {
			return u, nil
		}
	}
	root, err := s.cfg.Runtime.OpenRoot(ctx, rec.ID, rec.Layers, nil)
	if err != nil {
		return spec.Users{}, fmt.Errorf("open root: %w", err)
	}
	u, err := spec.ReadUsers(root.Path())
	if err := errors.Join(err, root.Close()); err != nil {
		return spec.Users{}, err
	}
	if pristine && len(u.Passwd)+len(u.Group) <= maxAccountSize {
		s.accounts.mu.Lock()
		defer s.accounts.mu.Unlock()
		if s.accounts.users == nil || len(s.accounts.users) >= maxAccounts {
			s.accounts.users = map[string]spec.Users{}
		}
		s.accounts.users[key] = u
	}
	return u, nil
}
