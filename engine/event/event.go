// Package event tells clients what happens: a bus in memory with the last events of each tenant, and the /events stream.
//
// Trust: publishers are packages of the engine; a client may be slow, silent or gone.
// Invariants: a tenant sees its own events and those of the daemon only; no publisher ever waits for a client.
// Failure: a client that does not read loses its stream; nobody else notices.
package event

import (
	"maps"
	"sync"
	"time"

	"github.com/moby/moby/api/types/events"
)

const (
	history  = 1000 // events kept per tenant
	perReads = 1024 // events that a client may lag behind before it is dropped
)

// Bus spreads events. Use New.
type Bus struct {
	now func() time.Time

	mu   sync.Mutex
	last int64                       // time of the newest event: times grow strictly
	past map[string][]events.Message // by tenant, oldest first; "" holds the daemon's
	subs map[*subscription]struct{}
}

type subscription struct {
	tenant string
	keep   func(events.Message) bool
	ch     chan events.Message // closed when the client was dropped
	kick   func()              // unblocks a write that waits for the client
}

// New makes an empty bus. now is time.Now outside of tests.
func New(now func() time.Time) *Bus {
	return &Bus{now: now, past: map[string][]events.Message{}, subs: map[*subscription]struct{}{}}
}

// Publish announces that action happened to the object id of a tenant; tenant "" is the daemon, which all tenants see.
// It never blocks.
func (b *Bus) Publish(tenant string, typ events.Type, action events.Action, id string, attributes map[string]string) {
	attributes = maps.Clone(attributes)
	if attributes == nil {
		attributes = map[string]string{}
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	b.last = max(b.now().UnixNano(), b.last+1)
	m := events.Message{
		Type: typ, Action: action, Actor: events.Actor{ID: id, Attributes: attributes},
		Scope: "local", Time: b.last / int64(time.Second), TimeNano: b.last,
	}
	list := append(b.past[tenant], m)
	if len(list) > history {
		list = append([]events.Message(nil), list[len(list)-history:]...)
	}
	b.past[tenant] = list
	for s := range b.subs {
		if tenant != "" && s.tenant != tenant || !s.keep(m) {
			continue
		}
		select {
		case s.ch <- m:
		default:
			delete(b.subs, s)
			close(s.ch)
			s.kick()
		}
	}
}

// Listeners counts open streams.
func (b *Bus) Listeners() int {
	b.mu.Lock()
	defer b.mu.Unlock()
	return len(b.subs)
}

// subscribe returns what the tenant may see of the past between since and until (Unix nanoseconds; both 0: nothing) and
// what happens from now on.
func (b *Bus) subscribe(tenant string, since, until int64, keep func(events.Message) bool, kick func()) ([]events.Message, *subscription) {
	s := &subscription{tenant: tenant, keep: keep, ch: make(chan events.Message, perReads), kick: kick}
	b.mu.Lock()
	defer b.mu.Unlock()
	var old []events.Message
	if since != 0 || until != 0 {
		mine, all := b.past[tenant], b.past[""]
		for len(mine)+len(all) > 0 {
			var m events.Message
			if len(all) == 0 || len(mine) > 0 && mine[0].TimeNano < all[0].TimeNano {
				m, mine = mine[0], mine[1:]
			} else {
				m, all = all[0], all[1:]
			}
			if m.TimeNano >= since && (until == 0 || m.TimeNano <= until) && keep(m) {
				old = append(old, m)
			}
		}
	}
	b.subs[s] = struct{}{}
	return old, s
}

func (b *Bus) unsubscribe(s *subscription) {
	b.mu.Lock()
	defer b.mu.Unlock()
	delete(b.subs, s)
}
