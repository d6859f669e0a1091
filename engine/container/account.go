package container

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"

	"golang.org/x/sys/unix"

	"stockade/engine/container/spec"
	"stockade/engine/container/store"
)

// accounts remembers the user files of images: opening a root for each start costs more than the start of small
// containers. An entry is used only while the container's writable layer does not change them.
type accounts struct {
	mu    sync.Mutex
	users map[string]spec.Users // tenant and layers → files
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
	key := rec.Tenant + "/" + strings.Join(rec.Layers, ",")
	pristine := imageUserFiles(filepath.Join(s.cfg.Settings.Data, "store", "rw", rec.ID, "upper", "etc"))
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
	// SECURITY(T-204): what a running container can write while we read is not remembered for others, and nothing for
	// another tenant's.
	if pristine && !rec.State.Running && len(u.Passwd)+len(u.Group) <= maxAccountSize {
		s.accounts.mu.Lock()
		defer s.accounts.mu.Unlock()
		if s.accounts.users == nil || len(s.accounts.users) >= maxAccounts {
			s.accounts.users = map[string]spec.Users{}
		}
		s.accounts.users[key] = u
	}
	return u, nil
}

// imageUserFiles tells whether the image's user files are the container's: its writable layer, whose /etc is at etc, has
// neither of its own nor hides the image's folder. (The files that the engine shows in /etc leave mount points there.)
// A container that changes its folder meanwhile changes its own answer only.
func imageUserFiles(etc string) bool {
	info, err := os.Lstat(etc)
	if errors.Is(err, os.ErrNotExist) {
		return true
	}
	if err != nil || !info.IsDir() {
		return false
	}
	for _, name := range []string{"passwd", "group"} {
		if _, err := os.Lstat(filepath.Join(etc, name)); !errors.Is(err, os.ErrNotExist) {
			return false
		}
	}
	for _, attr := range []string{"user.overlay.opaque", "trusted.overlay.opaque"} {
		if n, err := unix.Lgetxattr(etc, attr, nil); err == nil && n > 0 {
			return false
		}
	}
	return true
}
