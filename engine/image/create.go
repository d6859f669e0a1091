package image

import (
	"context"
	"crypto/rand"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"os"

	"github.com/containerd/platforms"
	dockerspec "github.com/moby/docker-image-spec/specs-go/v1"
	"github.com/moby/moby/api/types/events"
	"github.com/opencontainers/go-digest"
	"github.com/opencontainers/image-spec/identity"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"stockade/api/scope"
)

func (s *Store) importTar(w http.ResponseWriter, r *http.Request, sc scope.Scope) error {
	q := r.URL.Query()
	var cfg dockerspec.DockerOCIImage
	if err := ApplyChanges(&cfg.Config, q["changes"]); err != nil {
		return err
	}
	_, word, err := wanted(platformWord(q.Get("platform")))
	if err != nil {
		return err
	}
	if cfg.Platform, err = platforms.Parse(word); err != nil {
		return err
	}
	comment := q.Get("message")
	if comment == "" {
		comment = "Imported from -"
	}
	names, err := targets(q.Get("repo"), q.Get("tag"))
	if err != nil {
		return err
	}
	rec, err := s.build(r.Context(), sc.Tenant, nil, cfg, ocispec.History{Comment: comment}, r.Body, names)
	if err != nil {
		return err
	}
	s.event(sc.Tenant, events.ActionImport, rec, "")
	if len(names) > 0 {
		s.event(sc.Tenant, events.ActionTag, rec, names[0])
	}
	newStream(w).status("", rec.ID.String())
	return nil
}

// targets is the list of one name, or of none.
func targets(repo, tag string) ([]string, error) {
	if repo == "" {
		return nil, nil
	}
	ref, err := parseTarget(repo, tag)
	if err != nil {
		return nil, err
	}
	return []string{ref.String()}, nil
}

// Commit describes an image to be made of a container.
type Commit struct {
	Parent    string    // id of the container's image; it may have been deleted since
	Diff      io.Reader // what the container has changed: a layer's tar, with whiteout files
	Config    dockerspec.DockerOCIImageConfig
	Author    string
	Comment   string
	CreatedBy string // the container's command, for the history
	Repo, Tag string // a name for the image, or empty
}

// Commit makes an image of a container and returns its id.
func (s *Store) Commit(ctx context.Context, tenant string, c Commit) (string, error) {
	names, err := targets(c.Repo, c.Tag)
	if err != nil {
		return "", err
	}
	s.mu.RLock()
	parent := s.images[tenant][digest.Digest(c.Parent)]
	s.mu.RUnlock()
	if parent == nil {
		return "", noSuchImage(c.Parent)
	}
	cfg, err := s.config(ctx, tenant, parent)
	if err != nil {
		return "", err
	}
	cfg.Config, cfg.Author = c.Config, c.Author
	step := ocispec.History{Author: c.Author, Comment: c.Comment, CreatedBy: c.CreatedBy}
	rec, err := s.build(ctx, tenant, parent, cfg, step, c.Diff, names)
	if err != nil {
		return "", err
	}
	if len(names) > 0 {
		s.event(tenant, events.ActionTag, rec, names[0])
	}
	return rec.ID.String(), nil
}

// build makes an image of a parent, or of nothing, and one more layer.
func (s *Store) build(ctx context.Context, tenant string, parent *record, cfg dockerspec.DockerOCIImage, step ocispec.History, diff io.Reader, names []string) (*record, error) {
	ctx, release, err := s.lease(ctx, tenant, false)
	if err != nil {
		return nil, err
	}
	defer release(false)
	c := candidate{names: names}
	var below []digest.Digest
	if parent != nil {
		defer s.pin(parent.Chains)()
		data, err := s.readBlob(ctx, parent.Manifest)
		if err != nil {
			return nil, fmt.Errorf("parent image: %w", err)
		}
		m, _, err := parseDocument(parent.Manifest, data)
		if err != nil {
			return nil, fmt.Errorf("parent image: %w", err)
		}
		c.layers, c.parent, below = m.Layers, parent.ID, cfg.RootFS.DiffIDs
	}
	blob, diffID, unpin, err := s.addLayer(ctx, below, &limited{r: diff, left: maxBlob})
	if err != nil {
		return nil, err
	}
	defer unpin()
	now := s.cfg.Now().UTC()
	cfg.Created, step.Created = &now, &now
	cfg.RootFS.Type = "layers"
	cfg.RootFS.DiffIDs = append(cfg.RootFS.DiffIDs, diffID)
	cfg.History = append(cfg.History, step)
	c.layers = append(c.layers, blob)
	if c.config, err = json.Marshal(cfg); err != nil {
		return nil, err
	}
	if _, err := parseConfig(c.config, c.layers); err != nil {
		return nil, err
	}
	if c.manifest, err = s.writeImage(ctx, c.config, c.layers); err != nil {
		return nil, err
	}
	return s.register(ctx, tenant, c)
}

// addLayer stores a layer of unknown digest on top of others and unpacks it, pinned.
func (s *Store) addLayer(ctx context.Context, below []digest.Digest, tar io.Reader) (blob ocispec.Descriptor, diffID digest.Digest, unpin func(), err error) {
	if blob, err = s.ingest(ctx, "add-"+rand.Text(), tar); err != nil {
		return
	}
	if blob.MediaType, err = s.layerType(ctx, blob); err != nil {
		return
	}
	temp, res, err := s.unpackBlob(ctx, s.cfg.Unpack.Layer, blob)
	if err != nil {
		return
	}
	defer os.RemoveAll(temp)
	diffID = res.DiffID
	if err = s.setLabel(ctx, blob.Digest, labelUncompressed, diffID.String()); err != nil {
		return
	}
	chain := identity.ChainID(append(append([]digest.Digest{}, below...), diffID))
	unlock, err := s.chains.lock(ctx, chain.String())
	if err != nil {
		return
	}
	defer unlock()
	unpin = s.pin([]digest.Digest{chain})
	if s.layer(chain) == nil {
		if err = s.keepLayer(temp, &layer{Chain: chain, DiffID: diffID, Size: res.Size}); err != nil {
			unpin()
		}
	}
	return
}
