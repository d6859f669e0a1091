package gate

import (
	"bytes"
	"io"
	"net/http"
	"sync"
	"time"
)

// pingAge is how long an engine's answer to a ping speaks for it. Clients ping before every command; the engine is asked
// at most that often.
const pingAge = time.Second

// pings remembers the engine's last good answers to pings, by method.
type pings struct {
	mu   sync.Mutex
	last map[string]pong
}

type pong struct {
	at     time.Time
	header http.Header
	body   []byte
}

// fresh returns an answer that still holds.
func (p *pings) fresh(method string) (*http.Response, bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	a, ok := p.last[method]
	if !ok || time.Since(a.at) > pingAge {
		return nil, false
	}
	return a.response(), true
}

func (a pong) response() *http.Response {
	return &http.Response{StatusCode: http.StatusOK, Header: a.header.Clone(), Body: io.NopCloser(bytes.NewReader(a.body)), ContentLength: int64(len(a.body))}
}

// keep remembers a good answer, and gives it back to be sent; any other passes unchanged.
func (p *pings) keep(method string, resp *http.Response) (*http.Response, error) {
	if resp.StatusCode != http.StatusOK {
		return resp, nil
	}
	body, err := io.ReadAll(io.LimitReader(resp.Body, 1024))
	if err != nil {
		return nil, err
	}
	a := pong{at: time.Now(), header: resp.Header, body: body}
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.last == nil {
		p.last = map[string]pong{}
	}
	p.last[method] = a
	return a.response(), nil
}
