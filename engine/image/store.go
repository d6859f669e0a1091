package image

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"sync"
	"time"

	"github.com/containerd/containerd/v2/core/content"
	"github.com/containerd/containerd/v2/core/images"
	"github.com/containerd/containerd/v2/core/leases"
	"github.com/containerd/containerd/v2/core/metadata"
	"github.com/containerd/containerd/v2/core/metadata/boltutil"
	"github.com/containerd/containerd/v2/pkg/namespaces"
	"github.com/containerd/containerd/v2/plugins/content/local"
	"github.com/containerd/errdefs"
	"github.com/containerd/log"
	"github.com/moby/moby/api/types/events"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	bolt "go.etcd.io/bbolt"

	"stockade/engine/unpack"
	"stockade/internal/failpoint"
	"stockade/internal/outbound"
)

// leaseTime is how long what an interrupted operation has brought is kept.
const leaseTime = 24 * time.Hour

// labelResumable marks leases of operations that another try can continue.
const labelResumable = "stockade/resumable"

// grace is how long the layers of an image stay after it was resolved.
const grace = 5 * time.Minute

// sweepEvery is how often expired leases and deleted images are looked for.
const sweepEvery = 10 * time.Minute

// Config is what a Store needs. InUse and Event may be nil. InUse is called without locks held; Event may be called with
// the store's lock held and must not call the Store.
type Config struct {
	Data       string        // the engine's data folder
	Unpack     unpack.Config // how layers are written
	Insecure   []string      // registries (host[:port]) reached without TLS
	Proxy      outbound.Proxy
	RegistryCA string // folder of PEM files trusted besides the system's, or empty
	Log        *slog.Logger
	Now        func() time.Time // nil: time.Now
	// InUse lists a tenant's containers that were made from an image.
	InUse func(tenant, imageID string) []ContainerRef
	// Event tells what happened to an image.
	Event func(tenant string, action events.Action, id string, attrs map[string]string)
}

// ContainerRef is a container that uses an image.
type ContainerRef struct {
	ID      string
	Running bool
}

// Store is all images of all tenants.
type Store struct {
	cfg    Config
	bolt   *bolt.DB
	db     *metadata.DB
	blobs  content.Store
	roots  images.Store
	leases leases.Manager
	dir    string // <Data>/store/layers

	unpacking chan struct{} // slots
	chains    keyed

	mu     sync.RWMutex
	images map[string]map[digest.Digest]*record // by tenant
	layers map[digest.Digest]*layer             // by chain id
	pins   map[digest.Digest]int                // chain ids in use by running operations
	// resolved is when images were last looked up for a container.
	resolved map[key]time.Time

	sweep      chan struct{}
	collecting sync.Mutex
	stop       context.CancelFunc
	done       sync.WaitGroup
}

// key is an image of a tenant.
type key struct {
	tenant string
	id     digest.Digest
}

// layer is an unpacked layer.
type layer struct {
	Chain  digest.Digest `json:"chain"`
	DiffID digest.Digest `json:"diffID"`
	Size   int64         `json:"size"`
}

// Buckets of our own records.
var (
	bucketImages = []byte("stockade-images") // tenant → id → record
	bucketLayers = []byte("stockade-layers") // chain id → layer
)

// Open opens the store in cfg.Data, made if missing, and removes what an earlier run left unfinished. What deleted images
// leave is not removed before the first Sweep, which the caller asks for when Config.InUse knows every container.
func Open(ctx context.Context, cfg Config) (*Store, error) {
	if cfg.Data == "" || cfg.Log == nil {
		return nil, errors.New("image store: no data folder or no logger set")
	}
	if cfg.InUse == nil {
		cfg.InUse = func(string, string) []ContainerRef { return nil }
	}
	if cfg.Event == nil {
		cfg.Event = func(string, events.Action, string, map[string]string) {}
	}
	if cfg.Now == nil {
		cfg.Now = time.Now
	}
	s := &Store{
		cfg: cfg, dir: filepath.Join(cfg.Data, "store", "layers"), unpacking: make(chan struct{}, 2),
		images: map[string]map[digest.Digest]*record{}, layers: map[digest.Digest]*layer{},
		pins: map[digest.Digest]int{}, resolved: map[key]time.Time{}, sweep: make(chan struct{}, 1),
	}
	// Containers pass through these folders on the way to their layers, but may not list them.
	for _, d := range []string{filepath.Dir(s.dir), s.dir} {
		if err := os.MkdirAll(d, 0o711); err != nil {
			return nil, err
		}
		if err := os.Chmod(d, 0o711); err != nil {
			return nil, err
		}
	}
	// What containerd's libraries say below errors is not ours to show; their errors come back to us.
	if err := log.SetLevel("error"); err != nil {
		return nil, err
	}
	if err := tidyIngests(filepath.Join(cfg.Data, "content", "ingest")); err != nil {
		return nil, err
	}
	blobs, err := local.NewStore(filepath.Join(cfg.Data, "content"))
	if err != nil {
		return nil, fmt.Errorf("open content store: %w", err)
	}
	s.bolt, err = bolt.Open(filepath.Join(cfg.Data, "images.db"), 0o600, &bolt.Options{Timeout: 10 * time.Second})
	if err != nil {
		return nil, fmt.Errorf("open image database: %w", err)
	}
	// SECURITY(T-204): isolated: knowing a digest does not give a tenant the blob.
	s.db = metadata.NewDB(s.bolt, blobs, nil, metadata.WithPolicyIsolated)
	s.blobs, s.roots, s.leases = s.db.ContentStore(), metadata.NewImageStore(s.db), metadata.NewLeaseManager(s.db)
	err = s.db.Init(ctx)
	if err == nil {
		err = s.read()
	}
	if err == nil {
		err = s.tidy()
	}
	if err == nil {
		err = s.endLeases(ctx)
	}
	if err == nil {
		if derr := s.doubt(ctx); derr != nil { // a full disk must not keep the server down; the next start does it
			s.cfg.Log.Warn("blobs without a record stay until the next start", "err", derr)
		}
	}
	if err != nil {
		s.bolt.Close()
		return nil, fmt.Errorf("image database: %w", err)
	}
	ctx, s.stop = context.WithCancel(context.WithoutCancel(ctx))
	s.done.Go(func() { s.sweeper(ctx) })
	return s, nil
}

