package image

import (
	"context"
	"encoding/json"
	"fmt"

	"github.com/containerd/errdefs"
	dockerspec "github.com/moby/docker-image-spec/specs-go/v1"
	"github.com/opencontainers/go-digest"
	"github.com/opencontainers/image-spec/identity"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"golang.org/x/sync/errgroup"

	"stockade/engine/httpapi"
)

// maxLayers is the most that Docker's own stores accept; overlayfs takes more.
const maxLayers = 127

// candidate is an image whose blobs are all in the tenant's content, under a lease.
type candidate struct {
	manifest ocispec.Descriptor
	config   []byte
	layers   []ocispec.Descriptor
	names    []string // to be taken from whichever image has them
	digests  []string
	parent   digest.Digest
	// warn is told what was left out of a layer, by several goroutines at once; nil: nobody is.
	warn func(text string)
}

// parseConfig checks a configuration against the layers that came with it.
func parseConfig(data []byte, layers []ocispec.Descriptor) (cfg dockerspec.DockerOCIImage, err error) {
	if len(data) > maxJSON {
		return cfg, httpapi.NewError(errdefs.ErrInvalidArgument, "image configuration is too large")
	}
	if err := json.Unmarshal(data, &cfg); err != nil {
		return cfg, httpapi.NewError(errdefs.ErrInvalidArgument, "image configuration: %v", err)
	}
	if cfg.OS != "" && cfg.OS != "linux" {
		return cfg, httpapi.NewError(errdefs.ErrInvalidArgument, "image operating system %q cannot be used on this platform: operating system is not supported", cfg.OS)
	}
	if n := len(cfg.RootFS.DiffIDs); n != len(layers) {
		return cfg, httpapi.NewError(errdefs.ErrInvalidArgument, "image configuration names %d layers, its manifest %d", n, len(layers))
	}
	if len(layers) > maxLayers {
		return cfg, httpapi.NewError(errdefs.ErrInvalidArgument, "max depth exceeded: more than %d layers", maxLayers)
	}
	for _, d := range cfg.RootFS.DiffIDs {
		if d.Validate() != nil || d.Algorithm() != digest.SHA256 {
			return cfg, httpapi.NewError(errdefs.ErrInvalidArgument, "image configuration: invalid layer digest %q", d)
		}
	}
	return cfg, nil
}

// register unpacks the layers of an image and records it. ctx carries the tenant's lease.
func (s *Store) register(ctx context.Context, tenant string, c candidate) (*record, error) {
	cfg, err := parseConfig(c.config, c.layers)
	if err != nil {
		return nil, err
	}
	// identity.ChainIDs works in place.
	chains := identity.ChainIDs(append([]digest.Digest{}, cfg.RootFS.DiffIDs...))
	defer s.pin(chains)()
	if err := s.unpackAll(ctx, cfg.RootFS.DiffIDs, chains, c); err != nil {
		return nil, err
	}
	r := &record{
		ID: digest.FromBytes(c.config), Manifest: c.manifest, Parent: c.parent, Chains: chains,
		Platform: cfg.Platform, Labels: cfg.Config.Labels, Tagged: s.cfg.Now(),
	}
	if cfg.Created != nil {
		r.Created = *cfg.Created
	}
	if r.Platform.OS == "" {
		r.Platform.OS = "linux"
	}
	for _, chain := range chains {
		r.Size += s.layer(chain).Size
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.adopt(ctx, tenant, r, c)
}

// adopt records r with the names and digests of c, which other images lose. The caller holds s.mu.
func (s *Store) adopt(ctx context.Context, tenant string, r *record, c candidate) (*record, error) {
	changed := []*record{r}
	for id, other := range s.images[tenant] {
		if id == r.ID {
			if !other.Gone {
				r.Names, r.Digests, r.Parent = append(r.Names, other.Names...), append(r.Digests, other.Digests...), other.Parent
			}
			continue
		}
		next := other.clone()
		for _, n := range c.names {
			next.Names = without(next.Names, n)
		}
		if len(next.Names) != len(other.Names) {
			changed = append(changed, next)
		}
	}
	r.Names, r.Digests = add(r.Names, c.names...), add(r.Digests, c.digests...)
	if err := s.save(ctx, tenant, changed...); err != nil {
		return nil, err
	}
	return r, nil
}

func (s *Store) unpackAll(ctx context.Context, diffIDs, chains []digest.Digest, c candidate) error {
	g, ctx := errgroup.WithContext(ctx)
	g.SetLimit(cap(s.unpacking))
	for i := range chains {
		g.Go(func() error {
			if err := s.ensureLayer(ctx, chains[i], diffIDs[i], c.layers[i], nil, c.warn); err != nil {
				return fmt.Errorf("layer %s: %w", short(c.layers[i].Digest), err)
			}
			return nil
		})
	}
	return g.Wait()
}

// short is a digest as progress lines show it.
func short(d digest.Digest) string { return d.Encoded()[:12] }

// tag gives an image one more name.
func (s *Store) tag(ctx context.Context, tenant string, r *record, name string) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	now := s.images[tenant][r.ID]
	if now == nil || now.Gone {
		return noSuchImage(r.ID.String())
	}
	next := now.clone()
	next.Names, next.Digests = nil, nil
	next.Tagged = s.cfg.Now()
	_, err := s.adopt(ctx, tenant, next, candidate{names: []string{name}})
	return err
}
