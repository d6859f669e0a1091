package image

import (
	"context"
	"net/http"
	"slices"
	"strconv"
	"time"

	"github.com/containerd/errdefs"
	"github.com/distribution/reference"
	"github.com/moby/moby/api/types/events"
	api "github.com/moby/moby/api/types/image"
	"github.com/opencontainers/go-digest"

	"stockade/api/scope"
	"stockade/engine/httpapi"
)

func (s *Store) remove(w http.ResponseWriter, r *http.Request, sc scope.Scope) error {
	out, err := s.delete(r.Context(), sc.Tenant, r.PathValue("name"), truthy(r.URL.Query().Get("force")))
	if err != nil {
		return err
	}
	return httpapi.WriteJSON(w, http.StatusOK, out)
}

func conflict(format string, a ...any) error {
	return httpapi.NewError(errdefs.ErrConflict, "conflict: "+format, a...)
}

// delete takes a name from an image, and removes the image with its last name or when asked for by id.
func (s *Store) delete(ctx context.Context, tenant, ref string, force bool) ([]api.DeleteResponse, error) {
	rec, byID, err := s.lookup(tenant, ref)
	if err != nil {
		return nil, err
	}
	users := s.cfg.InUse(tenant, rec.ID.String())
	s.mu.Lock()
	defer s.mu.Unlock()
	now := s.images[tenant][rec.ID]
	if now == nil || now.Gone {
		return nil, noSuchImage(ref)
	}
	if !byID {
		full, isDigest, err := ownName(now, ref)
		if err != nil {
			return nil, noSuchImage(ref)
		}
		last := !isDigest && len(now.Names) == 1 || isDigest && len(now.Names) == 0 && len(now.Digests) == 1
		if !last {
			return s.untag(ctx, tenant, now, full)
		}
		if force && running(users) != "" {
			// Docker keeps the image then, without a name.
			return s.untag(ctx, tenant, now, full)
		}
		if !force && len(users) > 0 {
			return nil, conflict("unable to delete %s (must be forced) - container %s is using its referenced image %s",
				familiar([]string{full})[0], shortID(users[0].ID), short(now.ID))
		}
	} else if err := mayDelete(now, users, force); err != nil {
		return nil, err
	}
	return s.forget(ctx, tenant, now, len(users) > 0)
}

// ownName finds which name of rec ref is.
func ownName(rec *record, ref string) (full string, isDigest bool, _ error) {
	named, err := reference.ParseNormalizedNamed(ref)
	if err != nil {
		return "", false, badReference(err)
	}
	if c, ok := named.(reference.Canonical); ok {
		full, isDigest = named.Name()+"@"+c.Digest().String(), true
	} else {
		full = reference.TagNameOnly(named).String()
	}
	if !slices.Contains(rec.Names, full) && !slices.Contains(rec.Digests, full) {
		return "", false, noSuchImage(ref)
	}
	return full, isDigest, nil
}

// mayDelete says why an image may not be deleted by its id.
func mayDelete(rec *record, users []ContainerRef, force bool) error {
	if id := running(users); id != "" {
		return conflict("unable to delete %s (cannot be forced) - image is being used by running container %s", short(rec.ID), shortID(id))
	}
	if force {
		return nil
	}
	if len(users) > 0 {
		return conflict("unable to delete %s (must be forced) - image is being used by stopped container %s", short(rec.ID), shortID(users[0].ID))
	}
	repos := map[string]bool{}
	for _, n := range rec.Names {
		if named, err := reference.ParseNormalizedNamed(n); err == nil {
			repos[named.Name()] = true
		}
	}
	if len(repos) > 1 {
		return conflict("unable to delete %s (must be forced) - image is referenced in multiple repositories", short(rec.ID))
	}
	return nil
}

// untag takes one name away. The digests of a repository go with its last name. The caller holds s.mu.
func (s *Store) untag(ctx context.Context, tenant string, rec *record, full string) ([]api.DeleteResponse, error) {
	next := rec.clone()
	next.Names, next.Digests = without(next.Names, full), without(next.Digests, full)
	gone := []string{full}
	if named, err := reference.ParseNormalizedNamed(full); err == nil {
		left := slices.ContainsFunc(next.Names, func(n string) bool {
			other, err := reference.ParseNormalizedNamed(n)
			return err == nil && other.Name() == named.Name()
		})
		for _, d := range rec.Digests {
			if other, err := reference.ParseNormalizedNamed(d); err == nil && !left && other.Name() == named.Name() && d != full {
				next.Digests = without(next.Digests, d)
				gone = append(gone, d)
			}
		}
	}
	if err := s.save(ctx, tenant, next); err != nil {
		return nil, err
	}
	var out []api.DeleteResponse
	for _, n := range familiar(gone) {
		out = append(out, api.DeleteResponse{Untagged: n})
	}
	s.event(tenant, events.ActionUnTag, next, full)
	return out, nil
}

