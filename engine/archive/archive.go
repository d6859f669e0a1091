package archive

import (
	"context"
	"encoding/base64"
	"encoding/json"
	"io"
	"log/slog"
	"net/http"
	"path/filepath"
	"strconv"

	"github.com/containerd/errdefs"
	"github.com/moby/moby/api/types/container"
	"github.com/moby/moby/api/types/events"

	"stockade/api/helper"
	"stockade/api/scope"
	"stockade/engine/archive/child"
	"stockade/engine/httpapi"
	"stockade/engine/runtime"
)

// Container is what this package needs to know of a container.
type Container struct {
	ID, Name     string
	Layers       []string // store names, top first
	Running      bool
	Mounts       []runtime.Mount // volumes and binds
	ReadonlyRoot bool
	User         string            // configured, user[:group] or empty
	Image        string            // id of its image, for commit
	Config       *container.Config // for commit
	Attributes   map[string]string // of its events
}

// Containers is what this package needs of package container.
type Containers interface {
	// Lookup finds a container by name, id or unique beginning of an id.
	Lookup(ctx context.Context, tenant, ref string) (Container, error)
	// Freeze pauses a running container for a moment; thaw, never nil without error, undoes that. A container that does
	// not run, or is paused already, is left as it is.
	Freeze(ctx context.Context, tenant, id string) (thaw func(), err error)
}

// Roots is what this package needs of package runtime.
type Roots interface {
	OpenRoot(ctx context.Context, id string, layers []string, volumes []runtime.Mount) (runtime.Root, error)
}

// Publisher announces events.
type Publisher interface {
	Publish(tenant string, typ events.Type, action events.Action, id string, attributes map[string]string)
}

// Config is what a Service needs.
type Config struct {
	Runner     Runner
	Store      string // the engine's store folder: layers/<name>/fs and rw/<id>/upper
	StoreBase  uint32 // U id of the store's id 0
	Containers Containers
	Roots      Roots
	Images     Images
	Events     Publisher
	Log        *slog.Logger
}

// Service answers requests. Use New.
type Service struct{ cfg Config }

// New makes a Service.
func New(cfg Config) *Service { return &Service{cfg: cfg} }

// Register adds this package's routes.
func (s *Service) Register(rt *httpapi.Router) {
	rt.Handle("HEAD /containers/{id}/archive", s.stat)
	rt.Handle("GET /containers/{id}/archive", s.get)
	rt.Handle("PUT /containers/{id}/archive", s.put)
	rt.Handle("GET /containers/{id}/export", s.export)
	rt.Handle("GET /containers/{id}/changes", s.changes)
	rt.Handle("POST /commit", s.commit)
}

// open opens a container's root, with its volumes and mounted images if wanted.
func (s *Service) open(ctx context.Context, c Container, withVolumes bool) (runtime.Root, error) {
	var volumes []runtime.Mount
	for _, m := range c.Mounts {
		if (m.Volume != "" || m.Layers != nil) && withVolumes {
			volumes = append(volumes, m)
		}
	}
	return s.cfg.Roots.OpenRoot(ctx, c.ID, c.Layers, volumes)
}

// path reads the query parameter.
func pathOf(r *http.Request) (string, error) {
	p := r.URL.Query().Get("path")
	if p == "" {
		return "", httpapi.NewError(errdefs.ErrInvalidArgument, "bad parameter: 'path' cannot be empty")
	}
	return p, nil
}

// notFound words a missing file as Docker does.
func notFound(err error, path string, c Container) error {
	if errdefs.IsNotFound(err) {
		return httpapi.NewError(errdefs.ErrNotFound, "Could not find the file %s in container %s", path, c.Name)
	}
	return err
}

func setStat(h http.Header, i *child.Info) error {
	b, err := json.Marshal(container.PathStat{Name: i.Name, Size: i.Size, Mode: i.Mode, Mtime: i.Mtime, LinkTarget: i.LinkTarget})
	if err != nil {
		return err
	}
	h.Set("X-Docker-Container-Path-Stat", base64.StdEncoding.EncodeToString(b))
	return nil
}

