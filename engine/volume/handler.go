package volume

import (
	"context"
	"net/http"
	"path/filepath"
	"strconv"
	"time"

	"github.com/containerd/errdefs"
	"github.com/moby/moby/api/types/events"
	api "github.com/moby/moby/api/types/volume"

	"stockade/api/scope"
	"stockade/engine/httpapi"
)

// Register adds this package's routes.
func (s *Service) Register(rt *httpapi.Router) {
	rt.Handle("GET /volumes", s.list)
	rt.Handle("POST /volumes/create", s.create)
	rt.Handle("POST /volumes/prune", s.prune)
	rt.Handle("GET /volumes/{name}", s.inspect)
	rt.Handle("DELETE /volumes/{name}", s.remove)
}

func (s *Service) view(v Volume) api.Volume {
	return api.Volume{
		Name: v.Name, Driver: "local", Scope: "local", Labels: v.Labels, Options: nil,
		CreatedAt: v.Created.Format(time.RFC3339), Mountpoint: s.Mountpoint(v.StoreName),
	}
}

// Mountpoint is the path of a volume that clients see: /var/lib/stockade/engine/store/volumes/<x>/data by default.
func (s *Service) Mountpoint(storeName string) string {
	return filepath.Join(s.dir, storeName, "data")
}

func (s *Service) list(w http.ResponseWriter, r *http.Request, sc scope.Scope) error {
	f, err := httpapi.ParseFilters(r.URL.Query().Get("filters"), "name", "label", "label!", "dangling", "driver")
	if err != nil {
		return err
	}
	dangling, err := f.Bool("dangling", false)
	if err != nil {
		return err
	}
	out := api.ListResponse{Volumes: []api.Volume{}}
	err = s.each(sc.Tenant, func(tenant string, v Volume) error {
		if !f.Match("name", v.Name) || !f.Labels("label", v.Labels) || f.AnyLabel("label!", v.Labels) || !f.Exact("driver", "local") {
			return nil
		}
		if f.Has("dangling") && dangling != (len(s.users(tenant, v.Name)) == 0) {
			return nil
		}
		out.Volumes = append(out.Volumes, s.view(v))
		return nil
	})
	if err != nil {
		return err
	}
	return httpapi.WriteJSON(w, http.StatusOK, out)
}

func (s *Service) create(w http.ResponseWriter, r *http.Request, sc scope.Scope) error {
	var req api.CreateRequest
	if err := httpapi.ReadJSON(r, &req); err != nil {
		return err
	}
	if req.Driver != "" && req.Driver != "local" {
		return httpapi.NewError(errdefs.ErrNotFound, "create %s: error looking up volume plugin %s: plugin %q not found", req.Name, req.Driver, req.Driver)
	}
	if req.ClusterVolumeSpec != nil {
		return httpapi.NewError(errdefs.ErrInvalidArgument, "create %s: cluster volumes are not supported", req.Name)
	}
	v, _, err := s.ensure(sc.Tenant, req.Name, req.Labels, req.DriverOpts)
	if err != nil {
		return err
	}
	return httpapi.WriteJSON(w, http.StatusCreated, s.view(v))
}

func (s *Service) inspect(w http.ResponseWriter, r *http.Request, sc scope.Scope) error {
	v, err := s.Get(sc.Tenant, r.PathValue("name"))
	if err != nil {
		return err
	}
	return httpapi.WriteJSON(w, http.StatusOK, s.view(v))
}

func (s *Service) remove(w http.ResponseWriter, r *http.Request, sc scope.Scope) error {
	force, _ := strconv.ParseBool(r.URL.Query().Get("force")) // absent or odd: not forced
	err := s.Remove(r.Context(), sc.Tenant, r.PathValue("name"))
	if err != nil && !(force && errdefs.IsNotFound(err)) {
		return err
	}
	w.WriteHeader(http.StatusNoContent)
	return nil
}

func (s *Service) prune(w http.ResponseWriter, r *http.Request, sc scope.Scope) error {
	f, err := httpapi.ParseFilters(r.URL.Query().Get("filters"), "all", "label", "label!")
	if err != nil {
		return err
	}
	// Named volumes are spared from API 1.42 on unless the client asks for all.
	all, err := f.Bool("all", httpapi.VersionLess(sc.Version, "1.42"))
	if err != nil {
		return err
	}
	var victims []Volume
	err = s.each(sc.Tenant, func(tenant string, v Volume) error {
		_, anonymous := v.Labels[AnonymousLabel]
		if (all || anonymous) && f.Labels("label", v.Labels) && !f.AnyLabel("label!", v.Labels) && len(s.users(tenant, v.Name)) == 0 {
			victims = append(victims, v)
		}
		return nil
	})
	if err != nil {
		return err
	}
	report := api.PruneReport{VolumesDeleted: []string{}}
	for _, v := range victims {
		size, err := s.size(r.Context(), v.StoreName)
		if err != nil {
			return err
		}
		if err := s.Remove(r.Context(), sc.Tenant, v.Name); err != nil {
			continue // a container took it meanwhile, or it is gone
		}
		report.VolumesDeleted = append(report.VolumesDeleted, v.Name)
		report.SpaceReclaimed += uint64(size)
	}
	s.cfg.Events.Publish(sc.Tenant, events.VolumeEventType, events.ActionPrune, "", map[string]string{
		"reclaimed": strconv.FormatUint(report.SpaceReclaimed, 10),
	})
	return httpapi.WriteJSON(w, http.StatusOK, report)
}

// Usage lists a tenant's volumes with sizes and numbers of containers, for GET /system/df.
func (s *Service) Usage(ctx context.Context, tenant string) ([]api.Volume, error) {
	var list []Volume
	err := s.each(tenant, func(_ string, v Volume) error {
		list = append(list, v)
		return nil
	})
	if err != nil {
		return nil, err
	}
	out := []api.Volume{}
	for _, v := range list {
		size, err := s.size(ctx, v.StoreName)
		if err != nil {
			size = -1
		}
		item := s.view(v)
		item.UsageData = &api.UsageData{Size: size, RefCount: int64(len(s.users(tenant, v.Name)))}
		out = append(out, item)
	}
	return out, nil
}
