package system

import (
	"net/http"
	"slices"
	"strconv"

	"github.com/containerd/errdefs"
	"github.com/moby/moby/api/types/build"
	"github.com/moby/moby/api/types/container"
	"github.com/moby/moby/api/types/events"
	"github.com/moby/moby/api/types/image"
	"github.com/moby/moby/api/types/system"
	"github.com/moby/moby/api/types/volume"

	"stockade/api/scope"
	"stockade/engine/httpapi"
)

// usage is the answer of GET /system/df: the form since API 1.52 and the one before.
type usage struct {
	LayersSize int64                `json:"LayersSize,omitempty"`
	Images     []image.Summary      `json:"Images,omitzero"`
	Containers []container.Summary  `json:"Containers,omitzero"`
	Volumes    []volume.Volume      `json:"Volumes,omitzero"`
	BuildCache *[]build.CacheRecord `json:"BuildCache,omitempty"`
	*system.DiskUsage
}

func (s *Service) df(w http.ResponseWriter, r *http.Request, sc scope.Scope) error {
	q := r.URL.Query()
	types := q["type"]
	for _, t := range types {
		switch system.DiskUsageObject(t) {
		case system.ContainerObject, system.ImageObject, system.VolumeObject, system.BuildCacheObject:
		default:
			return httpapi.NewError(errdefs.ErrInvalidArgument, "unknown object type: %s", t)
		}
	}
	want := func(t system.DiskUsageObject) bool {
		return len(types) == 0 || slices.Contains(types, string(t)) || httpapi.VersionLess(sc.Version, "1.42")
	}
	modern := !httpapi.VersionLess(sc.Version, "1.52")
	verbose, _ := strconv.ParseBool(q.Get("verbose")) // absent or odd: not verbose
	// Both forms, unless the client shows that it knows the newer one, as Docker does for clients without a version.
	old := !modern || !verbose

	var u usage
	du := &system.DiskUsage{}
	if want(system.ContainerObject) {
		list := s.cfg.Containers.All(sc.Tenant, true)
		for i := range list {
			list[i].ImageManifestDescriptor = nil
		}
		du.ContainerUsage = containerUsage(list)
		if old {
			u.Containers = append([]container.Summary{}, list...)
		}
	}
	if want(system.ImageObject) {
		list, layers, inUse, err := s.cfg.Images.Usage(r.Context(), sc.Tenant)
		if err != nil {
			return err
		}
		for i := range list {
			if httpapi.VersionLess(sc.Version, "1.48") {
				list[i].Descriptor = nil
			}
		}
		du.ImageUsage = imageUsage(list, layers, inUse)
		if old {
			u.LayersSize, u.Images = layers, append([]image.Summary{}, list...)
		}
	}
	if want(system.VolumeObject) {
		list, err := s.cfg.Volumes.Usage(r.Context(), sc.Tenant)
		if err != nil {
			return err
		}
		du.VolumeUsage = volumeUsage(list)
		if old {
			u.Volumes = append([]volume.Volume{}, list...)
		}
	}
	if want(system.BuildCacheObject) {
		du.BuildCacheUsage = &build.DiskUsage{}
		if old {
			u.BuildCache = &[]build.CacheRecord{}
		}
	}
	if modern {
		u.DiskUsage = du
	}
	return httpapi.WriteJSON(w, http.StatusOK, u)
}

func containerUsage(list []container.Summary) *container.DiskUsage {
	du := &container.DiskUsage{TotalCount: int64(len(list)), Items: list}
	for _, c := range list {
		du.TotalSize += c.SizeRw
		switch c.State {
		case container.StateRunning, container.StatePaused, container.StateRestarting:
			du.ActiveCount++
		default:
			du.Reclaimable += c.SizeRw
		}
	}
	return du
}

func imageUsage(list []image.Summary, layers, inUse int64) *image.DiskUsage {
	du := &image.DiskUsage{TotalCount: int64(len(list)), TotalSize: layers, Items: list, Reclaimable: layers - inUse}
	for _, i := range list {
		if i.Containers > 0 {
			du.ActiveCount++
		}
	}
	return du
}

func volumeUsage(list []volume.Volume) *volume.DiskUsage {
	du := &volume.DiskUsage{TotalCount: int64(len(list)), Items: list}
	for _, v := range list {
		if v.UsageData == nil || v.UsageData.Size < 0 {
			continue
		}
		du.TotalSize += v.UsageData.Size
		if v.UsageData.RefCount > 0 {
			du.ActiveCount++
		} else {
			du.Reclaimable += v.UsageData.Size
		}
	}
	return du
}

// buildPrune reports that nothing was removed: no build cache exists.
func (s *Service) buildPrune(w http.ResponseWriter, _ *http.Request, sc scope.Scope) error {
	s.cfg.Events.Publish(sc.Tenant, events.BuilderEventType, events.ActionPrune, "", map[string]string{"reclaimed": "0"})
	return httpapi.WriteJSON(w, http.StatusOK, build.CachePruneReport{CachesDeleted: []string{}})
}
