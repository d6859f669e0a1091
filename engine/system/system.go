// Package system answers what clients ask about the server itself: ping, version, info, disk usage, and whether
// credentials are good for a registry.
//
// Trust: requests come from the gate; registries are hostile (see auth.go).
// Invariants: numbers and sizes are those of the caller's tenant. Failure: a fact of the host that cannot be read is
// left out.
package system

import (
	"context"
	"log/slog"
	"net/http"

	"github.com/moby/moby/api/types/container"
	"github.com/moby/moby/api/types/events"
	"github.com/moby/moby/api/types/image"
	"github.com/moby/moby/api/types/volume"

	"stockade/api/scope"
	"stockade/api/setting"
	"stockade/engine/httpapi"
	"stockade/internal/outbound"
)

// Containers is what this package needs of package container.
type Containers interface {
	// All lists a tenant's containers, with size with SizeRw and SizeRootFs filled in.
	All(tenant string, size bool) []container.Summary
}

// Images is what this package needs of package image.
type Images interface {
	Count(tenant string) int
	// Usage lists the tenant's images with Size, SharedSize and Containers filled in, and the bytes of all their layers and
	// of those that containers use, shared ones counted once.
	Usage(ctx context.Context, tenant string) (list []image.Summary, layers, inUse int64, err error)
}

// Volumes is what this package needs of package volume.
type Volumes interface {
	// Usage lists the tenant's volumes with UsageData filled in.
	Usage(ctx context.Context, tenant string) ([]volume.Volume, error)
}

// Events is what this package needs of package event.
type Events interface {
	Listeners() int
	Publish(tenant string, typ events.Type, action events.Action, id string, attributes map[string]string)
}

// Config is what a Service needs.
type Config struct {
	Engine        setting.Engine
	APIVersion    string // newest that the gate speaks
	MinAPIVersion string // oldest
	Containers    Containers
	Images        Images
	Volumes       Volumes
	Events        Events
	Log           *slog.Logger
}

// Service answers. Use New.
type Service struct {
	cfg    Config
	id     string
	client *http.Client // for registries
}

// New reads the server's id, or makes it at the first start.
func New(cfg Config) (*Service, error) {
	id, err := serverID(cfg.Engine.Data)
	if err != nil {
		return nil, err
	}
	client, err := registryClient(cfg.Engine.RegistryCA, outbound.New(cfg.Engine.Proxy))
	if err != nil {
		return nil, err
	}
	return &Service{cfg: cfg, id: id, client: client}, nil
}

// Register adds this package's routes.
func (s *Service) Register(rt *httpapi.Router) {
	rt.Handle("GET /_ping", s.ping) // HEAD, too
	rt.Handle("GET /version", s.version)
	rt.Handle("GET /info", s.info)
	rt.Handle("GET /system/df", s.df)
	rt.Handle("POST /auth", s.auth)
	rt.Handle("POST /build/prune", s.buildPrune)
}

func (s *Service) ping(w http.ResponseWriter, r *http.Request, _ scope.Scope) error {
	h := w.Header()
	h.Set("Api-Version", s.cfg.APIVersion)
	h.Set("Ostype", "linux")
	h.Set("Docker-Experimental", "false")
	h.Set("Cache-Control", "no-cache, no-store, must-revalidate")
	h.Set("Pragma", "no-cache")
	h.Set("Swarm", "inactive")
	h.Set("Content-Type", "text/plain; charset=utf-8")
	if r.Method == http.MethodHead {
		h.Set("Content-Length", "0")
		w.WriteHeader(http.StatusOK)
		return nil
	}
	_, err := w.Write([]byte("OK"))
	return err
}
