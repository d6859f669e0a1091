package image

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"

	"github.com/containerd/containerd/v2/core/content"
	"github.com/containerd/errdefs"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	bolt "go.etcd.io/bbolt"

	"stockade/engine/httpapi"
	"stockade/engine/unpack"
	"stockade/internal/failpoint"
)

// labelUncompressed on a blob is the digest of what it decompresses to, as found out by us (containerd's name).
const labelUncompressed = "containerd.io/uncompressed"

// tempPrefix begins the names of unfinished layers and of layers being removed.
const tempPrefix = "tmp-"

// pin keeps layers from being removed until the returned function is called.
func (s *Store) pin(chains []digest.Digest) (unpin func()) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, c := range chains {
		s.pins[c]++
	}
	return func() {
		s.mu.Lock()
		defer s.mu.Unlock()
		for _, c := range chains {
			if s.pins[c]--; s.pins[c] == 0 {
				delete(s.pins, c)
			}
		}
	}
}

func (s *Store) layer(chain digest.Digest) *layer {
	s.mu.RLock()
	defer s.mu.RUnlock()
	return s.layers[chain]
}

// ensureLayer makes sure that blob contains diffID and that layer chain is on disk. The chain must be pinned. started
// is called when work begins, warn with what was left out, neither for a layer that is there already; both may be nil.
func (s *Store) ensureLayer(ctx context.Context, chain, diffID digest.Digest, blob ocispec.Descriptor, started func(), warn func(text string)) error {
	unlock, err := s.chains.lock(ctx, chain.String())
	if err != nil {
		return err
	}
	defer unlock()
	have := s.layer(chain)
	if have != nil {
		known, err := s.uncompressed(ctx, blob)
		if err != nil {
			return err
		}
		if known == diffID {
			return nil
		}
	}
	if started != nil {
		started()
	}
	write := s.cfg.Unpack.Layer
	if have != nil {
		// SECURITY(T-204): a configuration may name any layer; only whoever has its bytes gets it.
		write = s.cfg.Unpack.Digest
	}
	temp, res, err := s.unpackBlob(ctx, write, blob)
	if err != nil {
		return err
	}
	defer os.RemoveAll(temp)
	// SECURITY(T-403): the configuration must describe the layers that came with it.
	if res.DiffID != diffID {
		return httpapi.NewError(errdefs.ErrInvalidArgument, "layer verification failed: %s contains %s, not %s", blob.Digest, res.DiffID, diffID)
	}
	if err := s.setLabel(ctx, blob.Digest, labelUncompressed, diffID.String()); err != nil {
		return err
	}
	if have != nil {
		return nil
	}
	if warn != nil {
		for _, w := range res.Warnings {
			warn(w)
		}
	}
	return s.keepLayer(temp, &layer{Chain: chain, DiffID: diffID, Size: res.Size})
}

// keepLayer moves a finished layer to its place and records it.
func (s *Store) keepLayer(temp string, l *layer) error {
	data, err := json.Marshal(l)
	if err != nil {
		return err
	}
	if err := os.Rename(temp, filepath.Join(s.dir, l.Chain.Encoded())); err != nil {
		return fmt.Errorf("keep layer: %w", err)
	}
	failpoint.Hit("image.layer.moved")
	d, err := os.Open(s.dir)
	if err != nil {
		return err
	}
	defer d.Close()
	if err := d.Sync(); err != nil {
		return fmt.Errorf("keep layer: %w", err)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if err := s.db.Update(func(tx *bolt.Tx) error { return tx.Bucket(bucketLayers).Put([]byte(l.Chain), data) }); err != nil {
		return fmt.Errorf("record layer: %w", err)
	}
	failpoint.Hit("image.layer.recorded")
	s.layers[l.Chain] = l
	return nil
}

type unpackFunc = func(context.Context, string, io.Reader) (unpack.Result, error)

// unpackBlob unpacks a blob of the tenant in ctx into a new temporary folder, which belongs to the caller. It waits for
// a free slot; a lock on a chain may be held, but none is taken while a slot is.
func (s *Store) unpackBlob(ctx context.Context, write unpackFunc, blob ocispec.Descriptor) (temp string, res unpack.Result, err error) {
	select {
	case s.unpacking <- struct{}{}:
		defer func() { <-s.unpacking }()
	case <-ctx.Done():
		return "", res, ctx.Err()
	}
	ra, err := s.blobs.ReaderAt(ctx, blob)
	if err != nil {
		return "", res, fmt.Errorf("open layer: %w", err)
	}
	defer ra.Close()
	if temp, err = os.MkdirTemp(s.dir, tempPrefix); err != nil {
		return "", res, err
	}
	if err = os.Chmod(temp, 0o711); err == nil {
		res, err = write(ctx, filepath.Join(temp, "fs"), content.NewReader(ra))
	}
	if err != nil {
		return "", res, errors.Join(err, os.RemoveAll(temp))
	}
	for _, w := range res.Warnings {
		s.cfg.Log.Info("unpack", "layer", blob.Digest, "warning", w)
	}
	return temp, res, nil
}

// uncompressed returns the recorded digest of what a blob of the tenant contains, or "".
func (s *Store) uncompressed(ctx context.Context, blob ocispec.Descriptor) (digest.Digest, error) {
	info, err := s.blobs.Info(ctx, blob.Digest)
	if err != nil {
		return "", fmt.Errorf("layer %s: %w", blob.Digest, err)
	}
	return digest.Digest(info.Labels[labelUncompressed]), nil
}

func (s *Store) setLabel(ctx context.Context, dgst digest.Digest, key, value string) error {
	_, err := s.blobs.Update(ctx, content.Info{Digest: dgst, Labels: map[string]string{key: value}}, "labels."+key)
	if err != nil {
		return fmt.Errorf("label blob: %w", err)
	}
	return nil
}
