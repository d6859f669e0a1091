package image

import (
	"context"
	"net/http"
	"slices"
	"time"

	dockerspec "github.com/moby/docker-image-spec/specs-go/v1"
	api "github.com/moby/moby/api/types/image"
	"github.com/moby/moby/api/types/storage"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"stockade/api/scope"
	"stockade/engine/httpapi"
)

func (s *Store) inspect(w http.ResponseWriter, r *http.Request, sc scope.Scope) error {
	name := r.PathValue("name")
	rec, _, err := s.lookup(sc.Tenant, name)
	if err != nil {
		return err
	}
	if err := rec.matches(name, queryPlatform(r)); err != nil {
		return err
	}
	out, err := s.Inspect(r.Context(), sc.Tenant, rec.ID.String())
	if err != nil {
		return err
	}
	if truthy(r.URL.Query().Get("manifests")) {
		out.Manifests = []api.ManifestSummary{s.manifestSummary(sc.Tenant, rec)}
	}
	if !httpapi.VersionLess(sc.Version, "1.52") {
		out.GraphDriver = nil // there is none
		return httpapi.WriteJSON(w, http.StatusOK, out)
	}
	old := legacyInspect{InspectResponse: out, Parent: rec.Parent.String(), Author: out.Author, Comment: out.Comment}
	if httpapi.VersionLess(sc.Version, "1.44") {
		old.VirtualSize = out.Size
	}
	return httpapi.WriteJSON(w, http.StatusOK, old)
}

// legacyInspect adds fields that the API had, or always had, before version 1.52, VirtualSize before 1.44.
type legacyInspect struct {
	api.InspectResponse
	Parent        string
	Author        string
	Comment       string
	DockerVersion string
	VirtualSize   int64 `json:",omitempty"`
}

// queryPlatform reads the parameter in the form "linux/amd64" or as the JSON of a platform.
func queryPlatform(r *http.Request) string {
	return platformWord(r.URL.Query().Get("platform"))
}

// Inspect describes an image in the shape of the Engine API.
func (s *Store) Inspect(ctx context.Context, tenant, ref string) (api.InspectResponse, error) {
	rec, _, err := s.lookup(tenant, ref)
	if err != nil {
		return api.InspectResponse{}, err
	}
	cfg, err := s.config(ctx, tenant, rec)
	if err != nil {
		return api.InspectResponse{}, err
	}
	desc := rec.Manifest
	out := api.InspectResponse{
		ID: rec.ID.String(), RepoTags: familiar(rec.Names), RepoDigests: familiar(rec.Digests),
		Comment: comment(cfg), Author: cfg.Author, Config: &cfg.Config,
		Architecture: rec.Platform.Architecture, Variant: rec.Platform.Variant, Os: rec.Platform.OS, OsVersion: rec.Platform.OSVersion,
		Size:        rec.Size,
		GraphDriver: &storage.DriverData{Name: "overlayfs", Data: map[string]string{}},
		RootFS:      api.RootFS{Type: "layers"},
		Metadata:    api.Metadata{LastTagTime: rec.Tagged},
		Descriptor:  &desc,
	}
	if !rec.Created.IsZero() {
		out.Created = rec.Created.Format(time.RFC3339Nano)
	}
	for _, d := range cfg.RootFS.DiffIDs {
		out.RootFS.Layers = append(out.RootFS.Layers, d.String())
	}
	return out, nil
}

// comment is the last step's, as Docker shows it.
func comment(cfg dockerspec.DockerOCIImage) string {
	if n := len(cfg.History); n > 0 {
		return cfg.History[n-1].Comment
	}
	return ""
}

func (s *Store) manifestSummary(tenant string, rec *record) api.ManifestSummary {
	m := api.ManifestSummary{
		ID: rec.Manifest.Digest.String(), Descriptor: rec.Manifest, Available: true, Kind: api.ManifestKindImage,
		ImageData: &api.ImageProperties{Platform: rec.Platform, Containers: []string{}},
	}
	m.Descriptor.Platform = &ocispec.Platform{OS: rec.Platform.OS, Architecture: rec.Platform.Architecture, Variant: rec.Platform.Variant}
	m.ImageData.Size.Unpacked = rec.Size
	m.Size.Total = rec.Size
	for _, c := range s.cfg.InUse(tenant, rec.ID.String()) {
		m.ImageData.Containers = append(m.ImageData.Containers, c.ID)
	}
	return m
}

func (s *Store) history(w http.ResponseWriter, r *http.Request, sc scope.Scope) error {
	name := r.PathValue("name")
	rec, _, err := s.lookup(sc.Tenant, name)
	if err != nil {
		return err
	}
	if err := rec.matches(name, queryPlatform(r)); err != nil {
		return err
	}
	cfg, err := s.config(r.Context(), sc.Tenant, rec)
	if err != nil {
		return err
	}
	out := []*api.HistoryResponseItem{}
	next := 0
	for _, h := range cfg.History {
		item := &api.HistoryResponseItem{ID: "<missing>", CreatedBy: h.CreatedBy, Comment: h.Comment}
		if h.Created != nil {
			item.Created = h.Created.Unix()
		}
		if !h.EmptyLayer && next < len(rec.Chains) {
			if l := s.layer(rec.Chains[next]); l != nil {
				item.Size = l.Size
			}
			next++
		}
		out = append(out, item)
	}
	// Layers that the history forgot.
	for ; next < len(rec.Chains); next++ {
		item := &api.HistoryResponseItem{ID: "<missing>", Created: max(rec.Created.Unix(), 0)}
		if l := s.layer(rec.Chains[next]); l != nil {
			item.Size = l.Size
		}
		out = append(out, item)
	}
	slices.Reverse(out)
	if len(out) > 0 {
		out[0].ID, out[0].Tags = rec.ID.String(), familiar(rec.Names)
	}
	return httpapi.WriteJSON(w, http.StatusOK, out)
}
