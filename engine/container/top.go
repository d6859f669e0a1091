package container

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"os"
	"os/exec"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/containerd/errdefs"
	"github.com/moby/moby/api/types/container"
	"github.com/moby/moby/api/types/events"

	"stockade/api/scope"
	"stockade/engine/httpapi"
)

func (s *Service) handleTop(w http.ResponseWriter, r *http.Request, sc scope.Scope) error {
	args := r.URL.Query().Get("ps_args")
	if args == "" {
		args = "-ef"
	}
	c, err := s.index.find(sc.Tenant, r.PathValue("id"))
	if err != nil {
		return err
	}
	task, v, err := c.running()
	if err != nil {
		return err
	}
	pids, err := task.Pids(r.Context())
	if err != nil {
		return fmt.Errorf("processes of the container: %w", err)
	}
	resp, err := top(r.Context(), args, pids)
	if err != nil {
		return err
	}
	s.publish(v, events.ActionTop)
	return httpapi.WriteJSON(w, http.StatusOK, resp)
}

// top lists processes as the host's ps prints them; a host without ps has the columns of "ps -ef" only.
func top(ctx context.Context, args string, pids []int) (*container.TopResponse, error) {
	path := ""
	for _, p := range []string{"/bin/ps", "/usr/bin/ps"} {
		if _, err := os.Stat(p); err == nil {
			path = p
			break
		}
	}
	if path == "" {
		if args != "-ef" {
			return nil, httpapi.NewError(errdefs.ErrNotImplemented, "this host has no ps: only the default columns are available")
		}
		return topFromProc("/proc", pids)
	}
	list, err := parsePSArgs(args)
	if err != nil {
		return nil, err
	}
	// Some options, such as f, exclude naming processes; then all are read.
	out, err := ps(ctx, path, append(list, "-q"+joinPids(pids)))
	if err != nil {
		out, err = ps(ctx, path, list)
	}
	if err != nil {
		return nil, err
	}
	return parsePS(out, pids)
}

// ps runs the host's ps, as Docker does: what it prints of other processes is thrown away by parsePS.
func ps(ctx context.Context, path string, args []string) ([]byte, error) {
	ctx, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	cmd := exec.CommandContext(ctx, path, args...)
	cmd.Env = []string{}
	out, err := cmd.Output()
	var exit *exec.ExitError
	if errors.As(err, &exit) {
		line, _, _ := strings.Cut(string(exit.Stderr), "\n") // what follows is ps's help
		return nil, invalid("ps: %s", line)
	}
	if err != nil {
		return nil, fmt.Errorf("ps: %w", err)
	}
	return out, nil
}

func parsePSArgs(args string) ([]string, error) {
	list := strings.Fields(args)
	for _, a := range list {
		// An output column named otherwise than "PID" would let lines of foreign processes through.
		if i := strings.Index(a, "="); i >= 0 && !strings.HasPrefix(a, "--sort=") {
			return nil, invalid("specifying %q is not allowed: columns cannot be renamed", a)
		}
	}
	return list, nil
}

func joinPids(pids []int) string {
	list := make([]string, len(pids))
	for i, p := range pids {
		list[i] = strconv.Itoa(p)
	}
	return strings.Join(list, ",")
}

// parsePS keeps the lines of ps that belong to the given processes.
func parsePS(output []byte, pids []int) (*container.TopResponse, error) {
	resp := &container.TopResponse{Titles: []string{}, Processes: [][]string{}}
	lines := strings.Split(string(output), "\n")
	resp.Titles = strings.Fields(lines[0])
	column := slices.Index(resp.Titles, "PID")
	if column < 0 {
		return nil, invalid("Couldn't find PID field in ps output")
	}
	kept := false // the line before; threads follow with "-" for the pid
	for _, line := range lines[1:] {
		f := strings.Fields(line)
		if len(f) <= column {
			continue
		}
		if f[column] == "-" {
			if kept {
				resp.Processes = append(resp.Processes, process(f, len(resp.Titles)))
			}
			continue
		}
		pid, err := strconv.Atoi(f[column])
		if err != nil {
			return nil, invalid("Unexpected pid '%s': %s", f[column], err)
		}
		if kept = slices.Contains(pids, pid); kept {
			resp.Processes = append(resp.Processes, process(f, len(resp.Titles)))
		}
	}
	return resp, nil
}

// process joins what belongs to the last column.
func process(f []string, columns int) []string {
	if len(f) <= columns {
		return f
	}
	return append(slices.Clone(f[:columns-1]), strings.Join(f[columns-1:], " "))
}
