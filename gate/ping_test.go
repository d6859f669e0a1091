package gate

import (
	"io"
	"net/http"
	"strings"
	"testing"
	"testing/synctest"
	"time"
)

func answer(code int, body string) *http.Response {
	return &http.Response{StatusCode: code, Header: http.Header{"Swarm": {"inactive"}}, Body: io.NopCloser(strings.NewReader(body))}
}

func TestPingsHoldForAMoment(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var p pings
		if _, ok := p.fresh("GET"); ok {
			t.Error("an answer before the engine was asked")
		}
		if _, err := p.keep("GET", answer(503, "no")); err != nil {
			t.Fatal(err)
		}
		if _, ok := p.fresh("GET"); ok {
			t.Error("a failure was kept")
		}
		if _, err := p.keep("GET", answer(200, "OK")); err != nil {
			t.Fatal(err)
		}
		for range 2 {
			resp, ok := p.fresh("GET")
			if !ok {
				t.Fatal("no answer")
			}
			if b, _ := io.ReadAll(resp.Body); string(b) != "OK" || resp.Header.Get("Swarm") != "inactive" {
				t.Errorf("answer %q %v", b, resp.Header)
			}
		}
		if _, ok := p.fresh("HEAD"); ok {
			t.Error("the answer of another method")
		}
		time.Sleep(pingAge + time.Millisecond)
		if _, ok := p.fresh("GET"); ok {
			t.Error("an old answer")
		}
	})
}
