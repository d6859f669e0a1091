package netd

import (
	"bufio"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"net/netip"
	"os"
	"slices"
	"strconv"
	"strings"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"stockade/api/helper"
	"stockade/priv/peer"
)

// reservation is one published port. The bound socket keeps it from other programs of the host as long as it is
// published; nothing ever listens on it, because packets are translated before they reach a socket.
type reservation struct {
	id   string
	port helper.Port // HostPort filled in, HostEnd 0
	fd   int         // -1 for a port that may not be bound (below 1024, without CAP_NET_BIND_SERVICE)
}

func (r *reservation) release() {
	if r.fd >= 0 {
		unix.Close(r.fd)
		r.fd = -1
	}
}

type portKey struct {
	proto string
	port  uint16
}

// portTable holds every reservation.
type portTable map[portKey][]*reservation

func (t portTable) add(r *reservation) {
	k := portKey{r.port.Proto, r.port.HostPort}
	t[k] = append(t[k], r)
}

// drop releases a reservation and takes it out.
func (t portTable) drop(r *reservation) {
	k := portKey{r.port.Proto, r.port.HostPort}
	if t[k] = slices.DeleteFunc(t[k], func(o *reservation) bool { return o == r }); len(t[k]) == 0 {
		delete(t, k)
	}
	r.release()
}

// taken tells whether a port's address overlaps one that is published already.
func (t portTable) taken(p helper.Port) bool {
	return slices.ContainsFunc(t[portKey{p.Proto, p.HostPort}], func(r *reservation) bool {
		return p.HostIP == "0.0.0.0" || r.port.HostIP == "0.0.0.0" || r.port.HostIP == p.HostIP
	})
}

func (t portTable) count() int {
	n := 0
	for _, list := range t {
		n += len(list)
	}
	return n
}

// of lists an endpoint's reservations.
func (t portTable) of(id string) []*reservation {
	var mine []*reservation
	for _, list := range t {
		for _, r := range list {
			if r.id == id {
				mine = append(mine, r)
			}
		}
	}
	return mine
}

// choose reserves the port that p asks for, or the first free one of its range.
func (s *Server) choose(id string, p helper.Port) (*reservation, error) {
	lo, hi := int(p.HostPort), int(max(p.HostPort, p.HostEnd))
	if lo == 0 {
		lo, hi = ephemeral()
	}
	for port := lo; port <= hi; port++ {
		p.HostPort, p.HostEnd = uint16(port), 0
		r, err := s.reserve(id, p)
		var e *peer.Error
		if errors.As(err, &e) && e.Class == helper.Conflict && lo != hi {
			continue
		}
		return r, err
	}
	return nil, peer.Errorf(helper.Conflict, "driver failed programming external connectivity on endpoint %s: "+
		"Bind for %s failed: no free port in %d-%d", id, p.HostIP, lo, hi)
}

// portRange is the sysctl with the host's ephemeral ports.
const portRange = "/proc/sys/net/ipv4/ip_local_port_range"

// ephemeral is the range to choose from: the host's own, but at or above 32768.
func ephemeral() (lo, hi int) {
	lo, hi = 32768, 60999
	text, err := os.ReadFile(portRange)
	if err != nil {
		return lo, hi
	}
	return parseRange(string(text), lo, hi)
}

func parseRange(text string, lo, hi int) (int, int) {
	f := strings.Fields(text)
	if len(f) != 2 {
		return lo, hi
	}
	a, err1 := strconv.ParseUint(f[0], 10, 16)
	b, err2 := strconv.ParseUint(f[1], 10, 16)
	if err1 != nil || err2 != nil || int(b) < max(lo, int(a)) {
		return lo, hi
	}
	return max(lo, int(a)), int(b)
}

