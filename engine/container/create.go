package container

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"os"
	"runtime"
	"slices"
	"strings"
	"time"

	"github.com/containerd/errdefs"
	"github.com/containerd/platforms"
	"github.com/distribution/reference"
	"github.com/moby/moby/api/types/container"
	"github.com/moby/moby/api/types/events"
	"github.com/moby/moby/api/types/mount"
	"github.com/moby/moby/api/types/network"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"stockade/api/scope"
	"stockade/engine/container/spec"
	"stockade/engine/container/store"
	"stockade/engine/httpapi"
	"stockade/internal/failpoint"
)

func (s *Service) handleCreate(w http.ResponseWriter, r *http.Request, sc scope.Scope) error {
	var req container.CreateRequest
	if err := httpapi.ReadJSON(r, &req); err != nil {
		return err
	}
	if err := tooNew(sc.Version, req.HostConfig); err != nil {
		return err
	}
	if req.Config == nil {
		return invalid("config cannot be empty in order to create a container")
	}
	// A client that is gone does not stop what was begun: it ends either way, complete.
	resp, err := s.Create(context.WithoutCancel(r.Context()), sc, r.URL.Query().Get("name"), r.URL.Query().Get("platform"), req)
	if err != nil {
		return err
	}
	return httpapi.WriteJSON(w, http.StatusCreated, resp)
}

// has tells whether the tenant has an image of any platform by a name.
func (s *Service) has(ctx context.Context, tenant, ref string) bool {
	_, err := s.cfg.Images.Resolve(ctx, tenant, ref, nil)
	return err == nil
}

// tooNew refuses what the client's version of the API does not have.
func tooNew(version string, hc *container.HostConfig) error {
	if hc == nil {
		return nil
	}
	for _, m := range hc.Mounts {
		if m.VolumeOptions != nil && m.VolumeOptions.Subpath != "" && httpapi.VersionLess(version, "1.45") {
			return invalid("VolumeOptions.Subpath needs API v1.45 or newer")
		}
		if m.Type == mount.TypeImage && httpapi.VersionLess(version, "1.48") {
			return invalid("Mount type \"Image\" needs API v1.48 or newer")
		}
	}
	return nil
}

// Create makes a container.
func (s *Service) Create(ctx context.Context, sc scope.Scope, name, platform string, req container.CreateRequest) (_ *container.CreateResponse, err error) {
	warnings := []string{}
	c, hc := req.Config, req.HostConfig
	if hc == nil {
		hc = &container.HostConfig{}
	}
	if err := checkJoin(&req); err != nil {
		return nil, err
	}
	if err := s.nameTargets(sc, hc); err != nil {
		return nil, err
	}
	img, warning, err := s.resolve(ctx, sc.Tenant, c.Image, platform)
	if err != nil {
		return nil, err
	}
	if warning != "" {
		warnings = append(warnings, warning)
	}
	id := newID()
	rec := &store.Record{
		ID: id, Tenant: sc.Tenant, Created: time.Now().UTC(), Image: img.ID, ImageRef: c.Image, Platform: img.Platform.OS,
		Manifest: img.Manifest, ImageSize: img.Size, Layers: img.Layers, Config: c, Host: hc, Creator: &sc.UID,
	}
	if rec.Platform == "" {
		rec.Platform = "linux"
	}
	if err := spec.Merge(c, img.Config); err != nil {
		return nil, err
	}
	if err := prepare(rec); err != nil {
		return nil, err
	}
	if rec.MAC, err = endpointMAC(req.NetworkingConfig, hc.NetworkMode); err != nil {
		return nil, err
	}
	if len(hc.VolumesFrom) > 0 {
		// What is inherited must not go with its container before this one refers to it.
		s.sharing.RLock()
		defer s.sharing.RUnlock()
	}
	inherited, err := s.inherit(sc, hc.VolumesFrom)
	if err != nil {
		return nil, err
	}
	if rec.Mounts, err = spec.Mounts(c, hc, sc.Grants, inherited); err != nil {
		return nil, err
	}
	if err := s.mountedImages(ctx, sc.Tenant, rec.Mounts); err != nil {
		return nil, err
	}
	if l, err := spec.LogOf(hc.LogConfig); err != nil {
		return nil, err
	} else if l.Driver != "none" {
		rec.LogPath = s.folder(id) + "/" + id + "-json.log"
	}
	rec.Path, rec.Args = spec.Command(c)
	if rec.Name, err = s.takeName(sc.Tenant, name, id); err != nil {
		return nil, err
	}
	if err := s.materialize(ctx, rec); err != nil {
		s.index.release(sc.Tenant, rec.Name, id)
		return nil, err
	}
	failpoint.Hit("container.create.recorded")
	item := newItem(rec)
	s.index.add(item)
	s.publish(item.view(), events.ActionCreate)
	return &container.CreateResponse{ID: id, Warnings: warnings}, nil
}

