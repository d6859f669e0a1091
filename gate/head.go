package gate

import (
	"net/http"
	"slices"
	"strings"

	"stockade/gate/refusal"
)

// hosts are the dummies that clients of Unix sockets put into Host.
var hosts = []string{"", "api.moby.localhost", "docker", "localhost"}

// checkHead refuses what only a browser or a proxy sends.
//
// SECURITY(T-101): a page that gets a browser to talk to this socket, by a proxy or a rebound name, shows itself by
// these headers.
func (g *Gate) checkHead(r *http.Request) error {
	for name := range r.Header {
		if name == "Origin" || strings.HasPrefix(name, "Sec-") {
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

// checkUpgrade allows an upgrade only where the API has one, and only to a plain stream.
func checkUpgrade(r *http.Request, allowed bool) error {
	values := r.Header.Values("Upgrade")
	if len(values) == 0 {
		return nil
	}
	if !allowed || len(values) != 1 || values[0] != "tcp" {
		return refusal.Decode("unsupported Upgrade %.32q", values[0])
	}
	return nil
}
