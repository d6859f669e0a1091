//go:build root

package model

import (
	"fmt"
	"math/rand/v2"
	"os"
	"strconv"
	"sync"
	"testing"
	"time"

	"stockade/test/harness"
)

func TestMain(m *testing.M) { harness.MainWith(m, harness.Options{Failpoints: true}) }

// number reads a setting of the environment.
func number(t *testing.T, name string, otherwise uint64) uint64 {
	t.Helper()
	text := os.Getenv(name)
	if text == "" {
		return otherwise
	}
	n, err := strconv.ParseUint(text, 10, 64)
	if err != nil {
		t.Fatalf("%s: %v", name, err)
	}
	return n
}

// begin prepares a test: who crashes what, what there was before, and what a failure prints.
func begin(t *testing.T) (k *crasher, seed uint64, end func()) {
	s := harness.Get(t)
	seed = number(t, "STOCKADE_FAULT_SEED", uint64(time.Now().UnixNano()))
	t.Logf("STOCKADE_FAULT_SEED=%d", seed)
	j := &journal{began: time.Now()}
	t.Cleanup(func() {
		if t.Failed() {
			t.Logf("STOCKADE_FAULT_SEED=%d", seed)
		}
	})
	folder := bindFolder(s)
	if err := os.Mkdir(folder, 0o755); err != nil && !os.IsExist(err) {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(folder) })
	if err := os.Chown(folder, int(s.User.UID), int(s.User.GID)); err != nil {
		t.Fatal(err)
	}
	before, files := s.Settled(t), disk(t)
	k = &crasher{t: t, s: s, j: j}
	return k, seed, func() { k.nothingLeft(before, files) }
}

// TestRandom is T-801: it has several clients work while processes end at random.
func TestRandom(t *testing.T) {
	k, seed, end := begin(t)
	rounds := number(t, "STOCKADE_ROUNDS", 6)
	const clients = 3
	var all []*client
	for i := range clients {
		all = append(all, newClient(t, k.s, k.j, fmt.Sprintf("stkt%c", 'a'+i), rand.New(rand.NewPCG(seed, uint64(i+1)))))
	}
	r := rand.New(rand.NewPCG(seed, 0))
	for round := range rounds {
		k.part(t, fmt.Sprintf("round %d", round), all, func() {
			// Monitors, too, in each fourth round: whatever runs may end then.
			k.round(r, all, round%4 == 3)
		})
	}
	total := map[string]int{}
	for _, c := range all {
		for op, n := range c.acks {
			total[op] += n
		}
	}
	t.Logf("%d rounds, acknowledged: %v", rounds, total)
	clear(all)
	end()
}

// round has all clients work, some things go wrong meanwhile, and then everything compared.
func (k *crasher) round(r *rand.Rand, all []*client, shims bool) {
	const steps = 8
	var working sync.WaitGroup
	for _, c := range all {
		c.mortal = shims
		working.Go(func() {
			for range steps {
				c.step()
			}
		})
	}
	done := make(chan struct{})
	go func() {
		working.Wait()
		close(done)
	}()
	for strikes := 1 + r.IntN(3); strikes > 0; strikes-- {
		select {
		case <-time.After(time.Duration(r.IntN(400)) * time.Millisecond): // a moment of other work
			k.strike(r, shims)
		case <-done:
			strikes = 0
		}
	}
	<-done
	k.heal()
	for _, c := range all {
		c.settle()
		c.mortal = false
	}
	verify(all)
}

// part is one part of a test. After a failed one, everything is removed, and the next begins anew.
func (k *crasher) part(t *testing.T, name string, all []*client, do func()) {
	use := func(t *testing.T) {
		k.t = t
		for _, c := range all {
			c.t = t
		}
	}
	ok := t.Run(name, func(t *testing.T) {
		use(t)
		from := len(k.j.lines)
		t.Cleanup(func() {
			if t.Failed() {
				t.Log(k.j.text(from))
			}
		})
		do()
	})
	use(t)
	if !ok {
		k.heal()
		removeAll(all)
	}
}
