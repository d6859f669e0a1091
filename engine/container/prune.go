package container

import (
	"context"
	"net/http"
	"slices"
	"strconv"
	"strings"
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
	var until time.Time
	switch len(f["until"]) {
	case 0:
	case 1:
		if until, err = moment(f["until"][0], time.Now()); err != nil {
			return err
		}
	default:
		return invalid("more than one until filter specified")
	}
	report := container.PruneReport{ContainersDeleted: []string{}}
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

// moment reads a time as filters give it: seconds since 1970, a duration before now, or a date.
func moment(v string, now time.Time) (time.Time, error) {
	if d, err := time.ParseDuration(v); err == nil {
		return now.Add(-d), nil
	}
	for _, layout := range []string{time.RFC3339Nano, "2006-01-02T15:04:05", "2006-01-02T15:04", "2006-01-02"} {
		if t, err := time.ParseInLocation(layout, v, time.Local); err == nil {
			return t, nil
		}
	}
	if strings.Trim(v, "0123456789.") == "" {
		return timeOf("until", v)
	}
	return time.Time{}, invalid("invalid until filter: %q", v)
}
