//go:build root

package model

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"sync"
	"testing"
	"time"

	"stockade/test/harness"
)

// outcome is what a client knows of a request.
type outcome string

const (
	acked   outcome = "acknowledged"
	refused outcome = "refused" // 4xx: nothing happened
	unknown outcome = "unknown" // no answer, or 5xx
)

type answer struct {
	outcome
	status int
	body   []byte
	err    error
}

func (a answer) String() string {
	text := fmt.Sprintf("%s %d", a.outcome, a.status)
	if a.err != nil {
		return text + " " + a.err.Error()
	}
	if a.outcome != acked {
		text += " " + strings.TrimSpace(string(a.body))
	}
	return text
}

func (a answer) into(t testing.TB, v any) bool {
	if err := json.Unmarshal(a.body, v); err != nil {
		t.Errorf("answer %q: %v", a.body, err)
		return false
	}
	return true
}

// api is one client's connections.
type api struct{ http.Client }

func newAPI(t testing.TB, s *harness.Server) *api {
	tr := &http.Transport{DialContext: func(context.Context, string, string) (net.Conn, error) { return s.Dial(s.User) }}
	t.Cleanup(tr.CloseIdleConnections)
	return &api{http.Client{Transport: tr, Timeout: harness.Patience}}
}

// call sends one request, once.
func (a *api) call(method, path string, body any) answer {
	var r io.Reader
	if body != nil {
		data, err := json.Marshal(body)
		if err != nil {
			return answer{outcome: unknown, err: err}
		}
		// Without GetBody the transport does not repeat a request on its own.
		r = io.NopCloser(bytes.NewReader(data))
	}
	req, err := http.NewRequest(method, "http://localhost/v1.47"+path, r)
	if err != nil {
		return answer{outcome: unknown, err: err}
	}
	if body != nil {
		req.Header.Set("Content-Type", "application/json")
	}
	resp, err := a.Do(req)
	if err != nil {
		return answer{outcome: unknown, err: err}
	}
	defer resp.Body.Close()
	data, err := io.ReadAll(resp.Body)
	out := answer{outcome: acked, status: resp.StatusCode, body: data, err: err}
	switch {
	case err != nil || resp.StatusCode >= 500:
		out.outcome = unknown
	case resp.StatusCode >= 400:
		out.outcome = refused
	}
	return out
}

// get asks until there is an answer.
func (a *api) get(t testing.TB, path string, into any) (found bool) {
	t.Helper()
	harness.Poll(t, "an answer to "+path, func() (string, bool) {
		r := a.call("GET", path, nil)
		if r.outcome == unknown {
			return r.String(), false
		}
		found = r.outcome == acked
		return "", !found || r.into(t, into)
	})
	return found
}

// journal is what happened, in order.
type journal struct {
	mu    sync.Mutex
	began time.Time
	lines []string
}

func (j *journal) add(format string, args ...any) {
	j.mu.Lock()
	defer j.mu.Unlock()
	j.lines = append(j.lines, fmt.Sprintf("%8.3f ", time.Since(j.began).Seconds())+fmt.Sprintf(format, args...))
}

// text is the journal from a line on.
func (j *journal) text(from int) string {
	j.mu.Lock()
	defer j.mu.Unlock()
	return "the journal:\n" + strings.Join(j.lines[from:], "\n")
}
