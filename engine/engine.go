// Package engine wires the engine's packages together: here, and nowhere else, they meet.
//
// Trust: the gate alone can open the listening socket. Invariants: no request is served before what was running has
// been found again. Failure: an error at start-up ends the process; the supervisor tries again.
package engine

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"time"

	"golang.org/x/sys/unix"

	"stockade/api/setting"
	"stockade/engine/archive"
	"stockade/engine/container"
	"stockade/engine/event"
	"stockade/engine/httpapi"
	"stockade/engine/image"
	"stockade/engine/network"
	"stockade/engine/runtime"
	"stockade/engine/system"
	"stockade/engine/unpack"
	"stockade/engine/volume"
	"stockade/internal/apiversion"
	"stockade/internal/outbound"
)

// storeRoot is the U id that owns what is on disk: store id 0.
const storeRoot = 1

// stopTime is how long containers may take to stop when the whole server is taken down.
const stopTime = 15 * time.Second

// Run serves requests of the gate on the listening socket until ctx ends, then stops the containers.
func Run(ctx context.Context, cfg setting.Engine, socket *os.File, log *slog.Logger) error {
	// The data folder is ours alone; beneath it, what containers pass through must be open to their ids.
	unix.Umask(0o022)
	listener, err := net.FileListener(socket)
	if err != nil {
		return fmt.Errorf("listener: %w", err)
	}
	socket.Close()
	e, err := open(ctx, cfg, log)
	if err != nil {
		return err
	}
	server := &http.Server{Handler: e.router, ReadHeaderTimeout: 30 * time.Second, ErrorLog: slog.NewLogLogger(log.Handler(), slog.LevelWarn)}
	failed := make(chan error, 1)
	go func() { failed <- server.Serve(listener) }()
	log.Info("ready")
	select {
	case err = <-failed:
	case <-ctx.Done():
	}
	// No new request, then the containers, then their streams.
	_ = listener.Close()
	sctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), stopTime)
	defer cancel()
	if ctx.Err() != nil {
		e.containers.StopAll(sctx)
	}
	_ = server.Close()
	if errors.Is(err, http.ErrServerClosed) {
		err = nil
	}
	return errors.Join(err, e.close())
}

type engine struct {
	router     *httpapi.Router
	containers *container.Service
	images     *image.Store
	volumes    *volume.Service
	runtime    *runtime.Runtime
}

func (e *engine) close() error {
	err := e.containers.Close()
	e.runtime.Close()
	return errors.Join(err, e.images.Close(), e.volumes.Close())
}

func open(ctx context.Context, cfg setting.Engine, log *slog.Logger) (*engine, error) {
	e := &engine{router: httpapi.NewRouter(log)}
	events := event.New(time.Now)
	addresses, err := network.NewAddresses(cfg.Pool)
	if err != nil {
		return nil, fmt.Errorf("address pool: %w", err)
	}
	if e.runtime, err = runtime.New(cfg, lender{addresses}, log.With("part", "runtime")); err != nil {
		return nil, fmt.Errorf("runtime: %w", err)
	}
	runner := archive.Runner{Path: cfg.UnpackPath}
	e.volumes, err = volume.Open(volume.Config{Data: cfg.Data, Owner: storeRoot, Copier: runner, Events: events, Log: log.With("part", "volume")})
	if err != nil {
		return nil, fmt.Errorf("volumes: %w", err)
	}
	e.images, err = image.Open(ctx, image.Config{
		Data: cfg.Data, Unpack: unpack.Config{Path: cfg.UnpackPath, Base: storeRoot, Limits: unpack.DefaultLimits},
		Insecure: cfg.Insecure, Proxy: outbound.New(cfg.Proxy), RegistryCA: cfg.RegistryCA, Log: log.With("part", "image"),
		InUse: e.imageUsers,
		Event: imageEvents(events),
	})
	if err != nil {
		return nil, fmt.Errorf("images: %w", err)
	}
	networks, err := network.New(cfg.Data, addresses, endpoints{e})
	if err != nil {
		return nil, fmt.Errorf("networks: %w", err)
	}
	e.containers, err = container.New(container.Config{
		Settings: cfg, Runtime: e.runtime, Images: containerImages{e.images}, Volumes: e.volumes,
		Events: events, Networks: networks, Grants: grants{e.runtime}, Log: log.With("part", "container"),
	})
	if err != nil {
		return nil, fmt.Errorf("containers: %w", err)
	}
	if err := e.containers.Reconcile(ctx); err != nil {
		return nil, fmt.Errorf("find what was running: %w", err)
	}
	e.images.Sweep() // what deleted images left: every container is known now
	files := archive.New(archive.Config{
		Runner: runner, Store: filepath.Join(cfg.Data, "store"), StoreBase: storeRoot,
		Containers: archiveContainers{e.containers}, Roots: e.runtime, Images: archiveImages{e.images}, Events: events, Log: log.With("part", "archive"),
	})
	about, err := system.New(system.Config{
		Engine: cfg, APIVersion: apiversion.Max, MinAPIVersion: apiversion.Min, Containers: e.containers,
		Images: systemImages{e}, Volumes: e.volumes, Events: events, Log: log.With("part", "system"),
	})
	if err != nil {
		return nil, fmt.Errorf("system: %w", err)
	}
	e.containers.Routes(e.router)
	for _, part := range []interface{ Register(*httpapi.Router) }{e.images, e.volumes, networks, files, about, events} {
		part.Register(e.router)
	}
	return e, nil
}
