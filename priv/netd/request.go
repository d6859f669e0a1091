package netd

import (
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"net"
	"net/netip"
	"regexp"
	"slices"

	"stockade/api/helper"
	"stockade/priv/peer"
)

var idPattern = regexp.MustCompile(`^[a-z0-9]{1,64}$`)

func checkID(id string) error {
	if !idPattern.MatchString(id) {
		return peer.Errorf(helper.Invalid, "endpoint id must be 1 to 64 of [a-z0-9]")
	}
	return nil
}

// linkName is the name of an endpoint's link on the host: never chosen by the engine. The dash keeps it apart from the
// bridge and from the names of another prefix.
func linkName(prefix, id string) string {
	sum := sha256.Sum256([]byte(id))
	return prefix + "-" + hex.EncodeToString(sum[:4])
}

// linkPattern matches every name that linkName can make for the prefix.
func linkPattern(prefix string) *regexp.Regexp {
	return regexp.MustCompile("^" + regexp.QuoteMeta(prefix) + "-[0-9a-f]{8}$")
}

// parseAddress accepts an address of a container: in the pool and not its first (network), second (bridge) or last
// (broadcast) one.
func parseAddress(text string, pool netip.Prefix) (netip.Addr, error) {
	a, err := netip.ParseAddr(text)
	if err != nil || !a.Is4() {
		return netip.Addr{}, peer.Errorf(helper.Invalid, "address %q is not an IPv4 address", text)
	}
	// SECURITY(T-703): an address elsewhere would let a container take another host's traffic.
	if !pool.Contains(a) {
		return netip.Addr{}, peer.Errorf(helper.Denied, "address %s is not in the pool %s", a, pool)
	}
	network := pool.Masked().Addr()
	if a == network || a == network.Next() || !pool.Contains(a.Next()) {
		return netip.Addr{}, peer.Errorf(helper.Denied, "address %s is reserved in the pool %s", a, pool)
	}
	return a, nil
}

// parseMAC accepts a unicast hardware address; an empty one becomes Docker's, made of the IPv4 address.
func parseMAC(text string, address netip.Addr) (string, error) {
	if text == "" {
		return macOf(address).String(), nil
	}
	mac, err := net.ParseMAC(text)
	if err != nil || len(mac) != 6 || mac[0]&1 != 0 || mac.String() == "00:00:00:00:00:00" {
		return "", peer.Errorf(helper.Invalid, "%q is not a usable hardware address", text)
	}
	return mac.String(), nil
}

func macOf(a netip.Addr) net.HardwareAddr {
	b := a.As4()
	return net.HardwareAddr{0x02, 0x42, b[0], b[1], b[2], b[3]}
}

// checkPort accepts what may be published at all; whether it is free is another question.
func checkPort(p helper.Port, low []uint16) error {
	if p.Proto != "tcp" && p.Proto != "udp" {
		return peer.Errorf(helper.Invalid, "protocol %q: want tcp or udp", p.Proto)
	}
	ip, err := netip.ParseAddr(p.HostIP)
	if err != nil || !ip.Is4() || ip.IsMulticast() || ip.String() != p.HostIP {
		return peer.Errorf(helper.Invalid, "host address %q is not an IPv4 address", p.HostIP)
	}
	if p.Container == 0 {
		return peer.Errorf(helper.Invalid, "container port 0")
	}
	if p.HostEnd != 0 && (p.HostPort == 0 || p.HostEnd < p.HostPort) {
		return peer.Errorf(helper.Invalid, "invalid range of host ports %d-%d", p.HostPort, p.HostEnd)
	}
	if p.HostPort == 0 {
		return nil
	}
	// SECURITY(T-703): ports below 1024 belong to the administrator.
	for port := uint32(p.HostPort); port <= uint32(max(p.HostEnd, p.HostPort)) && port < 1024; port++ {
		if !slices.Contains(low, uint16(port)) {
			return peer.Errorf(helper.Denied, "host port %d is below 1024 and not in the server's list of low ports", port)
		}
	}
	return nil
}

// portName is how a port is named in messages.
func portName(p helper.Port) string { return fmt.Sprintf("%s:%d/%s", p.HostIP, p.HostPort, p.Proto) }
