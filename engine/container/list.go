package container

import (
	"cmp"
	"fmt"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/docker/go-units"
	"github.com/moby/moby/api/types/container"
	"github.com/moby/moby/api/types/mount"
	"github.com/moby/moby/api/types/network"

	"stockade/api/scope"
	"stockade/engine/httpapi"
	"stockade/engine/runtime"
)

func (s *Service) handleList(w http.ResponseWriter, r *http.Request, sc scope.Scope) error {
	q := r.URL.Query()
	f, err := httpapi.ParseFilters(q.Get("filters"), listFilters...)
	if err != nil {
		return err
	}
	limit := 0
	if l := q.Get("limit"); l != "" {
		if limit, err = strconv.Atoi(l); err != nil {
			return invalid("invalid limit %q", l)
		}
	}
	o := listOptions{all: boolOf(q.Get("all")), limit: limit, size: boolOf(q.Get("size")), filters: f}
	if o.size {
		list, err := s.list(r.Context(), sc.Tenant, o)
		if err != nil {
			return err
		}
		for i := range list {
			fit(&list[i], sc.Version)
		}
		return httpapi.WriteJSON(w, http.StatusOK, list)
	}
	chosen, err := s.choose(r.Context(), sc.Tenant, o)
	if err != nil {
		return err
	}
	body := []byte{'['}
	for i, l := range chosen {
		line, err := s.encode(l, sc.Version)
		if err != nil {
			return err
		}
		if i > 0 {
			body = append(body, ',')
		}
		body = append(body, line...)
	}
	return httpapi.WriteBody(w, http.StatusOK, append(body, "]\n"...))
}

// fit leaves out what a version of the API does not know.
func fit(line *container.Summary, version string) {
	if httpapi.VersionLess(version, "1.52") {
		line.Health = nil
	}
	if httpapi.VersionLess(version, "1.48") {
		line.ImageManifestDescriptor = nil
	}
}

// sorted lists a tenant's containers, youngest first.
func (s *Service) sorted(tenant string) []*item {
	items := s.index.all(tenant)
	slices.SortFunc(items, func(a, b *item) int {
		va, vb := a.view(), b.view()
		return cmp.Or(vb.Created.Compare(va.Created), cmp.Compare(va.ID, vb.ID))
	})
	return items
}

// summary describes a container for lists.
func (s *Service) summary(v *view, size bool) container.Summary {
	out := container.Summary{
		ID: v.ID, Names: []string{"/" + v.Name}, Image: v.Config.Image, ImageID: v.Image, ImageManifestDescriptor: v.Manifest,
		Command: command(v.Path, v.Args), Created: v.Created.Unix(), Ports: []container.PortSummary{}, Labels: v.Config.Labels,
		State: v.State.Status(), Status: statusText(v, time.Now()), Mounts: mountPoints(s.cfg.Settings.Data, v.Mounts),
	}
	if out.Labels == nil {
		out.Labels = map[string]string{}
	}
	for i := range out.Mounts {
		if out.Mounts[i].Type == mount.TypeVolume {
			out.Mounts[i].Source = ""
		}
	}
	out.HostConfig.NetworkMode = string(v.Host.NetworkMode)
	out.HostConfig.Annotations = v.Host.Annotations
	out.Health = &container.HealthSummary{Status: container.NoHealthcheck}
	if v.Health != nil {
		out.Health = &container.HealthSummary{Status: v.Health.Status, FailingStreak: v.Health.FailingStreak}
	}
	var task runtime.Task
	if v.State.Running {
		task = v.Task
	}
	ns := s.network(v, task)
	out.NetworkSettings = &container.NetworkSettingsSummary{Networks: ns.Networks}
	if task != nil {
		out.Ports = ports(ns.Ports)
	}
	if size {
		out.SizeRw = s.sizeRW(v.ID)
		out.SizeRootFs = out.SizeRw + v.ImageSize
	}
	return out
}

func ports(m network.PortMap) []container.PortSummary {
	out := []container.PortSummary{}
	for p, bindings := range m {
		if len(bindings) == 0 {
			out = append(out, container.PortSummary{PrivatePort: p.Num(), Type: string(p.Proto())})
		}
		for _, b := range bindings {
			host, err := strconv.ParseUint(b.HostPort, 10, 16)
			if err != nil {
				continue
			}
			out = append(out, container.PortSummary{IP: b.HostIP, PrivatePort: p.Num(), PublicPort: uint16(host), Type: string(p.Proto())})
		}
	}
	slices.SortFunc(out, func(a, b container.PortSummary) int {
		return cmp.Or(cmp.Compare(a.PrivatePort, b.PrivatePort), cmp.Compare(a.Type, b.Type), cmp.Compare(a.PublicPort, b.PublicPort),
			a.IP.Compare(b.IP))
	})
	return out
}

// command prints a command line with arguments that contain spaces quoted.
func command(path string, args []string) string {
	if len(args) == 0 {
		return path
	}
	var quoted []string
	for _, a := range args {
		if strings.Contains(a, " ") {
			a = "'" + a + "'"
		}
		quoted = append(quoted, a)
	}
	return path + " " + strings.Join(quoted, " ")
}

// statusText is the text of "docker ps", for example "Up 5 seconds (healthy)".
func statusText(v *view, now time.Time) string {
	st := v.State
	since := func(t time.Time) string { return units.HumanDuration(now.Sub(t)) }
	switch {
	case st.Running && st.Paused:
		return fmt.Sprintf("Up %s (Paused)", since(st.StartedAt))
	case st.Running && st.Restarting:
		return fmt.Sprintf("Restarting (%d) %s ago", st.ExitCode, since(st.FinishedAt))
	case st.Running && v.Health != nil:
		h := string(v.Health.Status)
		if v.Health.Status == container.Starting {
			h = "health: starting"
		}
		return fmt.Sprintf("Up %s (%s)", since(st.StartedAt), h)
	case st.Running:
		return "Up " + since(st.StartedAt)
	case st.Removing:
		return "Removal In Progress"
	case st.Dead:
		return "Dead"
	case st.StartedAt.IsZero():
		return "Created"
	case st.FinishedAt.IsZero():
		return ""
	}
	return fmt.Sprintf("Exited (%d) %s ago", st.ExitCode, since(st.FinishedAt))
}