// forget removes an image with all of its names; one that containers use stays as a record of its layers. The caller
// holds s.mu.
func (s *Store) forget(ctx context.Context, tenant string, rec *record, used bool) ([]api.DeleteResponse, error) {
	var err error
	fresh := s.fresh(key{tenant, rec.ID})
	if fresh {
		// The layers are on disk for nothing from then on.
		time.AfterFunc(grace, s.Sweep)
	}
	if used || fresh {
		next := rec.clone()
		next.Names, next.Digests, next.Gone = nil, nil, true
		err = s.save(ctx, tenant, next)
	} else {
		err = s.drop(ctx, tenant, rec.ID)
	}
	if err != nil {
		return nil, err
	}
	var out []api.DeleteResponse
	for _, n := range append(familiar(rec.Names), familiar(rec.Digests)...) {
		out = append(out, api.DeleteResponse{Untagged: n})
	}
	for _, n := range rec.Names {
		s.event(tenant, events.ActionUnTag, rec, n)
	}
	out = append(out, api.DeleteResponse{Deleted: rec.ID.String()})
	s.event(tenant, events.ActionDelete, rec, "")
	if !used {
		for i := len(rec.Chains) - 1; i >= 0 && !s.needed(rec.Chains[i], key{tenant, rec.ID}); i-- {
			out = append(out, api.DeleteResponse{Deleted: rec.Chains[i].String()})
		}
	}
	s.Sweep()
	return out, nil
}

// needed tells whether any image but one, or any operation, uses a layer. The caller holds s.mu.
func (s *Store) needed(chain digest.Digest, but key) bool {
	if s.pins[chain] > 0 {
		return true
	}
	for tenant, mine := range s.images {
		for _, r := range mine {
			if (key{tenant, r.ID}) != but && slices.Contains(r.Chains, chain) {
				return true
			}
		}
	}
	return false
}

// running returns the first running container, or "".
func running(users []ContainerRef) string {
	for _, u := range users {
		if u.Running {
			return u.ID
		}
	}
	return ""
}

func shortID(id string) string { return id[:min(len(id), 12)] }

func (s *Store) prune(w http.ResponseWriter, r *http.Request, sc scope.Scope) error {
	f, err := httpapi.ParseFilters(r.URL.Query().Get("filters"), "dangling", "label", "label!", "until")
	if err != nil {
		return err
	}
	dangling, err := f.Bool("dangling", true)
	if err != nil {
		return err
	}
	delete(f, "dangling")
	keep, err := s.selector(sc.Tenant, f)
	if err != nil {
		return err
	}
	var out api.PruneReport
	for _, rec := range s.visible(sc.Tenant) {
		if dangling && len(rec.Names) > 0 || !keep(rec) || len(s.cfg.InUse(sc.Tenant, rec.ID.String())) > 0 {
			continue
		}
		deleted, freed, err := s.pruneOne(r.Context(), sc.Tenant, rec)
		if err != nil {
			return err
		}
		out.ImagesDeleted = append(out.ImagesDeleted, deleted...)
		out.SpaceReclaimed += freed
	}
	s.cfg.Event(sc.Tenant, events.ActionPrune, "", map[string]string{"reclaimed": strconv.FormatUint(out.SpaceReclaimed, 10)})
	return httpapi.WriteJSON(w, http.StatusOK, out)
}

func (s *Store) pruneOne(ctx context.Context, tenant string, rec *record) (deleted []api.DeleteResponse, freed uint64, err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	// Changed since it was looked at: somebody wants it.
	if s.images[tenant][rec.ID] != rec {
		return nil, 0, nil
	}
	deleted, err = s.forget(ctx, tenant, rec, false)
	for _, d := range deleted {
		if l := s.layers[digest.Digest(d.Deleted)]; l != nil {
			freed += uint64(l.Size)
		}
	}
	return deleted, freed, err
}
