package netd

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"net/netip"

	"github.com/google/nftables"
	"github.com/google/nftables/expr"
	"github.com/mdlayher/netlink"
	"golang.org/x/sys/unix"

	"stockade/api/helper"
)

// ruleset is our nftables tables: <name> in the families ip, ip6 and bridge. Published ports and senders are elements
// of named maps and sets, so that a change is a lookup's key and never a rule.
type ruleset struct {
	name   string // of the tables
	bridge string
	links  string // what the names of all containers' links begin with
	pool   netip.Prefix
	counts map[chainKey]int // rules per chain, as loaded last
}

type chainKey struct {
	family nftables.TableFamily
	chain  string
}

// elements are what a change adds or deletes, by the name of the set or map.
type elements map[string][]nftables.SetElement

// Names of the sets and maps.
const (
	senders = "senders" // link . hardware address . IPv4 address
	anyIP   = "_any"    // tcp_any, udp_any: host port → address . port
	atIP    = "_at"     // tcp_at, udp_at: host address . host port → address . port
)

var senderType = nftables.MustConcatSetType(nftables.TypeIFName, nftables.TypeEtherAddr, nftables.TypeIPAddr)
var targetType = nftables.MustConcatSetType(nftables.TypeIPAddr, nftables.TypeInetService)

func (r ruleset) ip() *nftables.Table {
	return &nftables.Table{Name: r.name, Family: nftables.TableFamilyIPv4}
}
func (r ruleset) ip6() *nftables.Table {
	return &nftables.Table{Name: r.name, Family: nftables.TableFamilyIPv6}
}
func (r ruleset) link() *nftables.Table {
	return &nftables.Table{Name: r.name, Family: nftables.TableFamilyBridge}
}

// conn opens a connection for one batch, with buffers for the largest one.
func (ruleset) conn() (*nftables.Conn, error) {
	return nftables.New(nftables.WithSockOptions(func(c *netlink.Conn) error {
		return errors.Join(c.SetWriteBuffer(8<<20), c.SetReadBuffer(8<<20))
	}))
}

func (r ruleset) sets() map[string]*nftables.Set {
	sets := map[string]*nftables.Set{
		senders: {Table: r.link(), Name: senders, KeyType: senderType, Concatenation: true},
	}
	for _, proto := range []string{"tcp", "udp"} {
		sets[proto+anyIP] = &nftables.Set{Table: r.ip(), Name: proto + anyIP, IsMap: true,
			KeyType: nftables.TypeInetService, DataType: targetType}
		sets[proto+atIP] = &nftables.Set{Table: r.ip(), Name: proto + atIP, IsMap: true, Concatenation: true,
			KeyType: targetType, DataType: targetType}
	}
	return sets
}

// sender collects what lets an endpoint send.
func (r ruleset) sender(into elements, link string, e *endpoint) {
	mac, _ := net.ParseMAC(e.MAC) // was parsed when the endpoint was made; a wrong one gives an element that matches nothing
	key := append(name16(link), pad4(mac)...)
	into[senders] = append(into[senders], nftables.SetElement{Key: append(key, e.Address.AsSlice()...)})
}

// forward collects what publishes one port of an endpoint.
func (r ruleset) forward(into elements, p helper.Port, to netip.Addr) {
	val := append(to.AsSlice(), pad4(be16(p.Container))...)
	ip, err := netip.ParseAddr(p.HostIP)
	if err != nil || ip.IsUnspecified() {
		name := p.Proto + anyIP
		into[name] = append(into[name], nftables.SetElement{Key: be16(p.HostPort), Val: val})
		return
	}
	name := p.Proto + atIP
	into[name] = append(into[name], nftables.SetElement{Key: append(ip.AsSlice(), pad4(be16(p.HostPort))...), Val: val})
}

func (r ruleset) all(prefix string, endpoints map[string]*endpoint) elements {
	all := elements{}
	for id, e := range endpoints {
		r.sender(all, linkName(prefix, id), e)
		for _, p := range e.Ports {
			r.forward(all, p, e.Address)
		}
	}
	return all
}

// update adds or deletes elements in one transaction.
func (r ruleset) update(add, del elements) error {
	c, err := r.conn()
	if err != nil {
		return err
	}
	sets := r.sets()
	for name, list := range del {
		for _, part := range chunks(list) {
			if err := c.SetDeleteElements(sets[name], part); err != nil {
				return err
			}
		}
	}
	if err := r.addElements(c, sets, add); err != nil {
		return err
	}
	return c.Flush()
}

func (r ruleset) addElements(c *nftables.Conn, sets map[string]*nftables.Set, add elements) error {
	for name, list := range add {
		for _, part := range chunks(list) {
			if err := c.SetAddElements(sets[name], part); err != nil {
				return err
			}
		}
	}
	return nil
}

