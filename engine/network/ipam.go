package network

import (
	"context"
	"fmt"
	"net/netip"
	"sync"

	"github.com/containerd/errdefs"

	"stockade/engine/httpapi"
)

// Addresses lends the pool's addresses to endpoints. It is in memory: after a start of the engine each running
// container's address is asked for again by name (wanted). Use NewAddresses.
type Addresses struct {
	pool    netip.Prefix
	gateway netip.Addr

	mu   sync.Mutex
	by   map[string]netip.Addr // endpoint → address
	used map[netip.Addr]bool
	last netip.Addr // lent last: the next search begins behind it, so that an address rests before it is lent again
}

// NewAddresses makes the pool of an IPv4 prefix with room for at least one endpoint. Its first address is the bridge's.
func NewAddresses(pool string) (*Addresses, error) {
	p, err := netip.ParsePrefix(pool)
	if err != nil {
		return nil, fmt.Errorf("address pool: %w", err)
	}
	p = p.Masked()
	if !p.Addr().Is4() || p.Bits() > 29 || p.Bits() < 8 {
		return nil, fmt.Errorf("address pool %s is no IPv4 prefix of 8 to 29 bits", pool)
	}
	gateway := p.Addr().Next()
	return &Addresses{pool: p, gateway: gateway, by: map[string]netip.Addr{}, used: map[netip.Addr]bool{}, last: gateway}, nil
}

// Pool is the whole prefix.
func (a *Addresses) Pool() netip.Prefix { return a.pool }

// Gateway is the bridge's address.
func (a *Addresses) Gateway() netip.Addr { return a.gateway }

// Allocate lends an address to endpoint id: the wanted one, or with a zero wanted any free one. An endpoint that has an
// address keeps it. Errors: ErrInvalidArgument for an address that cannot be lent, ErrConflict for one that is lent,
// ErrResourceExhausted when none is left.
func (a *Addresses) Allocate(_ context.Context, id string, wanted netip.Addr) (netip.Addr, error) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if has, ok := a.by[id]; ok && (!wanted.IsValid() || wanted == has) {
		return has, nil
	} else if ok {
		return netip.Addr{}, httpapi.NewError(errdefs.ErrConflict, "endpoint has the address %s", has)
	}
	if wanted.IsValid() {
		if !a.lendable(wanted) {
			return netip.Addr{}, httpapi.NewError(errdefs.ErrInvalidArgument, "no configured subnet contains IP address %s", wanted)
		}
		if a.used[wanted] {
			return netip.Addr{}, httpapi.NewError(errdefs.ErrConflict, "Address already in use")
		}
		return a.lend(id, wanted), nil
	}
	at := a.last
	for {
		at = at.Next()
		if !a.pool.Contains(at) {
			at = a.gateway
		}
		if a.lendable(at) && !a.used[at] {
			a.last = at
			return a.lend(id, at), nil
		}
		if at == a.last {
			return netip.Addr{}, httpapi.NewError(errdefs.ErrResourceExhausted, "no available IPv4 addresses on this network's address pools: bridge")
		}
	}
}

// Free takes an endpoint's address back. An endpoint without one is no error.
func (a *Addresses) Free(id string) {
	a.mu.Lock()
	defer a.mu.Unlock()
	delete(a.used, a.by[id])
	delete(a.by, id)
}

func (a *Addresses) lend(id string, addr netip.Addr) netip.Addr {
	a.by[id], a.used[addr] = addr, true
	return addr
}

// lendable excludes the network's, the bridge's and the broadcast address.
func (a *Addresses) lendable(addr netip.Addr) bool {
	return a.pool.Contains(addr) && addr != a.pool.Addr() && addr != a.gateway && a.pool.Contains(addr.Next())
}
