package image

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"

	"github.com/containerd/containerd/v2/core/content"
	"github.com/containerd/errdefs"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

// maxJSON bounds manifests, indexes and configurations, all of which are read into memory.
const maxJSON = 4 << 20

// readBlob reads a small blob of the tenant in ctx.
func (s *Store) readBlob(ctx context.Context, desc ocispec.Descriptor) ([]byte, error) {
	desc.Data = nil // SECURITY(T-403): only bytes that were checked against their digest count
	ra, err := s.blobs.ReaderAt(ctx, desc)
	if err != nil {
		return nil, err
	}
	defer ra.Close()
	if ra.Size() > maxJSON {
		return nil, fmt.Errorf("blob %s is larger than %d bytes: %w", desc.Digest, maxJSON, errdefs.ErrOutOfRange)
	}
	p := make([]byte, ra.Size())
	if n, err := ra.ReadAt(p, 0); n != len(p) {
		return nil, errors.Join(io.ErrUnexpectedEOF, err)
	}
	return p, nil
}

// writeBlob writes bytes, unless the tenant in ctx has them already; labels are set in either case.
func (s *Store) writeBlob(ctx context.Context, mediaType string, data []byte, labels map[string]string) (ocispec.Descriptor, error) {
	desc := ocispec.Descriptor{MediaType: mediaType, Digest: digest.FromBytes(data), Size: int64(len(data))}
	err := content.WriteBlob(ctx, s.blobs, "blob-"+desc.Digest.String(), bytes.NewReader(data), desc)
	if err != nil && !errdefs.IsAlreadyExists(err) {
		return desc, fmt.Errorf("write blob: %w", err)
	}
	return desc, s.setLabels(ctx, desc.Digest, labels)
}

func (s *Store) setLabels(ctx context.Context, dgst digest.Digest, labels map[string]string) error {
	for k, v := range labels {
		if err := s.setLabel(ctx, dgst, k, v); err != nil {
			return err
		}
	}
	return nil
}

// ingest writes a stream of unknown digest and size. ref names the attempt and must be new.
func (s *Store) ingest(ctx context.Context, ref string, r io.Reader) (ocispec.Descriptor, error) {
	w, err := content.OpenWriter(ctx, s.blobs, content.WithRef(ref))
	if err != nil {
		return ocispec.Descriptor{}, fmt.Errorf("write blob: %w", err)
	}
	defer w.Close()
	n, err := io.Copy(w, r)
	if err != nil {
		return ocispec.Descriptor{}, fmt.Errorf("write blob: %w", err)
	}
	desc := ocispec.Descriptor{Digest: w.Digest(), Size: n}
	if err := w.Commit(ctx, n, desc.Digest); err != nil && !errdefs.IsAlreadyExists(err) {
		return desc, fmt.Errorf("write blob: %w", err)
	}
	return desc, nil
}

// refLabels are the labels by which containerd's garbage collection finds what a manifest refers to.
func refLabels(m ocispec.Manifest) map[string]string {
	labels := map[string]string{"containerd.io/gc.ref.content.config": m.Config.Digest.String()}
	for i, l := range m.Layers {
		labels[fmt.Sprintf("containerd.io/gc.ref.content.l.%d", i)] = l.Digest.String()
	}
	return labels
}

// writeImage writes configuration and manifest of an image whose layer blobs are there.
func (s *Store) writeImage(ctx context.Context, config []byte, layers []ocispec.Descriptor) (ocispec.Descriptor, error) {
	cd, err := s.writeBlob(ctx, ocispec.MediaTypeImageConfig, config, nil)
	if err != nil {
		return cd, err
	}
	m := ocispec.Manifest{MediaType: ocispec.MediaTypeImageManifest, Config: cd, Layers: layers}
	m.SchemaVersion = 2
	if m.Layers == nil {
		m.Layers = []ocispec.Descriptor{}
	}
	data, err := json.Marshal(m)
	if err != nil {
		return cd, err
	}
	return s.writeBlob(ctx, ocispec.MediaTypeImageManifest, data, refLabels(m))
}
