//go:build root

package netd

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/vishvananda/netlink"

	"stockade/api/helper"
	"stockade/priv/peer"
)

func tcp(ip string, port, inner uint16) helper.Port {
	return helper.Port{Proto: "tcp", HostIP: ip, HostPort: port, Container: inner}
}

func udp(ip string, port, inner uint16) helper.Port {
	return helper.Port{Proto: "udp", HostIP: ip, HostPort: port, Container: inner}
}

func class(err error) helper.Class {
	var e *peer.Error
	if errors.As(err, &e) {
		return e.Class
	}
	if err != nil {
		return helper.Internal
	}
	return ""
}

// TestTraffic is T-601: who reaches what, with the packets that a neighbour or a container could forge. Its controls take
// the rules away.
func TestTraffic(t *testing.T) {
	for _, filter := range []string{"0", "1"} {
		t.Run("bridge-nf-call-iptables="+filter, func(t *testing.T) {
			if err := os.WriteFile("/proc/sys/net/bridge/bridge-nf-call-iptables", []byte(filter), 0); err != nil {
				t.Skipf("no bridge netfilter: %v", err)
			}
			testTraffic(t)
		})
	}
}

func testTraffic(t *testing.T) {
	b := newBench(t)
	a := b.container("aa", "172.29.0.2")
	c := b.container("cc", "172.29.0.3")
	lan := b.outside()
	b.serve(a, "a", "0.0.0.0:80")
	b.serve(nil, "host", "0.0.0.0:7070")
	b.serve(lan, "lan", "0.0.0.0:90")
	ports, err := b.publish("aa", tcp("0.0.0.0", 8080, 80), udp("0.0.0.0", 8080, 80), tcp("127.0.0.1", 8081, 80),
		tcp("10.77.0.1", 8082, 80), tcp("0.0.0.0", 0, 80), udp("127.0.0.1", 8081, 80))
	must(t, err)
	if ports[4].HostPort < 32768 {
		t.Errorf("chosen port %d", ports[4].HostPort)
	}

	t.Run("veth", func(t *testing.T) {
		b.reach(c, "tcp4", "172.29.0.2:80", "a 172.29.0.3")
		b.reach(nil, "tcp4", "172.29.0.2:80", "a 172.29.0.1")
		b.reach(c, "tcp4", "172.29.0.1:7070", "host 172.29.0.3")
	})
	t.Run("published everywhere", func(t *testing.T) {
		b.reach(nil, "tcp4", "127.0.0.1:8080", "a 172.29.0.1")
		b.reach(nil, "udp4", "127.0.0.1:8080", "a 172.29.0.1")
		b.reach(nil, "tcp4", "172.29.0.1:8080", "a ")
		b.reach(nil, "tcp4", "10.77.0.1:8080", "a ")
		b.reach(c, "tcp4", "172.29.0.1:8080", "a ")
		b.reach(c, "udp4", "172.29.0.1:8080", "a ")
		b.reach(c, "tcp4", "10.77.0.1:8080", "a ")
		b.reach(lan, "tcp4", "10.77.0.1:8080", "a 10.77.0.2")
		b.reach(lan, "udp4", "10.77.0.1:8080", "a 10.77.0.2")
	})
	t.Run("hairpin", func(t *testing.T) {
		b.reach(a, "tcp4", "172.29.0.1:8080", "a ")
		b.reach(a, "udp4", "172.29.0.1:8080", "a ")
		b.reach(a, "tcp4", "10.77.0.1:8080", "a ")
	})
	t.Run("published on one address", func(t *testing.T) {
		b.reach(nil, "tcp4", "10.77.0.1:8082", "a ")
		b.reach(lan, "tcp4", "10.77.0.1:8082", "a 10.77.0.2")
		b.refused(nil, "tcp4", "127.0.0.1:8082")
		b.refused(c, "tcp4", "172.29.0.1:8082")
	})
	t.Run("to the outside", func(t *testing.T) {
		b.reach(c, "tcp4", "10.77.0.2:90", "lan 10.77.0.1")
	})
	t.Run("published on 127.0.0.1", func(t *testing.T) {
		b.reach(nil, "tcp4", "127.0.0.1:8081", "a ")
		b.reach(nil, "udp4", "127.0.0.1:8081", "a ")
		b.refused(lan, "tcp4", "10.77.0.1:8081")
		b.refused(c, "tcp4", "172.29.0.1:8081")
		// Neighbours that send packets for 127.0.0.1 to us. Without the guard they arrive (control).
		forge := func() map[string]bool {
			return b.deliver(a, "last", map[*os.File][][]byte{
				lan: {datagram(hostMAC(t, "lan0"), linkMAC(t, lan), "10.77.0.2", "127.0.0.1", 8081, "lan")},
				c:   {datagram(hostMAC(t, "stkt0"), linkMAC(t, c), "172.29.0.3", "127.0.0.1", 8081, "container")},
			}, c, datagram(hostMAC(t, "stkt0"), linkMAC(t, c), "172.29.0.3", "172.29.0.1", 8080, "last"))
		}
		if d := cmp.Diff(map[string]bool{}, forge()); d != "" {
			t.Errorf("packets for 127.0.0.1:8081 arrived: %s", d)
		}
		b.nft("flush chain ip stkt guard")
		if d := cmp.Diff(map[string]bool{"lan": true, "container": true}, forge()); d != "" {
			t.Errorf("control without guard: %s", d)
		}
		b.s.restore()
		if d := cmp.Diff(map[string]bool{}, forge()); d != "" {
			t.Errorf("packets for 127.0.0.1:8081 arrived after the rules were put back: %s", d)
		}
	})
	t.Run("unpublished port by route", func(t *testing.T) {
		must(t, inside(lan, func() error {
			_, pool, _ := net.ParseCIDR(testPool)
			return netlink.RouteAdd(&netlink.Route{Dst: pool, Gw: net.ParseIP("10.77.0.1")})
		}))
		b.refused(lan, "tcp4", "172.29.0.2:80")
		b.nft("flush chain ip stkt forward")
		b.reach(lan, "tcp4", "172.29.0.2:80", "a 10.77.0.2") // control
		b.s.restore()
	})
}

