package main

import (
	"context"
	"math/rand/v2"
	"sync"
	"time"
)

// patience bounds one operation.
const patience = time.Minute

// kind is one thing that people do; weight is how often, compared with the others.
type kind struct {
	name   string
	weight int
	do     func(c *person, ctx context.Context) error
}

// person is one client. Names of what a client makes begin with its own.
type person struct {
	*soak
	name   string
	random *rand.Rand
}

// workers are clients that can be paused.
type workers struct {
	gate sync.RWMutex // held for reading during an operation; whoever holds it for writing has paused all
	over chan struct{}
	wg   sync.WaitGroup
}

// work starts n clients, paused.
func (s *soak) work(n int) *workers {
	w := &workers{over: make(chan struct{})}
	w.gate.Lock()
	for i := range n {
		c := &person{soak: s, name: "soak-" + string(rune('a'+i)), random: rand.New(rand.NewPCG(s.seed, uint64(i)))}
		w.wg.Go(func() { w.loop(c) })
	}
	return w
}

func (w *workers) loop(c *person) {
	total := 0
	for _, k := range kinds {
		total += k.weight
	}
	for {
		n := c.random.IntN(total)
		var chosen kind
		for _, chosen = range kinds {
			if n -= chosen.weight; n < 0 {
				break
			}
		}
		w.gate.RLock()
		select {
		case <-w.over:
			w.gate.RUnlock()
			return
		default:
		}
		ctx, cancel := context.WithTimeout(context.Background(), patience)
		began := time.Now()
		err := chosen.do(c, ctx)
		c.ops.add(chosen.name, time.Since(began), err)
		cancel()
		w.gate.RUnlock()
	}
}

// pause returns when no operation is under way. Streams and idle connections are closed by then.
func (w *workers) pause() { w.gate.Lock() }

// resume lets them go on.
func (w *workers) resume() { w.gate.Unlock() }

// end ends the clients; they are paused.
func (w *workers) end() {
	close(w.over)
	w.gate.Unlock()
	w.wg.Wait()
}
