package main

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
)

// version is the API's version that the clients speak.
const version = "/v1.51"

// soak is the use of one server.
type soak struct {
	socket string
	seed   uint64
	http   *http.Client
	ops    *counter
}

func newSoak(socket string, seed uint64) *soak {
	dial := func(ctx context.Context, _, _ string) (net.Conn, error) {
		return (&net.Dialer{}).DialContext(ctx, "unix", socket)
	}
	return &soak{
		socket: socket, seed: seed, ops: &counter{kinds: map[string]*count{}},
		http: &http.Client{Transport: &http.Transport{DialContext: dial, MaxIdleConnsPerHost: 16}},
	}
}

// do sends a request and returns the answer, whose status is a good one. A reader is sent as a tar, other bodies as JSON.
func (s *soak) do(ctx context.Context, method, path string, body any) (*http.Response, error) {
	var r io.Reader
	kind := "application/json"
	switch b := body.(type) {
	case nil:
	case io.Reader:
		r, kind = b, "application/x-tar"
	default:
		data, err := json.Marshal(b)
		if err != nil {
			return nil, err
		}
		r = bytes.NewReader(data)
	}
	req, err := http.NewRequestWithContext(ctx, method, "http://localhost"+version+path, r)
	if err != nil {
		return nil, err
	}
	if body != nil {
		req.Header.Set("Content-Type", kind)
	}
	resp, err := s.http.Do(req)
	if err != nil {
		return nil, err
	}
	if resp.StatusCode/100 != 2 && resp.StatusCode != http.StatusNotModified {
		defer resp.Body.Close()
		data, _ := io.ReadAll(resp.Body)
		return nil, fmt.Errorf("%s %s: %s: %s", method, path, resp.Status, bytes.TrimSpace(data))
	}
	return resp, nil
}

// ask sends a request and decodes the answer.
func (s *soak) ask(ctx context.Context, method, path string, body, into any) error {
	resp, err := s.do(ctx, method, path, body)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	data, err := io.ReadAll(resp.Body)
	if err != nil || into == nil {
		return err
	}
	return json.Unmarshal(data, into)
}

// text sends a request and returns the answer's body.
func (s *soak) text(ctx context.Context, method, path string) (string, error) {
	resp, err := s.do(ctx, method, path, nil)
	if err != nil {
		return "", err
	}
	defer resp.Body.Close()
	data, err := io.ReadAll(resp.Body)
	return string(data), err
}

// hijack opens a stream. Reading from it gives what the server sends after its head.
func (s *soak) hijack(ctx context.Context, path string, body any) (net.Conn, *bufio.Reader, error) {
	conn, err := (&net.Dialer{}).DialContext(ctx, "unix", s.socket)
	if err != nil {
		return nil, nil, err
	}
	data := []byte{}
	if body != nil {
		if data, err = json.Marshal(body); err != nil {
			return nil, nil, errors.Join(err, conn.Close())
		}
	}
	if deadline, ok := ctx.Deadline(); ok {
		_ = conn.SetDeadline(deadline)
	}
	head := fmt.Sprintf("POST %s%s HTTP/1.1\r\nHost: localhost\r\nConnection: Upgrade\r\nUpgrade: tcp\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n", version, path, len(data))
	if _, err := conn.Write(append([]byte(head), data...)); err != nil {
		return nil, nil, errors.Join(err, conn.Close())
	}
	r := bufio.NewReader(conn)
	resp, err := http.ReadResponse(r, nil)
	if err != nil {
		return nil, nil, errors.Join(fmt.Errorf("%s: %w", path, err), conn.Close())
	}
	if resp.StatusCode != http.StatusSwitchingProtocols {
		text, _ := io.ReadAll(resp.Body)
		return nil, nil, errors.Join(fmt.Errorf("%s: %s: %s", path, resp.Status, bytes.TrimSpace(text)), conn.Close())
	}
	return conn, r, nil
}

// create makes a container and returns its id.
func (s *soak) create(ctx context.Context, config map[string]any) (string, error) {
	var made struct{ Id string }
	err := s.ask(ctx, "POST", "/containers/create", config, &made)
	return made.Id, err
}

// contains tells that text has want in it.
func contains(text, want string) error {
	if !strings.Contains(text, want) {
		return fmt.Errorf("got %.100q, want %q in it", text, want)
	}
	return nil
}
