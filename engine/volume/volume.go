// Package volume keeps named volumes: a durable record per volume and tenant, and a folder beneath the store that
// carries store ids.
//
// Trust: requests were checked by the gate; what lies inside a volume is hostile and is only measured here, through
// os.Root. Filling a volume from an image is left to confined child processes (interface Copier).
// Invariants: names are unique per tenant and tell nothing about the folder; a record has its folder; a folder without a
// record belongs to nobody and is removed at the next start; a volume that a container refers to is not removed.
// Failure: what could not be made durable was not made.
package volume

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/containerd/errdefs"
	"github.com/moby/moby/api/types/events"
	"go.etcd.io/bbolt"

	"stockade/engine/httpapi"
	"stockade/engine/runtime"
	"stockade/internal/failpoint"
)

// AnonymousLabel marks volumes that were made without a name.
const AnonymousLabel = "com.docker.volume.anonymous"

// Publisher announces events.
type Publisher interface {
	Publish(tenant string, typ events.Type, action events.Action, id string, attributes map[string]string)
}

// Copier copies the tree at path inside a container's root, contents and attributes alike, into folder into, whose owner
// ids begin at U id base. A path that does not exist copies nothing.
type Copier interface {
	Copy(ctx context.Context, root runtime.Root, path, into string, base uint32) error
}

// Config is what a Service needs.
type Config struct {
	Data   string // the engine's folder; volumes lie in Data/store/volumes
	Owner  int    // id that owns new volumes: the store's root, U id 1
	Copier Copier
	Events Publisher
	Log    *slog.Logger
}

// Service keeps volumes. Use Open.
type Service struct {
	cfg Config
	dir string
	db  *bbolt.DB

	mu      sync.Mutex
	refs    map[key]map[string]bool // containers that refer to a volume
	filling map[string]*sync.Mutex  // by store name: one Populate of a volume at a time
}

type key struct{ tenant, name string }

// Volume is one volume's record.
type Volume struct {
	Name      string            `json:"name"`
	StoreName string            `json:"storeName"` // folder volumes/<StoreName>/data of the store
	Labels    map[string]string `json:"labels,omitempty"`
	Created   time.Time         `json:"created"`
}

var namePattern = regexp.MustCompile(`^[a-zA-Z0-9][a-zA-Z0-9_.-]{1,254}$`)

// Open opens the records and removes folders that belong to none of them.
func Open(cfg Config) (*Service, error) {
	s := &Service{cfg: cfg, dir: filepath.Join(cfg.Data, "store", "volumes"), refs: map[key]map[string]bool{}, filling: map[string]*sync.Mutex{}}
	if err := os.MkdirAll(s.dir, 0o711); err != nil {
		return nil, fmt.Errorf("make folder of volumes: %w", err)
	}
	db, err := bbolt.Open(filepath.Join(cfg.Data, "volumes.db"), 0o600, &bbolt.Options{Timeout: 5 * time.Second})
	if err != nil {
		return nil, fmt.Errorf("open records of volumes: %w", err)
	}
	s.db = db
	if err := s.sweep(); err != nil {
		db.Close()
		return nil, err
	}
	return s, nil
}

// Close closes the records.
func (s *Service) Close() error { return s.db.Close() }

func (s *Service) sweep() error {
	known := map[string]bool{}
	err := s.each("", func(_ string, v Volume) error {
		known[v.StoreName] = true
		return nil
	})
	if err != nil {
		return err
	}
	entries, err := os.ReadDir(s.dir)
	if err != nil {
		return fmt.Errorf("list folders of volumes: %w", err)
	}
	for _, e := range entries {
		if known[e.Name()] {
			continue
		}
		if err := os.RemoveAll(filepath.Join(s.dir, e.Name())); err != nil {
			s.cfg.Log.Warn("folder of a removed volume stays", "folder", e.Name(), "err", err)
		}
	}
	return nil
}

// each calls f for the volumes of a tenant ("": of all) in the order of their names.
func (s *Service) each(tenant string, f func(tenant string, v Volume) error) error {
	return s.db.View(func(tx *bbolt.Tx) error {
		return tx.ForEach(func(owner []byte, b *bbolt.Bucket) error {
			if tenant != "" && string(owner) != tenant {
				return nil
			}
			return b.ForEach(func(name, raw []byte) error {
				var v Volume
				if err := json.Unmarshal(raw, &v); err != nil {
					return fmt.Errorf("record of volume %q: %w", name, err)
				}
				return f(string(owner), v)
			})
		})
	})
}

