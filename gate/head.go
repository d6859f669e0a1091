package gate

import (
	"encoding/base64"
	"net/http"
	"slices"
	"strings"

	"stockade/gate/refusal"
	"stockade/gate/route"
)

// hosts are the dummies that clients of Unix sockets put into Host.
var hosts = []string{"", "api.moby.localhost", "docker", "localhost"}

// checkHead refuses what only a browser or a proxy sends.
//
// SECURITY(T-101): a page that gets a browser to talk to this socket, by a proxy or a rebound name, shows itself by
// these headers.
func (g *Gate) checkHead(r *http.Request) error {
	for name := range r.Header {
		// A WebSocket's own headers are looked at by checkUpgrade; a browser's handshake has an Origin as well.
		if name == "Origin" || strings.HasPrefix(name, "Sec-") && !strings.HasPrefix(name, webSocketHeader) {
			return refusal.New(http.StatusForbidden, "browser", "requests of browsers are not allowed (header %s)", name)
		}
	}
	host, _, _ := strings.Cut(r.Host, ":")
	if host != "localhost" {
		host = r.Host
	}
	if !slices.Contains(hosts, host) && !slices.Contains(g.hosts, host) {
		return refusal.New(http.StatusForbidden, "host", "the header Host: %.80q does not name this socket; use localhost", r.Host)
	}
	return nil
}

// webSocketHeader begins the headers of RFC 6455, in canonical spelling.
const webSocketHeader = "Sec-Websocket-"

// checkUpgrade allows an upgrade only where the API has one, and only to that endpoint's kind of stream.
func checkUpgrade(r *http.Request, s route.Stream) error {
	if s == route.WebSocket {
		return checkWebSocket(r)
	}
	for name := range r.Header {
		if strings.HasPrefix(name, webSocketHeader) {
			return refusal.New(http.StatusForbidden, "browser", "there is no WebSocket here (header %s)", name)
		}
	}
	values := r.Header.Values("Upgrade")
	if len(values) == 0 {
		return nil
	}
	if s != route.Upgrade || len(values) != 1 || values[0] != "tcp" {
		return refusal.Decode("unsupported Upgrade %.32q", values[0])
	}
	return nil
}

// checkWebSocket wants the opening handshake of RFC 6455, section 4.2.1. Its answer is made by package forward; extensions
// and subprotocols that the client offers are not taken up.
func checkWebSocket(r *http.Request) error {
	if len(r.Header.Values("Upgrade")) == 0 {
		return nil // the engine refuses it, after it has told whether there is such a container
	}
	one := func(name string) string {
		if v := r.Header.Values(name); len(v) == 1 {
			return v[0]
		}
		return ""
	}
	key, err := base64.StdEncoding.DecodeString(one("Sec-Websocket-Key"))
	if err != nil || len(key) != 16 || one("Sec-Websocket-Version") != "13" || !strings.EqualFold(one("Upgrade"), "websocket") {
		return refusal.Decode("a WebSocket handshake is needed (RFC 6455, version 13)")
	}
	return nil
}
