// Package outbound is the way to image registries through the administrator's proxy.
//
// Trust: the settings are the administrator's; requests are made from what clients and registries name.
// Invariants: no client and no environment variable chooses a proxy; a proxy is never asked for an address that the server
// itself would refuse to connect to, as far as the request names an address.
// Failure: such a request is an error.
package outbound

import (
	"fmt"
	"net/http"
	"net/netip"
	"net/url"
	"slices"

	"golang.org/x/net/http/httpproxy"

	"stockade/api/setting"
)

// Proxy chooses the way of each request. The zero value has no proxy.
type Proxy struct {
	choose func(*url.URL) (*url.URL, error)
	hosts  []string // host:port of the proxies
}

// New reads the settings, which are checked already.
func New(s setting.Proxy) Proxy {
	if s == (setting.Proxy{}) {
		return Proxy{}
	}
	p := Proxy{choose: (&httpproxy.Config{HTTPProxy: s.HTTP, HTTPSProxy: s.HTTPS, NoProxy: s.No}).ProxyFunc()}
	for _, text := range []string{s.HTTP, s.HTTPS} {
		u, err := url.Parse(text)
		if err != nil || u.Host == "" {
			continue
		}
		port := u.Port()
		if port == "" {
			port = map[string]string{"http": "80", "https": "443", "socks5": "1080"}[u.Scheme]
		}
		p.hosts = append(p.hosts, u.Hostname()+":"+port)
	}
	return p
}

// Choose is the Proxy of a http.Transport.
func (p Proxy) Choose(req *http.Request) (*url.URL, error) {
	if p.choose == nil {
		return nil, nil //nolint:nilnil // http.Transport's own convention: no proxy
	}
	via, err := p.choose(req.URL)
	if via == nil || err != nil {
		return nil, err
	}
	// SECURITY(T-403): names are resolved by the proxy, whose administrator decides about them; addresses are not sent there.
	if a, err := netip.ParseAddr(req.URL.Hostname()); err == nil && Local(a) {
		return nil, fmt.Errorf("connection to %s through a proxy is not allowed", a)
	}
	return via, nil
}

// Is tells whether an address to connect to is a proxy's, which may be on this host.
func (p Proxy) Is(address string) bool { return slices.Contains(p.hosts, address) }

// metadataV6 is where a cloud provider answers with the machine's secrets over IPv6; over IPv4 it is link-local.
var metadataV6 = netip.MustParseAddr("fd00:ec2::254")

// Local tells whether an address means something else for each host, or is a metadata service's.
func Local(a netip.Addr) bool {
	a = a.Unmap().WithZone("")
	return a.IsLinkLocalUnicast() || a.IsMulticast() || a.IsUnspecified() || a.IsLoopback() || a == metadataV6
}