// Get finds a volume.
func (s *Service) Get(tenant, name string) (Volume, error) {
	var v Volume
	err := s.db.View(func(tx *bbolt.Tx) error {
		b := tx.Bucket([]byte(tenant))
		if b == nil || b.Get([]byte(name)) == nil {
			return httpapi.NewError(errdefs.ErrNotFound, "get %s: no such volume", name)
		}
		return json.Unmarshal(b.Get([]byte(name)), &v)
	})
	return v, err
}

// Ensure finds a volume or makes it. An empty name makes an anonymous one. Driver options are refused.
func (s *Service) Ensure(_ context.Context, tenant, name string, labels, options map[string]string) (volume, store string, created bool, err error) {
	v, created, err := s.ensure(tenant, name, labels, options)
	return v.Name, v.StoreName, created, err
}

func (s *Service) ensure(tenant, name string, labels, options map[string]string) (Volume, bool, error) {
	// SECURITY(T-301): options of the local driver are a raw mount(8). The gate refuses them; so does this package.
	if len(options) > 0 {
		return Volume{}, false, httpapi.NewError(errdefs.ErrInvalidArgument, "create %s: driver options are not supported", name)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if tenant == "" {
		return Volume{}, false, errors.New("volume without a tenant")
	}
	if name == "" {
		name = random(32)
		labels = withLabel(labels, AnonymousLabel)
	} else if v, err := s.Get(tenant, name); err == nil || !errdefs.IsNotFound(err) {
		return v, false, err
	}
	if !namePattern.MatchString(name) {
		return Volume{}, false, httpapi.NewError(errdefs.ErrInvalidArgument, "create %s: %q includes invalid characters for a local volume name, only \"[a-zA-Z0-9][a-zA-Z0-9_.-]\" are allowed. If you intended to pass a host directory, use absolute path", name, name)
	}
	v := Volume{Name: name, StoreName: random(16), Labels: labels, Created: time.Now().UTC()}
	if err := s.mkdir(v.StoreName); err != nil {
		return Volume{}, false, err
	}
	failpoint.Hit("volume.create.folder")
	raw, err := json.Marshal(v)
	if err != nil {
		return Volume{}, false, err
	}
	err = s.db.Update(func(tx *bbolt.Tx) error {
		b, err := tx.CreateBucketIfNotExists([]byte(tenant))
		if err != nil {
			return err
		}
		return b.Put([]byte(name), raw)
	})
	if err != nil {
		return Volume{}, false, errors.Join(fmt.Errorf("record volume: %w", err), os.RemoveAll(filepath.Join(s.dir, v.StoreName)))
	}
	failpoint.Hit("volume.create.recorded")
	s.cfg.Events.Publish(tenant, events.VolumeEventType, events.ActionCreate, name, map[string]string{"driver": "local"})
	return v, true, nil
}

func (s *Service) mkdir(storeName string) (err error) {
	outer := filepath.Join(s.dir, storeName)
	defer func() {
		if err != nil {
			err = errors.Join(fmt.Errorf("make folder of volume: %w", err), os.RemoveAll(outer))
		}
	}()
	inner := filepath.Join(outer, "data")
	if err := os.Mkdir(outer, 0o711); err != nil {
		return err
	}
	if err := os.Mkdir(inner, 0o755); err != nil {
		return err
	}
	if err := os.Lchown(inner, s.cfg.Owner, s.cfg.Owner); err != nil {
		return err
	}
	// The process's umask must not decide about the folders' modes.
	return errors.Join(os.Chmod(outer, 0o711), os.Chmod(inner, 0o755))
}

// Reference records that a container uses a volume. References are in memory: each container that exists says so again
// at the engine's start.
func (s *Service) Reference(tenant, name, containerID string) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if _, err := s.Get(tenant, name); err != nil {
		return err
	}
	k := key{tenant, name}
	if s.refs[k] == nil {
		s.refs[k] = map[string]bool{}
	}
	s.refs[k][containerID] = true
	return nil
}

