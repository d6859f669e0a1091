package archive

import (
	"context"
	"encoding/json"
	"io"
	"net/http"
	"slices"
	"strconv"
	"strings"

	"github.com/distribution/reference"
	dockerspec "github.com/moby/docker-image-spec/specs-go/v1"
	"github.com/moby/moby/api/types/container"
	"github.com/moby/moby/api/types/events"

	"stockade/api/scope"
	"stockade/engine/httpapi"
	"stockade/internal/failpoint"
)

// Commit describes an image to be made of a container.
type Commit struct {
	Parent    string // id of the container's image
	Config    dockerspec.DockerOCIImageConfig
	Author    string
	Comment   string
	CreatedBy string // the container's command, for the history
	Repo, Tag string // a name for the image, or empty
}

// Images is what this package needs of package image.
type Images interface {
	// Commit makes an image of another one and one more layer, an uncompressed tar, and returns its id.
	Commit(ctx context.Context, tenant string, c Commit, layer io.Reader) (string, error)
	// ApplyChanges carries out Dockerfile instructions, as docker commit --change gives them.
	ApplyChanges(config *dockerspec.DockerOCIImageConfig, changes []string) error
}

func (s *Service) commit(w http.ResponseWriter, r *http.Request, sc scope.Scope) error {
	q := r.URL.Query()
	c, err := s.cfg.Containers.Lookup(r.Context(), sc.Tenant, q.Get("container"))
	if err != nil {
		return err
	}
	spec := Commit{Parent: c.Image, Repo: q.Get("repo"), Tag: q.Get("tag"), Comment: q.Get("comment"), Author: q.Get("author")}
	// The body is null or a configuration; an image's has the fields that both have.
	if err := httpapi.ReadJSON(r, &spec.Config); err != nil {
		return err
	}
	if err := s.cfg.Images.ApplyChanges(&spec.Config, q["changes"]); err != nil {
		return err
	}
	if c.Config != nil {
		if err := inherit(&spec.Config, c.Config); err != nil {
			return err
		}
		spec.CreatedBy = strings.Join(append(slices.Clone(c.Config.Entrypoint), c.Config.Cmd...), " ")
	}
	if pause, err := strconv.ParseBool(q.Get("pause")); pause || err != nil { // absent: paused
		thaw, err := s.cfg.Containers.Freeze(r.Context(), sc.Tenant, c.ID)
		if err != nil {
			return err
		}
		defer thaw()
		failpoint.Hit("container.commit.frozen")
	}
	layer, err := s.Diff(r.Context(), c)
	if err != nil {
		return err
	}
	defer layer.Close()
	id, err := s.cfg.Images.Commit(r.Context(), sc.Tenant, spec, layer)
	if err != nil {
		return err
	}
	failpoint.Hit("container.commit.done")
	attributes := map[string]string{"comment": spec.Comment, "imageID": id}
	if spec.Repo != "" {
		attributes["imageRef"] = familiar(spec.Repo, spec.Tag)
	}
	for k, v := range c.Attributes {
		attributes[k] = v
	}
	s.cfg.Events.Publish(sc.Tenant, events.ContainerEventType, events.ActionCommit, c.ID, attributes)
	return httpapi.WriteJSON(w, http.StatusCreated, container.CommitResponse{ID: id})
}

// familiar is a name as people write it.
func familiar(repo, tag string) string {
	named, err := reference.ParseNormalizedNamed(repo)
	if err != nil {
		return repo
	}
	if tagged, err := reference.WithTag(named, tag); err == nil {
		named = tagged
	}
	return reference.FamiliarString(reference.TagNameOnly(named))
}

// inherit fills what an image's configuration leaves open from the container's, as docker commit does.
func inherit(c *dockerspec.DockerOCIImageConfig, of *container.Config) error {
	raw, err := json.Marshal(of)
	if err != nil {
		return err
	}
	var from dockerspec.DockerOCIImageConfig
	if err := json.Unmarshal(raw, &from); err != nil {
		return err
	}
	if c.User == "" {
		c.User = from.User
	}
	if c.WorkingDir == "" {
		c.WorkingDir = from.WorkingDir
	}
	if c.StopSignal == "" {
		c.StopSignal = from.StopSignal
	}
	if c.Healthcheck == nil {
		c.Healthcheck = from.Healthcheck
	}
	if len(c.Shell) == 0 {
		c.Shell = from.Shell
	}
	if len(c.OnBuild) == 0 {
		c.OnBuild = from.OnBuild
	}
	if len(c.Entrypoint) == 0 {
		if len(c.Cmd) == 0 {
			c.Cmd = from.Cmd
		}
		if c.Entrypoint == nil {
			c.Entrypoint = from.Entrypoint
		}
	}
	for _, env := range from.Env {
		key, _, _ := strings.Cut(env, "=")
		if !slices.ContainsFunc(c.Env, func(e string) bool { k, _, _ := strings.Cut(e, "="); return k == key }) {
			c.Env = append(c.Env, env)
		}
	}
	fill(&c.Labels, from.Labels)
	fill(&c.Volumes, from.Volumes)
	fill(&c.ExposedPorts, from.ExposedPorts)
	return nil
}

func fill[V any](m *map[string]V, from map[string]V) {
	for k, v := range from {
		if *m == nil {
			*m = map[string]V{}
		}
		if _, ok := (*m)[k]; !ok {
			(*m)[k] = v
		}
	}
}
