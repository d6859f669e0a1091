package container

import (
	"slices"

	"github.com/moby/moby/api/types/container"
	"github.com/moby/moby/api/types/events"
	"github.com/moby/moby/api/types/mount"

	"stockade/engine/container/spec"
	"stockade/engine/runtime"
)

// Info is what other parts of the engine may know of a container.
type Info struct {
	ID, Tenant, Name string
	Image            string   // image id
	ImageRef         string   // as the client named it
	Layers           []string // store names, top first
	Config           *container.Config
	Host             *container.HostConfig
	Mounts           []spec.Mount
	Running, Paused  bool
	PID              int          // 0 unless running
	Task             runtime.Task // nil unless running
}

// UsesImage tells whether the container was made from an image or shows it in a mount.
func (i Info) UsesImage(id string) bool {
	return i.Image == id || slices.ContainsFunc(i.Mounts, func(m spec.Mount) bool { return m.Type == mount.TypeImage && m.Image == id })
}

// Lookup finds a container of the tenant by id, name or id prefix. What Info points to must not be changed.
func (s *Service) Lookup(tenant, ref string) (Info, error) {
	c, err := s.index.find(tenant, ref)
	if err != nil {
		return Info{}, err
	}
	return info(c.view()), nil
}

// Each calls f with every container of a tenant, youngest first; "" means every tenant.
func (s *Service) Each(tenant string, f func(Info)) {
	for _, c := range s.sorted(tenant) {
		f(info(c.view()))
	}
}

// All summarizes a tenant's containers, youngest first; size adds the sizes of their files.
func (s *Service) All(tenant string, size bool) []container.Summary {
	out := []container.Summary{}
	for _, c := range s.sorted(tenant) {
		out = append(out, s.summary(c.view(), size))
	}
	return out
}

// PublishFor publishes a container's event, with its usual attributes, for something done outside of this package (copy,
// export, commit).
func (s *Service) PublishFor(tenant, ref string, action events.Action, extra ...string) {
	if c, err := s.index.find(tenant, ref); err == nil {
		s.publish(c.view(), action, extra...)
	}
}

func info(v *view) Info {
	i := Info{
		ID: v.ID, Tenant: v.Tenant, Name: v.Name, Image: v.Image, ImageRef: v.ImageRef, Layers: v.Layers, Config: v.Config, Host: v.Host,
		Mounts: v.Mounts, Running: v.State.Running && v.Task != nil, Paused: v.State.Paused,
	}
	if i.Running {
		i.Task, i.PID = v.Task, v.Task.PID()
	}
	return i
}