// reserve takes exactly one port, or answers Conflict. SECURITY(T-703): a port that a program of the host uses is never
// taken away from it.
func (s *Server) reserve(id string, p helper.Port) (*reservation, error) {
	if s.ports.taken(p) {
		return nil, peer.Errorf(helper.Conflict, "driver failed programming external connectivity on endpoint %s: "+
			"Bind for %s:%d failed: port is already allocated", id, p.HostIP, p.HostPort)
	}
	ip, err := netip.ParseAddr(p.HostIP)
	if err != nil || !ip.Is4() {
		return nil, peer.Errorf(helper.Invalid, "host address %q is not an IPv4 address", p.HostIP)
	}
	if local, err := s.isLocal(ip); err != nil {
		return nil, err
	} else if !local {
		return nil, peer.Errorf(helper.Invalid, "driver failed programming external connectivity on endpoint %s: "+
			"failed to bind host port %s: cannot assign requested address", id, portName(p))
	}
	fd, err := bind(p.Proto, ip, p.HostPort, false)
	if errors.Is(err, unix.EADDRINUSE) || errors.Is(err, unix.EACCES) {
		used, perr := inUse(p.Proto, ip, p.HostPort)
		switch {
		case perr != nil:
			return nil, perr
		case used:
		case errors.Is(err, unix.EACCES):
			fd, err = -1, nil // cannot be held, but is free
		case p.Proto == "tcp":
			fd, err = bind(p.Proto, ip, p.HostPort, true) // only connections that wait for their end
		}
	}
	if errors.Is(err, unix.EADDRINUSE) || errors.Is(err, unix.EACCES) {
		return nil, peer.Errorf(helper.Conflict, "driver failed programming external connectivity on endpoint %s: "+
			"failed to bind host port %s: address already in use", id, portName(p))
	}
	if err != nil {
		return nil, fmt.Errorf("reserve host port %s: %w", portName(p), err)
	}
	p.HostEnd = 0
	return &reservation{id: id, port: p, fd: fd}, nil
}

// isLocal tells whether packets to ip are for this host.
func (s *Server) isLocal(ip netip.Addr) (bool, error) {
	if ip.IsUnspecified() || ip.IsLoopback() {
		return true, nil
	}
	addrs, err := s.addresses(nil)
	if err != nil {
		return false, fmt.Errorf("list addresses: %w", err)
	}
	return slices.ContainsFunc(addrs, func(a netlink.Addr) bool {
		p, ok := prefixOf(a.IPNet)
		return ok && p.Addr() == ip
	}), nil
}

func bind(proto string, ip netip.Addr, port uint16, reuse bool) (int, error) {
	kind := unix.SOCK_STREAM
	if proto == "udp" {
		kind = unix.SOCK_DGRAM
	}
	fd, err := unix.Socket(unix.AF_INET, kind|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return -1, err
	}
	if reuse {
		err = unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_REUSEADDR, 1)
	}
	if err == nil {
		err = unix.Bind(fd, &unix.SockaddrInet4{Addr: ip.As4(), Port: int(port)})
	}
	if err != nil {
		unix.Close(fd)
		return -1, err
	}
	return fd, nil
}

// inUse asks /proc for sockets of the host on a port, for where binding cannot tell. IPv6 sockets for any address
// count, because they take IPv4 as well.
func inUse(proto string, ip netip.Addr, port uint16) (bool, error) {
	for _, name := range []string{proto, proto + "6"} {
		f, err := os.Open("/proc/self/net/" + name)
		if errors.Is(err, unix.ENOENT) {
			continue
		}
		if err != nil {
			return false, err
		}
		used, err := scanSockets(f, ip, port)
		f.Close()
		if used || err != nil {
			return used, err
		}
	}
	return false, nil
}

// timeWait is TCP_TIME_WAIT in /proc/net/tcp.
const timeWait = "06"

// scanSockets looks for a local address in the format of /proc/net/{tcp,udp}{,6}.
func scanSockets(r io.Reader, ip netip.Addr, port uint16) (bool, error) {
	lines := bufio.NewScanner(r)
	for lines.Scan() {
		f := strings.Fields(lines.Text())
		if len(f) < 4 || f[3] == timeWait {
			continue
		}
		a, err := parseSocketAddr(f[1])
		if err != nil || a.Port() != port { // the heading, for one
			continue
		}
		if ip.IsUnspecified() || a.Addr().IsUnspecified() || a.Addr().Unmap() == ip {
			return true, nil
		}
	}
	return false, lines.Err()
}

// parseSocketAddr reads "0100007F:1F90": 32-bit words in the host's byte order, then the port.
func parseSocketAddr(text string) (netip.AddrPort, error) {
	host, port, _ := strings.Cut(text, ":")
	b, err := hex.DecodeString(host)
	if err != nil || (len(b) != 4 && len(b) != 16) {
		return netip.AddrPort{}, fmt.Errorf("address %q", text)
	}
	for i := 0; i < len(b); i += 4 {
		binary.NativeEndian.PutUint32(b[i:], binary.BigEndian.Uint32(b[i:]))
	}
	n, err := strconv.ParseUint(port, 16, 16)
	a, ok := netip.AddrFromSlice(b)
	if err != nil || !ok {
		return netip.AddrPort{}, fmt.Errorf("address %q", text)
	}
	return netip.AddrPortFrom(a, uint16(n)), nil
}
