package spec

import (
	"cmp"
	"net/netip"
	"slices"
	"strconv"

	"github.com/moby/moby/api/types/container"
	"github.com/moby/moby/api/types/network"

	"stockade/api/helper"
)

// Ports translates port bindings and, with PublishAllPorts, exposed ports; the order is stable.
func Ports(c *container.Config, hc *container.HostConfig) ([]helper.Port, error) {
	var out []helper.Port
	for port, bindings := range hc.PortBindings {
		if err := checkProto(port); err != nil {
			return nil, err
		}
		if len(bindings) == 0 {
			bindings = []network.PortBinding{{}}
		}
		for _, b := range bindings {
			p, err := bind(port, b)
			if err != nil {
				return nil, err
			}
			out = append(out, p)
		}
	}
	if hc.PublishAllPorts {
		for port := range c.ExposedPorts {
			if _, ok := hc.PortBindings[port]; ok {
				continue
			}
			if err := checkProto(port); err != nil {
				return nil, err
			}
			p, err := bind(port, network.PortBinding{})
			if err != nil {
				return nil, err
			}
			out = append(out, p)
		}
	}
	slices.SortFunc(out, func(a, b helper.Port) int {
		return cmp.Or(cmp.Compare(a.Container, b.Container), cmp.Compare(a.Proto, b.Proto), cmp.Compare(a.HostIP, b.HostIP),
			cmp.Compare(a.HostPort, b.HostPort))
	})
	return out, nil
}

func checkProto(p network.Port) error {
	if p.Proto() != network.TCP && p.Proto() != network.UDP {
		return invalid("invalid port specification: %q: protocol %q cannot be published", p, p.Proto())
	}
	if p.Num() == 0 {
		return invalid("invalid port specification: %q", p)
	}
	return nil
}

func bind(port network.Port, b network.PortBinding) (helper.Port, error) {
	p := helper.Port{Proto: string(port.Proto()), HostIP: "0.0.0.0", Container: port.Num()}
	if b.HostIP.IsValid() {
		ip := b.HostIP.Unmap()
		if !ip.Is4() {
			return p, invalid("invalid host address %s: ports are published on IPv4 addresses only", b.HostIP)
		}
		p.HostIP = ip.String()
	}
	if b.HostPort == "" || b.HostPort == "0" {
		return p, nil
	}
	r, err := network.ParsePortRange(b.HostPort)
	if err != nil {
		return p, invalid("invalid port specification: %q", b.HostPort)
	}
	p.HostPort = r.Start()
	if r.End() != r.Start() {
		p.HostEnd = r.End()
	}
	return p, nil
}

// PortMap shows published ports as inspect does; exposed ports without a binding are nil.
func PortMap(exposed network.PortSet, ports []helper.Port) network.PortMap {
	out := network.PortMap{}
	for p := range exposed {
		out[p] = nil
	}
	for _, p := range ports {
		port, ok := network.PortFrom(p.Container, network.IPProtocol(p.Proto))
		ip, err := netip.ParseAddr(p.HostIP)
		if !ok || err != nil {
			continue
		}
		out[port] = append(out[port], network.PortBinding{HostIP: ip, HostPort: strconv.Itoa(int(p.HostPort))})
	}
	return out
}