func TestPublish(t *testing.T) {
	b := newBench(t)
	b.container("aa", "172.29.0.2")
	b.container("cc", "172.29.0.3")
	l, err := net.Listen("tcp4", "127.0.0.1:9100")
	must(t, err)
	defer l.Close()
	low, err := net.Listen("tcp4", "127.0.0.1:80")
	must(t, err)

	one, err := b.publish("aa", tcp("0.0.0.0", 9000, 80), tcp("0.0.0.0", 0, 81))
	must(t, err)
	again, err := b.publish("aa", tcp("0.0.0.0", 9000, 80), tcp("0.0.0.0", 0, 81))
	must(t, err)
	if d := cmp.Diff(one, again); d != "" {
		t.Errorf("a repeat gave other ports: %s", d)
	}
	ranged := tcp("0.0.0.0", 9000, 80)
	ranged.HostEnd = 9005
	got, err := b.publish("cc", ranged)
	must(t, err)
	if got[0].HostPort != 9001 {
		t.Errorf("range 9000-9005 gave %d", got[0].HostPort)
	}
	for _, c := range []struct {
		name string
		id   string
		port helper.Port
		want helper.Class
		text string
	}{
		{"another endpoint's", "cc", tcp("0.0.0.0", 9000, 80), helper.Conflict, "Bind for 0.0.0.0:9000 failed: port is already allocated"},
		{"another endpoint's, one address", "cc", tcp("127.0.0.1", 9000, 80), helper.Conflict, "port is already allocated"},
		{"a program's", "cc", tcp("0.0.0.0", 9100, 80), helper.Conflict, "address already in use"},
		{"a program's, same address", "cc", tcp("127.0.0.1", 9100, 80), helper.Conflict, "address already in use"},
		{"low", "cc", tcp("0.0.0.0", 443, 80), helper.Denied, "low ports"},
		{"range from low", "cc", helper.Port{Proto: "tcp", HostIP: "0.0.0.0", HostPort: 80, HostEnd: 2000, Container: 80}, helper.Denied, ""},
		{"foreign address", "cc", tcp("10.1.2.3", 9200, 80), helper.Invalid, "cannot assign requested address"},
		{"container's address", "cc", tcp("172.29.0.3", 9200, 80), helper.Invalid, ""},
		{"protocol", "cc", helper.Port{Proto: "sctp", HostIP: "0.0.0.0", HostPort: 9200, Container: 80}, helper.Invalid, ""},
		{"IPv6", "cc", tcp("::", 9200, 80), helper.Invalid, ""},
		{"container port 0", "cc", tcp("0.0.0.0", 9200, 0), helper.Invalid, ""},
		{"unknown endpoint", "dd", tcp("0.0.0.0", 9200, 80), helper.NotFound, ""},
	} {
		// all or none: a good one goes first
		_, err := b.publish(c.id, tcp("0.0.0.0", 9300, 80), c.port)
		if class(err) != c.want || !strings.Contains(err.Error(), c.text) {
			t.Errorf("%s: %v; want %s, %q", c.name, err, c.want, c.text)
		}
		if strings.Contains(b.nft("list ruleset"), "9300") {
			t.Errorf("%s: a port of a refused request is published", c.name)
		}
		if l, err := net.Listen("tcp4", "0.0.0.0:9300"); err != nil {
			t.Errorf("%s: a port of a refused request is held: %v", c.name, err)
		} else {
			l.Close()
		}
	}
	if _, err := net.Listen("tcp4", "0.0.0.0:9000"); err == nil {
		t.Error("a program could take a published port")
	}
	low.Close()
	if _, err := b.publish("cc", tcp("0.0.0.0", 80, 80)); err != nil {
		t.Errorf("listed low port: %v", err)
	}
}