// Unreference ends Reference.
func (s *Service) Unreference(tenant, name, containerID string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	k := key{tenant, name}
	delete(s.refs[k], containerID)
	if len(s.refs[k]) == 0 {
		delete(s.refs, k)
	}
}

// users lists the containers that refer to a volume.
func (s *Service) users(tenant, name string) []string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.usersLocked(tenant, name)
}

func (s *Service) usersLocked(tenant, name string) []string {
	ids := []string{}
	for id := range s.refs[key{tenant, name}] {
		ids = append(ids, id)
	}
	slices.Sort(ids)
	return ids
}

// Remove removes a volume that no container refers to.
func (s *Service) Remove(_ context.Context, tenant, name string) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	v, err := s.Get(tenant, name)
	if err != nil {
		return err
	}
	if ids := s.usersLocked(tenant, name); len(ids) > 0 {
		return httpapi.NewError(errdefs.ErrConflict, "remove %s: volume is in use - [%s]", name, strings.Join(ids, ", "))
	}
	failpoint.Hit("volume.remove.record")
	err = s.db.Update(func(tx *bbolt.Tx) error {
		b := tx.Bucket([]byte(tenant))
		if err := b.Delete([]byte(name)); err != nil {
			return err
		}
		if k, _ := b.Cursor().First(); k == nil {
			return tx.DeleteBucket([]byte(tenant))
		}
		return nil
	})
	if err != nil {
		return fmt.Errorf("remove record of volume: %w", err)
	}
	delete(s.filling, v.StoreName)
	failpoint.Hit("volume.remove.recorded")
	// From here on the volume is gone; what stays of its folder goes at the next start.
	if err := os.RemoveAll(filepath.Join(s.dir, v.StoreName)); err != nil {
		s.cfg.Log.Warn("folder of a removed volume stays", "folder", v.StoreName, "err", err)
	}
	s.cfg.Events.Publish(tenant, events.VolumeEventType, events.ActionDestroy, name, map[string]string{"driver": "local"})
	return nil
}

// Populate copies what the image has at path into an empty volume, as Docker does at a volume's first use. A volume
// that holds anything stays as it is.
func (s *Service) Populate(ctx context.Context, storeName string, root runtime.Root, path string) error {
	s.mu.Lock()
	one := s.filling[storeName]
	if one == nil {
		one = &sync.Mutex{}
		s.filling[storeName] = one
	}
	s.mu.Unlock()
	one.Lock()
	defer one.Unlock()
	data := filepath.Join(s.dir, storeName, "data")
	entries, err := os.ReadDir(data)
	if err != nil {
		return fmt.Errorf("look into volume: %w", err)
	}
	if len(entries) > 0 {
		return nil
	}
	if err := s.cfg.Copier.Copy(ctx, root, path, data, uint32(s.cfg.Owner)); err != nil {
		return fmt.Errorf("fill volume from image: %w", err)
	}
	return nil
}

// size adds up the bytes of the files in a volume; a file with several names counts once.
func (s *Service) size(ctx context.Context, storeName string) (int64, error) {
	// SECURITY(T-401): a container may swap folders and links meanwhile; os.Root never leaves the volume.
	root, err := os.OpenRoot(filepath.Join(s.dir, storeName, "data"))
	if err != nil {
		return 0, err
	}
	defer root.Close()
	var sum int64
	seen := map[inode]bool{}
	err = fs.WalkDir(root.FS(), ".", func(_ string, d fs.DirEntry, err error) error {
		if ctx.Err() != nil {
			return ctx.Err()
		}
		if err != nil || d.IsDir() {
			return nil // what vanished meanwhile has no size
		}
		info, err := d.Info()
		if err != nil || !info.Mode().IsRegular() {
			return nil
		}
		id := inodeOf(info)
		if id.links > 1 && seen[id] {
			return nil
		}
		seen[id] = true
		sum += info.Size()
		return nil
	})
	return sum, err
}

func random(n int) string {
	b := make([]byte, n)
	rand.Read(b) // never fails
	return hex.EncodeToString(b)
}

func withLabel(labels map[string]string, name string) map[string]string {
	out := map[string]string{name: ""}
	for k, v := range labels {
		out[k] = v
	}
	return out
}
