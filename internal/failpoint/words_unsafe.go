//go:build failpoint

package failpoint

import (
	"sync/atomic"
	"unsafe"
)

// words shows the mapped file as words.
func words(data []byte) []uint32 {
	// SAFETY: a mapping begins at a page, and is Size bytes for the life of the process.
	return unsafe.Slice((*uint32)(unsafe.Pointer(&data[0])), Size/4)
}

// word reads what another process may be writing.
func word(slot []uint32, i int) uint32 { return atomic.LoadUint32(&slot[i]) }
