package image

import (
	"encoding/json"
	"fmt"
	"strings"

	"github.com/containerd/containerd/v2/core/images"
	"github.com/containerd/errdefs"
	"github.com/containerd/platforms"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"stockade/engine/httpapi"
)

// maxDepth bounds indexes within indexes, maxEntries the descriptors of one.
const (
	maxDepth   = 2
	maxEntries = 1000
)

func badManifest(format string, a ...any) error {
	return httpapi.NewError(errdefs.ErrInvalidArgument, "invalid manifest: "+format, a...)
}

// document is a manifest or an index before it is known which.
type document struct {
	SchemaVersion int                  `json:"schemaVersion"`
	MediaType     string               `json:"mediaType"`
	ArtifactType  string               `json:"artifactType"`
	Config        *ocispec.Descriptor  `json:"config"`
	Layers        []ocispec.Descriptor `json:"layers"`
	Manifests     []ocispec.Descriptor `json:"manifests"`
	FSLayers      json.RawMessage      `json:"fsLayers"`
}

// parseDocument decodes what desc announced. Exactly one of the results is set.
//
// SECURITY(T-403): what could be read both ways (CVE-2021-41190) is neither.
func parseDocument(desc ocispec.Descriptor, data []byte) (*ocispec.Manifest, *ocispec.Index, error) {
	var d document
	if err := json.Unmarshal(data, &d); err != nil {
		return nil, nil, badManifest("%v", err)
	}
	switch {
	case d.FSLayers != nil || d.SchemaVersion == 1:
		return nil, nil, httpapi.NewError(errdefs.ErrNotImplemented, "manifests of schema version 1 are not supported")
	case d.SchemaVersion != 2:
		return nil, nil, badManifest("schema version %d", d.SchemaVersion)
	case d.MediaType != "" && d.MediaType != desc.MediaType:
		return nil, nil, badManifest("it was announced as %q and calls itself %q", desc.MediaType, d.MediaType)
	case images.IsIndexType(desc.MediaType):
		if d.Config != nil || d.Layers != nil {
			return nil, nil, badManifest("an index with layers")
		}
		if len(d.Manifests) > maxEntries {
			return nil, nil, badManifest("more than %d manifests", maxEntries)
		}
		for _, m := range d.Manifests {
			if err := checkDescriptor(m, maxJSON); err != nil {
				return nil, nil, err
			}
		}
		return nil, &ocispec.Index{Manifests: d.Manifests}, nil
	case images.IsManifestType(desc.MediaType):
		if d.Manifests != nil || d.Config == nil {
			return nil, nil, badManifest("no manifest of an image")
		}
		m := &ocispec.Manifest{Config: *d.Config, Layers: d.Layers}
		return m, nil, checkManifest(m)
	}
	return nil, nil, badManifest("unsupported media type %q", desc.MediaType)
}

func checkManifest(m *ocispec.Manifest) error {
	if !images.IsConfigType(m.Config.MediaType) {
		return httpapi.NewError(errdefs.ErrNotImplemented, "unsupported media type %q: not an image", m.Config.MediaType)
	}
	if err := checkDescriptor(m.Config, maxJSON); err != nil {
		return err
	}
	if len(m.Layers) > maxLayers {
		return badManifest("more than %d layers", maxLayers)
	}
	for _, l := range m.Layers {
		// SECURITY(T-403): foreign layers would make the server fetch URLs of the manifest's choice.
		if len(l.URLs) > 0 || images.IsNonDistributable(l.MediaType) || strings.Contains(l.MediaType, ".foreign.") {
			return badManifest("foreign layers are not supported")
		}
		if !images.IsLayerType(l.MediaType) {
			return httpapi.NewError(errdefs.ErrNotImplemented, "unsupported media type %q of a layer", l.MediaType)
		}
		if err := checkDescriptor(l, maxBlob); err != nil {
			return err
		}
	}
	return nil
}

// maxBlob is the largest layer as it is sent, in bytes.
const maxBlob = 64 << 30

func checkDescriptor(d ocispec.Descriptor, most int64) error {
	if d.Digest.Validate() != nil || d.Digest.Algorithm() != digest.SHA256 {
		return badManifest("unsupported digest %q", clip(d.Digest.String()))
	}
	if d.Size < 0 || d.Size > most {
		return badManifest("size %d of %s", d.Size, short(d.Digest))
	}
	if len(d.URLs) > 0 {
		return badManifest("foreign URLs are not supported")
	}
	return nil
}

// clip shortens a foreign string for messages.
func clip(s string) string { return s[:min(len(s), 100)] }

// platformWord reads a platform parameter: "linux/amd64", or a platform as JSON.
func platformWord(v string) string {
	var p ocispec.Platform
	if strings.HasPrefix(v, "{") && json.Unmarshal([]byte(v), &p) == nil {
		return platforms.Format(p)
	}
	return v
}

// wanted makes a matcher for a platform parameter; without one it is the host's platform.
func wanted(word string) (platforms.MatchComparer, string, error) {
	if word == "" {
		p := platforms.DefaultSpec()
		return platforms.Only(p), platforms.Format(p), nil
	}
	p, err := platforms.Parse(word)
	if err != nil {
		return nil, "", httpapi.NewError(errdefs.ErrInvalidArgument, "%v", err)
	}
	return platforms.Only(p), platforms.Format(p), nil
}

// choose picks the best manifest of an index. An entry that names no platform is taken when nothing else is there.
func choose(index *ocispec.Index, want platforms.MatchComparer, word string) (ocispec.Descriptor, error) {
	var best *ocispec.Descriptor
	for i, m := range index.Manifests {
		if m.Annotations["vnd.docker.reference.type"] != "" || !images.IsManifestType(m.MediaType) && !images.IsIndexType(m.MediaType) {
			continue
		}
		if m.Platform == nil {
			if len(index.Manifests) == 1 {
				return m, nil
			}
			continue
		}
		if want.Match(*m.Platform) && (best == nil || want.Less(*m.Platform, *best.Platform)) {
			best = &index.Manifests[i]
		}
	}
	if best == nil {
		return ocispec.Descriptor{}, httpapi.NewError(errdefs.ErrNotFound, "no matching manifest for %s in the manifest list entries", word)
	}
	return *best, nil
}

// getter reads a manifest, checked against its descriptor.
type getter func(ocispec.Descriptor) ([]byte, error)

// descend goes from a manifest or index to the manifest for a platform.
func descend(desc ocispec.Descriptor, get getter, want platforms.MatchComparer, word string) (ocispec.Descriptor, []byte, *ocispec.Manifest, error) {
	for range maxDepth + 1 {
		data, err := get(desc)
		if err != nil {
			return desc, nil, nil, err
		}
		if digest.FromBytes(data) != desc.Digest || int64(len(data)) != desc.Size {
			return desc, nil, nil, fmt.Errorf("manifest does not have the announced digest %s or size: %w", desc.Digest, errdefs.ErrInvalidArgument)
		}
		m, index, err := parseDocument(desc, data)
		if err != nil {
			return desc, nil, nil, err
		}
		if m != nil {
			return desc, data, m, nil
		}
		next, err := choose(index, want, word)
		if err != nil {
			return desc, nil, nil, err
		}
		// What the entry claims besides is not needed any more.
		desc = ocispec.Descriptor{MediaType: next.MediaType, Digest: next.Digest, Size: next.Size}
	}
	return desc, nil, nil, badManifest("indexes nested more than %d deep", maxDepth) // SECURITY(T-403)
}