// Close waits for the sweeper and closes the database. No operation may be running.
func (s *Store) Close() error {
	s.stop()
	s.done.Wait()
	return s.db.Close()
}

// read fills the memory from the database.
func (s *Store) read() error {
	return s.bolt.Update(func(tx *bolt.Tx) error {
		lb, err := tx.CreateBucketIfNotExists(bucketLayers)
		if err != nil {
			return err
		}
		ib, err := tx.CreateBucketIfNotExists(bucketImages)
		if err != nil {
			return err
		}
		if err := lb.ForEach(func(_, v []byte) error {
			var l layer
			if err := json.Unmarshal(v, &l); err != nil {
				return err
			}
			s.layers[l.Chain] = &l
			return nil
		}); err != nil {
			return err
		}
		return ib.ForEachBucket(func(tenant []byte) error {
			return ib.Bucket(tenant).ForEach(func(_, v []byte) error {
				var r record
				if err := json.Unmarshal(v, &r); err != nil {
					return err
				}
				s.remember(string(tenant), &r)
				return nil
			})
		})
	})
}

// tidy makes folders and records of layers agree: a folder without a record is left over from a crash.
func (s *Store) tidy() error {
	names, err := os.ReadDir(s.dir)
	if err != nil {
		return err
	}
	found := map[string]bool{}
	for _, n := range names {
		chain := digest.NewDigestFromEncoded(digest.SHA256, n.Name())
		if s.layers[chain] != nil {
			found[n.Name()] = true
			continue
		}
		if err := os.RemoveAll(filepath.Join(s.dir, n.Name())); err != nil {
			return fmt.Errorf("remove unfinished layer: %w", err)
		}
	}
	for chain := range s.layers {
		if found[chain.Encoded()] {
			continue
		}
		s.cfg.Log.Error("layer is missing, pull its images again", "chain", chain)
		delete(s.layers, chain)
		if err := s.bolt.Update(func(tx *bolt.Tx) error { return tx.Bucket(bucketLayers).Delete([]byte(chain)) }); err != nil {
			return err
		}
	}
	return nil
}

func (s *Store) remember(tenant string, r *record) {
	if s.images[tenant] == nil {
		s.images[tenant] = map[digest.Digest]*record{}
	}
	s.images[tenant][r.ID] = r
}

// save writes a tenant's records, and with them the roots that keep their blobs. The caller holds s.mu; memory is
// changed only when the disk is.
func (s *Store) save(ctx context.Context, tenant string, recs ...*record) error {
	if err := failpoint.Fail("image.save.record"); err != nil {
		return err
	}
	err := s.db.Update(func(tx *bolt.Tx) error {
		b, err := tx.Bucket(bucketImages).CreateBucketIfNotExists([]byte(tenant))
		if err != nil {
			return err
		}
		txctx := boltutil.WithTransaction(inTenant(ctx, tenant), tx)
		for _, r := range recs {
			data, err := json.Marshal(r)
			if err != nil {
				return err
			}
			if err := b.Put([]byte(r.ID), data); err != nil {
				return err
			}
			root := images.Image{Name: r.ID.String(), Target: r.Manifest}
			if _, err = s.roots.Create(txctx, root); errdefs.IsAlreadyExists(err) {
				_, err = s.roots.Update(txctx, root)
			}
			if err != nil {
				return err
			}
		}
		return nil
	})
	if err != nil {
		return fmt.Errorf("write image record: %w", err)
	}
	failpoint.Hit("image.save.recorded")
	for _, r := range recs {
		s.remember(tenant, r)
	}
	return nil
}

