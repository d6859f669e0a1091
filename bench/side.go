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

// Names of the sides in tables and bars.
const (
	ourName = "stockade"
	name29  = "dockerd29"
	name20  = "docker20"
)

// docker is the CLI's program.
var docker string

const image = "bench/busybox"

// side is one server under measurement.
type side struct {
	name    string
	host    string                                  // socket path
	version string                                  // of the API
	group   string                                  // control group of the server's own processes
	parent  string                                  // control group that holds the containers'
	program string                                  // name of the process that Kill kills
	again   func(ctx context.Context) error         // starts it again after that, unless somebody else does
	down    func() error                            // takes everything down
	pids    func() (server, shims []int, err error) // shims are among the server's

	since  time.Time // when the daemon was started last
	client sync.Once
	http   *http.Client
}

// cli runs the docker command line client.
func cli(ctx context.Context, s *side, args ...string) error {
	cmd := exec.CommandContext(ctx, docker, args...)
	cmd.Env = []string{"DOCKER_HOST=unix://" + s.host, "PATH=/usr/sbin:/usr/bin:/sbin:/bin", "HOME=/nonexistent"}
	var out bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &out
	if err := cmd.Run(); err != nil {
		return fmt.Errorf("docker %s: %w: %s", strings.Join(args, " "), err, out.String())
	}
	return nil
}

// negotiate takes the newest version of the API that the server speaks.
func (s *side) negotiate(ctx context.Context) error {
	resp, err := s.do(ctx, http.MethodGet, "http://docker/_ping", nil)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	if s.version = resp.Header.Get("Api-Version"); s.version == "" {
		return fmt.Errorf("the server says no API version: %s", resp.Status)
	}
	return nil
}

// do makes a request on a connection that is kept.
func (s *side) do(ctx context.Context, method, url string, body any) (*http.Response, error) {
	s.client.Do(func() {
		s.http = &http.Client{Transport: &http.Transport{
			DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
				return (&net.Dialer{}).DialContext(ctx, "unix", s.host)
			},
			MaxIdleConnsPerHost: 16, DisableCompression: true,
		}}
	})
	var r io.Reader
	if body != nil {
		b, err := json.Marshal(body)
		if err != nil {
			return nil, err
		}
		r = bytes.NewReader(b)
	}
	req, err := http.NewRequestWithContext(ctx, method, url, r)
	if err != nil {
		return nil, err
	}
	if body != nil {
		req.Header.Set("Content-Type", "application/json")
	}
	return s.http.Do(req)
}

// open makes a call of the API and returns its answer's body; an error status is an error.
func (s *side) open(ctx context.Context, method, path string, body any) (io.ReadCloser, error) {
	resp, err := s.do(ctx, method, "http://docker/v"+s.version+path, body)
	if err != nil {
		return nil, err
	}
	if resp.StatusCode >= 300 && resp.StatusCode != http.StatusNotModified {
		defer resp.Body.Close()
		text, _ := io.ReadAll(resp.Body)
		return nil, fmt.Errorf("%s %s: %s: %s", method, path, resp.Status, text)
	}
	return resp.Body, nil
}

// api makes a call of the API and reads all of its answer.
func api(ctx context.Context, s *side, method, path string, body any, into any) error {
	r, err := s.open(ctx, method, path, body)
	if err != nil {
		return err
	}
	defer r.Close()
	data, err := io.ReadAll(r)
	if err != nil {
		return err
	}
	if into != nil {
		return json.Unmarshal(data, into)
	}
	return nil
}

func create(ctx context.Context, s *side, name string, cmd ...string) (string, error) {
	return createWith(ctx, s, name, map[string]any{}, cmd...)
}

func createWith(ctx context.Context, s *side, name string, host map[string]any, cmd ...string) (string, error) {
	var made struct{ Id string }
	path := "/containers/create"
	if name != "" {
		path += "?name=" + name
	}
	err := api(ctx, s, http.MethodPost, path, map[string]any{"Image": image, "Cmd": cmd, "HostConfig": host}, &made)
	return made.Id, err
}

func start(ctx context.Context, s *side, id string) error {
	return api(ctx, s, http.MethodPost, "/containers/"+id+"/start", nil, nil)
}

func wait(ctx context.Context, s *side, id string) error {
	return api(ctx, s, http.MethodPost, "/containers/"+id+"/wait", nil, nil)
}

func remove(ctx context.Context, s *side, id string) error {
	return api(ctx, s, http.MethodDelete, "/containers/"+id+"?force=1", nil, nil)
}

// cycle is create, start, wait, remove.
func cycle(ctx context.Context, s *side) error {
	id, err := create(ctx, s, "", "true")
	for _, step := range []func(context.Context, *side, string) error{start, wait, remove} {
		if err == nil {
			err = step(ctx, s, id)
		}
	}
	return err
}

// removeAll removes every container, several at a time, also after an interrupt.
func removeAll(ctx context.Context, s *side) error {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), 3*time.Minute)
	defer cancel()
	var list []struct{ Id string }
	if err := api(ctx, s, http.MethodGet, "/containers/json?all=1", nil, &list); err != nil {
		return err
	}
	return many(len(list), func(i int) error { return remove(ctx, s, list[i].Id) })
}

// many calls f for 0…n-1, four at a time.
func many(n int, f func(i int) error) error {
	const workers = 4
	errs := make([]error, workers)
	var wg sync.WaitGroup
	for w := range workers {
		wg.Go(func() {
			for i := w; i < n; i += workers {
				if err := f(i); err != nil {
					errs[w] = errors.Join(errs[w], err)
				}
			}
		})
	}
	wg.Wait()
	return errors.Join(errs...)
}