func TestRestart(t *testing.T) {
	b := newBench(t)
	a := b.container("aa", "172.29.0.2")
	b.serve(a, "a", "0.0.0.0:80")
	gone := b.namespace()
	_, _, err := b.s.attach(context.Background(), helper.Attach{ID: "gone", Address: "172.29.0.9"}, []*os.File{gone})
	must(t, err)
	_, err = b.publish("aa", tcp("127.0.0.1", 9000, 80), udp("0.0.0.0", 9001, 80), tcp("127.0.0.1", 9002, 80))
	must(t, err)
	b.stop()
	must(t, b.deleteLink(linkName("stkt", "gone")))
	attrs := netlink.NewLinkAttrs()
	attrs.Name = linkName("stkt", "stray")
	must(t, netlink.LinkAdd(&netlink.Veth{LinkAttrs: attrs, PeerName: "straypeer"}))
	taken, err := net.Listen("tcp4", "127.0.0.1:9002")
	must(t, err)
	defer taken.Close()
	b.reach(nil, "tcp4", "127.0.0.1:9000", "a") // while netd is down
	b.start()
	b.reach(nil, "tcp4", "127.0.0.1:9000", "a")
	b.reach(nil, "udp4", "127.0.0.1:9001", "a")
	if _, err := net.Listen("tcp4", "127.0.0.1:9000"); err == nil {
		t.Error("the port is not held after the restart")
	}
	list, _, err := b.s.list(context.Background(), helper.None{}, nil)
	must(t, err)
	if d := cmp.Diff([]string{"aa"}, list.IDs); d != "" {
		t.Errorf("endpoints: %s", d)
	}
	if _, err := netlink.LinkByName(attrs.Name); err == nil {
		t.Error("a link without record is still there")
	}
	if strings.Contains(b.nft("list ruleset"), "9002") {
		t.Error("a port that a program took meanwhile is published")
	}
}

