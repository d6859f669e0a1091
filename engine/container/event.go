package container

import (
	"maps"

	"github.com/moby/moby/api/types/events"
	"github.com/moby/moby/api/types/mount"

	"stockade/engine/runtime"
)

// publish tells of a container's event, with its labels, image and name as Docker does.
func (s *Service) publish(v *view, action events.Action, extra ...string) {
	attrs := maps.Clone(v.Config.Labels)
	if attrs == nil {
		attrs = map[string]string{}
	}
	attrs["image"], attrs["name"] = v.Config.Image, v.Name
	for i := 0; i+1 < len(extra); i += 2 {
		attrs[extra[i]] = extra[i+1]
	}
	s.cfg.Events.Publish(v.Tenant, events.ContainerEventType, action, v.ID, attrs)
}

// publishNetwork tells that a container joined or left the default bridge.
func (s *Service) publishNetwork(v *view, action events.Action, e *runtime.Endpoint) {
	if e == nil {
		return
	}
	id, name, _, _ := s.cfg.Networks.Bridge(v.Tenant)
	s.cfg.Events.Publish(v.Tenant, events.NetworkEventType, action, id,
		map[string]string{"container": v.ID, "name": name, "type": "bridge"})
}

// publishMounts tells that a container began or ceased to use its volumes.
func (s *Service) publishMounts(v *view, action events.Action) {
	for _, m := range v.Mounts {
		if m.Type != mount.TypeVolume {
			continue
		}
		attrs := map[string]string{"container": v.ID, "driver": m.Driver}
		if action == events.ActionMount {
			attrs["destination"], attrs["propagation"], attrs["read/write"] = m.Destination, string(m.Propagation), "false"
			if m.RW {
				attrs["read/write"] = "true"
			}
		}
		s.cfg.Events.Publish(v.Tenant, events.VolumeEventType, action, m.Name, attrs)
	}
}
