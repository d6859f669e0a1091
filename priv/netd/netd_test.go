package netd

import (
	"context"
	"encoding/binary"
	"encoding/json"
	"errors"
	"io"
	"log/slog"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"

	"stockade/api/helper"
	"stockade/api/setting"
	"stockade/priv/peer"
)

func classOf(err error) helper.Class {
	var e *peer.Error
	if errors.As(err, &e) {
		return e.Class
	}
	return ""
}

func TestLinkName(t *testing.T) {
	ours := linkPattern("stk")
	for _, id := range []string{"a", strings.Repeat("z", 64)} {
		name := linkName("stk", id)
		if len(name) > 15 || !ours.MatchString(name) {
			t.Errorf("%s: %s", id, name)
		}
		if n := linkName("stkaaa", id); len(n) > 15 || ours.MatchString(n) {
			t.Errorf("%s: %s", id, n)
		}
	}
	for _, name := range []string{"stk0", "stk-1234567", "stk-123456789", "xstk-12345678", "stk-1234567g", "eth0"} {
		if ours.MatchString(name) {
			t.Errorf("%s counts as ours", name)
		}
	}
}

func TestParseAddress(t *testing.T) {
	pool := netip.MustParsePrefix("172.30.0.0/24")
	for text, want := range map[string]helper.Class{
		"172.30.0.2": "", "172.30.0.254": "",
		"172.30.0.0": helper.Denied, "172.30.0.1": helper.Denied, "172.30.0.255": helper.Denied,
		"172.30.1.2": helper.Denied, "127.0.0.1": helper.Denied, "0.0.0.0": helper.Denied,
		"": helper.Invalid, "::1": helper.Invalid, "::ffff:172.30.0.2": helper.Invalid, "172.30.0.02": helper.Invalid, "172.30.0.2/24": helper.Invalid,
	} {
		if _, err := parseAddress(text, pool); classOf(err) != want {
			t.Errorf("%q: %v", text, err)
		}
	}
}

func TestParseMAC(t *testing.T) {
	a := netip.MustParseAddr("172.30.0.2")
	for text, want := range map[string]string{
		"": "02:42:ac:1e:00:02", "02:aa:BB:00:00:01": "02:aa:bb:00:00:01", "02-aa-bb-00-00-01": "02:aa:bb:00:00:01",
		"01:00:00:00:00:00": "", "ff:ff:ff:ff:ff:ff": "", "00:00:00:00:00:00": "", "x": "", "02:00:5e:10:00:00:00:01": "",
	} {
		got, err := parseMAC(text, a)
		if got != want || (err == nil) != (want != "") {
			t.Errorf("%q: %q, %v", text, got, err)
		}
	}
}