// chunks splits a list so that each part fits into one netlink attribute (64 KiB).
func chunks(list []nftables.SetElement) [][]nftables.SetElement {
	var parts [][]nftables.SetElement
	for len(list) > 256 {
		parts, list = append(parts, list[:256]), list[256:]
	}
	if len(list) > 0 {
		parts = append(parts, list)
	}
	return parts
}

// rebuild replaces our tables by what the endpoints need, in one transaction: there is no moment without rules.
func (r ruleset) rebuild(endpoints map[string]*endpoint) error {
	c, err := r.conn()
	if err != nil {
		return err
	}
	clear(r.counts)
	for _, t := range []*nftables.Table{r.ip(), r.link()} {
		c.AddTable(t)
		c.DelTable(t)
		c.AddTable(t)
	}
	sets := r.sets()
	for _, set := range sets {
		if err := c.AddSet(set, nil); err != nil {
			return err
		}
	}
	r.addGuard(c)
	r.addNAT(c)
	r.addForward(c)
	r.addBridge(c)
	if err := r.addElements(c, sets, r.all(r.name, endpoints)); err != nil {
		return err
	}
	if err := c.Flush(); err != nil {
		return fmt.Errorf("load rules: %w", err)
	}
	return r.rebuildIPv6()
}

// rebuildIPv6 is apart from the others because a kernel may lack the family; then there is nothing to drop either.
func (r ruleset) rebuildIPv6() error {
	c, err := r.conn()
	if err != nil {
		return err
	}
	t := r.ip6()
	c.AddTable(t)
	c.DelTable(t)
	c.AddTable(t)
	for name, at := range map[string]*nftables.ChainHook{
		"input": nftables.ChainHookInput, "forward": nftables.ChainHookForward, "output": nftables.ChainHookOutput,
	} {
		ch := r.chain(c, t, name, nftables.ChainTypeFilter, at, nftables.ChainPriorityFilter)
		if name != "output" {
			r.rule(c, ch, iifname(expr.CmpOpEq, r.bridge), drop)
		}
		if name != "input" {
			r.rule(c, ch, oifname(expr.CmpOpEq, r.bridge), drop)
		}
	}
	err = c.Flush()
	if errors.Is(err, unix.EAFNOSUPPORT) || errors.Is(err, unix.EOPNOTSUPP) {
		for _, name := range []string{"input", "forward", "output"} {
			delete(r.counts, chainKey{t.Family, name})
		}
		return nil
	}
	if err != nil {
		return fmt.Errorf("load IPv6 rules: %w", err)
	}
	return nil
}

// addGuard drops what other machines and containers send to or from 127.0.0.0/8.
//
// SECURITY(T-601): route_localnet and the translation before routing would otherwise carry a packet for 127.0.0.1 from
// the LAN to a port that was published for this host alone (CVE-2020-13401 and its kin).
func (r ruleset) addGuard(c *nftables.Conn) {
	ch := r.chain(c, r.ip(), "guard", nftables.ChainTypeFilter, nftables.ChainHookPrerouting, nftables.ChainPriorityRaw)
	loopback := netip.MustParsePrefix("127.0.0.0/8")
	r.rule(c, ch, iifname(expr.CmpOpNeq, "lo"), daddr(loopback), drop)
	r.rule(c, ch, iifname(expr.CmpOpNeq, "lo"), saddr(loopback), drop)
	// A packet that conntrack cannot place keeps its address untranslated; the host would answer it with a reset and so
	// end the connection to a published port. Its sender repeats what is lost.
	late := r.chain(c, r.ip(), "untracked", nftables.ChainTypeFilter, nftables.ChainHookPrerouting, nftables.ChainPriorityMangle)
	r.rule(c, late, iifname(expr.CmpOpEq, r.bridge), ctBits(expr.CtKeySTATE, expr.CtStateBitINVALID), drop)
}

