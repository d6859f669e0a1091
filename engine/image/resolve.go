package image

import (
	"context"
	"encoding/json"
	"fmt"
	"time"

	"github.com/containerd/errdefs"
	"github.com/containerd/platforms"
	dockerspec "github.com/moby/docker-image-spec/specs-go/v1"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"stockade/engine/httpapi"
)

// Image is what a container needs to know about its image.
type Image struct {
	ID       string // sha256:…, the digest of the configuration
	Name     string // as it was asked for
	Config   dockerspec.DockerOCIImageConfig
	Layers   []string // store names, top first
	Size     int64    // bytes of all layers unpacked
	Created  time.Time
	Platform ocispec.Platform
	Manifest ocispec.Descriptor
}

// Resolve finds a tenant's image by name, name@digest, id or unique id prefix. A platform ("linux/arm64"), if not empty,
// must be the image's. An unknown image is errdefs.ErrNotFound with Docker's text.
//
// Its layers stay on disk for a while (grace) even if the image is deleted at once, so that a container that is being made
// of it, and that Config.InUse does not list yet, finds them.
func (s *Store) Resolve(ctx context.Context, tenant, ref, platform string) (Image, error) {
	r, _, err := s.lookup(tenant, ref)
	if err != nil {
		return Image{}, err
	}
	if err := r.matches(ref, platform); err != nil {
		return Image{}, err
	}
	s.mu.Lock()
	s.resolved[key{tenant, r.ID}] = s.cfg.Now()
	gone := s.images[tenant][r.ID] == nil
	s.mu.Unlock()
	if gone { // in between
		return Image{}, noSuchImage(ref)
	}
	return s.describe(ctx, tenant, r, ref)
}

// fresh tells whether an image was resolved a short time ago. The caller holds s.mu.
func (s *Store) fresh(k key) bool {
	at, ok := s.resolved[k]
	return ok && s.cfg.Now().Sub(at) < grace
}

// ByID returns the image of an existing container, also when it has been deleted since.
func (s *Store) ByID(ctx context.Context, tenant, id string) (Image, error) {
	s.mu.RLock()
	r := s.images[tenant][digest.Digest(id)]
	s.mu.RUnlock()
	if r == nil {
		return Image{}, noSuchImage(id)
	}
	return s.describe(ctx, tenant, r, id)
}

// Names returns the names of an image as people write them, or nil.
func (s *Store) Names(tenant, id string) []string {
	s.mu.RLock()
	defer s.mu.RUnlock()
	if r := s.images[tenant][digest.Digest(id)]; r != nil {
		return familiar(r.Names)
	}
	return nil
}

// Count returns the number of a tenant's images.
func (s *Store) Count(tenant string) int { return len(s.visible(tenant)) }

func (r *record) matches(ref, platform string) error {
	if platform == "" {
		return nil
	}
	want, err := platforms.Parse(platform)
	if err != nil {
		return httpapi.NewError(errdefs.ErrInvalidArgument, "%v", err)
	}
	if !platforms.OnlyStrict(want).Match(r.Platform) {
		return httpapi.NewError(errdefs.ErrNotFound, "image with reference %s was found but its platform (%s) does not match the specified platform (%s)",
			ref, platforms.Format(r.Platform), platforms.Format(want))
	}
	return nil
}

func (s *Store) describe(ctx context.Context, tenant string, r *record, name string) (Image, error) {
	cfg, err := s.config(ctx, tenant, r)
	if err != nil {
		return Image{}, err
	}
	img := Image{ID: r.ID.String(), Name: name, Config: cfg.Config, Size: r.Size, Created: r.Created, Platform: r.Platform, Manifest: r.Manifest}
	img.Manifest.Platform = &ocispec.Platform{OS: r.Platform.OS, Architecture: r.Platform.Architecture, Variant: r.Platform.Variant}
	for i := len(r.Chains) - 1; i >= 0; i-- {
		img.Layers = append(img.Layers, r.Chains[i].Encoded())
	}
	return img, nil
}

// config reads an image's configuration.
func (s *Store) config(ctx context.Context, tenant string, r *record) (dockerspec.DockerOCIImage, error) {
	var cfg dockerspec.DockerOCIImage
	data, err := s.readBlob(inTenant(ctx, tenant), ocispec.Descriptor{Digest: r.ID})
	if err != nil {
		return cfg, fmt.Errorf("image configuration: %w", err)
	}
	if err := json.Unmarshal(data, &cfg); err != nil {
		return cfg, fmt.Errorf("image configuration: %w", err)
	}
	return cfg, nil
}
