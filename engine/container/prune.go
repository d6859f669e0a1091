package container

import (
	"context"
	"net/http"
	"slices"
	"strconv"
	"time"

	"github.com/moby/moby/api/types/container"
	"github.com/moby/moby/api/types/events"

	"stockade/api/scope"
	"stockade/engine/httpapi"
)

func (s *Service) handlePrune(w http.ResponseWriter, r *http.Request, sc scope.Scope) error {
	f, err := httpapi.ParseFilters(r.URL.Query().Get("filters"), "label", "label!", "until")
	if err != nil {
		return err
	}
	until, err := f.Until(time.Now())
	if err != nil {
		return err
	}
	report := container.PruneReport{}
	ctx := context.WithoutCancel(r.Context())
	for _, c := range slices.Backward(s.sorted(sc.Tenant)) {
		v := c.view()
		if v.State.Running || v.State.Removing || !until.IsZero() && v.Created.After(until) ||
			!f.Labels("label", v.Config.Labels) || f.AnyLabel("label!", v.Config.Labels) {
			continue
		}
		size := s.sizeRW(v.ID)
		if err := s.remove(ctx, c, removal{}); err != nil {
			s.cfg.Log.Warn("prune container", "container", v.ID, "err", err)
			continue
		}
		report.ContainersDeleted = append(report.ContainersDeleted, v.ID)
		report.SpaceReclaimed += uint64(size)
	}
	s.cfg.Events.Publish(sc.Tenant, events.ContainerEventType, events.ActionPrune, "",
		map[string]string{"reclaimed": strconv.FormatUint(report.SpaceReclaimed, 10)})
	return httpapi.WriteJSON(w, http.StatusOK, report)
}
