package image

import (
	"cmp"
	"regexp"
	"slices"
	"strings"
	"time"

	"github.com/containerd/errdefs"
	"github.com/distribution/reference"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"stockade/engine/httpapi"
)

// record is one image of one tenant. Records are never changed: clone makes the next one.
type record struct {
	ID       digest.Digest      `json:"id"`                // of the configuration
	Manifest ocispec.Descriptor `json:"manifest"`          // in the content store
	Names    []string           `json:"names,omitempty"`   // docker.io/library/busybox:latest
	Digests  []string           `json:"digests,omitempty"` // docker.io/library/busybox@sha256:…
	Parent   digest.Digest      `json:"parent,omitempty"`
	Created  time.Time          `json:"created,omitzero"`
	Tagged   time.Time          `json:"tagged,omitzero"`
	Chains   []digest.Digest    `json:"chains,omitempty"` // bottom first
	Size     int64              `json:"size"`
	Platform ocispec.Platform   `json:"platform"`
	Labels   map[string]string  `json:"labels,omitempty"`
	// Gone images were deleted while containers used them; only their layers count.
	Gone bool `json:"gone,omitempty"`
}

func (r *record) clone() *record {
	c := *r
	c.Names, c.Digests = slices.Clone(r.Names), slices.Clone(r.Digests)
	return &c
}

func add(list []string, more ...string) []string {
	for _, m := range more {
		if !slices.Contains(list, m) {
			list = append(list, m)
		}
	}
	slices.Sort(list)
	return list
}

func without(list []string, gone string) []string {
	return slices.DeleteFunc(list, func(s string) bool { return s == gone })
}

// familiar shortens names for people: busybox:latest.
func familiar(names []string) []string {
	out := make([]string, 0, len(names))
	for _, n := range names {
		if ref, err := reference.ParseNormalizedNamed(n); err == nil {
			n = reference.FamiliarString(ref)
		}
		out = append(out, n)
	}
	return out
}

func noSuchImage(ref string) error {
	if named, err := reference.ParseNormalizedNamed(ref); err == nil {
		ref = reference.FamiliarString(reference.TagNameOnly(named))
	}
	return httpapi.NewError(errdefs.ErrNotFound, "No such image: %s", ref)
}

var hexID = regexp.MustCompile(`^[0-9a-f]{1,64}$`)

// lookup finds a tenant's image by id, name, name@digest or unique id prefix. byID tells that ref was no name.
//
// SECURITY(T-204): only the tenant's own records are looked at.
func (s *Store) lookup(tenant, ref string) (rec *record, byID bool, _ error) {
	s.mu.RLock()
	defer s.mu.RUnlock()
	mine := s.images[tenant]
	encoded := strings.TrimPrefix(ref, "sha256:")
	if len(encoded) == 64 && hexID.MatchString(encoded) {
		id := digest.NewDigestFromEncoded(digest.SHA256, encoded)
		if r := mine[id]; r != nil && !r.Gone {
			return r, true, nil
		}
		for _, r := range mine {
			if !r.Gone && r.Manifest.Digest == id {
				return r, true, nil
			}
		}
		return nil, false, noSuchImage(ref)
	}
	if !strings.HasPrefix(ref, "sha256:") {
		named, err := reference.ParseNormalizedNamed(ref)
		if err != nil {
			return nil, false, badReference(err)
		}
		if r := byName(mine, named); r != nil {
			return r, false, nil
		}
	}
	if !hexID.MatchString(encoded) {
		return nil, false, noSuchImage(ref)
	}
	for id, r := range mine {
		if r.Gone || !strings.HasPrefix(id.Encoded(), encoded) {
			continue
		}
		if rec != nil {
			return nil, false, noSuchImage(ref)
		}
		rec = r
	}
	if rec == nil {
		return nil, false, noSuchImage(ref)
	}
	return rec, true, nil
}

func byName(mine map[digest.Digest]*record, named reference.Named) *record {
	if canonical, ok := named.(reference.Canonical); ok {
		want := named.Name() + "@" + canonical.Digest().String()
		for _, r := range mine {
			if !r.Gone && slices.Contains(r.Digests, want) {
				return r
			}
		}
		return nil
	}
	want := reference.TagNameOnly(named).String()
	for _, r := range mine {
		if !r.Gone && slices.Contains(r.Names, want) {
			return r
		}
	}
	return nil
}

func badReference(err error) error {
	if strings.HasPrefix(err.Error(), reference.ErrReferenceInvalidFormat.Error()) {
		return httpapi.NewError(errdefs.ErrInvalidArgument, "%v", err)
	}
	return httpapi.NewError(errdefs.ErrInvalidArgument, "invalid reference format")
}

// parseTarget makes the name that an image shall get from a repository and an optional tag; a digest is refused.
func parseTarget(repo, tag string) (reference.NamedTagged, error) {
	named, err := reference.ParseNormalizedNamed(repo)
	if err != nil {
		return nil, badReference(err)
	}
	if _, ok := named.(reference.Digested); ok {
		return nil, httpapi.NewError(errdefs.ErrInvalidArgument, "cannot import digest reference")
	}
	if tag != "" {
		if named, err = reference.WithTag(reference.TrimNamed(named), tag); err != nil {
			return nil, badReference(err)
		}
	}
	return reference.TagNameOnly(named).(reference.NamedTagged), nil
}

// visible lists a tenant's images, newest first.
func (s *Store) visible(tenant string) []*record {
	s.mu.RLock()
	defer s.mu.RUnlock()
	var out []*record
	for _, r := range s.images[tenant] {
		if !r.Gone {
			out = append(out, r)
		}
	}
	slices.SortFunc(out, func(a, b *record) int {
		return cmp.Or(b.Created.Compare(a.Created), cmp.Compare(a.ID, b.ID))
	})
	return out
}