// resolve finds the image and warns of a foreign architecture that nobody asked for.
func (s *Service) resolve(ctx context.Context, tenant, ref, platform string) (Image, string, error) {
	if ref == "" {
		return Image{}, "", invalid("invalid reference format")
	}
	var want *ocispec.Platform
	if platform != "" {
		p, err := platforms.Parse(platform)
		if err != nil {
			return Image{}, "", invalid("invalid platform: %v", err)
		}
		want = &p
	}
	img, err := s.cfg.Images.Resolve(ctx, tenant, ref, want)
	if errdefs.IsNotFound(err) && (want == nil || !s.has(ctx, tenant, ref)) {
		return Image{}, "", notFound("No such image: %s", familiar(ref))
	}
	if err != nil {
		return Image{}, "", err
	}
	if arch := img.Platform.Architecture; want == nil && arch != "" && arch != runtime.GOARCH {
		return img, fmt.Sprintf("The requested image's platform (%s) does not match the detected host platform (%s) and no specific platform was requested",
			platforms.Format(img.Platform), platforms.Format(platforms.DefaultSpec())), nil
	}
	return img, "", nil
}

// mountedImages finds the images that mounts show. Each belongs to the container from now on: see Info.UsesImage.
func (s *Service) mountedImages(ctx context.Context, tenant string, mounts []spec.Mount) error {
	for i := range mounts {
		m := &mounts[i]
		if m.Type != mount.TypeImage || m.Image != "" {
			continue
		}
		img, err := s.cfg.Images.Resolve(ctx, tenant, m.Name, nil)
		if errdefs.IsNotFound(err) {
			return invalid("No such image: %s", familiar(m.Name)) // clients take "not found" for the container's image
		}
		if err != nil {
			return err
		}
		m.Image, m.Source, m.Layers = img.ID, img.ID, img.Layers
	}
	return nil
}

// familiar is a reference as Docker prints it, with its tag.
func familiar(ref string) string {
	named, err := reference.ParseNormalizedNamed(ref)
	if err != nil {
		return ref
	}
	return reference.FamiliarString(reference.TagNameOnly(named))
}

// prepare checks the configuration and fills in what Docker shows as defaults.
func prepare(rec *store.Record) error {
	c, hc := rec.Config, rec.Host
	if c.Hostname == "" {
		c.Hostname = rec.ID[:12]
	}
	if c.StopSignal != "" {
		if _, err := ParseSignal(c.StopSignal); err != nil {
			return err
		}
	}
	if err := checkHealth(c.Healthcheck); err != nil {
		return err
	}
	if hc.AutoRemove && !hc.RestartPolicy.IsNone() {
		return invalid("can't create 'AutoRemove' container with restart policy")
	}
	if err := container.ValidateRestartPolicy(hc.RestartPolicy); err != nil {
		return invalid("%v", err)
	}
	if err := spec.CheckResources(&hc.Resources); err != nil {
		return err
	}
	spec.AdaptResources(&hc.Resources)
	if err := spec.CheckNames(c, hc); err != nil {
		return err
	}
	if err := spec.CheckSecurity(hc); err != nil {
		return err
	}
	if _, err := spec.Ports(c, hc); err != nil {
		return err
	}
	if err := defaults(c, hc); err != nil {
		return err
	}
	// What cannot become a process is refused now, not at the start.
	_, err := spec.Process(c, hc, spec.Account{}, 0)
	return err
}

