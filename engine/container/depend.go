package container

import (
	"context"
	"log/slog"

	dockerspec "github.com/moby/docker-image-spec/specs-go/v1"
	"github.com/moby/moby/api/types/events"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"stockade/api/setting"
	"stockade/engine/runtime"
)

// Image is what a container is made from.
type Image struct {
	ID       string // sha256:…
	Ref      string // the reference that was resolved
	Config   *dockerspec.DockerOCIImageConfig
	Layers   []string // store names, top first
	Platform ocispec.Platform
	Manifest *ocispec.Descriptor // nil if unknown
	Size     int64               // bytes of all layers, unpacked
}

// Images finds images.
type Images interface {
	// Resolve finds a local image of the tenant by id, id prefix or reference; errdefs.ErrNotFound if there is none.
	Resolve(ctx context.Context, tenant, ref string, platform *ocispec.Platform) (Image, error)
}

// Volumes makes and finds volumes.
type Volumes interface {
	// Ensure finds or makes a volume; "" makes an anonymous one.
	Ensure(ctx context.Context, tenant, name string, labels, options map[string]string) (volume, store string, created bool, err error)
	// Populate copies what the image has at path into an empty volume.
	Populate(ctx context.Context, store string, root runtime.Root, path string) error
	Reference(tenant, name, container string) error
	Unreference(tenant, name, container string)
	Remove(ctx context.Context, tenant, name string) error
}

// Events tells what happened.
type Events interface {
	Publish(tenant string, typ events.Type, action events.Action, id string, attributes map[string]string)
}

// Networks describes the default bridge.
type Networks interface {
	Bridge(tenant string) (id, name, gateway string, bits int)
}

// Grants ends grants for host paths that no container refers to any more.
type Grants interface {
	Drop(ctx context.Context, ids []string) error
}

// Config is what a Service needs.
type Config struct {
	Settings setting.Engine
	Runtime  runtime.Service
	Images   Images
	Volumes  Volumes
	Events   Events
	Networks Networks
	Grants   Grants
	Log      *slog.Logger
}
