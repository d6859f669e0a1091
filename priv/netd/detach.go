package netd

import (
	"context"
	"maps"
	"net/netip"
	"os"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"stockade/api/helper"
	"stockade/internal/failpoint"
	"stockade/priv/peer"
)

// reapDelay lets links go with their namespaces, which costs nobody anything; deleting one blocks for about 25 ms.
const reapDelay = 200 * time.Millisecond

// reaping is work that nobody waits for.
type reaping struct {
	ids       []string     // endpoints whose links go, if they are still there
	addresses []netip.Addr // UDP flows to these end
	udpPorts  []uint16     // UDP flows to these host ports end
}

// detach ends endpoints: records, rules and ports at once, in one transaction for all of them, then their links. A link
// without its rule passes nothing, so the address may be used again as soon as the answer is there.
func (s *Server) detach(ctx context.Context, q helper.Detach, _ []*os.File) (helper.None, []*os.File, error) {
	none := helper.None{}
	if len(q.IDs) > 500 {
		return none, nil, peer.Errorf(helper.Invalid, "%d endpoints in one request, at most 500", len(q.IDs))
	}
	for _, id := range q.IDs {
		if err := checkID(id); err != nil {
			return none, nil, err
		}
	}
	d := &detaching{work: reaping{ids: q.IDs}}
	s.queueMu.Lock()
	s.queue = append(s.queue, d)
	s.queueMu.Unlock()
	s.mu.Lock()
	if !d.done {
		s.detachQueued()
	}
	s.mu.Unlock()
	if d.err != nil {
		return none, nil, d.err
	}
	s.later(ctx, d.work)
	return none, nil, nil
}

// detaching is one request to detach. Requests that come while another one waits for the kernel (5 to 25 ms, in which
// nothing else can change rules) are carried out together by the first that gets its turn.
type detaching struct {
	work reaping
	done bool
	err  error
}

// detachQueued carries out all queued requests in one transaction. s.mu is held.
func (s *Server) detachQueued() {
	s.queueMu.Lock()
	queue := s.queue
	s.queue = nil
	s.queueMu.Unlock()
	var ids []string
	for _, d := range queue {
		for _, id := range d.work.ids {
			if e := s.endpoints[id]; e != nil && len(udpPorts(s.ports.of(id))) > 0 {
				d.work.addresses = append(d.work.addresses, e.Address)
			}
		}
		ids = append(ids, d.work.ids...)
	}
	err := s.forget(ids)
	for _, d := range queue {
		d.done, d.err = true, err
	}
}

// forget takes endpoints out of the records and rules and releases their ports. On failure they are all as before.
func (s *Server) forget(ids []string) error {
	before, next, del := s.endpoints, maps.Clone(s.endpoints), elements{}
	for _, id := range ids {
		e := next[id]
		if e == nil {
			continue
		}
		delete(next, id)
		s.rules.sender(del, linkName(s.set.Prefix, id), e)
		for _, p := range e.Ports {
			s.rules.forward(del, p, e.Address)
		}
	}
	if len(next) == len(before) {
		return nil
	}
	// A full disk must not keep a container's network alive: records that tell of too many endpoints are put right by the
	// engine, which ends those that it does not know.
	if err := s.store.save(next); err != nil {
		s.log.Error("records of ended endpoints stay", "err", err)
	}
	failpoint.Hit("netd.forget.recorded")
	s.endpoints = next
	if err := s.apply(nil, del); err != nil {
		s.endpoints = before
		if serr := s.store.save(before); serr != nil {
			s.log.Error("put back records", "err", serr)
		}
		return err
	}
	failpoint.Hit("netd.forget.ruled")
	for _, id := range ids {
		for _, r := range s.ports.of(id) {
			s.ports.drop(r)
		}
	}
	return nil
}

// later hands work to the reaper.
func (s *Server) later(ctx context.Context, work reaping) {
	if len(work.ids)+len(work.addresses)+len(work.udpPorts) == 0 {
		return
	}
	select {
	case s.reap <- work:
	case <-ctx.Done(): // the next start removes links without a record
	}
}

// dying are endpoints whose links are looked at when their time has come.
type dying struct {
	at  time.Time
	ids []string
}

// reaper takes work as it comes: the delay of one must not hold up the others, or more ends than one in each delay would
// pile up.
func (s *Server) reaper(ctx context.Context) {
	var waiting []dying // the oldest first
	timer := time.NewTimer(0)
	defer timer.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case work := <-s.reap:
			s.endFlows(work)
			if len(work.ids) > 0 {
				waiting = append(waiting, dying{time.Now().Add(reapDelay), work.ids})
			}
			if len(waiting) == 1 {
				timer.Reset(reapDelay)
			}
		case <-timer.C:
			for len(waiting) > 0 && !waiting[0].at.After(time.Now()) {
				for _, id := range waiting[0].ids {
					s.reapLink(id)
				}
				waiting = waiting[1:]
			}
			if len(waiting) > 0 {
				timer.Reset(time.Until(waiting[0].at))
			}
		}
	}
}

func (s *Server) reapLink(id string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.endpoints[id] != nil { // attached again meanwhile
		return
	}
	failpoint.Hit("netd.reap.link")
	if err := s.deleteLink(linkName(s.set.Prefix, id)); err != nil {
		s.log.Error("remove link", "endpoint", id, "err", err)
	}
}

// endFlows makes the kernel forget UDP flows whose translation is out of date: they have no end of their own, and would
// keep going to the address's next owner, or past a port that was just published.
func (s *Server) endFlows(work reaping) {
	var filters []netlink.CustomConntrackFilter
	add := func(set func(*netlink.ConntrackFilter) error) {
		f := &netlink.ConntrackFilter{}
		if err := f.AddProtocol(unix.IPPROTO_UDP); err != nil {
			return
		}
		if err := set(f); err == nil {
			filters = append(filters, f)
		}
	}
	for _, a := range work.addresses {
		add(func(f *netlink.ConntrackFilter) error { return f.AddIP(netlink.ConntrackReplySrcIP, a.AsSlice()) })
	}
	for _, port := range work.udpPorts {
		add(func(f *netlink.ConntrackFilter) error { return f.AddPort(netlink.ConntrackOrigDstPort, port) })
	}
	if len(filters) == 0 {
		return
	}
	if _, err := netlink.ConntrackDeleteFilters(netlink.ConntrackTable, unix.AF_INET, filters...); err != nil {
		s.log.Warn("end UDP flows", "err", err)
	}
}
