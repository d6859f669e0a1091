package image

import (
	"fmt"
	"net/http"
	"path"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/distribution/reference"
	api "github.com/moby/moby/api/types/image"
	"github.com/opencontainers/go-digest"

	"stockade/api/scope"
	"stockade/engine/httpapi"
)

func (s *Store) list(w http.ResponseWriter, r *http.Request, sc scope.Scope) error {
	q := r.URL.Query()
	f, err := httpapi.ParseFilters(q.Get("filters"), "reference", "dangling", "label", "label!", "before", "since", "until")
	if err != nil {
		return err
	}
	keep, err := s.selector(sc.Tenant, f)
	if err != nil {
		return err
	}
	recs := s.visible(sc.Tenant)
	var shared map[digest.Digest]int
	if truthy(q.Get("shared-size")) {
		shared = users(recs)
	}
	out := []*api.Summary{}
	for _, rec := range recs {
		if !keep(rec) {
			continue
		}
		names, digests := rec.Names, rec.Digests
		if f.Has("reference") {
			match := func(n string) bool { return !referenceMatches(f["reference"], n) }
			names = slices.DeleteFunc(slices.Clone(names), match)
			digests = slices.DeleteFunc(slices.Clone(digests), match)
			if len(names)+len(digests) == 0 {
				continue
			}
		}
		sum := s.summary(rec, names, digests, shared)
		if httpapi.VersionLess(sc.Version, "1.48") {
			sum.Descriptor = nil
		}
		out = append(out, sum)
	}
	if !httpapi.VersionLess(sc.Version, "1.44") {
		return httpapi.WriteJSON(w, http.StatusOK, out)
	}
	old := make([]legacySummary, 0, len(out))
	for _, sum := range out {
		old = append(old, legacySummary{Summary: sum, VirtualSize: sum.Size})
	}
	return httpapi.WriteJSON(w, http.StatusOK, old)
}

// legacySummary adds what the API had before version 1.44.
type legacySummary struct {
	*api.Summary
	VirtualSize int64
}

// users counts the images that use each layer.
func users(recs []*record) map[digest.Digest]int {
	n := map[digest.Digest]int{}
	for _, rec := range recs {
		for _, c := range rec.Chains {
			n[c]++
		}
	}
	return n
}

// summary describes an image under the given names; shared is nil if the size of shared layers is not wanted.
func (s *Store) summary(rec *record, names, digests []string, shared map[digest.Digest]int) *api.Summary {
	sum := &api.Summary{
		ID: rec.ID.String(), ParentID: rec.Parent.String(), RepoTags: familiar(names), RepoDigests: familiar(digests),
		Created: rec.Created.Unix(), Size: rec.Size, SharedSize: -1, Containers: -1, Labels: rec.Labels, Descriptor: &rec.Manifest,
	}
	if rec.Created.IsZero() {
		sum.Created = 0
	}
	if sum.Labels == nil {
		sum.Labels = map[string]string{}
	}
	if shared != nil {
		sum.SharedSize = 0
		for _, c := range rec.Chains {
			if l := s.layer(c); shared[c] > 1 && l != nil {
				sum.SharedSize += l.Size
			}
		}
	}
	return sum
}

// SizeOf returns the bytes of the layers of a tenant's images that keep chooses, each layer counted once.
func (s *Store) SizeOf(tenant string, keep func(id string) bool) (n int64) {
	seen := map[digest.Digest]bool{}
	for _, r := range s.visible(tenant) {
		if !keep(r.ID.String()) {
			continue
		}
		for _, c := range r.Chains {
			if l := s.layer(c); l != nil && !seen[c] {
				seen[c] = true
				n += l.Size
			}
		}
	}
	return n
}

// Summaries describes all of a tenant's images, with the size of layers that they share.
func (s *Store) Summaries(tenant string) []api.Summary {
	recs := s.visible(tenant)
	shared := users(recs)
	out := make([]api.Summary, 0, len(recs))
	for _, rec := range recs {
		out = append(out, *s.summary(rec, rec.Names, rec.Digests, shared))
	}
	return out
}

func truthy(v string) bool {
	b, err := strconv.ParseBool(v)
	return err == nil && b
}

// selector makes a test out of the filters that list and prune share, all but "reference".
func (s *Store) selector(tenant string, f httpapi.Filters) (func(*record) bool, error) {
	dangling, err := f.Bool("dangling", false)
	if err != nil {
		return nil, err
	}
	var before, since, until time.Time
	for _, b := range []struct {
		term string
		at   *time.Time
	}{{"before", &before}, {"since", &since}} {
		for _, ref := range f[b.term] {
			rec, _, err := s.lookup(tenant, ref)
			if err != nil {
				return nil, err
			}
			*b.at = rec.Created
		}
	}
	if until, err = f.Until(s.cfg.Now()); err != nil {
		return nil, fmt.Errorf("invalid value for 'until' filter: %w", err)
	}
	return func(r *record) bool {
		switch {
		case f.Has("dangling") && dangling != (len(r.Names) == 0):
		case !before.IsZero() && !r.Created.Before(before):
		case !since.IsZero() && !r.Created.After(since):
		case !until.IsZero() && !r.Created.Before(until):
		case !f.Labels("label", r.Labels) || f.AnyLabel("label!", r.Labels):
		default:
			return true
		}
		return false
	}, nil
}

// referenceMatches tells whether a full name fits one of Docker's patterns, such as busybox, busy*:1.* or */app.
func referenceMatches(patterns []string, name string) bool {
	ref, err := reference.ParseNormalizedNamed(name)
	if err != nil {
		return false
	}
	return slices.ContainsFunc(patterns, func(p string) bool {
		p = strings.TrimPrefix(strings.TrimPrefix(p, "docker.io/library/"), "docker.io/")
		for _, s := range []string{reference.FamiliarString(ref), reference.FamiliarName(ref)} {
			if ok, err := path.Match(p, s); err == nil && ok {
				return true
			}
		}
		return false
	})
}