func TestDetach(t *testing.T) {
	b := newBench(t)
	ctx := b.background(b.s.reaper)
	b.container("aa", "172.29.0.2")
	b.container("cc", "172.29.0.3")
	_, err := b.publish("aa", tcp("0.0.0.0", 9000, 80), udp("0.0.0.0", 9000, 80), tcp("127.0.0.1", 9001, 80))
	must(t, err)
	began := time.Now()
	_, _, err = b.s.detach(ctx, helper.Detach{IDs: []string{"aa", "cc", "unknown"}}, nil)
	must(t, err)
	t.Logf("detach 2: %v", time.Since(began))
	rules := b.nft("list ruleset")
	if strings.Contains(rules, "9000") || strings.Contains(rules, "172.29.0.2") {
		t.Errorf("rules are left:\n%s", rules)
	}
	if l, err := net.Listen("tcp4", "0.0.0.0:9000"); err != nil {
		t.Errorf("port is still held: %v", err)
	} else {
		l.Close()
	}
	until(t, "removal of the links", func() bool {
		links, _ := netlink.LinkList()
		for _, l := range links {
			if strings.HasPrefix(l.Attrs().Name, "stkt-") {
				return false
			}
		}
		return true
	})
	data, err := os.ReadFile(b.records + "/" + recordName)
	must(t, err)
	if d := cmp.Diff(`{"version":1,"endpoints":{}}`, string(data)); d != "" {
		t.Error(d)
	}
	again := b.container("aa", "172.29.0.2")
	b.serve(again, "again", "0.0.0.0:80")
	b.reach(nil, "tcp4", "172.29.0.2:80", "again")
	third := b.container("aa", "172.29.0.4") // a repeat moves the endpoint
	b.serve(third, "third", "0.0.0.0:80")
	b.reach(nil, "tcp4", "172.29.0.4:80", "third")
}

func TestDetachMany(t *testing.T) {
	b := newBench(t)
	ctx := b.background(b.s.reaper)
	const n = 20
	for i := range n {
		id := fmt.Sprintf("e%d", i)
		b.container(id, fmt.Sprintf("172.29.3.%d", i+1))
		_, err := b.publish(id, udp("127.0.0.1", uint16(9000+i), 80))
		must(t, err)
	}
	began := time.Now()
	errs := make(chan error)
	for i := range n {
		go func() {
			_, _, err := b.s.detach(ctx, helper.Detach{IDs: []string{fmt.Sprintf("e%d", i)}}, nil)
			errs <- err
		}()
	}
	for range n {
		must(t, <-errs)
	}
	t.Logf("detach %d at once: %v", n, time.Since(began))
	if rules := b.nft("list ruleset"); strings.Contains(rules, "172.29.3.") || len(b.s.endpoints)+len(b.s.ports) != 0 {
		t.Errorf("something is left: %s", rules)
	}
}

func TestFlushedRulesComeBack(t *testing.T) {
	b := newBench(t)
	b.background(b.s.watch)
	a := b.container("aa", "172.29.0.2")
	b.serve(a, "a", "0.0.0.0:80")
	_, err := b.publish("aa", tcp("0.0.0.0", 9000, 80))
	must(t, err)
	until(t, "return of the rules", func() bool {
		b.nft("flush ruleset") // again and again: the monitor may not listen yet
		for range 20 {
			b.s.mu.Lock()
			ok := b.s.rules.intact()
			b.s.mu.Unlock()
			if ok {
				return true
			}
			time.Sleep(10 * time.Millisecond)
		}
		return false
	})
	b.reach(nil, "tcp4", "127.0.0.1:9000", "a")
	b.nft("delete table bridge stkt")
	_, err = b.publish("aa", tcp("0.0.0.0", 9001, 80))
	must(t, err)
	b.reach(nil, "tcp4", "127.0.0.1:9001", "a")
}