func defaults(c *container.Config, hc *container.HostConfig) error {
	switch {
	case hc.NetworkMode == "" || hc.NetworkMode.IsDefault():
		hc.NetworkMode = network.NetworkBridge
	case hc.NetworkMode.IsBridge() || hc.NetworkMode.IsNone() || hc.NetworkMode.IsContainer():
	default:
		return httpapi.NewError(errdefs.ErrNotFound, "network %s not found", hc.NetworkMode)
	}
	if c.NetworkDisabled {
		hc.NetworkMode = network.NetworkNone
	}
	if hc.RestartPolicy.Name == "" {
		hc.RestartPolicy.Name = container.RestartPolicyDisabled
	}
	if hc.LogConfig.Type == "" {
		hc.LogConfig.Type = "json-file"
	}
	if hc.LogConfig.Config == nil {
		hc.LogConfig.Config = map[string]string{}
	}
	if hc.ShmSize == 0 {
		hc.ShmSize = spec.DefaultShm
	}
	if hc.ShmSize < 0 {
		return invalid("SHM size can not be less than 0")
	}
	if hc.IpcMode.IsEmpty() {
		hc.IpcMode = container.IPCModePrivate
	}
	if hc.CgroupnsMode.IsEmpty() {
		hc.CgroupnsMode = container.CgroupnsModePrivate
	}
	if hc.Runtime == "" {
		hc.Runtime = "runc"
	}
	if hc.PortBindings == nil {
		hc.PortBindings = network.PortMap{}
	}
	switch {
	case hc.Privileged:
		hc.MaskedPaths, hc.ReadonlyPaths = []string{}, []string{}
	default:
		if hc.MaskedPaths == nil {
			hc.MaskedPaths = slices.Clone(spec.DefaultMasked)
		}
		if hc.ReadonlyPaths == nil {
			hc.ReadonlyPaths = slices.Clone(spec.DefaultReadonly)
		}
	}
	return nil
}

// endpointMAC returns the hardware address that the client wants on the default bridge.
func endpointMAC(nc *network.NetworkingConfig, mode container.NetworkMode) (string, error) {
	if nc == nil {
		return "", nil
	}
	for name, ep := range nc.EndpointsConfig {
		if name != network.NetworkDefault && name != network.NetworkBridge && name != string(mode) {
			return "", httpapi.NewError(errdefs.ErrNotFound, "network %s not found", name)
		}
		if ep == nil {
			continue
		}
		if ep.IPAMConfig != nil && (ep.IPAMConfig.IPv4Address.IsValid() || ep.IPAMConfig.IPv6Address.IsValid() || len(ep.IPAMConfig.LinkLocalIPs) > 0) {
			return "", invalid("user specified IP address is supported on user defined networks only")
		}
		if len(ep.MacAddress) > 0 {
			return ep.MacAddress.String(), nil
		}
	}
	return "", nil
}

