package image

import (
	"net/http"

	"github.com/containerd/errdefs"
	"github.com/moby/moby/api/types/events"

	"stockade/api/scope"
	"stockade/engine/httpapi"
)

// Register adds this package's routes.
func (s *Store) Register(rt *httpapi.Router) {
	rt.Handle("GET /images/json", s.list)
	rt.Handle("POST /images/create", s.create)
	rt.Handle("POST /images/load", s.load)
	rt.Handle("POST /images/prune", s.prune)
	rt.Handle("GET /images/{name}/json", s.inspect)
	rt.Handle("GET /images/{name}/history", s.history)
	rt.Handle("POST /images/{name}/tag", s.retag)
	rt.Handle("DELETE /images/{name}", s.remove)
}

// create is pull or import, depending on the query.
func (s *Store) create(w http.ResponseWriter, r *http.Request, sc scope.Scope) error {
	q := r.URL.Query()
	switch from := q.Get("fromImage"); {
	case from != "":
		return s.pull(w, r, sc, from, q.Get("tag"), q.Get("platform"))
	case q.Get("fromSrc") == "-":
		return s.importTar(w, r, sc)
	case q.Get("fromSrc") != "":
		// SECURITY(T-308): the server fetches nothing on a tenant's behalf but images from registries.
		return httpapi.NewError(errdefs.ErrNotImplemented, "import from a URL is not supported: fetch it and import the archive")
	}
	return httpapi.NewError(errdefs.ErrInvalidArgument, "fromImage or fromSrc is required")
}

func (s *Store) retag(w http.ResponseWriter, r *http.Request, sc scope.Scope) error {
	rec, _, err := s.lookup(sc.Tenant, r.PathValue("name"))
	if err != nil {
		return err
	}
	ref, err := parseTarget(r.URL.Query().Get("repo"), r.URL.Query().Get("tag"))
	if err != nil {
		return err
	}
	if err := s.tag(r.Context(), sc.Tenant, rec, ref.String()); err != nil {
		return err
	}
	s.event(sc.Tenant, events.ActionTag, rec, ref.String())
	w.WriteHeader(http.StatusCreated)
	return nil
}

// event tells what happened to rec under one of its names.
func (s *Store) event(tenant string, action events.Action, rec *record, name string) {
	attrs := map[string]string{}
	for k, v := range rec.Labels {
		attrs[k] = v
	}
	if name != "" {
		attrs["name"] = familiar([]string{name})[0]
	}
	s.cfg.Event(tenant, action, rec.ID.String(), attrs)
}
