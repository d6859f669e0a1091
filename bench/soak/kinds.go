package main

import (
	"archive/tar"
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"strings"

	"stockade/internal/demoimage"
)

// target runs all the time, and is what clients exec in, copy to and look at.
const (
	target = "soak-target"
	image  = "busybox"
)

// prepare loads the image and starts the target, which writes a line each tenth of a second.
func (s *soak) prepare(ctx context.Context) error {
	var archive bytes.Buffer
	if err := demoimage.WriteDemo(&archive); err != nil {
		return err
	}
	if err := s.ask(ctx, "POST", "/images/load", &archive, nil); err != nil {
		// The answer is a sequence of JSON values, which ask does not read: only a status is an error.
		var syntax *json.SyntaxError
		if !errors.As(err, &syntax) {
			return err
		}
	}
	if _, err := s.do(ctx, "POST", "/containers/create?name="+target, map[string]any{
		"Image": image, "Cmd": []string{"sh", "-c", "while :; do echo line; usleep 100000; done"},
		"HostConfig": map[string]any{"LogConfig": map[string]any{"Type": "json-file", "Config": map[string]string{"max-size": "1m"}}},
	}); err != nil {
		return err
	}
	return s.ask(ctx, "POST", "/containers/"+target+"/start", nil, nil)
}

// finish removes what prepare made.
func (s *soak) finish(ctx context.Context) error {
	return s.ask(ctx, "DELETE", "/containers/"+target+"?force=1", nil, nil)
}

var kinds = []kind{
	{"run --rm", 6, (*person).run},
	{"detached", 4, (*person).detached},
	{"exec", 6, (*person).exec},
	{"volume", 2, (*person).volume},
	{"cp", 3, (*person).copy},
	{"commit", 1, (*person).commit},
	{"events", 2, (*person).events},
	{"stats", 1, (*person).stats},
	{"logs -f", 2, (*person).follow},
	{"ps flood", 2, (*person).flood},
}

// attached runs a container as "docker run --rm" does and returns its output.
func (c *person) attached(ctx context.Context, img string, binds []string, cmd ...string) (string, error) {
	id, err := c.create(ctx, map[string]any{
		"Image": img, "Cmd": cmd, "AttachStdout": true, "AttachStderr": true,
		"HostConfig": map[string]any{"AutoRemove": true, "Binds": binds},
	})
	if err != nil {
		return "", err
	}
	conn, r, err := c.hijack(ctx, "/containers/"+id+"/attach?stream=1&stdout=1&stderr=1", nil)
	if err != nil {
		return "", err
	}
	defer conn.Close()
	ended := make(chan error, 1)
	waiting, err := c.do(ctx, "POST", "/containers/"+id+"/wait?condition=removed", nil)
	if err != nil {
		return "", err
	}
	go func() {
		defer waiting.Body.Close()
		var how struct{ StatusCode int }
		err := json.NewDecoder(waiting.Body).Decode(&how)
		if err == nil && how.StatusCode != 0 {
			err = fmt.Errorf("exit code %d", how.StatusCode)
		}
		ended <- err
	}()
	if err := c.ask(ctx, "POST", "/containers/"+id+"/start", nil, nil); err != nil {
		return "", err
	}
	out, err := io.ReadAll(r)
	return string(out), errors.Join(err, <-ended)
}

func (c *person) run(ctx context.Context) error {
	out, err := c.attached(ctx, image, nil, "echo", "hello")
	if err != nil {
		return err
	}
	return contains(out, "hello")
}

// detached is a service's life: start with a published port, look at the log, stop, remove.
func (c *person) detached(ctx context.Context) error {
	id, err := c.create(ctx, map[string]any{
		"Image": image, "Cmd": []string{"sh", "-c", "trap 'exit 0' TERM; echo ready; while :; do sleep 0.1; done"},
		"ExposedPorts": map[string]any{"80/tcp": map[string]any{}},
		"HostConfig":   map[string]any{"PortBindings": map[string]any{"80/tcp": []map[string]string{{"HostIp": "127.0.0.1"}}}, "Memory": 32 << 20},
	})
	if err != nil {
		return err
	}
	path := "/containers/" + id
	err = c.ask(ctx, "POST", path+"/start", nil, nil)
	if err == nil {
		err = c.firstLine(ctx, path+"/logs?stdout=1&follow=1", "ready")
	}
	if err == nil {
		err = c.ask(ctx, "POST", path+"/stop?t=10", nil, nil)
	}
	var now struct{ State struct{ ExitCode int } }
	if err == nil {
		err = c.ask(ctx, "GET", path+"/json", nil, &now)
	}
	if err == nil && now.State.ExitCode != 0 {
		err = fmt.Errorf("exit code %d", now.State.ExitCode)
	}
	return errors.Join(err, c.ask(ctx, "DELETE", path+"?force=1", nil, nil))
}

// firstLine reads from a stream until want was in it, and goes away.
func (c *person) firstLine(ctx context.Context, path, want string) error {
	resp, err := c.do(ctx, "GET", path, nil)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	r := bufio.NewReader(resp.Body)
	for {
		line, err := r.ReadString('\n')
		if strings.Contains(line, want) {
			return nil
		}
		if err != nil {
			return fmt.Errorf("%s: %w", path, err)
		}
	}
}

