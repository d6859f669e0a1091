// Package netd owns the host's side of container networks: the bridge, the containers' links, the nftables rules and
// the published ports, for an engine that has no rights over the host's network.
//
// Trust: the engine may be compromised, containers are hostile. A network namespace is accepted only when its owning
// user namespace descends from the engine's; names on the host are computed here; an address must be of our pool, a
// port free on the host and not below 1024 unless the administrator listed it (THREATS.md T-703). What leaves a
// container's link is checked against the hardware and IPv4 address that the endpoint was given; all else, IPv6 too,
// is dropped at the bridge (T-601).
//
// Invariants: only links named <prefix>0 and <prefix>-…, and tables named <prefix>, are ever changed. Rules only drop
// or translate: an accept in our chains ends our chain alone, so the host's own firewall keeps the last word. (Another
// engine on the host whose rules drop what is forwarded therefore needs to let the bridge through, as with any other
// bridge.) As with Docker's default bridge, containers reach each other and what the host offers on the bridge's address.
//
// Failure: records are written before the kernel is changed, and the rules are loaded as one transaction. After kill -9
// at any point the next start makes kernel and records agree: endpoints whose link is gone are forgotten, links without
// a record are removed, the tables are built anew. Rules that somebody else flushes are put back.
package netd

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"os"
	"regexp"
	"slices"
	"strings"
	"sync"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"stockade/api/helper"
	"stockade/api/setting"
	"stockade/internal/boot"
	"stockade/internal/confine"
	"stockade/internal/userns"
	"stockade/priv/peer"
)

// Limits: a Linux bridge holds 1023 ports and "list" must fit into one message; each published port may hold a socket.
const (
	maxEndpoints = 900
	maxPorts     = 8192
)

// Server carries out requests.
type Server struct {
	set    setting.Netd
	pool   netip.Prefix
	gate   netip.Addr // the bridge's address
	u      userns.ID
	bridge string
	nl     *netlink.Handle
	rules  ruleset
	store  records
	log    *slog.Logger
	reap   chan reaping

	mu        sync.Mutex // guards what follows and orders all changes
	endpoints map[string]*endpoint
	ports     portTable

	queueMu sync.Mutex // innermost
	queue   []*detaching
}

// endpoint is one attached container. It is also the form of its record.
type endpoint struct {
	Address netip.Addr    `json:"address"`
	MAC     string        `json:"mac"`
	Ports   []helper.Port `json:"ports,omitempty"`
}

var prefixPattern = regexp.MustCompile(`^[a-z]{1,6}$`)

// New sets the host's network up and reconciles it with the records. userNS is U, folder the records'.
func New(set setting.Netd, userNS, folder *os.File, log *slog.Logger) (*Server, error) {
	if !prefixPattern.MatchString(set.Prefix) {
		return nil, fmt.Errorf("prefix %q: want 1 to 6 of [a-z]", set.Prefix)
	}
	pool, err := netip.ParsePrefix(set.Pool)
	if err != nil || !pool.Addr().Is4() || pool.Bits() > 30 || pool.Bits() < 8 {
		return nil, fmt.Errorf("pool %q: want an IPv4 prefix of /8 to /30", set.Pool)
	}
	pool = pool.Masked()
	u, err := userns.Identify(userNS, unix.CLONE_NEWUSER)
	if err != nil {
		return nil, fmt.Errorf("user namespace: %w", err)
	}
	nl, err := netlink.NewHandle(unix.NETLINK_ROUTE)
	if err != nil {
		return nil, fmt.Errorf("open rtnetlink: %w", err)
	}
	s := &Server{
		set: set, pool: pool, gate: pool.Addr().Next(), u: u, bridge: set.Prefix + "0", nl: nl,
		store: records{folder}, log: log, reap: make(chan reaping, 64), ports: portTable{},
	}
	s.rules = ruleset{name: set.Prefix, bridge: s.bridge, links: set.Prefix + "-", pool: pool, counts: map[chainKey]int{}}
	if err := s.start(); err != nil {
		s.Close()
		return nil, err
	}
	return s, nil
}

func (s *Server) start() error {
	var err error
	if s.endpoints, err = s.store.load(); err != nil {
		s.log.Error("records are unreadable, starting without any", "err", err)
		s.endpoints = map[string]*endpoint{}
	}
	for id, e := range s.endpoints {
		if _, err := parseAddress(e.Address.String(), s.pool); err != nil { // the administrator changed the pool
			s.log.Warn("forgetting an endpoint", "endpoint", id, "err", err)
			delete(s.endpoints, id)
		}
	}
	bridge, err := s.ensureBridge()
	if err != nil {
		return err
	}
	if err := s.reconcile(bridge); err != nil {
		return err
	}
	if err := s.store.save(s.endpoints); err != nil { // what could not be forgotten is forgotten by the next start
		s.log.Error("records of ended endpoints stay", "err", err)
	}
	return s.rules.rebuild(s.endpoints)
}

// Close releases what the process holds; bridge, links and rules stay.
func (s *Server) Close() {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, list := range s.ports {
		for _, r := range list {
			r.release()
		}
	}
	s.ports = portTable{}
	s.nl.Close()
}

// Table is what the engine may ask.
func (s *Server) Table() peer.Table {
	return peer.Table{
		"attach":  peer.Handle(1, s.attach),
		"publish": peer.Handle(0, s.publish),
		"detach":  peer.Handle(0, s.detach),
		"list":    peer.Handle(0, s.list),
	}
}

// Run is the whole process: it sets the network up, gives up everything else, and serves the engine until ctx ends.
func Run(ctx context.Context, set setting.Netd, files boot.Files, log *slog.Logger) error {
	if set.EngineUID == 0 {
		return errors.New("netd: settings without the engine's uid")
	}
	got := [3]*os.File{}
	for i, name := range []string{"engine", "userns", "records"} {
		f, err := files.Get(name)
		if err != nil {
			return err
		}
		got[i] = f
	}
	s, err := New(set, got[1], got[2], log)
	if err != nil {
		return fmt.Errorf("netd: %w", err)
	}
	defer s.Close()
	if err := confine.Process(Limits(got[2], log)); err != nil {
		return err
	}
	ctx, cancel := context.WithCancel(ctx)
	var wg sync.WaitGroup
	defer wg.Wait()
	defer cancel()
	wg.Go(func() { s.reaper(ctx) })
	wg.Go(func() { s.watch(ctx) })
	return peer.Listener{File: got[0], UID: set.EngineUID, Table: s.Table()}.Serve(ctx, log)
}

func (s *Server) list(context.Context, helper.None, []*os.File) (helper.EndpointList, []*os.File, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	ids := make([]string, 0, len(s.endpoints))
	for id := range s.endpoints {
		ids = append(ids, id)
	}
	slices.SortFunc(ids, strings.Compare)
	return helper.EndpointList{IDs: ids}, nil, nil
}
