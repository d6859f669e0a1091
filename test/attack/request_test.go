//go:build root

package attack

import (
	"bufio"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"strings"
	"testing"

	"stockade/test/harness"
)

func readResponse(r *bufio.Reader) (harness.Response, error) {
	resp, err := http.ReadResponse(r, nil)
	if err != nil {
		return harness.Response{}, err
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	return harness.Response{Status: resp.StatusCode, Header: resp.Header, Body: string(body)}, err
}

// field takes one text out of a JSON object.
func field(t *testing.T, body, name string) string {
	t.Helper()
	var m map[string]any
	if err := json.Unmarshal([]byte(body), &m); err != nil {
		t.Fatalf("%s: %v", body, err)
	}
	text, ok := m[name].(string)
	if !ok {
		t.Fatalf("no %s in %s", name, body)
	}
	return text
}

// objects are all containers and volumes that there are.
func objects(t *testing.T, s *harness.Server) string {
	t.Helper()
	return s.Must(t, "ps", "-aq", "--no-trunc") + "\n" + s.Must(t, "volume", "ls", "-q") + "\n" + s.Must(t, "image", "ls", "-aq")
}

const (
	wanted  = `{"Image":"busybox","HostConfig":{"Privileged":true}}`
	allowed = `{"Image":"busybox","HostConfig":{"Memory":16777216}}`
)

// post makes the text of a request with a body; headers end with \r\n.
func post(target, body, headers string) string {
	return fmt.Sprintf("POST %s HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n%sContent-Length: %d\r\n\r\n%s", target, headers, len(body), body)
}

// T-201, T-202, T-203, T-205: each of these could be read in two ways, or is a way around another check. None has any
// effect. The control is a request of the same shape that has.
func TestRequestsWithTwoReadings(t *testing.T) {
	s := harness.Get(t)
	id := s.Must(t, "create", "--name", "attack-target", "busybox")
	t.Cleanup(func() { s.Must(t, "rm", id) })
	const (
		json   = "Content-Type: application/json\r\n"
		create = "/v1.51/containers/create"
	)
	before := objects(t, s)
	head := func(line string) string { return line + " HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n" }
	for _, c := range []struct {
		name, text string
		status     int
	}{
		{"repeated object", post(create, `{"Image":"busybox","HostConfig":{},"HostConfig":{"Privileged":true}}`, json), 400},
		{"repeated member of an object", post(create, `{"Image":"busybox","HostConfig":{"Privileged":false,"Privileged":true}}`, json), 400},
		{"repeated list", post(create, `{"Image":"busybox","HostConfig":{"CapAdd":["CHOWN"],"CapAdd":["SYS_ADMIN"]}}`, json), 400},
		{"lower case", post(create, `{"Image":"busybox","hostconfig":{"privileged":true}}`, json), 400},
		{"long s", post(create, `{"Image":"busybox","Ho`+"\u017f"+`tConfig":{"Privileged":true}}`, json), 400},
		{"Kelvin sign", post(create, `{"Image":"busybox","HostConfig":{"Networ`+"\u212a"+`Mode":"host"}}`, json), 400},
		{"escaped name twice", post(create, `{"Image":"busybox","HostConfig":{},"\u0048ostConfig":{"Privileged":true}}`, json), 400},
		{"unknown field", post(create, `{"Image":"busybox","HostConfig":{"HostRoot":true}}`, json), 400},
		{"second value", post(create, allowed+wanted, json), 400},
		{"second value after white space", post(create, allowed+"\n\n"+wanted, json), 400},
		{"trailing bytes", post(create, allowed+"x", json), 400},
		{"byte order mark", post(create, "\ufeff"+allowed, json), 400},
		{"not UTF-8", post(create, "{\"Image\":\"busybox\",\"User\":\"\xff\"}", json), 400},
		{"another character set", post(create, wanted, "Content-Type: application/json; charset=utf-16\r\n"), 400},
		{"form", post(create, allowed, "Content-Type: application/x-www-form-urlencoded\r\n"), 400},
		{"two types", post(create, allowed, json+"Content-Type: text/plain\r\n"), 400},
		{"list", post(create, `[`+allowed+`]`, json), 400},
		{"null", post(create, `null`, json), 400},
		{"very deep", post(create, `{"Image":`+strings.Repeat(`[`, 20000)+strings.Repeat(`]`, 20000)+`}`, json), 400},
		{"length 0, then a body", "POST " + create + " HTTP/1.1\r\nHost: localhost\r\n" + json + "Content-Length: 0\r\n\r\n" + wanted, 400},
		{"both lengths", "POST " + create + " HTTP/1.1\r\nHost: localhost\r\n" + json + "Content-Length: 4\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", 400},
		{"two lengths", "POST " + create + " HTTP/1.1\r\nHost: localhost\r\n" + json + "Content-Length: 4\r\nContent-Length: 5\r\n\r\n{}{}x", 400},
		{"privileged in chunks", fmt.Sprintf("POST "+create+" HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n"+json+"Transfer-Encoding: chunked\r\n\r\n%x\r\n%s\r\n0\r\n\r\n", len(wanted), wanted), 403},
		{"body of another method", "PUT" + strings.TrimPrefix(post(create, allowed, json), "POST"), 404},
		{"method in a header", post("/v1.51/containers/attack-target/json", "", "X-HTTP-Method-Override: DELETE\r\n"), 404},
		{"escaped word", post("/v1.51/containers/%63reate", allowed, json), 404},
		{"two slashes", post("/v1.51//containers/create", allowed, json), 404},
		{"dots", post("/v1.51/containers/x/../create", allowed, json), 400},
		{"escaped dots", head("DELETE /v1.51/containers/x%2f..%2fattack-target"), 404},
		{"version of three numbers", post("/v9.9.9/containers/create", allowed, json), 404},
		{"future version", post("/v1.99/containers/create", allowed, json), 400},
		{"past version", post("/v1.12/containers/create", allowed, json), 400},
		{"trailing slash", post(create+"/", allowed, json), 404},
		{"fragment", post(create+"#x", allowed, json), 400},
		{"absolute form", "POST http://localhost" + create + " HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n" + json + "Content-Length: 2\r\n\r\n{}", 400},
		{"repeated parameter", post(create+"?name=a&name=attack", allowed, json), 400},
		{"unknown parameter", post(create+"?nam=attack", allowed, json), 400},
		{"parameter after a semicolon", post(create+"?name=attack;platform=x", allowed, json), 400},
		{"body where none belongs", post("/v1.51/containers/attack-target/start", `{"Privileged":true}`, json), 400},
		{"update", post("/v1.51/containers/attack-target/update", `{"Devices":[{"PathOnHost":"/dev/sda"}]}`, json), 403},
		{"exec", post("/v1.51/containers/attack-target/exec", `{"Cmd":["true"],"Privileged":true}`, json), 403},
		{"commit", post("/v1.51/commit?container=attack-target", `{"User":"4294967296"}`, json), 403},
		{"volume that is a mount", post("/v1.51/volumes/create", `{"Name":"attack","Driver":"local","DriverOpts":{"type":"none","o":"bind","device":"/"}}`, json), 403},
		{"network", post("/v1.51/networks/create", `{"Name":"x","Driver":"macvlan","Options":{"parent":"eth0"}}`, json), 501},
		{"plugin", post("/v1.51/plugins/pull?remote=x", "", ""), 501},
		{"service", post("/v1.51/services/create", `{}`, json), 501},
		{"checkpoint", post("/v1.51/containers/attack-target/checkpoints", `{"CheckpointID":"x"}`, json), 501},
		{"import of a URL", post("/v1.51/images/create?fromSrc=http%3A%2F%2F169.254.169.254%2F", "", ""), 403},
		{"upgrade of a route that has none", "GET /v1.51/info HTTP/1.1\r\nHost: localhost\r\nConnection: Upgrade\r\nUpgrade: h2c\r\n\r\n", 400},
		{"HTTP/2", "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", 400},
	} {
		if status, body := ask(t, s, s.User, c.text); status != c.status {
			t.Errorf("%s: %d %s, want %d", c.name, status, body, c.status)
		}
		if after := objects(t, s); after != before {
			t.Fatalf("%s had an effect:\n%s\nbefore:\n%s", c.name, after, before)
		}
	}
	if got := s.Must(t, "inspect", "-f", "{{.HostConfig.Devices}} {{.State.Status}}", id); got != "[] created" {
		t.Errorf("the container was changed: %s", got)
	}
	status, body := ask(t, s, s.User, post(create+"?name=attack", allowed, json))
	if status != 201 || objects(t, s) == before {
		t.Fatalf("control: %d %s", status, body)
	}
	s.Must(t, "rm", "attack")
}