// TestAttackAttach is T-703.
func TestAttackAttach(t *testing.T) {
	b := newBench(t)
	b.container("aa", "172.29.0.2")
	good := b.namespace()
	open := func(path string) *os.File {
		f, err := os.Open(path)
		must(t, err)
		t.Cleanup(func() { f.Close() })
		return f
	}
	for _, c := range []struct {
		name string
		q    helper.Attach
		fd   *os.File
		want helper.Class
	}{
		{"initial namespace", helper.Attach{ID: "x", Address: "172.29.0.9"}, open(fmt.Sprintf("/proc/%d/ns/net", os.Getppid())), helper.Denied},
		{"namespace of the host", helper.Attach{ID: "x", Address: "172.29.0.9"}, open("/proc/self/ns/net"), helper.Denied},
		{"user namespace", helper.Attach{ID: "x", Address: "172.29.0.9"}, b.u, helper.Invalid},
		{"plain file", helper.Attach{ID: "x", Address: "172.29.0.9"}, open("/proc/self/status"), helper.Invalid},
		{"outside of the pool", helper.Attach{ID: "x", Address: "10.77.0.9"}, good, helper.Denied},
		{"the bridge's address", helper.Attach{ID: "x", Address: "172.29.0.1"}, good, helper.Denied},
		{"network address", helper.Attach{ID: "x", Address: "172.29.0.0"}, good, helper.Denied},
		{"broadcast address", helper.Attach{ID: "x", Address: "172.29.255.255"}, good, helper.Denied},
		{"another's address", helper.Attach{ID: "x", Address: "172.29.0.2"}, good, helper.Conflict},
		{"another's hardware address", helper.Attach{ID: "x", Address: "172.29.0.9", MAC: "02:42:ac:1d:00:02"}, good, helper.Conflict},
		{"the bridge's hardware address", helper.Attach{ID: "x", Address: "172.29.0.9", MAC: "02:42:ac:1d:00:01"}, good, helper.Denied},
		{"multicast hardware address", helper.Attach{ID: "x", Address: "172.29.0.9", MAC: "03:42:ac:1d:00:09"}, good, helper.Invalid},
		{"IPv6", helper.Attach{ID: "x", Address: "fd00::1"}, good, helper.Invalid},
		{"id with slash", helper.Attach{ID: "../x", Address: "172.29.0.9"}, good, helper.Invalid},
		{"empty id", helper.Attach{Address: "172.29.0.9"}, good, helper.Invalid},
	} {
		_, _, err := b.s.attach(context.Background(), c.q, []*os.File{c.fd})
		if class(err) != c.want {
			t.Errorf("%s: %v, want %s", c.name, err, c.want)
		}
	}
	_, _, err := b.s.attach(context.Background(), helper.Attach{ID: "x", Address: "172.29.0.9", MAC: "02:aa:00:00:00:01"}, []*os.File{good})
	if err != nil {
		t.Errorf("control: %v", err)
	}
	_, _, err = b.s.attach(context.Background(), helper.Attach{ID: "y", Address: "172.29.0.10"}, []*os.File{good})
	if class(err) != helper.Conflict {
		t.Errorf("second link in one namespace: %v", err)
	}
	if d := cmp.Diff(2, len(b.s.endpoints)); d != "" {
		t.Error(d)
	}
}

// TestLargestRebuild loads as many endpoints and ports as there may be, in one transaction, and changes 500 at once.
func TestLargestRebuild(t *testing.T) {
	b := newBench(t)
	all := map[string]*endpoint{}
	port := uint16(2000)
	for i := range maxEndpoints {
		a := netip.AddrFrom4([4]byte{172, 29, byte(1 + i/250), byte(1 + i%250)})
		e := &endpoint{Address: a, MAC: macOf(a).String()}
		for range maxPorts / maxEndpoints {
			e.Ports = append(e.Ports, tcp("0.0.0.0", port, 80), udp("127.0.0.1", port, 80))
			port++
		}
		all[fmt.Sprintf("e%d", i)] = e
	}
	began := time.Now()
	must(t, b.s.rules.rebuild(all))
	t.Logf("rebuild: %v", time.Since(began))
	rules := b.nft("list ruleset")
	for what, want := range map[string]int{" . 02:42:ac:": maxEndpoints, " : 172.29.": 2 * maxEndpoints * (maxPorts / maxEndpoints)} {
		if got := strings.Count(rules, what); got != want {
			t.Errorf("%q: %d, want %d", what, got, want)
		}
	}
	del := elements{}
	for i := range 500 {
		id := fmt.Sprintf("e%d", i)
		b.s.rules.sender(del, linkName("stkt", id), all[id])
		for _, p := range all[id].Ports {
			b.s.rules.forward(del, p, all[id].Address)
		}
	}
	began = time.Now()
	must(t, b.s.rules.update(nil, del))
	t.Logf("delete 500 endpoints: %v", time.Since(began))
	if !b.s.rules.intact() {
		t.Error("rules are not intact")
	}
}
