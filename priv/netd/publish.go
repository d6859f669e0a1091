package netd

import (
	"context"
	"os"
	"slices"

	"stockade/api/helper"
	"stockade/internal/failpoint"
	"stockade/priv/peer"
)

// publish forwards ports to an endpoint: all or none. What the endpoint has published already counts as carried out, so
// that a repeat after a lost answer gets the same ports.
func (s *Server) publish(ctx context.Context, q helper.Publish, _ []*os.File) (helper.PublishDone, []*os.File, error) {
	var done helper.PublishDone
	if err := checkID(q.ID); err != nil {
		return done, nil, err
	}
	if len(q.Ports) > 256 {
		return done, nil, peer.Errorf(helper.Invalid, "%d ports in one request, at most 256", len(q.Ports))
	}
	for _, p := range q.Ports {
		if err := checkPort(p, s.set.LowPorts); err != nil {
			return done, nil, err
		}
	}
	done, fresh, err := s.publishAll(q)
	if err != nil {
		return helper.PublishDone{}, nil, err
	}
	s.later(ctx, reaping{udpPorts: udpPorts(fresh)})
	return done, nil, nil
}

func (s *Server) publishAll(q helper.Publish) (done helper.PublishDone, fresh []*reservation, err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	e := s.endpoints[q.ID]
	if e == nil {
		return done, nil, peer.Errorf(helper.NotFound, "no endpoint %s", q.ID)
	}
	defer func() {
		if err != nil {
			for _, r := range fresh {
				s.ports.drop(r)
			}
		}
	}()
	have := s.ports.of(q.ID)
	for _, p := range q.Ports {
		var r *reservation
		if i := slices.IndexFunc(have, func(r *reservation) bool { return answers(r.port, p) }); i >= 0 {
			r = have[i]
			have = slices.Delete(have, i, i+1)
		} else {
			if s.ports.count() >= maxPorts {
				return done, fresh, peer.Errorf(helper.Exhausted, "%d ports are published already", maxPorts)
			}
			if r, err = s.choose(q.ID, p); err != nil {
				return done, fresh, err
			}
			s.ports.add(r)
			fresh = append(fresh, r)
		}
		done.Ports = append(done.Ports, r.port)
	}
	return done, fresh, s.forward(e, fresh)
}

// forward records ports and loads their rules.
func (s *Server) forward(e *endpoint, fresh []*reservation) error {
	if len(fresh) == 0 {
		return nil
	}
	before := e.Ports
	add := elements{}
	for _, r := range fresh {
		e.Ports = append(e.Ports[:len(e.Ports):len(e.Ports)], r.port)
		s.rules.forward(add, r.port, e.Address)
	}
	err := s.store.save(s.endpoints)
	failpoint.Hit("netd.publish.recorded")
	if err == nil {
		err = s.apply(add, nil)
	}
	if err != nil {
		e.Ports = before
		if serr := s.store.save(s.endpoints); serr != nil {
			s.log.Error("put back records", "err", serr)
		}
	}
	return err
}

// answers tells whether a published port is what p asks for.
func answers(have, p helper.Port) bool {
	if have.Proto != p.Proto || have.HostIP != p.HostIP || have.Container != p.Container {
		return false
	}
	return p.HostPort == 0 || (have.HostPort >= p.HostPort && have.HostPort <= max(p.HostPort, p.HostEnd))
}

func udpPorts(list []*reservation) []uint16 {
	var ports []uint16
	for _, r := range list {
		if r.port.Proto == "udp" {
			ports = append(ports, r.port.HostPort)
		}
	}
	return ports
}