// begin opens the root of the request's container and starts a child on it. done ends both.
func (s *Service) begin(r *http.Request, sc scope.Scope, mode string) (c Container, info *child.Info, st *stream, done func(), err error) {
	p, err := pathOf(r)
	if err != nil {
		return c, nil, nil, nil, err
	}
	if c, err = s.cfg.Containers.Lookup(r.Context(), sc.Tenant, r.PathValue("id")); err != nil {
		return c, nil, nil, nil, err
	}
	opts := child.Options{Path: p}
	j := job{mode: mode}
	if mode == child.Put {
		q := r.URL.Query()
		opts.NoOverwriteDirNonDir, _ = strconv.ParseBool(q.Get("noOverwriteDirNonDir")) // absent or odd: no
		if own, _ := strconv.ParseBool(q.Get("copyUIDGID")); own {
			opts.User = c.User
		}
		opts.ReadonlyRoot = c.ReadonlyRoot
		j.in = r.Body
	}
	for _, m := range c.Mounts {
		// Grants are used for running containers only.
		opts.Mounts = append(opts.Mounts, child.Mount{Target: m.Target, RO: m.RO, Absent: m.Grant != "" && !c.Running})
	}
	root, err := s.open(r.Context(), c, true)
	if err != nil {
		return c, nil, nil, nil, err
	}
	j.opts, j.dir, j.base = opts, root.Path(), root.Base()
	info, st, err = s.cfg.Runner.start(r.Context(), j)
	if err != nil {
		root.Close()
		return c, nil, nil, nil, notFound(err, p, c)
	}
	return c, info, st, func() {
		st.Close()
		if err := root.Close(); err != nil {
			s.cfg.Log.Warn("root of a container stays open", "container", c.ID, "err", err)
		}
	}, nil
}

func (s *Service) stat(w http.ResponseWriter, r *http.Request, sc scope.Scope) error {
	_, info, _, done, err := s.begin(r, sc, child.Stat)
	if err != nil {
		return err
	}
	defer done()
	if err := setStat(w.Header(), info); err != nil {
		return err
	}
	w.WriteHeader(http.StatusOK)
	return nil
}

func (s *Service) get(w http.ResponseWriter, r *http.Request, sc scope.Scope) error {
	c, info, st, done, err := s.begin(r, sc, child.Get)
	if err != nil {
		return err
	}
	defer done()
	if err := setStat(w.Header(), info); err != nil {
		return err
	}
	s.announce(sc, events.ActionArchivePath, c)
	return send(w, st, "application/x-tar")
}

func (s *Service) put(w http.ResponseWriter, r *http.Request, sc scope.Scope) error {
	c, _, _, done, err := s.begin(r, sc, child.Put)
	if err != nil {
		return err
	}
	done()
	s.announce(sc, events.ActionExtractToDir, c)
	w.WriteHeader(http.StatusOK)
	return nil
}

func (s *Service) export(w http.ResponseWriter, r *http.Request, sc scope.Scope) error {
	c, err := s.cfg.Containers.Lookup(r.Context(), sc.Tenant, r.PathValue("id"))
	if err != nil {
		return err
	}
	root, err := s.open(r.Context(), c, false)
	if err != nil {
		return err
	}
	defer root.Close()
	_, st, err := s.cfg.Runner.start(r.Context(), job{mode: child.Export, dir: root.Path(), base: root.Base()})
	if err != nil {
		return err
	}
	defer st.Close()
	s.announce(sc, events.ActionExport, c)
	return send(w, st, "application/octet-stream") // as Docker calls it here
}

// send copies a tar to the client. When it breaks off, the connection is cut so that the client does not take a part
// for the whole.
func send(w http.ResponseWriter, st *stream, contentType string) error {
	w.Header().Set("Content-Type", contentType)
	w.WriteHeader(http.StatusOK)
	if _, err := io.Copy(w, st); err != nil {
		panic(http.ErrAbortHandler)
	}
	return nil
}

func (s *Service) announce(sc scope.Scope, action events.Action, c Container) {
	s.cfg.Events.Publish(sc.Tenant, events.ContainerEventType, action, c.ID, c.Attributes)
}

// upper is a job on a container's writable layer as it lies on disk, compared with its image's layers.
func (s *Service) upper(mode string, c Container) job {
	j := job{mode: mode, dir: filepath.Join(s.cfg.Store, helper.KindRW, c.ID, "upper"), base: s.cfg.StoreBase}
	for _, l := range c.Layers {
		j.low = append(j.low, filepath.Join(s.cfg.Store, helper.KindLayer, l, "fs"))
	}
	return j
}

func (s *Service) changes(w http.ResponseWriter, r *http.Request, sc scope.Scope) error {
	c, err := s.cfg.Containers.Lookup(r.Context(), sc.Tenant, r.PathValue("id"))
	if err != nil {
		return err
	}
	_, st, err := s.cfg.Runner.start(r.Context(), s.upper(child.Changes, c))
	if err != nil {
		return err
	}
	defer st.Close()
	var list []child.Change
	if err := json.NewDecoder(st).Decode(&list); err != nil {
		return err
	}
	out := make([]container.FilesystemChange, len(list))
	for i, ch := range list {
		out[i] = container.FilesystemChange{Kind: container.ChangeType(ch.Kind), Path: ch.Path}
	}
	return httpapi.WriteJSON(w, http.StatusOK, out)
}

// Diff returns the changes of a container as the uncompressed tar of an image layer.
func (s *Service) Diff(ctx context.Context, c Container) (io.ReadCloser, error) {
	_, st, err := s.cfg.Runner.start(ctx, s.upper(child.Diff, c))
	if err != nil {
		return nil, err
	}
	return st, nil
}
