//go:build root

package netd

import (
	"bytes"
	"encoding/binary"
	"errors"
	"net"
	"os"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// TestAntiSpoof sends forged frames and then a good one from one container to another, which must see the last only.
// The control is the same without our table: all arrive.
func TestAntiSpoof(t *testing.T) {
	b := newBench(t)
	a, c := b.container("aa", "172.29.0.2"), b.container("cc", "172.29.0.3")
	b.container("victim", "172.29.0.4")
	own, other := mac("02:42:ac:1d:00:02"), mac("02:42:ac:1d:00:04")
	to := mac("02:42:ac:1d:00:03")
	frames := map[string][]byte{
		"IPv4 of another":         ether(to, own, 0x0800, ipv4("172.29.0.4", "172.29.0.3")),
		"IPv4 of the bridge":      ether(to, own, 0x0800, ipv4("172.29.0.1", "172.29.0.3")),
		"IPv4 from outside":       ether(to, own, 0x0800, ipv4("8.8.8.8", "172.29.0.3")),
		"hardware address":        ether(to, other, 0x0800, ipv4("172.29.0.2", "172.29.0.3")),
		"ARP for another":         ether(to, own, 0x0806, arp(own, "172.29.0.4")),
		"ARP for the bridge":      ether(to, own, 0x0806, arp(own, "172.29.0.1")),
		"ARP with another's MAC":  ether(to, own, 0x0806, arp(other, "172.29.0.2")),
		"ARP from another's MAC":  ether(to, other, 0x0806, arp(own, "172.29.0.2")),
		"IPv6":                    ether(to, own, 0x86dd, ipv6()),
		"unknown protocol":        ether(to, own, 0x88b5, make([]byte, 50)),
		"VLAN":                    ether(to, own, 0x8100, append([]byte{0, 0, 0x08, 0}, ipv4("172.29.0.4", "172.29.0.3")...)),
		"VLAN with own address":   ether(to, own, 0x8100, append([]byte{0, 5, 0x08, 0}, ipv4("172.29.0.2", "172.29.0.3")...)),
		"ARP of another hardware": ether(to, own, 0x0806, append([]byte{0, 6}, arp(own, "172.29.0.2")[2:]...)),
	}
	good := [][]byte{
		ether(to, own, 0x0806, arp(own, "172.29.0.2")),
		ether(to, own, 0x0800, packet("172.29.0.2", "172.29.0.3", 1, 0x1234, "last")),
	}
	run := func() map[string]bool {
		seen := map[string]bool{}
		rx := packetSocket(t, c)
		defer unix.Close(rx)
		tx := packetSocket(t, a)
		defer unix.Close(tx)
		for name, frame := range frames {
			if _, err := unix.Write(tx, frame); err != nil {
				t.Fatalf("send %s: %v", name, err)
			}
		}
		for _, frame := range good {
			if _, err := unix.Write(tx, frame); err != nil {
				t.Fatal(err)
			}
		}
		buf := make([]byte, 2000)
		for {
			got := buf[:receive(t, rx, buf)]
			for name, frame := range frames {
				if same(got, frame) {
					seen[name] = true
				}
			}
			if same(got, good[0]) {
				seen["good ARP"] = true
			}
			if same(got, good[1]) {
				return seen
			}
		}
	}
	if d := cmp.Diff(map[string]bool{"good ARP": true}, run()); d != "" {
		t.Errorf("forged frames arrived: %s", d)
	}
	b.nft("delete table bridge stkt")
	b.nft("delete table ip6 stkt") // with bridge netfilter it drops the IPv6 frame as well
	seen := run()
	for name := range frames {
		// A tagged frame loses its tag on the way and compares unequal.
		if !seen[name] && name != "VLAN" && name != "VLAN with own address" {
			t.Errorf("control: %q does not arrive without rules either", name)
		}
	}
	must(t, b.s.rules.rebuild(b.s.endpoints))
	if d := cmp.Diff(map[string]bool{"good ARP": true}, run()); d != "" {
		t.Errorf("forged frames arrived after rebuild: %s", d)
	}
}

// same compares frames whose padding may be gone.
func same(got, frame []byte) bool {
	return len(got) >= 42 && (bytes.HasPrefix(got, frame) || bytes.HasPrefix(frame, got))
}

func mac(s string) net.HardwareAddr {
	m, err := net.ParseMAC(s)
	if err != nil {
		panic(err)
	}
	return m
}

func ether(to, from net.HardwareAddr, kind uint16, payload []byte) []byte {
	frame := append(append(bytes.Clone(to), from...), be16(kind)...)
	return append(frame, append(payload, make([]byte, max(0, 46-len(payload)))...)...)
}

func arp(sender net.HardwareAddr, ip string) []byte {
	p := []byte{0, 1, 8, 0, 6, 4, 0, 2}
	p = append(append(p, sender...), net.ParseIP(ip).To4()...)
	return append(append(p, mac("02:42:ac:1d:00:03")...), 172, 29, 0, 3)
}

// ipv4 is a UDP datagram to a closed port with an empty body.
func ipv4(from, to string) []byte { return packet(from, to, 0x1234, 0x1234, "") }

// ipv6 is a datagram without content.
func ipv6() []byte {
	p := []byte{0x60, 0, 0, 0, 0, 8, 59, 64}
	p = append(append(p, net.ParseIP("fe80::2")...), net.ParseIP("fe80::3")...)
	return append(p, make([]byte, 8)...)
}

// packet is a UDP datagram in IPv4, without checksum of its own.
func packet(from, to string, sport, dport uint16, body string) []byte {
	p := []byte{0x45, 0, 0, byte(28 + len(body)), 0, 0, 0, 0, 64, 17, 0, 0}
	p = append(append(p, net.ParseIP(from).To4()...), net.ParseIP(to).To4()...)
	var sum uint32
	for i := 0; i < 20; i += 2 {
		sum += uint32(binary.BigEndian.Uint16(p[i:]))
	}
	sum = sum&0xffff + sum>>16
	binary.BigEndian.PutUint16(p[10:], ^uint16(sum))
	p = append(append(p, be16(sport)...), be16(dport)...)
	return append(append(p, 0, byte(8+len(body)), 0, 0), body...)
}

// lastPort makes each datagram a flow of its own.
var lastPort uint16 = 20000

func datagram(to, from net.HardwareAddr, source, dest string, port uint16, body string) []byte {
	lastPort++
	return ether(to, from, 0x0800, packet(source, dest, lastPort, port, body))
}

func hostMAC(t *testing.T, name string) net.HardwareAddr {
	t.Helper()
	link, err := netlink.LinkByName(name)
	must(t, err)
	return link.Attrs().HardwareAddr
}

func linkMAC(t *testing.T, ns *os.File) (m net.HardwareAddr) {
	t.Helper()
	must(t, inside(ns, func() error {
		link, err := netlink.LinkByName("eth0")
		if err == nil {
			m = link.Attrs().HardwareAddr
		}
		return err
	}))
	return m
}

// deliver sends frames and then one last one, and returns the bodies of UDP datagrams to port 80 that reach a
// namespace before that.
func (b *bench) deliver(to *os.File, last string, frames map[*os.File][][]byte, from *os.File, final []byte) map[string]bool {
	b.t.Helper()
	rx := packetSocket(b.t, to)
	defer unix.Close(rx)
	send := func(ns *os.File, frame []byte) {
		tx := packetSocket(b.t, ns)
		defer unix.Close(tx)
		if _, err := unix.Write(tx, frame); err != nil {
			b.t.Fatal(err)
		}
	}
	for ns, list := range frames {
		for _, frame := range list {
			send(ns, frame)
		}
	}
	send(from, final)
	seen := map[string]bool{}
	buf := make([]byte, 2000)
	for {
		p := buf[:receive(b.t, rx, buf)]
		if len(p) < 42 || p[12] != 8 || p[13] != 0 || p[23] != 17 || binary.BigEndian.Uint16(p[36:]) != 80 {
			continue
		}
		body := string(p[42 : 34+int(binary.BigEndian.Uint16(p[38:]))])
		if body == last {
			return seen
		}
		seen[body] = true
	}
}

// receive reads one frame within the socket's limit.
func receive(t *testing.T, fd int, buf []byte) int {
	t.Helper()
	for {
		n, _, err := unix.Recvfrom(fd, buf, 0)
		if errors.Is(err, unix.EINTR) {
			continue
		}
		if err != nil {
			t.Fatalf("the good frame did not arrive: %v", err)
		}
		return n
	}
}

// packetSocket opens a raw socket on eth0 of a namespace.
func packetSocket(t *testing.T, ns *os.File) int {
	t.Helper()
	fd := -1
	must(t, inside(ns, func() (err error) {
		all := uint16(unix.ETH_P_ALL)<<8 | uint16(unix.ETH_P_ALL)>>8
		if fd, err = unix.Socket(unix.AF_PACKET, unix.SOCK_RAW|unix.SOCK_CLOEXEC, int(all)); err != nil {
			return err
		}
		eth, err := netlink.LinkByName("eth0")
		if err != nil {
			return err
		}
		tv := unix.NsecToTimeval(int64(patience))
		if err := unix.SetsockoptTimeval(fd, unix.SOL_SOCKET, unix.SO_RCVTIMEO, &tv); err != nil {
			return err
		}
		return unix.Bind(fd, &unix.SockaddrLinklayer{Protocol: all, Ifindex: eth.Attrs().Index})
	}))
	return fd
}
