package container

import (
	"context"
	"encoding/json"
	"path"
	"slices"
	"strconv"
	"time"

	"github.com/containerd/errdefs"
	"github.com/moby/moby/api/types/container"
	"github.com/moby/moby/api/types/mount"
	"github.com/moby/moby/api/types/network"

	"stockade/engine/container/spec"
	"stockade/engine/httpapi"
)

var listFilters = []string{
	"ancestor", "before", "exited", "id", "isolation", "label", "name", "status", "health", "since", "volume", "network",
	"is-task", "publish", "expose",
}

type listOptions struct {
	all     bool
	limit   int
	size    bool
	filters httpapi.Filters
}

// filter is a checked form of list filters.
type filter struct {
	httpapi.Filters
	exited    []int
	ancestors map[string]bool // image ids and names
	before    *view
	since     *view
	published []network.PortRange
	exposed   []network.PortRange
	noTasks   bool
}

// list describes the containers of a list.
func (s *Service) list(ctx context.Context, tenant string, o listOptions) ([]container.Summary, error) {
	chosen, err := s.choose(ctx, tenant, o)
	out := make([]container.Summary, 0, len(chosen))
	for _, l := range chosen {
		line := s.summary(l.v, o.size)
		line.Image = l.image
		out = append(out, line)
	}
	return out, err
}

// listed is one container of a list.
type listed struct {
	c     *item
	v     *view
	image string // as shown
}

// choose finds the containers of a list.
func (s *Service) choose(ctx context.Context, tenant string, o listOptions) ([]listed, error) {
	f, err := s.filter(ctx, tenant, o.filters)
	if err != nil {
		return nil, err
	}
	// As Docker: naming states, exit codes or a limit looks at ended containers, too.
	all := o.all || o.limit > 0 || f.Has("status") || f.Has("exited") || f.before != nil || f.since != nil
	var out []listed
	names := map[string]string{} // image references → ids, "" for those that are gone
	for _, c := range s.sorted(tenant) {
		v := c.view()
		if !all && !v.State.Running || !s.matches(f, v) {
			continue
		}
		image, err := s.shownImage(ctx, tenant, v, names)
		if err != nil {
			return nil, err
		}
		out = append(out, listed{c, v, image})
		if o.limit > 0 && len(out) == o.limit {
			break
		}
	}
	return out, nil
}

// encoded is a container's line of a list as JSON, and what it was made of.
type encoded struct {
	v                               *view
	version, image, status, network string
	json                            []byte
}

// encode makes the JSON of a line. That of a container which does not run is kept: there may be thousands, and making it
// is most of a list's work.
func (s *Service) encode(l listed, version string) ([]byte, error) {
	e := &encoded{v: l.v, version: version, image: l.image}
	if !l.v.State.Running {
		e.status = statusText(l.v, time.Now())
		id, name, gateway, _ := s.cfg.Networks.Bridge(l.v.Tenant)
		e.network = id + " " + name + " " + gateway
		if old := l.c.line.Load(); old != nil && old.v == e.v && old.version == version && old.image == e.image && old.status == e.status && old.network == e.network {
			return old.json, nil
		}
	}
	line := s.summary(l.v, false)
	line.Image = l.image
	fit(&line, version)
	var err error
	if e.json, err = json.Marshal(line); err != nil {
		return nil, err
	}
	if !l.v.State.Running && line.Status == e.status {
		l.c.line.Store(e)
	}
	return e.json, nil
}

// shownImage is the name that the container's image was given, or its id if the name means another image by now.
func (s *Service) shownImage(ctx context.Context, tenant string, v *view, names map[string]string) (string, error) {
	ref := v.Config.Image
	id, known := names[ref]
	if !known {
		img, err := s.cfg.Images.Resolve(ctx, tenant, ref, nil)
		if err != nil && !errdefs.IsNotFound(err) && !errdefs.IsInvalidArgument(err) {
			return "", err
		}
		id = img.ID
		names[ref] = id
	}
	if id != v.Image {
		return v.Image, nil
	}
	return ref, nil
}

