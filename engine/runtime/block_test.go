package runtime

import (
	"errors"
	"testing"

	"github.com/containerd/errdefs"
)

// T-503: a range has one user, those that join it are counted, and it is free with the end of the last one.
func TestBlocks(t *testing.T) {
	b := blocks{0: {reserved: {}}}
	take := func(slot string, want uint32) {
		t.Helper()
		if k, err := b.take(slot, 4); err != nil || k != want {
			t.Fatalf("%s: block %d, %v; want %d", slot, k, err, want)
		}
	}
	take("a", 1)
	take("b", 2)
	take("c", 3)
	if _, err := b.take("d", 4); !errdefs.IsResourceExhausted(err) {
		t.Errorf("more slots than blocks: %v", err)
	}
	if err := b.join(2, "b2", member{}); err != nil {
		t.Fatal(err)
	}
	b.free(2, "b")
	b.free(2, "b") // again is fine
	if _, err := b.take("d", 4); !errdefs.IsResourceExhausted(err) {
		t.Errorf("a block whose first user has ended, with another in it, was given: %v", err)
	}
	if err := b.join(2, "b3", member{}); err != nil {
		t.Errorf("join what joined: %v", err)
	}
	b.free(2, "b2")
	b.free(2, "b3")
	take("d", 2)
	// What a restarted engine finds may have ended already where it began.
	b.hold(3, "c2", member{})
	b.free(3, "c")
	b.free(1, "a")
	take("e", 1)
	for _, k := range []uint32{0, 4} {
		if err := b.join(k, "x", member{}); err == nil {
			t.Errorf("block %d was joined", k)
		}
	}
	b.free(0, "a")
	b.free(3, "c2")
	take("f", 3)
}

// T-701: who shares a range has the rights of all binds in it.
func TestBindsInSharedBlocks(t *testing.T) {
	one, again, two := uint32(1000), uint32(1000), uint32(1001)
	for _, c := range []struct {
		name   string
		first  member
		second member
		ok     bool
	}{
		{"no binds, one person", member{creator: &one}, member{creator: &again}, true},
		{"no binds, two people", member{creator: &one}, member{creator: &two}, true},
		{"no binds, nobody knows", member{}, member{}, true},
		{"binds, one person", member{creator: &one, binds: true}, member{creator: &again, binds: true}, true},
		{"binds in the first", member{creator: &one, binds: true}, member{creator: &two}, false},
		{"binds in the second", member{creator: &one}, member{creator: &two, binds: true}, false},
		{"binds, the first is nobody's", member{binds: true}, member{creator: &one}, false},
		{"binds, the second is nobody's", member{creator: &one, binds: true}, member{}, false},
		{"binds, nobody knows", member{binds: true}, member{}, false},
	} {
		b := blocks{7: {"first": c.first}}
		if err := b.join(7, "second", c.second); (err == nil) != c.ok {
			t.Errorf("%s: %v", c.name, err)
		}
		if _, there := b[7]["second"]; there != c.ok {
			t.Errorf("%s: noted: %v", c.name, there)
		}
	}
	// All members count, not only the one that is named.
	b := blocks{7: {"first": {creator: &one}}}
	for slot, m := range map[string]member{"second": {creator: &two}} {
		if err := b.join(7, slot, m); err != nil {
			t.Fatal(err)
		}
	}
	if err := b.join(7, "third", member{creator: &two, binds: true}); !errors.Is(err, errTwoOwners) {
		t.Errorf("a bind of the second one's, with the first one in the range: %v", err)
	}
}

func TestJoinTargets(t *testing.T) {
	for _, c := range []struct {
		join Join
		want int
	}{{Join{}, 0}, {Join{Net: "a"}, 1}, {Join{PID: "a"}, 1}, {Join{"a", "a", "a"}, 1}, {Join{"a", "b", "a"}, 2}, {Join{"a", "", "b"}, 2}, {Join{"a", "b", "c"}, 3}, {Join{"a", "b", "b"}, 2}} {
		if got := c.join.targets(); len(got) != c.want {
			t.Errorf("%+v: %q", c.join, got)
		}
	}
}