func (c *person) exec(ctx context.Context) error {
	var made struct{ Id string }
	err := c.ask(ctx, "POST", "/containers/"+target+"/exec", map[string]any{"Cmd": []string{"sh", "-c", "echo inside; exit 3"}, "AttachStdout": true}, &made)
	if err != nil {
		return err
	}
	conn, r, err := c.hijack(ctx, "/exec/"+made.Id+"/start", map[string]any{})
	if err != nil {
		return err
	}
	defer conn.Close()
	out, err := io.ReadAll(r)
	if err != nil {
		return err
	}
	var how struct{ ExitCode int }
	if err := c.ask(ctx, "GET", "/exec/"+made.Id+"/json", nil, &how); err != nil {
		return err
	}
	if how.ExitCode != 3 {
		return fmt.Errorf("exit code %d, want 3", how.ExitCode)
	}
	return contains(string(out), "inside")
}

// volume writes to a volume in one container and reads it in another.
func (c *person) volume(ctx context.Context) error {
	if err := c.ask(ctx, "POST", "/volumes/create", map[string]any{"Name": c.name}, nil); err != nil {
		return err
	}
	binds := []string{c.name + ":/v"}
	_, err := c.attached(ctx, image, binds, "sh", "-c", "echo kept >/v/file")
	var out string
	if err == nil {
		if out, err = c.attached(ctx, image, binds, "cat", "/v/file"); err == nil {
			err = contains(out, "kept")
		}
	}
	return errors.Join(err, c.ask(ctx, "DELETE", "/volumes/"+c.name, nil, nil))
}

// copy puts a file into the target and takes it out again.
func (c *person) copy(ctx context.Context) error {
	var in bytes.Buffer
	w := tar.NewWriter(&in)
	body := bytes.Repeat([]byte(c.name), 4096)
	err := w.WriteHeader(&tar.Header{Name: c.name, Typeflag: tar.TypeReg, Mode: 0o644, Size: int64(len(body))})
	if err == nil {
		_, err = w.Write(body)
	}
	if err = errors.Join(err, w.Close()); err != nil {
		return err
	}
	if err := c.ask(ctx, "PUT", "/containers/"+target+"/archive?path=/tmp", &in, nil); err != nil {
		return err
	}
	resp, err := c.do(ctx, "GET", "/containers/"+target+"/archive?path=/tmp/"+c.name, nil)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	r := tar.NewReader(resp.Body)
	if _, err := r.Next(); err != nil {
		return err
	}
	got, err := io.ReadAll(r)
	if err == nil && !bytes.Equal(got, body) {
		err = errors.New("the copy is another file")
	}
	_, rest := io.Copy(io.Discard, resp.Body)
	return errors.Join(err, rest)
}

// commit makes an image of a container that wrote a file, runs it and removes it.
func (c *person) commit(ctx context.Context) error {
	id, err := c.create(ctx, map[string]any{"Image": image, "Cmd": []string{"sh", "-c", "echo made >/file"}})
	if err != nil {
		return err
	}
	path := "/containers/" + id
	waiting, err := c.do(ctx, "POST", path+"/wait?condition=next-exit", nil)
	if err == nil {
		err = c.ask(ctx, "POST", path+"/start", nil, nil)
		_, werr := io.Copy(io.Discard, waiting.Body)
		err = errors.Join(err, werr, waiting.Body.Close())
	}
	repo := "soak/" + c.name
	if err == nil {
		err = c.ask(ctx, "POST", "/commit?container="+id+"&repo="+repo, map[string]any{}, nil)
	}
	if err == nil {
		var out string
		if out, err = c.attached(ctx, repo, nil, "cat", "/file"); err == nil {
			err = contains(out, "made")
		}
		err = errors.Join(err, c.ask(ctx, "DELETE", "/images/"+repo, nil, nil))
	}
	return errors.Join(err, c.ask(ctx, "DELETE", path+"?force=1", nil, nil))
}

// events listens until something happens, which it brings about itself.
func (c *person) events(ctx context.Context) error {
	resp, err := c.do(ctx, "GET", "/events?filters="+`%7B%22event%22%3A%5B%22create%22%5D%2C%22type%22%3A%5B%22volume%22%5D%7D`, nil)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	name := c.name + "-event"
	if err := c.ask(ctx, "POST", "/volumes/create", map[string]any{"Name": name}, nil); err != nil {
		return err
	}
	for dec := json.NewDecoder(resp.Body); ; {
		var e struct{ Actor struct{ ID string } }
		if err := dec.Decode(&e); err != nil {
			return errors.Join(fmt.Errorf("events: %w", err), c.ask(ctx, "DELETE", "/volumes/"+name, nil, nil))
		}
		if e.Actor.ID == name {
			return c.ask(ctx, "DELETE", "/volumes/"+name, nil, nil)
		}
	}
}

// stats watches the target for two readings.
func (c *person) stats(ctx context.Context) error {
	resp, err := c.do(ctx, "GET", "/containers/"+target+"/stats", nil)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	dec := json.NewDecoder(resp.Body)
	for range 2 {
		var st struct {
			MemoryStats struct{ Usage int64 } `json:"memory_stats"`
		}
		if err := dec.Decode(&st); err != nil {
			return err
		}
		if st.MemoryStats.Usage == 0 {
			return errors.New("no memory is used")
		}
	}
	return nil
}

func (c *person) follow(ctx context.Context) error {
	return c.firstLine(ctx, "/containers/"+target+"/logs?stdout=1&follow=1&tail=1", "line")
}

// flood asks for everything, many times.
func (c *person) flood(ctx context.Context) error {
	for range 10 {
		for _, path := range []string{"/containers/json?all=1", "/images/json", "/volumes", "/containers/" + target + "/json", "/info", "/networks"} {
			if _, err := c.text(ctx, "GET", path); err != nil {
				return err
			}
		}
	}
	return nil
}
