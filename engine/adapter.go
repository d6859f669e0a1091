package engine

import (
	"context"
	"io"
	"net"
	"net/netip"

	dockerspec "github.com/moby/docker-image-spec/specs-go/v1"
	"github.com/moby/moby/api/types/events"
	apiimage "github.com/moby/moby/api/types/image"
	apinetwork "github.com/moby/moby/api/types/network"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"stockade/engine/archive"
	"stockade/engine/container"
	"stockade/engine/container/spec"
	"stockade/engine/event"
	"stockade/engine/image"
	"stockade/engine/network"
	"stockade/engine/runtime"
)

// Each package declares what it needs of the others; the types here translate. None of them decides anything.

// lender lends addresses to the runtime.
type lender struct{ *network.Addresses }

func (l lender) Allocate(ctx context.Context, endpoint, wanted string) (string, error) {
	var addr netip.Addr
	if wanted != "" {
		var err error
		if addr, err = netip.ParseAddr(wanted); err != nil {
			return "", err
		}
	}
	got, err := l.Addresses.Allocate(ctx, endpoint, addr)
	if err != nil {
		return "", err
	}
	return got.String(), nil
}

// imageUsers lists containers that were made from an image or show it in a mount.
func (e *engine) imageUsers(tenant, id string) []image.ContainerRef {
	if e.containers == nil { // at start-up, before containers are known, nothing is removed
		return nil
	}
	var list []image.ContainerRef
	e.containers.Each(tenant, func(c container.Info) {
		if c.UsesImage(id) {
			list = append(list, image.ContainerRef{ID: c.ID, Running: c.Running})
		}
	})
	return list
}

func imageEvents(bus *event.Bus) func(string, events.Action, string, map[string]string) {
	return func(tenant string, action events.Action, id string, attrs map[string]string) {
		bus.Publish(tenant, events.ImageEventType, action, id, attrs)
	}
}

type containerImages struct{ *image.Store }

func (i containerImages) Resolve(ctx context.Context, tenant, ref string, platform *ocispec.Platform) (container.Image, error) {
	want := ""
	if platform != nil {
		want = platform.OS + "/" + platform.Architecture
		if platform.Variant != "" {
			want += "/" + platform.Variant
		}
	}
	img, err := i.Store.Resolve(ctx, tenant, ref, want)
	if err != nil {
		return container.Image{}, err
	}
	return container.Image{ID: img.ID, Ref: img.Name, Config: &img.Config, Layers: img.Layers, Platform: img.Platform, Size: img.Size, Manifest: &img.Manifest}, nil
}

type grants struct{ *runtime.Runtime }

func (g grants) Drop(ctx context.Context, ids []string) error { return g.DropGrants(ctx, ids) }

// endpoints tells package network who is on the bridge.
type endpoints struct{ e *engine }

func (p endpoints) Endpoints(tenant, name string) map[string]apinetwork.EndpointResource {
	list := map[string]apinetwork.EndpointResource{}
	if p.e.containers == nil || name != network.Bridge {
		return list
	}
	p.e.containers.Each(tenant, func(c container.Info) {
		if c.Task == nil {
			return
		}
		ep := c.Task.Endpoint()
		if ep == nil {
			return
		}
		res := apinetwork.EndpointResource{Name: c.Name}
		if addr, err := netip.ParseAddr(ep.Address); err == nil {
			res.IPv4Address = netip.PrefixFrom(addr, ep.Bits)
		}
		if mac, err := net.ParseMAC(ep.MAC); err == nil {
			res.MacAddress = apinetwork.HardwareAddr(mac)
		}
		list[c.ID] = res
	})
	return list
}

type archiveContainers struct{ *container.Service }

func (a archiveContainers) Lookup(_ context.Context, tenant, ref string) (archive.Container, error) {
	c, err := a.Service.Lookup(tenant, ref)
	if err != nil {
		return archive.Container{}, err
	}
	attrs := map[string]string{"image": c.ImageRef, "name": c.Name}
	for k, v := range c.Config.Labels {
		attrs[k] = v
	}
	return archive.Container{
		ID: c.ID, Name: c.Name, Layers: c.Layers, Running: c.Running, Mounts: spec.RuntimeMounts(c.Mounts), ReadonlyRoot: c.Host.ReadonlyRootfs,
		User: c.Config.User, Image: c.Image, Config: c.Config, Attributes: attrs,
	}, nil
}

// Freeze implements archive.Containers.
func (a archiveContainers) Freeze(ctx context.Context, tenant, id string) (func(), error) {
	c, err := a.Service.Lookup(tenant, id)
	if err != nil {
		return nil, err
	}
	if c.Task == nil || c.Paused {
		return func() {}, nil
	}
	if err := c.Task.Pause(ctx); err != nil {
		return nil, err
	}
	return func() { _ = c.Task.Resume(context.WithoutCancel(ctx)) }, nil
}

type archiveImages struct{ *image.Store }

func (a archiveImages) Commit(ctx context.Context, tenant string, c archive.Commit, layer io.Reader) (string, error) {
	return a.Store.Commit(ctx, tenant, image.Commit{
		Parent: c.Parent, Diff: layer, Config: c.Config, Author: c.Author, Comment: c.Comment, CreatedBy: c.CreatedBy, Repo: c.Repo, Tag: c.Tag,
	})
}

func (archiveImages) ApplyChanges(config *dockerspec.DockerOCIImageConfig, changes []string) error {
	return image.ApplyChanges(config, changes)
}

type systemImages struct{ e *engine }

func (s systemImages) Count(tenant string) int { return s.e.images.Count(tenant) }

func (s systemImages) Usage(_ context.Context, tenant string) (list []apiimage.Summary, layers, inUse int64, _ error) {
	used := map[string]int64{}
	s.e.containers.Each(tenant, func(c container.Info) { used[c.Image]++ })
	list = s.e.images.Summaries(tenant)
	for i := range list {
		list[i].Containers = used[list[i].ID]
	}
	layers = s.e.images.SizeOf(tenant, func(string) bool { return true })
	inUse = s.e.images.SizeOf(tenant, func(id string) bool { return used[id] > 0 })
	return list, layers, inUse, nil
}
