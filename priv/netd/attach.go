package netd

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"stockade/api/helper"
	"stockade/internal/failpoint"
	"stockade/internal/userns"
	"stockade/priv/peer"
)

// attach makes an endpoint. A repeat for the same id makes it anew: link, address, and no published port.
func (s *Server) attach(_ context.Context, q helper.Attach, fds []*os.File) (helper.AttachDone, []*os.File, error) {
	var done helper.AttachDone
	if err := checkID(q.ID); err != nil {
		return done, nil, err
	}
	address, err := parseAddress(q.Address, s.pool)
	if err != nil {
		return done, nil, err
	}
	mac, err := parseMAC(q.MAC, address)
	if err != nil {
		return done, nil, err
	}
	if err := s.checkNamespace(fds[0]); err != nil {
		return done, nil, err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if err := s.vacant(q.ID, address, mac); err != nil {
		return done, nil, err
	}
	name := linkName(s.set.Prefix, q.ID)
	if s.endpoints[q.ID] != nil {
		if err := s.forget([]string{q.ID}); err != nil {
			return done, nil, err
		}
	}
	if err := s.deleteLink(name); err != nil {
		return done, nil, err
	}
	if err := s.connect(q.ID, name, &endpoint{Address: address, MAC: mac}, fds[0]); err != nil {
		return done, nil, err
	}
	return helper.AttachDone{Host: name, MAC: mac, Gateway: s.gate.String(), Bits: s.pool.Bits()}, nil, nil
}

// checkNamespace accepts a network namespace that belongs to a container.
//
// SECURITY(T-703): its owner must be a proper descendant of U, which the initial network namespace, those of other
// services and those that the engine could make for itself are not.
func (s *Server) checkNamespace(f *os.File) error {
	if _, err := userns.Identify(f, unix.CLONE_NEWNET); err != nil {
		return peer.Errorf(helper.Invalid, "the descriptor is not a network namespace: %v", err)
	}
	owner, err := userns.Owner(f)
	if errors.Is(err, unix.EPERM) {
		return peer.Errorf(helper.Denied, "the network namespace is not a container's")
	}
	if err != nil {
		return fmt.Errorf("owner of network namespace: %w", err)
	}
	defer owner.Close()
	ours, err := userns.Descends(owner, s.u)
	if err != nil {
		return err
	}
	if !ours {
		return peer.Errorf(helper.Denied, "the network namespace is not a container's")
	}
	return nil
}

// vacant refuses an address, hardware address or link name that another endpoint or the bridge has.
func (s *Server) vacant(id string, address netip.Addr, mac string) error {
	if s.endpoints[id] == nil && len(s.endpoints) >= maxEndpoints {
		return peer.Errorf(helper.Exhausted, "there are %d endpoints already", len(s.endpoints))
	}
	if mac == macOf(s.gate).String() {
		return peer.Errorf(helper.Denied, "hardware address %s is the bridge's", mac)
	}
	name := linkName(s.set.Prefix, id)
	for other, e := range s.endpoints {
		switch {
		case other == id:
		case e.Address == address:
			return peer.Errorf(helper.Conflict, "address %s is in use", address)
		case e.MAC == mac:
			return peer.Errorf(helper.Conflict, "hardware address %s is in use", mac)
		case linkName(s.set.Prefix, other) == name:
			return peer.Errorf(helper.Conflict, "endpoint %s has the same link name as another one", id)
		}
	}
	return nil
}

// connect records the endpoint, lets its sender through and makes the link, in this order; a failure undoes all.
func (s *Server) connect(id, name string, e *endpoint, ns *os.File) error {
	s.endpoints[id] = e
	if err := s.store.save(s.endpoints); err != nil {
		delete(s.endpoints, id)
		return err
	}
	failpoint.Hit("netd.attach.recorded")
	add := elements{}
	s.rules.sender(add, name, e)
	err := s.apply(add, nil)
	failpoint.Hit("netd.attach.ruled")
	if err == nil {
		err = s.makeLink(name, e, ns)
	}
	failpoint.Hit("netd.attach.linked")
	if err != nil {
		return errors.Join(err, s.deleteLink(name), s.forget([]string{id}))
	}
	return nil
}

func (s *Server) makeLink(name string, e *endpoint, ns *os.File) error {
	mac, err := net.ParseMAC(e.MAC)
	if err != nil {
		return err
	}
	bridge, err := s.nl.LinkByName(s.bridge)
	if err != nil {
		return fmt.Errorf("bridge %s: %w", s.bridge, err)
	}
	attrs := netlink.NewLinkAttrs()
	attrs.Name = name
	veth := &netlink.Veth{LinkAttrs: attrs, PeerName: "eth0", PeerHardwareAddr: mac, PeerNamespace: netlink.NsFd(int(ns.Fd()))}
	err = s.nl.LinkAdd(veth)
	if errors.Is(err, unix.EEXIST) {
		return peer.Errorf(helper.Conflict, "the network namespace has a link eth0 already")
	}
	if err != nil {
		return fmt.Errorf("make link %s: %w", name, err)
	}
	return s.join(veth, bridge)
}

// deleteLink removes a link of ours; a missing one is no error.
func (s *Server) deleteLink(name string) error {
	link, err := s.nl.LinkByName(name)
	if err == nil {
		err = s.nl.LinkDel(link)
	}
	if err != nil && !errors.As(err, &netlink.LinkNotFoundError{}) && !errors.Is(err, unix.ENODEV) {
		return fmt.Errorf("remove link %s: %w", name, err)
	}
	return nil
}

// apply changes the rules by elements. If the tables are not as expected (somebody flushed them), they are built anew.
func (s *Server) apply(add, del elements) error {
	err := s.rules.update(add, del)
	if err == nil {
		return nil
	}
	s.log.Warn("building the rules anew", "err", err)
	return s.rules.rebuild(s.endpoints)
}
