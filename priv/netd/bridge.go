package netd

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"strings"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"stockade/api/helper"
)

// ensureBridge makes the bridge, or repairs what differs, and sets the sysctls that forwarding takes.
func (s *Server) ensureBridge() (netlink.Link, error) {
	if err := s.checkPool(); err != nil {
		return nil, err
	}
	link, err := s.nl.LinkByName(s.bridge)
	if errors.As(err, &netlink.LinkNotFoundError{}) {
		attrs := netlink.NewLinkAttrs()
		attrs.Name, attrs.HardwareAddr = s.bridge, macOf(s.gate) // a fixed one does not change with the bridge's ports
		if err := s.nl.LinkAdd(&netlink.Bridge{LinkAttrs: attrs}); err != nil {
			return nil, fmt.Errorf("make bridge %s: %w", s.bridge, err)
		}
		link, err = s.nl.LinkByName(s.bridge)
	}
	if err != nil {
		return nil, fmt.Errorf("bridge %s: %w", s.bridge, err)
	}
	if link.Type() != "bridge" {
		return nil, fmt.Errorf("link %s exists and is a %s, not a bridge", s.bridge, link.Type())
	}
	if err := s.nl.LinkSetHardwareAddr(link, macOf(s.gate)); err != nil {
		return nil, fmt.Errorf("bridge %s: set hardware address: %w", s.bridge, err)
	}
	// IPv6 is dropped on the bridge; switching it off as well keeps the host from answering on it. A kernel without
	// IPv6 has no such file.
	if err := sysctl("net/ipv6/conf/"+s.bridge+"/disable_ipv6", "1"); err != nil && !errors.Is(err, unix.ENOENT) {
		return nil, err
	}
	if err := s.ensureAddress(link); err != nil {
		return nil, err
	}
	if err := s.nl.LinkSetUp(link); err != nil {
		return nil, fmt.Errorf("bridge %s: set up: %w", s.bridge, err)
	}
	// route_localnet lets connections to 127.0.0.1:port reach a container; the guard chain drops what others send to
	// 127.0.0.0/8.
	if err := sysctl("net/ipv4/conf/"+s.bridge+"/route_localnet", "1"); err != nil {
		return nil, err
	}
	return link, s.forwarding()
}

// forwarding lets the host forward packets, which containers need to reach anything else. The switch is the whole
// host's: between its other interfaces only the host's own firewall decides, so the administrator is told.
func (s *Server) forwarding() error {
	const name = "net/ipv4/ip_forward"
	if now, err := os.ReadFile("/proc/sys/" + name); err == nil && strings.TrimSpace(string(now)) == "0" {
		s.log.Warn("switching on IPv4 forwarding; this host will route between all of its interfaces unless its firewall forbids it")
	}
	return sysctl(name, "1")
}

// dumped repeats a dump that changes of other processes interrupted, which the library reports as an error.
func dumped[T any](dump func() ([]T, error)) ([]T, error) {
	for try := 0; ; try++ {
		list, err := dump()
		if try == 20 || !errors.Is(err, netlink.ErrDumpInterrupted) {
			return list, err
		}
	}
}

func (s *Server) addresses(link netlink.Link) ([]netlink.Addr, error) {
	return dumped(func() ([]netlink.Addr, error) { return s.nl.AddrList(link, netlink.FAMILY_V4) })
}

// checkPool refuses a pool that another link of the host uses already: SECURITY(T-703) we would take its traffic.
func (s *Server) checkPool() error {
	links, err := dumped(s.nl.LinkList)
	if err != nil {
		return fmt.Errorf("list links: %w", err)
	}
	for _, link := range links {
		if link.Attrs().Name == s.bridge {
			continue
		}
		addrs, err := s.addresses(link)
		if err != nil {
			return fmt.Errorf("list addresses of %s: %w", link.Attrs().Name, err)
		}
		for _, a := range addrs {
			if p, ok := prefixOf(a.IPNet); ok && p.Overlaps(s.pool) {
				return fmt.Errorf("pool %s overlaps address %s of link %s: choose another pool", s.pool, p, link.Attrs().Name)
			}
		}
	}
	return nil
}

