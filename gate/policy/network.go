package policy

import (
	"fmt"
	"net/netip"
	"slices"
	"strconv"
	"strings"

	"github.com/moby/moby/api/types/network"
)

// networks are the built-in networks and the names that mean the default one.
var networks = []string{"", "default", "bridge", "none"}

// SECURITY(T-306).
var networkRules = []rule{
	{
		id: "network-mode", threat: "T-302", fields: []string{"HostConfig.NetworkMode"},
		remedy: "use bridge, none or container:NAME of a container of yours; networks of your own are not supported yet",
		bad: func(s *subject) (string, string) {
			return ownOrJoined("HostConfig.NetworkMode", string(s.host.NetworkMode), networks...)
		},
	},
	{
		id: "endpoints", threat: "T-302", fields: []string{"NetworkingConfig.EndpointsConfig", "NetworkingConfig.EndpointsConfig.IPAMConfig", "NetworkingConfig.EndpointsConfig.Links",
			"NetworkingConfig.EndpointsConfig.Aliases", "NetworkingConfig.EndpointsConfig.DriverOpts"},
		remedy: "attach one container to bridge or none, without static addresses, links, aliases or driver options, which are not supported yet",
		bad:    badEndpoints,
	},
	{
		// A universally administered address could be that of another machine; netd refuses one that is in use.
		id: "mac-address", threat: "T-306", fields: []string{"NetworkingConfig.EndpointsConfig.MacAddress"},
		remedy: "use a locally administered address of one station: its first byte is 02, 06, 0a, …, as in 02:00:00:00:00:01",
		bad:    badMAC,
	},
	{
		id: "host-port", threat: "T-306", fields: []string{"HostConfig.PortBindings", "HostConfig.PortBindings.HostIp", "HostConfig.PortBindings.HostPort"},
		remedy: "publish a host port from 1024 on, or ask the administrator to allow this one",
		bad:    badPorts,
	},
	{
		id: "extra-hosts", threat: "T-306", fields: []string{"HostConfig.ExtraHosts"},
		remedy: "use NAME:ADDRESS or NAME:host-gateway",
		bad: func(s *subject) (string, string) {
			for i, h := range s.host.ExtraHosts {
				at := strings.IndexAny(h, ":=")
				if at < 0 {
					return fmt.Sprintf("HostConfig.ExtraHosts[%d]", i), quote(h)
				}
				if _, err := netip.ParseAddr(strings.Trim(h[at+1:], "[]")); err != nil && h[at+1:] != "host-gateway" || !hostname.MatchString(h[:at]) {
					return fmt.Sprintf("HostConfig.ExtraHosts[%d]", i), quote(h)
				}
			}
			return "", ""
		},
	},
	{
		id: "dns", threat: "T-306", fields: []string{"HostConfig.Dns", "HostConfig.DnsOptions", "HostConfig.DnsSearch"},
		remedy: "use addresses, names and options as they stand in resolv.conf",
		bad: func(s *subject) (string, string) {
			for i, a := range s.host.DNS {
				if !a.IsValid() || a.Zone() != "" {
					return fmt.Sprintf("HostConfig.Dns[%d]", i), quote(a.String())
				}
			}
			for field, list := range map[string][]string{"HostConfig.DnsOptions": s.host.DNSOptions, "HostConfig.DnsSearch": s.host.DNSSearch} {
				for i, v := range list {
					if v == "" || controlRe.MatchString(v) || strings.ContainsAny(v, " #;") {
						return fmt.Sprintf("%s[%d]", field, i), quote(v)
					}
				}
			}
			return "", ""
		},
	},
	{
		id: "links", threat: "T-306", fields: []string{"HostConfig.Links"},
		remedy: "leave --link out: it copies another container's environment, secrets with it, and Docker itself has it for old scripts only",
		bad: func(s *subject) (string, string) {
			if len(s.host.Links) > 0 {
				return "HostConfig.Links[0]", quote(s.host.Links[0])
			}
			return "", ""
		},
	},
}

func badEndpoints(s *subject) (string, string) {
	if s.net == nil {
		return "", ""
	}
	if len(s.net.EndpointsConfig) > 1 {
		return "NetworkingConfig.EndpointsConfig", fmt.Sprintf("%d networks", len(s.net.EndpointsConfig))
	}
	for name, e := range s.net.EndpointsConfig {
		field := "NetworkingConfig.EndpointsConfig." + name
		mode := string(s.host.NetworkMode)
		// With another container's network the engine has Docker's words for what does not go together.
		known := slices.Contains(networks, name) && (name == "none") == (mode == "none")
		if containerRef.MatchString(mode) {
			known = name == mode || name == "default"
		}
		if !known {
			return "NetworkingConfig.EndpointsConfig", quote(name)
		}
		if e == nil {
			continue
		}
		switch ip := e.IPAMConfig; {
		case ip != nil && (ip.IPv4Address.IsValid() || ip.IPv6Address.IsValid() || len(ip.LinkLocalIPs) > 0):
			return field + ".IPAMConfig", "a static address"
		case len(e.Links) > 0:
			return field + ".Links[0]", quote(e.Links[0])
		case len(e.Aliases) > 0:
			return field + ".Aliases[0]", quote(e.Aliases[0])
		case len(e.DriverOpts) > 0:
			return field + ".DriverOpts", quote(sortedKeys(e.DriverOpts)[0])
		}
	}
	return "", ""
}

func badMAC(s *subject) (string, string) {
	if s.net == nil {
		return "", ""
	}
	for name, e := range s.net.EndpointsConfig {
		if e == nil || len(e.MacAddress) == 0 {
			continue
		}
		const group, local = 1, 2 // bits of the first byte
		if len(e.MacAddress) != 6 || e.MacAddress[0]&group != 0 || e.MacAddress[0]&local == 0 {
			return "NetworkingConfig.EndpointsConfig." + name + ".MacAddress", quote(e.MacAddress.String())
		}
	}
	return "", ""
}

// badPorts checks published ports, each of a range.
func badPorts(s *subject) (string, string) {
	for port, bindings := range s.host.PortBindings {
		field := "HostConfig.PortBindings." + port.String()
		if !goodPort(port) {
			return "HostConfig.PortBindings", quote(port.String())
		}
		for _, b := range bindings {
			if b.HostIP.Zone() != "" || b.HostIP.Is4In6() {
				return field + ".HostIp", quote(b.HostIP.String())
			}
			if b.HostPort == "" {
				continue
			}
			low, high, isRange := strings.Cut(b.HostPort, "-")
			if !isRange {
				high = low
			}
			from, ok1 := portNumber(low)
			to, ok2 := portNumber(high)
			if !ok1 || !ok2 || from > to {
				return field + ".HostPort", quote(b.HostPort)
			}
			for n := from; n <= to && n < 1024; n++ {
				if n != 0 && !slices.Contains(s.cfg.LowPorts, uint16(n)) || n == 0 && isRange {
					return field + ".HostPort", quote(b.HostPort)
				}
			}
		}
	}
	return "", ""
}

// portNumber reads a port in its only spelling.
func portNumber(s string) (int, bool) {
	n, err := strconv.ParseUint(s, 10, 16)
	return int(n), err == nil && strconv.FormatUint(n, 10) == s
}

// clearEndpoint removes what only a running container's endpoint has; clients send it back from an inspection.
func clearEndpoint(e *network.EndpointSettings) *network.EndpointSettings {
	if e == nil {
		return nil
	}
	return &network.EndpointSettings{GwPriority: e.GwPriority, MacAddress: e.MacAddress}
}
