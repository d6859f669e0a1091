package archive

import (
	"context"
	"encoding/json"
	"io"
	"net/http"
	"slices"
	"strconv"
	"strings"

	"github.com/containerd/errdefs"
	"github.com/moby/moby/api/types/container"
	"github.com/moby/moby/api/types/events"
	"github.com/moby/moby/api/types/network"

	"stockade/api/scope"
	"stockade/engine/httpapi"
)

// Commit describes an image to be made of a container.
type Commit struct {
	Container string // id
	Base      string // id of the container's image; its layers and history come first
	Repo, Tag string // empty Repo: no name
	Comment   string
	Author    string
	Config    *container.Config // of the new image
}

// Images is what this package needs of package image.
type Images interface {
	// Commit makes an image of another one and one more layer, an uncompressed tar, and returns its id.
	Commit(ctx context.Context, tenant string, c Commit, layer io.Reader) (string, error)
}

func (s *Service) commit(w http.ResponseWriter, r *http.Request, sc scope.Scope) error {
	q := r.URL.Query()
	c, err := s.cfg.Containers.Lookup(r.Context(), sc.Tenant, q.Get("container"))
	if err != nil {
		return err
	}
	var config *container.Config
	if err := httpapi.ReadJSON(r, &config); err != nil {
		return err
	}
	if config == nil {
		config = &container.Config{}
	}
	if err := applyChanges(config, q["changes"]); err != nil {
		return err
	}
	inherit(config, c.Config)
	if pause, err := strconv.ParseBool(q.Get("pause")); pause || err != nil { // absent: paused
		thaw, err := s.cfg.Containers.Freeze(r.Context(), sc.Tenant, c.ID)
		if err != nil {
			return err
		}
		defer thaw()
	}
	layer, err := s.Diff(r.Context(), c)
	if err != nil {
		return err
	}
	defer layer.Close()
	spec := Commit{
		Container: c.ID, Base: c.Image, Repo: q.Get("repo"), Tag: q.Get("tag"), Comment: q.Get("comment"), Author: q.Get("author"),
		Config: config,
	}
	id, err := s.cfg.Images.Commit(r.Context(), sc.Tenant, spec, layer)
	if err != nil {
		return err
	}
	attributes := map[string]string{"comment": spec.Comment, "imageID": id, "imageRef": spec.Repo}
	for k, v := range c.Attributes {
		attributes[k] = v
	}
	s.cfg.Events.Publish(sc.Tenant, events.ContainerEventType, events.ActionCommit, c.ID, attributes)
	return httpapi.WriteJSON(w, http.StatusCreated, container.CommitResponse{ID: id})
}

// inherit fills what an image's configuration leaves open from the container's, as docker commit does.
func inherit(c, from *container.Config) {
	if from == nil {
		return
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
}

func fill[K comparable, V any](m *map[K]V, from map[K]V) {
	for k, v := range from {
		if *m == nil {
			*m = map[K]V{}
		}
		if _, ok := (*m)[k]; !ok {
			(*m)[k] = v
		}
	}
}

// applyChanges carries out the Dockerfile instructions that docker commit --change knows.
func applyChanges(c *container.Config, changes []string) error {
	for _, change := range changes {
		for line := range strings.Lines(change) {
			if line = strings.TrimSpace(line); line == "" || strings.HasPrefix(line, "#") {
				continue
			}
			word, rest, _ := strings.Cut(line, " ")
			if err := instruction(c, strings.ToUpper(word), strings.TrimSpace(rest)); err != nil {
				return httpapi.NewError(errdefs.ErrInvalidArgument, "change %q: %v", line, err)
			}
		}
	}
	return nil
}

func instruction(c *container.Config, word, rest string) error {
	if rest == "" {
		return httpapi.NewError(errdefs.ErrInvalidArgument, "%s requires an argument", word)
	}
	switch word {
	case "CMD":
		c.Cmd = command(rest)
	case "ENTRYPOINT":
		c.Entrypoint = command(rest)
	case "USER":
		c.User = rest
	case "WORKDIR":
		c.WorkingDir = rest
	case "STOPSIGNAL":
		c.StopSignal = rest
	case "ONBUILD":
		c.OnBuild = append(c.OnBuild, rest)
	case "ENV", "LABEL":
		pairs, err := assignments(rest)
		if err != nil {
			return err
		}
		for _, p := range pairs {
			if word == "LABEL" {
				if c.Labels == nil {
					c.Labels = map[string]string{}
				}
				c.Labels[p[0]] = p[1]
				continue
			}
			c.Env = slices.DeleteFunc(c.Env, func(e string) bool { return strings.HasPrefix(e, p[0]+"=") })
			c.Env = append(c.Env, p[0]+"="+p[1])
		}
	case "EXPOSE":
		for _, f := range strings.Fields(rest) {
			port, err := network.ParsePort(f)
			if err != nil {
				return err
			}
			fill(&c.ExposedPorts, network.PortSet{port: {}})
		}
	case "VOLUME":
		list := strings.Fields(rest)
		if exec, ok := execForm(rest); ok {
			list = exec
		}
		for _, v := range list {
			fill(&c.Volumes, map[string]struct{}{v: {}})
		}
	default:
		return httpapi.NewError(errdefs.ErrInvalidArgument, "%s is not a valid change command", word)
	}
	return nil
}

// execForm reads a JSON array of words.
func execForm(s string) ([]string, bool) {
	var list []string
	if !strings.HasPrefix(s, "[") || json.Unmarshal([]byte(s), &list) != nil {
		return nil, false
	}
	return list, true
}

// command reads either form of CMD and ENTRYPOINT.
func command(s string) []string {
	if list, ok := execForm(s); ok {
		return list
	}
	return []string{"/bin/sh", "-c", s}
}

// assignments reads KEY=value…, values quoted or not, or the old form KEY value.
func assignments(s string) ([][2]string, error) {
	words, err := split(s)
	if err != nil {
		return nil, err
	}
	if !strings.Contains(words[0], "=") {
		key, value, ok := strings.Cut(s, " ")
		if !ok {
			return nil, httpapi.NewError(errdefs.ErrInvalidArgument, "%q has no value", s)
		}
		return [][2]string{{key, strings.TrimSpace(value)}}, nil
	}
	var out [][2]string
	for _, w := range words {
		key, value, ok := strings.Cut(w, "=")
		if !ok || key == "" {
			return nil, httpapi.NewError(errdefs.ErrInvalidArgument, "%q is not KEY=value", w)
		}
		out = append(out, [2]string{key, value})
	}
	return out, nil
}

// split separates words at blanks outside of quotes, and removes quotes and escapes.
func split(s string) ([]string, error) {
	var words []string
	var word strings.Builder
	inside, quote, escaped := false, rune(0), false
	for _, r := range s {
		switch {
		case escaped:
			word.WriteRune(r)
			escaped = false
		case r == '\\' && quote != '\'':
			escaped, inside = true, true
		case quote != 0 && r == quote:
			quote = 0
		case quote == 0 && (r == '"' || r == '\''):
			quote, inside = r, true
		case quote == 0 && (r == ' ' || r == '\t'):
			if inside {
				words = append(words, word.String())
				word.Reset()
				inside = false
			}
		default:
			word.WriteRune(r)
			inside = true
		}
	}
	if quote != 0 || escaped {
		return nil, httpapi.NewError(errdefs.ErrInvalidArgument, "unfinished quote or escape")
	}
	if inside {
		words = append(words, word.String())
	}
	return words, nil
}
