package runtime

import (
	"fmt"

	"github.com/containerd/errdefs"

	"stockade/api/setting"
)

// reserved is the user of block 0, which no slot ever is.
const reserved = "store"

// member is one slot's use of an id range.
type member struct {
	creator *uint32 // host uid of who made the container; nil: not known, so nobody's
	binds   bool    // folders of the host are shown in it, with their owner's rights
}

// blocks are the id ranges in use, and the slots that use each. Runtime.mu guards it.
type blocks map[uint32]map[string]member

// take takes a range of ids for one slot.
//
// SECURITY(T-503): block 0 owns the files of the store and is never given; the others own nothing, and no two containers
// that run have the same one unless their owner had one join the other.
func (b blocks) take(slot string, count uint32) (uint32, error) {
	for k := uint32(1); k < count; k++ {
		if len(b[k]) == 0 {
			b.hold(k, slot, member{})
			return k, nil
		}
	}
	return 0, fmt.Errorf("all id ranges are in use (%d of them): %w", len(b)-1, errdefs.ErrResourceExhausted)
}

// hold notes a slot's use of a range, whatever others use it.
func (b blocks) hold(k uint32, slot string, m member) {
	if b[k] == nil {
		b[k] = map[string]member{}
	}
	b[k][slot] = m
}

// join lets a further slot use a range that is in use.
//
// SECURITY(T-701): whoever lives in a range has the rights of every bind in it. So all that share one were made by the
// same person, or none of them has a bind.
func (b blocks) join(k uint32, slot string, m member) error {
	if k == 0 || len(b[k]) == 0 {
		return fmt.Errorf("id range %d is nobody's", k)
	}
	for _, o := range b[k] {
		if (m.binds || o.binds) && (m.creator == nil || o.creator == nil || *m.creator != *o.creator) {
			return errTwoOwners
		}
	}
	b.hold(k, slot, m)
	return nil
}

// free ends a slot's use of a range, which is free with the end of the last one.
func (b blocks) free(k uint32, slot string) {
	delete(b[k], slot)
	if len(b[k]) == 0 {
		delete(b, k)
	}
}

func (r *Runtime) takeBlock(slot string) (uint32, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.blocks.take(slot, r.cfg.IDs.Sub.Count/setting.BlockSize)
}

func (r *Runtime) holdBlock(k uint32, slot string, m member) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.blocks.hold(k, slot, m)
}

func (r *Runtime) joinBlock(k uint32, slot string, m member) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.blocks.join(k, slot, m)
}

func (r *Runtime) freeBlock(k uint32, slot string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.blocks.free(k, slot)
}