func (s *Service) filter(ctx context.Context, tenant string, raw httpapi.Filters) (*filter, error) {
	f := &filter{Filters: raw}
	for _, v := range raw["exited"] {
		n, err := strconv.Atoi(v)
		if err != nil {
			return nil, invalid("invalid filter 'exited=%s': %v", v, err)
		}
		f.exited = append(f.exited, n)
	}
	for _, v := range raw["status"] {
		if err := container.ValidateContainerState(container.ContainerState(v)); err != nil {
			return nil, invalid("invalid filter 'status=%s': %v", v, err)
		}
	}
	for _, v := range raw["health"] {
		if err := container.ValidateHealthStatus(container.HealthStatus(v)); err != nil {
			return nil, invalid("invalid filter 'health=%s': %v", v, err)
		}
	}
	task, err := raw.Bool("is-task", false)
	if err != nil {
		return nil, err
	}
	f.noTasks = raw.Has("is-task") && task // no container belongs to a service here
	for name, into := range map[string]*[]network.PortRange{"publish": &f.published, "expose": &f.exposed} {
		for _, v := range raw[name] {
			r, err := network.ParsePortRange(v)
			if err != nil {
				return nil, invalid("error while looking up for %s %s: %v", name, v, err)
			}
			*into = append(*into, r)
		}
	}
	for name, into := range map[string]**view{"before": &f.before, "since": &f.since} {
		for _, v := range raw[name] {
			c, err := s.index.find(tenant, v)
			if err != nil {
				return nil, err
			}
			*into = c.view()
		}
	}
	if raw.Has("ancestor") {
		f.ancestors = map[string]bool{}
		for _, a := range raw["ancestor"] {
			f.ancestors[a], f.ancestors[familiar(a)] = true, true
			img, err := s.cfg.Images.Resolve(ctx, tenant, a, nil)
			if err != nil && !errdefs.IsNotFound(err) {
				return nil, err
			}
			if err == nil {
				f.ancestors[img.ID] = true
			}
		}
	}
	return f, nil
}

func (s *Service) matches(f *filter, v *view) bool {
	switch {
	case f.noTasks,
		!f.Match("name", v.Name, "/"+v.Name),
		!f.Prefix("id", v.ID),
		!f.Labels("label", v.Config.Labels),
		!f.Exact("status", string(v.State.Status())),
		f.exited != nil && (v.State.Running || v.State.StartedAt.IsZero() || !slices.Contains(f.exited, v.State.ExitCode)),
		f.ancestors != nil && !f.ancestors[v.Image] && !f.ancestors[familiar(v.Config.Image)] && !f.ancestors[v.Config.Image],
		f.before != nil && !v.Created.Before(f.before.Created),
		f.since != nil && !v.Created.After(f.since.Created),
		!f.Exact("health", health(v)):
		return false
	}
	return f.volume(v) && s.onNetwork(f, v) && f.ports(v)
}

func health(v *view) string {
	if v.Health == nil {
		return string(container.NoHealthcheck)
	}
	return string(v.Health.Status)
}

func (f *filter) volume(v *view) bool {
	if !f.Has("volume") {
		return true
	}
	return slices.ContainsFunc(v.Mounts, func(m spec.Mount) bool {
		source := m.Source
		if m.Type == mount.TypeVolume {
			source = m.Name
		}
		return f.Exact("volume", source, path.Clean(m.Destination))
	})
}

func (s *Service) onNetwork(f *filter, v *view) bool {
	if !f.Has("network") {
		return true
	}
	if v.Host.NetworkMode.IsNone() {
		return f.Exact("network", network.NetworkNone)
	}
	if v.Host.NetworkMode.IsContainer() {
		return false
	}
	id, name, _, _ := s.cfg.Networks.Bridge(v.Tenant)
	return f.Exact("network", name) || f.Prefix("network", id)
}

// ports matches "publish" against port bindings and "expose" against exposed ports, of containers that run, as Docker does.
func (f *filter) ports(v *view) bool {
	within := func(ranges []network.PortRange, p network.Port) bool {
		return slices.ContainsFunc(ranges, func(r network.PortRange) bool {
			return p.Proto() == r.Proto() && p.Num() >= r.Start() && p.Num() <= r.End()
		})
	}
	if f.exposed != nil {
		if v.Task == nil {
			return false
		}
		found := false
		for p := range v.Config.ExposedPorts {
			found = found || within(f.exposed, p)
		}
		if !found {
			return false
		}
	}
	if f.published == nil {
		return true
	}
	if v.Task != nil && v.Task.Endpoint() != nil {
		for _, p := range v.Task.Endpoint().Ports {
			if port, ok := network.PortFrom(p.HostPort, network.IPProtocol(p.Proto)); ok && within(f.published, port) {
				return true
			}
		}
	}
	return false
}