// drop removes records. The caller holds s.mu.
func (s *Store) drop(ctx context.Context, tenant string, ids ...digest.Digest) error {
	err := s.db.Update(func(tx *bolt.Tx) error {
		b := tx.Bucket(bucketImages).Bucket([]byte(tenant))
		txctx := boltutil.WithTransaction(inTenant(ctx, tenant), tx)
		for _, id := range ids {
			if b == nil {
				return nil
			}
			if err := b.Delete([]byte(id)); err != nil {
				return err
			}
			if err := s.roots.Delete(txctx, id.String()); err != nil && !errdefs.IsNotFound(err) {
				return err
			}
		}
		return nil
	})
	if err != nil {
		return fmt.Errorf("remove image record: %w", err)
	}
	failpoint.Hit("image.drop.recorded")
	for _, id := range ids {
		delete(s.images[tenant], id)
	}
	return nil
}

// inTenant makes containerd's stores act in the tenant's namespace, whose name has no character that they refuse.
func inTenant(ctx context.Context, tenant string) context.Context {
	sum := sha256.Sum256([]byte(tenant))
	return namespaces.WithNamespace(ctx, "t"+hex.EncodeToString(sum[:20]))
}

// lease keeps every blob that is written or found with the returned context until release, also after a failure when
// keep is set.
//
// A resumable lease outlives a crash, too.
func (s *Store) lease(ctx context.Context, tenant string, resumable bool) (_ context.Context, release func(keep bool), _ error) {
	ctx = inTenant(ctx, tenant)
	opts := []leases.Opt{leases.WithRandomID(), leases.WithExpiration(leaseTime)}
	if resumable {
		opts = append(opts, leases.WithLabel(labelResumable, "1"))
	}
	l, err := s.leases.Create(ctx, opts...)
	if err != nil {
		return nil, nil, fmt.Errorf("lease: %w", err)
	}
	return leases.WithLease(ctx, l.ID), func(keep bool) {
		if keep {
			return
		}
		if err := s.leases.Delete(context.WithoutCancel(ctx), l); err != nil {
			s.cfg.Log.Warn("end lease", "err", err)
		}
		s.Sweep()
	}, nil
}

// endLeases ends what operations of an earlier run held and cannot go on with.
func (s *Store) endLeases(ctx context.Context) error {
	var tenants []string
	err := s.db.View(func(tx *bolt.Tx) (err error) {
		tenants, err = metadata.NewNamespaceStore(tx).List(ctx)
		return err
	})
	for _, ns := range tenants {
		nsctx := namespaces.WithNamespace(ctx, ns)
		held, listErr := s.leases.List(nsctx)
		err = errors.Join(err, listErr)
		for _, l := range held {
			if l.Labels[labelResumable] == "" {
				err = errors.Join(err, s.leases.Delete(nsctx, l))
			}
		}
	}
	return err
}

// tidyIngests removes downloads that a crash met while their folder was made or removed: without the file that tells what
// they are, containerd does not see them.
func tidyIngests(dir string) error {
	entries, err := os.ReadDir(dir)
	if errors.Is(err, os.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	for _, e := range entries {
		_, err := os.Lstat(filepath.Join(dir, e.Name(), "ref"))
		if errors.Is(err, os.ErrNotExist) {
			err = os.RemoveAll(filepath.Join(dir, e.Name()))
		}
		if err != nil {
			return fmt.Errorf("remove unfinished download: %w", err)
		}
	}
	return nil
}

// doubt makes the first collection compare the disk with the records. containerd's collector does so only when an entry
// was removed since the start: a blob whose entry went right before a crash would stay.
func (s *Store) doubt(ctx context.Context) error {
	ctx = namespaces.WithNamespace(ctx, "start")
	text := []byte("start\n")
	blob := ocispec.Descriptor{MediaType: "text/plain", Digest: digest.FromBytes(text), Size: int64(len(text))}
	if err := content.WriteBlob(ctx, s.blobs, "start", bytes.NewReader(text), blob); err != nil {
		return fmt.Errorf("write to the content store: %w", err)
	}
	if err := s.blobs.Delete(ctx, blob.Digest); err != nil {
		return fmt.Errorf("remove from the content store: %w", err)
	}
	return nil
}

// keyed is one lock per key.
type keyed struct {
	mu   sync.Mutex
	held map[string]chan struct{}
}

// lock waits for a key or for ctx.
func (k *keyed) lock(ctx context.Context, key string) (unlock func(), _ error) {
	for {
		k.mu.Lock()
		if k.held == nil {
			k.held = map[string]chan struct{}{}
		}
		busy := k.held[key]
		if busy == nil {
			mine := make(chan struct{})
			k.held[key] = mine
			k.mu.Unlock()
			return func() {
				k.mu.Lock()
				delete(k.held, key)
				k.mu.Unlock()
				close(mine)
			}, nil
		}
		k.mu.Unlock()
		select {
		case <-busy:
		case <-ctx.Done():
			return nil, ctx.Err()
		}
	}
}