func TestCheckPort(t *testing.T) {
	low := []uint16{80, 443}
	ok := helper.Port{Proto: "tcp", HostIP: "0.0.0.0", HostPort: 8080, Container: 80}
	with := func(f func(*helper.Port)) helper.Port { p := ok; f(&p); return p }
	for name, c := range map[string]struct {
		p    helper.Port
		want helper.Class
	}{
		"good":           {ok, ""},
		"udp":            {with(func(p *helper.Port) { p.Proto = "udp" }), ""},
		"ephemeral":      {with(func(p *helper.Port) { p.HostPort = 0 }), ""},
		"range":          {with(func(p *helper.Port) { p.HostEnd = 65535 }), ""},
		"listed low":     {with(func(p *helper.Port) { p.HostPort = 443 }), ""},
		"low":            {with(func(p *helper.Port) { p.HostPort = 22 }), helper.Denied},
		"range over low": {with(func(p *helper.Port) { p.HostPort, p.HostEnd = 80, 81 }), helper.Denied},
		"backwards":      {with(func(p *helper.Port) { p.HostEnd = 8079 }), helper.Invalid},
		"end alone":      {with(func(p *helper.Port) { p.HostPort, p.HostEnd = 0, 9 }), helper.Invalid},
		"protocol":       {with(func(p *helper.Port) { p.Proto = "" }), helper.Invalid},
		"no host ip":     {with(func(p *helper.Port) { p.HostIP = "" }), helper.Invalid},
		"IPv6":           {with(func(p *helper.Port) { p.HostIP = "::" }), helper.Invalid},
		"mapped IPv6":    {with(func(p *helper.Port) { p.HostIP = "::ffff:1.2.3.4" }), helper.Invalid},
		"multicast":      {with(func(p *helper.Port) { p.HostIP = "224.0.0.1" }), helper.Invalid},
		"container port": {with(func(p *helper.Port) { p.Container = 0 }), helper.Invalid},
	} {
		if err := checkPort(c.p, low); classOf(err) != c.want {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func TestScanSockets(t *testing.T) {
	const text = `  sl  local_address rem_address   st tx_queue
   0: 0100007F:1F90 00000000:0000 0A 00000000:00000000
   1: 00000000:0016 00000000:0000 0A 00000000:00000000
   2: 0100007F:2328 0100007F:9999 06 00000000:00000000
   3: 00000000000000000000000000000000:01BB 00000000000000000000000000000000:0000 0A
   4: 0000000000000000FFFF00000200000A:0050 00000000000000000000000000000000:0000 0A
`
	if binary.NativeEndian.Uint16([]byte{1, 0}) != 1 {
		t.Fatal("the text of this test is of a little-endian host")
	}
	for _, c := range []struct {
		ip   string
		port uint16
		want bool
	}{
		{"127.0.0.1", 8080, true}, {"0.0.0.0", 8080, true}, {"10.0.0.1", 8080, false}, {"127.0.0.1", 8081, false},
		{"10.0.0.1", 22, true}, {"127.0.0.1", 9000, false}, {"10.0.0.1", 443, true}, {"10.0.0.2", 80, true}, {"10.0.0.3", 80, false},
	} {
		got, err := scanSockets(strings.NewReader(text), netip.MustParseAddr(c.ip), c.port)
		if err != nil || got != c.want {
			t.Errorf("%s:%d: %v, %v", c.ip, c.port, got, err)
		}
	}
}

func TestParseRange(t *testing.T) {
	for text, want := range map[string][2]int{
		"32768\t60999\n": {32768, 60999}, "1024 65535": {32768, 65535}, "40000 50000": {40000, 50000},
		"1024 2000": {32768, 60999}, "": {32768, 60999}, "a b": {32768, 60999}, "50000 40000": {32768, 60999}, "1 2 3": {32768, 60999},
	} {
		if lo, hi := parseRange(text, 32768, 60999); [2]int{lo, hi} != want {
			t.Errorf("%q: %d-%d", text, lo, hi)
		}
	}
}

func TestRemoval(t *testing.T) {
	msg := func(kind uint16, body int) []byte {
		b := binary.NativeEndian.AppendUint32(nil, uint32(16+body))
		return append(binary.NativeEndian.AppendUint16(b, kind), make([]byte, 10+(body+3)&^3)...)
	}
	nft := uint16(unix.NFNL_SUBSYS_NFTABLES << 8)
	for name, c := range map[string]struct {
		b    []byte
		want bool
	}{
		"nothing":     {nil, false},
		"new element": {msg(nft|unix.NFT_MSG_NEWSETELEM, 5), false},
		"del element": {msg(nft|unix.NFT_MSG_DELSETELEM, 4), false},
		"del table":   {msg(nft|unix.NFT_MSG_DELTABLE, 4), true},
		"second":      {append(msg(nft|unix.NFT_MSG_NEWRULE, 6), msg(nft|unix.NFT_MSG_DELRULE, 0)...), true},
		"truncated":   {msg(nft, 8)[:20], true},
		"zero length": {make([]byte, 16), true},
	} {
		if got := removal(c.b); got != c.want {
			t.Errorf("%s: %v", name, got)
		}
	}
}

func TestPortTable(t *testing.T) {
	port := func(proto, ip string, n uint16) helper.Port {
		return helper.Port{Proto: proto, HostIP: ip, HostPort: n, Container: 1}
	}
	table := portTable{}
	r := &reservation{id: "a", port: port("tcp", "10.0.0.1", 80), fd: -1}
	table.add(r)
	for p, want := range map[helper.Port]bool{
		port("tcp", "10.0.0.1", 80): true, port("tcp", "0.0.0.0", 80): true, port("tcp", "10.0.0.2", 80): false,
		port("udp", "10.0.0.1", 80): false, port("tcp", "10.0.0.1", 81): false,
	} {
		if table.taken(p) != want {
			t.Errorf("%v", p)
		}
	}
	if len(table.of("a")) != 1 || len(table.of("b")) != 0 || table.count() != 1 {
		t.Error("contents")
	}
	table.drop(r)
	if len(table) != 0 {
		t.Error("not empty")
	}
}

func TestRecords(t *testing.T) {
	dir := t.TempDir()
	folder, err := os.Open(dir)
	if err != nil {
		t.Fatal(err)
	}
	defer folder.Close()
	r := records{folder}
	none, err := r.load()
	if err != nil || len(none) != 0 {
		t.Fatalf("%v, %v", none, err)
	}
	want := map[string]*endpoint{"a": {Address: netip.MustParseAddr("172.30.0.2"), MAC: "02:42:ac:1e:00:02",
		Ports: []helper.Port{{Proto: "tcp", HostIP: "0.0.0.0", HostPort: 1, Container: 2}}}}
	if err := r.save(want); err != nil {
		t.Fatal(err)
	}
	// what a kill in the middle of the next save leaves
	if err := os.WriteFile(filepath.Join(dir, recordTemp), []byte(`{"vers`), 0o600); err != nil {
		t.Fatal(err)
	}
	got, err := r.load()
	if err != nil {
		t.Fatal(err)
	}
	if d := cmp.Diff(want, got, cmp.Comparer(func(a, b netip.Addr) bool { return a == b })); d != "" {
		t.Error(d)
	}
	for _, text := range []string{"", "{}", `{"version":2}`, `{"version":1,"endpoints":{"../x":{}}}`, `{"version":1,"endpoints":{"a":null}}`, `{"version":1,"x":1}`,
		`{"version":1,"endpoints":{"a":{"address":"fd00::1","mac":"02:42:ac:1e:00:02"}}}`,
		`{"version":1,"endpoints":{"a":{"address":"172.30.0.2","mac":"x"}}}`,
		`{"version":1,"endpoints":{"a":{"address":"172.30.0.2","mac":"02:42:ac:1e:00:02","ports":[{}]}}}`} {
		if _, err := parseRecords([]byte(text)); err == nil {
			t.Errorf("%q was accepted", text)
		}
	}
}

func TestNewRefuses(t *testing.T) {
	for name, set := range map[string]setting.Netd{
		"zero": {}, "prefix": {Prefix: "Stk", Pool: "172.30.0.0/16"}, "long prefix": {Prefix: "abcdefg", Pool: "172.30.0.0/16"},
		"pool": {Prefix: "stkt", Pool: "172.30.0.0"}, "IPv6": {Prefix: "stkt", Pool: "fd00::/16"}, "all": {Prefix: "stkt", Pool: "0.0.0.0/0"},
		"small": {Prefix: "stkt", Pool: "172.30.0.0/31"},
	} {
		if _, err := New(set, os.Stdin, os.Stdin, slog.Default()); err == nil {
			t.Errorf("%s was accepted", name)
		}
	}
}

// FuzzBodies feeds the operations with arbitrary bodies; with no endpoint there is nothing that they may do.
func FuzzBodies(f *testing.F) {
	f.Add("publish", `{"id":"a","ports":[{"proto":"tcp","hostIp":"0.0.0.0","hostPort":8080,"container":80}]}`)
	f.Add("detach", `{"ids":["a","../b"]}`)
	f.Add("attach", `{"id":"a","address":"172.30.0.2","mac":"02:00:00:00:00:01"}`)
	f.Add("list", `{}`)
	f.Fuzz(func(t *testing.T, op, body string) {
		s := &Server{set: setting.Netd{Prefix: "stkt"}, pool: netip.MustParsePrefix("172.30.0.0/16"), endpoints: map[string]*endpoint{},
			ports: portTable{}, reap: make(chan reaping, 1), log: slog.New(slog.NewTextHandler(io.Discard, nil))}
		entry, ok := s.Table()[op]
		if !ok {
			return
		}
		null, err := os.Open("/dev/null")
		if err != nil {
			t.Fatal(err)
		}
		defer null.Close()
		_, _, err = entry.Do(context.Background(), json.RawMessage(body), []*os.File{null}[:entry.FDs])
		if op == "attach" && err == nil {
			t.Error("/dev/null was attached")
		}
		if len(s.endpoints)+len(s.ports) != 0 {
			t.Error("state changed")
		}
	})
}

func FuzzRecords(f *testing.F) {
	f.Add([]byte(`{"version":1,"endpoints":{"a":{"address":"172.30.0.2","mac":"02:00:00:00:00:01","ports":[]}}}`))
	f.Fuzz(func(t *testing.T, data []byte) {
		r := ruleset{name: "stkt"}
		if endpoints, err := parseRecords(data); err == nil {
			_ = r.all("stkt", endpoints)
		}
	})
}