// addNAT publishes ports, and hides containers behind the host's addresses.
func (r ruleset) addNAT(c *nftables.Conn) {
	pre := r.chain(c, r.ip(), "prerouting", nftables.ChainTypeNAT, nftables.ChainHookPrerouting, nftables.ChainPriorityNATDest)
	out := r.chain(c, r.ip(), "output", nftables.ChainTypeNAT, nftables.ChainHookOutput, nftables.ChainPriorityNATDest)
	for _, ch := range []*nftables.Chain{pre, out} {
		for _, l4 := range []struct {
			name   string
			number byte
		}{{"tcp", unix.IPPROTO_TCP}, {"udp", unix.IPPROTO_UDP}} {
			r.rule(c, ch, toLocal, l4proto(l4.number), []expr.Any{network(1, 16, 4), transport(9, 2, 2)}, target(l4.name+atIP))
			r.rule(c, ch, toLocal, l4proto(l4.number), []expr.Any{transport(1, 2, 2)}, target(l4.name+anyIP))
		}
	}
	post := r.chain(c, r.ip(), "postrouting", nftables.ChainTypeNAT, nftables.ChainHookPostrouting, nftables.ChainPriorityNATSource)
	masquerade := []expr.Any{&expr.Masq{}}
	r.rule(c, post, saddr(r.pool), oifname(expr.CmpOpNeq, r.bridge), masquerade)
	r.rule(c, post, saddr(netip.MustParsePrefix("127.0.0.0/8")), oifname(expr.CmpOpEq, r.bridge), masquerade)
	// A container that calls a published port of itself or of a neighbour must get the answer by way of the host.
	r.rule(c, post, saddr(r.pool), daddr(r.pool), ctBits(expr.CtKeySTATUS, ipsDstNAT), masquerade)
}

// ipsDstNAT is IPS_DST_NAT of <linux/netfilter/nf_conntrack_common.h>.
const ipsDstNAT = 1 << 5

// addForward lets others reach containers through published ports only.
//
// SECURITY(T-601): a neighbour of the host that routes the pool through it would otherwise reach every port of every
// container, also those published on 127.0.0.1.
func (r ruleset) addForward(c *nftables.Conn) {
	ch := r.chain(c, r.ip(), "forward", nftables.ChainTypeFilter, nftables.ChainHookForward, nftables.ChainPriorityFilter)
	in := [][]expr.Any{oifname(expr.CmpOpEq, r.bridge), iifname(expr.CmpOpNeq, r.bridge)}
	r.rule(c, ch, append(in, ctBits(expr.CtKeySTATE, expr.CtStateBitESTABLISHED|expr.CtStateBitRELATED), accept)...)
	r.rule(c, ch, append(in, ctBits(expr.CtKeySTATUS, ipsDstNAT), accept)...)
	r.rule(c, ch, append(in, drop)...)
}

// addBridge checks the sender of every frame that a container sends, before the bridge learns from it.
//
// SECURITY(T-601): frames with another hardware or IPv4 address than the endpoint's, ARP that claims another one, IPv6,
// VLANs and every other protocol are dropped.
func (r ruleset) addBridge(c *nftables.Conn) {
	ch := r.chain(c, r.link(), "prerouting", nftables.ChainTypeFilter, nftables.ChainHookPrerouting, nftables.ChainPriorityRef(-300))
	r.rule(c, ch, prefixed(r.links), accept)
	// The key is read into registers 8–11 (link), 12–13 (hardware address), 14 (IPv4 address).
	lookup := &expr.Lookup{SourceRegister: 1, SetName: senders}
	inLink := &expr.Meta{Key: expr.MetaKeyIIFNAME, Register: 1}
	r.rule(c, ch, etherType(unix.ETH_P_IP), []expr.Any{inLink, etherSource, network(14, 12, 4), lookup}, accept)
	r.rule(c, ch, etherType(unix.ETH_P_ARP),
		[]expr.Any{network(1, 0, 6), &expr.Cmp{Op: expr.CmpOpEq, Register: 1, Data: []byte{0, 1, 8, 0, 6, 4}}}, // Ethernet, IPv4
		[]expr.Any{inLink, etherSource, network(14, 14, 4), lookup},
		[]expr.Any{inLink, network(12, 8, 6), network(14, 14, 4), lookup}, accept)
	r.rule(c, ch, drop)
}

func (r ruleset) chain(c *nftables.Conn, t *nftables.Table, name string, kind nftables.ChainType, hook *nftables.ChainHook, prio *nftables.ChainPriority) *nftables.Chain {
	policy := nftables.ChainPolicyAccept
	return c.AddChain(&nftables.Chain{Name: name, Table: t, Type: kind, Hooknum: hook, Priority: prio, Policy: &policy})
}

func (r ruleset) rule(c *nftables.Conn, ch *nftables.Chain, parts ...[]expr.Any) {
	rule := &nftables.Rule{Table: ch.Table, Chain: ch}
	for _, p := range parts {
		rule.Exprs = append(rule.Exprs, p...)
	}
	c.AddRule(rule)
	r.counts[chainKey{ch.Table.Family, ch.Name}]++
}

func name16(s string) []byte { return append([]byte(s), bytes.Repeat([]byte{0}, 16-len(s))...) }

func pad4(b []byte) []byte { return append(bytes.Clone(b), make([]byte, (4-len(b)%4)%4)...) }

func be16(n uint16) []byte { return binary.BigEndian.AppendUint16(nil, n) }