// inherit collects the mounts of other containers (--volumes-from).
//
// SECURITY(T-701): a grant carries the rights of the person who bound a folder, so it serves nobody else.
func (s *Service) inherit(sc scope.Scope, from []string) ([]spec.Mount, error) {
	var out []spec.Mount
	for _, f := range from {
		ref, mode, _ := strings.Cut(f, ":")
		if mode != "" && mode != "ro" && mode != "rw" && mode != "z" && mode != "Z" {
			return nil, invalid("invalid mode: %s", mode)
		}
		c, err := s.index.find(sc.Tenant, ref)
		if err != nil {
			return nil, invalid("%v", err) // clients take "not found" for the image
		}
		for _, m := range c.view().Mounts {
			if m.Type == mount.TypeTmpfs {
				continue
			}
			if m.Type == mount.TypeBind && (m.GrantUID == nil || *m.GrantUID != sc.UID) {
				return nil, httpapi.NewError(errdefs.ErrPermissionDenied, "volumes-from %s: %s was bound by another user", ref, m.Destination)
			}
			if mode == "ro" {
				m.RW, m.SubRW = false, false
			}
			// Its content is what the other container made of it.
			m.Anonymous, m.NoCopy = false, true
			if i := slices.IndexFunc(out, func(o spec.Mount) bool { return o.Destination == m.Destination }); i >= 0 {
				out[i] = m // the last one counts
				continue
			}
			out = append(out, m)
		}
	}
	return out, nil
}

// materialize makes what the record speaks of: the writable layer, the log's folder, volumes with the image's content;
// then the record itself. A failure undoes all of it.
func (s *Service) materialize(ctx context.Context, rec *store.Record) (err error) {
	var undo []func() error
	defer func() {
		if err == nil {
			return
		}
		for _, u := range slices.Backward(undo) {
			err = errors.Join(err, u())
		}
	}()
	undo = append(undo, func() error { return s.cfg.Runtime.RemoveRW(ctx, rec.ID) })
	if err := s.cfg.Runtime.CreateRW(ctx, rec.ID); err != nil {
		return fmt.Errorf("create writable layer: %w", err)
	}
	undo = append(undo, func() error { return os.RemoveAll(s.folder(rec.ID)) })
	if err := os.Mkdir(s.folder(rec.ID), 0o700); err != nil {
		return fmt.Errorf("create folder of container: %w", err)
	}
	if err := failpoint.Fail("container.create.layer"); err != nil {
		return err
	}
	var fresh []int
	for i := range rec.Mounts {
		m := &rec.Mounts[i]
		if m.Type != mount.TypeVolume {
			continue
		}
		var created bool
		if m.Name, m.Store, created, err = s.cfg.Volumes.Ensure(ctx, rec.Tenant, m.Name, m.Labels, m.DriverOpts); err != nil {
			return err
		}
		volume := m.Name
		if created {
			undo = append(undo, func() error { return s.cfg.Volumes.Remove(ctx, rec.Tenant, volume) })
		}
		if err := s.cfg.Volumes.Reference(rec.Tenant, volume, rec.ID); err != nil {
			return err
		}
		undo = append(undo, func() error { s.cfg.Volumes.Unreference(rec.Tenant, volume, rec.ID); return nil })
		if !m.NoCopy && m.Subpath == "" {
			fresh = append(fresh, i)
		}
	}
	if err := s.populate(ctx, rec, fresh); err != nil {
		return err
	}
	if err := failpoint.Fail("container.create.volumes"); err != nil {
		return err
	}
	// A record that could not be made to last may be on disk all the same.
	undo = append(undo, func() error { return s.st.Delete(rec.ID) })
	return s.st.Put(rec)
}

// populate copies the image's content into volumes that are empty still.
func (s *Service) populate(ctx context.Context, rec *store.Record, volumes []int) (err error) {
	if len(volumes) == 0 {
		return nil
	}
	root, err := s.cfg.Runtime.OpenRoot(ctx, rec.ID, rec.Layers, nil)
	if err != nil {
		return fmt.Errorf("open root: %w", err)
	}
	defer func() { err = errors.Join(err, root.Close()) }()
	for _, i := range volumes {
		m := rec.Mounts[i]
		if err := s.cfg.Volumes.Populate(ctx, m.Store, root, m.Destination); err != nil {
			return fmt.Errorf("copy the image's content into volume %s: %w", m.Name, err)
		}
	}
	return nil
}
