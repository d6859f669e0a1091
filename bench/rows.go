package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os/exec"
	"strings"
	"sync"
	"time"
)

// docker is the CLI's program.
var docker string

const image = "bench/busybox"

func cli(ctx context.Context, s side, args ...string) error {
	cmd := exec.CommandContext(ctx, docker, args...)
	cmd.Env = []string{"DOCKER_HOST=unix://" + s.host, "PATH=/usr/sbin:/usr/bin:/sbin:/bin", "HOME=/nonexistent"}
	var out bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &out
	if err := cmd.Run(); err != nil {
		return fmt.Errorf("docker %s: %w: %s", strings.Join(args, " "), err, out.String())
	}
	return nil
}

// clients keep connections alive, one pool per server.
var clients sync.Map

func api(ctx context.Context, s side, method, path string, body any, into any) error {
	c, _ := clients.LoadOrStore(s.host, &http.Client{Transport: &http.Transport{
		DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
			return (&net.Dialer{}).DialContext(ctx, "unix", s.host)
		},
		MaxIdleConnsPerHost: 16,
	}})
	var r io.Reader
	if body != nil {
		b, err := json.Marshal(body)
		if err != nil {
			return err
		}
		r = bytes.NewReader(b)
	}
	req, err := http.NewRequestWithContext(ctx, method, "http://docker/v1.41"+path, r)
	if err != nil {
		return err
	}
	if body != nil {
		req.Header.Set("Content-Type", "application/json")
	}
	resp, err := c.(*http.Client).Do(req)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	data, err := io.ReadAll(resp.Body)
	if err != nil {
		return err
	}
	if resp.StatusCode >= 300 && resp.StatusCode != http.StatusNotModified {
		return fmt.Errorf("%s %s: %s: %s", method, path, resp.Status, data)
	}
	if into != nil {
		return json.Unmarshal(data, into)
	}
	return nil
}

func create(ctx context.Context, s side, cmd ...string) (string, error) {
	var made struct{ Id string }
	err := api(ctx, s, http.MethodPost, "/containers/create", map[string]any{"Image": image, "Cmd": cmd, "HostConfig": map[string]any{}}, &made)
	return made.Id, err
}

// cycle is create, start, wait, remove.
func cycle(ctx context.Context, s side) error {
	id, err := create(ctx, s, "true")
	if err != nil {
		return err
	}
	for _, step := range []struct{ method, path string }{
		{http.MethodPost, "/containers/" + id + "/start"},
		{http.MethodPost, "/containers/" + id + "/wait"},
		{http.MethodDelete, "/containers/" + id},
	} {
		if err := api(ctx, s, step.method, step.path, nil, nil); err != nil {
			return err
		}
	}
	return nil
}

func removeAll(ctx context.Context, s side) error {
	var list []struct{ Id string }
	if err := api(ctx, s, http.MethodGet, "/containers/json?all=1", nil, &list); err != nil {
		return err
	}
	var errs []error
	for _, c := range list {
		errs = append(errs, api(ctx, s, http.MethodDelete, "/containers/"+c.Id+"?force=1", nil, nil))
	}
	return errors.Join(errs...)
}

const target = "bench-target"

func startTarget(ctx context.Context, s side) error {
	return cli(ctx, s, "run", "-d", "--name", target, image, "sleep", "100000")
}

func rows(rounds int) []row {
	return []row{
		{
			name: "run", unit: "ms, docker run --rm busybox true", bar: 0.25, rounds: rounds,
			round: func(ctx context.Context, s side) (float64, error) {
				return timed(func() error { return cli(ctx, s, "run", "--rm", image, "true") })
			},
		},
		{
			name: "cycle", unit: "ms, create+start+wait+remove by API", rounds: rounds,
			round: func(ctx context.Context, s side) (float64, error) {
				return timed(func() error { return cycle(ctx, s) })
			},
		},
		{
			name: "cycle4", unit: "containers/s, 4 clients", bar: 4, higher: true, rounds: max(rounds/3, 3),
			round: func(ctx context.Context, s side) (float64, error) {
				const clients, each = 4, 3
				ms, err := timed(func() error {
					errs := make(chan error, clients)
					for range clients {
						go func() {
							for range each {
								if err := cycle(ctx, s); err != nil {
									errs <- err
									return
								}
							}
							errs <- nil
						}()
					}
					var all error
					for range clients {
						all = errors.Join(all, <-errs)
					}
					return all
				})
				return clients * each * 1000 / ms, err
			},
		},
		{
			name: "exec", unit: "ms, docker exec true", bar: 0.35, rounds: rounds, setup: startTarget, finish: removeAll,
			round: func(ctx context.Context, s side) (float64, error) {
				return timed(func() error { return cli(ctx, s, "exec", target, "true") })
			},
		},
		{
			name: "ping", unit: "ms, GET /_ping", bar: 1.3, rounds: 40 * rounds,
			round: func(ctx context.Context, s side) (float64, error) {
				return timed(func() error { return api(ctx, s, http.MethodGet, "/_ping", nil, nil) })
			},
		},
		{
			name: "list", unit: "ms, list of 200 created containers", bar: 0.2, rounds: rounds,
			setup: func(ctx context.Context, s side) error {
				for range 200 {
					if _, err := create(ctx, s, "true"); err != nil {
						return err
					}
				}
				return nil
			},
			finish: removeAll,
			round: func(ctx context.Context, s side) (float64, error) {
				return timed(func() error { return api(ctx, s, http.MethodGet, "/containers/json?all=1", nil, nil) })
			},
		},
		{
			name: "idle", unit: "MB PSS, all processes of the server", bar: 0.7, rounds: 3,
			setup: func(context.Context, side) error { time.Sleep(2 * time.Second); return nil },
			round: func(_ context.Context, s side) (float64, error) { return pss(s.pids()) },
		},
		{
			name: "running", unit: "MB PSS per running container, all processes of the server, idle taken off", bar: 0.25, rounds: 1,
			round: func(ctx context.Context, s side) (float64, error) {
				const n = 10
				before, err := pss(s.pids())
				if err != nil {
					return 0, err
				}
				for range n {
					id, err := create(ctx, s, "sleep", "100000")
					if err == nil {
						err = api(ctx, s, http.MethodPost, "/containers/"+id+"/start", nil, nil)
					}
					if err != nil {
						return 0, err
					}
				}
				time.Sleep(2 * time.Second)
				after, err := pss(s.pids())
				return (after - before) / n, errors.Join(err, removeAll(ctx, s))
			},
		},
	}
}
