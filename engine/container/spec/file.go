package spec

import (
	"bytes"
	"fmt"
	"net/netip"
	"strings"

	"github.com/moby/moby/api/types/container"
)

// fallback are the name servers of a container on a host whose own are reachable on loopback only, as Docker has it.
var fallback = []string{"8.8.8.8", "8.8.4.4"}

// Resolv makes a container's resolv.conf from the host's. Name servers on loopback are left out.
func Resolv(host []byte, hc *container.HostConfig) []byte {
	var servers, search, options []string
	for line := range strings.Lines(string(host)) {
		f := strings.Fields(line)
		if len(f) < 2 {
			continue
		}
		switch f[0] {
		case "nameserver":
			if a, err := netip.ParseAddr(f[1]); err == nil && !a.IsLoopback() && a.Is4() {
				servers = append(servers, f[1])
			}
		case "search", "domain":
			search = f[1:]
		case "options":
			options = append(options, f[1:]...)
		}
	}
	if len(hc.DNS) > 0 {
		servers = nil
		for _, a := range hc.DNS {
			servers = append(servers, a.String())
		}
	}
	if len(servers) == 0 {
		servers = fallback
	}
	if len(hc.DNSSearch) > 0 {
		search = hc.DNSSearch
		if len(search) == 1 && search[0] == "." {
			search = nil
		}
	}
	if len(hc.DNSOptions) > 0 {
		options = hc.DNSOptions
	}
	var b bytes.Buffer
	for _, s := range servers {
		fmt.Fprintf(&b, "nameserver %s\n", s)
	}
	if len(search) > 0 {
		fmt.Fprintf(&b, "search %s\n", strings.Join(search, " "))
	}
	if len(options) > 0 {
		fmt.Fprintf(&b, "options %s\n", strings.Join(options, " "))
	}
	return b.Bytes()
}

// CheckNames refuses values that would break out of their line in resolv.conf or hosts.
func CheckNames(c *container.Config, hc *container.HostConfig) error {
	for _, v := range append(append([]string{}, hc.DNSSearch...), hc.DNSOptions...) {
		if v == "" || strings.ContainsAny(v, " \t\r\n\x00#") {
			return invalid("invalid DNS setting %q", v)
		}
	}
	if strings.ContainsAny(c.Hostname+c.Domainname, " \t\r\n\x00#/") || len(c.Hostname) > 63 {
		return invalid("invalid hostname %q", c.Hostname)
	}
	for _, e := range hc.ExtraHosts {
		if _, _, err := extraHost(e, "127.0.0.1"); err != nil {
			return err
		}
	}
	return nil
}

func extraHost(e, gateway string) (name, ip string, err error) {
	name, ip, ok := strings.Cut(e, ":")
	if n, i, eq := strings.Cut(e, "="); eq {
		name, ip, ok = n, i, true
	}
	if !ok || name == "" || strings.ContainsAny(name, " \t\r\n\x00#") {
		return "", "", invalid("bad format for add-host: %q", e)
	}
	if ip == "host-gateway" {
		return name, gateway, nil
	}
	if _, err := netip.ParseAddr(strings.Trim(ip, "[]")); err != nil {
		return "", "", invalid("invalid IP address in add-host: %q", ip)
	}
	return name, strings.Trim(ip, "[]"), nil
}

// Hosts returns the function that writes /etc/hosts once the container's address is known.
func Hosts(c *container.Config, hc *container.HostConfig, gateway string) func(address string) []byte {
	return func(address string) []byte {
		var b bytes.Buffer
		b.WriteString("127.0.0.1\tlocalhost\n::1\tlocalhost ip6-localhost ip6-loopback\nfe00::\tip6-localnet\n" +
			"ff00::\tip6-mcastprefix\nff02::1\tip6-allnodes\nff02::2\tip6-allrouters\n")
		for _, e := range hc.ExtraHosts {
			name, ip, err := extraHost(e, gateway)
			if err != nil || ip == "" {
				continue // CheckNames has refused it; without a gateway there is nothing to write
			}
			fmt.Fprintf(&b, "%s\t%s\n", ip, name)
		}
		if address != "" {
			names := c.Hostname
			if c.Domainname != "" {
				names = c.Hostname + "." + c.Domainname + " " + c.Hostname
			}
			fmt.Fprintf(&b, "%s\t%s\n", address, names)
		}
		return b.Bytes()
	}
}