// ensureAddress leaves exactly one IPv4 address on the bridge.
func (s *Server) ensureAddress(link netlink.Link) error {
	want := netip.PrefixFrom(s.gate, s.pool.Bits())
	addrs, err := s.addresses(link)
	if err != nil {
		return fmt.Errorf("bridge %s: list addresses: %w", s.bridge, err)
	}
	found := false
	for _, a := range addrs {
		if p, ok := prefixOf(a.IPNet); ok && p == want {
			found = true
			continue
		}
		if err := s.nl.AddrDel(link, &a); err != nil {
			return fmt.Errorf("bridge %s: remove address %s: %w", s.bridge, a.IPNet, err)
		}
	}
	if found {
		return nil
	}
	if err := s.nl.AddrAdd(link, &netlink.Addr{IPNet: ipNet(want)}); err != nil {
		return fmt.Errorf("bridge %s: add address %s: %w", s.bridge, want, err)
	}
	return nil
}

func prefixOf(n *net.IPNet) (netip.Prefix, bool) {
	if n == nil {
		return netip.Prefix{}, false
	}
	a, ok := netip.AddrFromSlice(n.IP.To4())
	bits, _ := n.Mask.Size()
	return netip.PrefixFrom(a, bits), ok
}

func ipNet(p netip.Prefix) *net.IPNet {
	return &net.IPNet{IP: p.Addr().AsSlice(), Mask: net.CIDRMask(p.Bits(), 32)}
}

// sysctl writes a value beneath /proc/sys unless it is there already.
func sysctl(name, value string) error {
	path := "/proc/sys/" + name
	if now, err := os.ReadFile(path); err == nil && strings.TrimSpace(string(now)) == value {
		return nil
	}
	if err := os.WriteFile(path, []byte(value), 0); err != nil {
		return fmt.Errorf("set %s: %w", name, err)
	}
	return nil
}

// reconcile makes links and records agree and takes the recorded ports again.
func (s *Server) reconcile(bridge netlink.Link) error {
	links, err := dumped(s.nl.LinkList)
	if err != nil {
		return fmt.Errorf("list links: %w", err)
	}
	owner := map[string]string{}
	for id := range s.endpoints {
		owner[linkName(s.set.Prefix, id)] = id
	}
	present := map[string]bool{}
	ours := linkPattern(s.set.Prefix)
	for _, link := range links {
		name := link.Attrs().Name
		if !ours.MatchString(name) {
			continue
		}
		id, known := owner[name]
		if !known || link.Type() != "veth" {
			s.log.Warn("removing a link without record", "link", name)
			if err := s.nl.LinkDel(link); err != nil && !errors.Is(err, unix.ENODEV) {
				return fmt.Errorf("remove link %s: %w", name, err)
			}
			continue
		}
		if err := s.join(link, bridge); err != nil {
			return err
		}
		present[id] = true
	}
	for id, e := range s.endpoints {
		if !present[id] {
			s.log.Info("forgetting an endpoint whose link is gone", "endpoint", id)
			delete(s.endpoints, id)
			continue
		}
		held := make([]helper.Port, 0, len(e.Ports))
		for _, p := range e.Ports {
			r, err := s.reserve(id, p)
			if err != nil {
				s.log.Error("a published port was taken meanwhile", "endpoint", id, "port", portName(p), "err", err)
				continue
			}
			s.ports.add(r)
			held = append(held, p)
		}
		e.Ports = held
	}
	return nil
}

// ip6AddrGenNone is IN6_ADDR_GEN_MODE_NONE of <linux/if_link.h>.
const ip6AddrGenNone = 1

// join puts a link on the bridge, lets it talk to itself through the bridge (a container to its own published port,
// when the host filters bridged packets) and sets it up.
func (s *Server) join(link, bridge netlink.Link) error {
	name := link.Attrs().Name
	if link.Attrs().MasterIndex != bridge.Attrs().Index {
		if err := s.nl.LinkSetMaster(link, bridge); err != nil {
			return fmt.Errorf("put %s on bridge: %w", name, err)
		}
	}
	if err := s.nl.LinkSetHairpin(link, true); err != nil {
		return fmt.Errorf("set hairpin mode of %s: %w", name, err)
	}
	// No IPv6 address for the host's end, which would announce itself to the container.
	if err := s.nl.LinkSetIP6AddrGenMode(link, ip6AddrGenNone); err != nil && !errors.Is(err, unix.EOPNOTSUPP) && !errors.Is(err, unix.EAFNOSUPPORT) {
		return fmt.Errorf("switch IPv6 of %s off: %w", name, err)
	}
	if err := s.nl.LinkSetUp(link); err != nil {
		return fmt.Errorf("set %s up: %w", name, err)
	}
	return nil
}
