package unpack

import (
	"bufio"
	"errors"
	"io"

	"github.com/ulikunitz/xz"
)

// Bounds of an xz stream. The format lets a block ask for a dictionary of 4 GiB; xz -9 asks for 64 MiB. Every block has a
// record in memory until the stream ends.
const (
	xzDictionary = 128 << 20
	xzBlocks     = 1 << 20
)

func newXZ(r *bufio.Reader) (io.Reader, error) {
	return xz.NewReader(&xzGuard{r: r})
}

// xzGuard passes an xz file on and follows its structure (the .xz file format, version 1.2.1), so that no block asks for
// more memory than we give. The reader behind it checks everything else.
//
// SECURITY(T-402): the size of the dictionary is the blob's choice, for each block again.
type xzGuard struct {
	r      *bufio.Reader
	out    []byte // read already, to be passed on
	left   int64  // bytes that need no look
	state  xzState
	check  int64 // bytes behind each block
	size   int64 // of the block's data or the index so far
	blocks int
}

type xzState int

const (
	xzHeader xzState = iota // of a stream, or its padding, or the end
	xzBlock                 // a block or the index
	xzChunk                 // of LZMA2
)

// Read implements io.Reader.
func (g *xzGuard) Read(p []byte) (int, error) {
	for len(p) > 0 {
		if len(g.out) > 0 {
			n := copy(p, g.out)
			g.out = g.out[n:]
			return n, nil
		}
		if g.left > 0 {
			n, err := g.r.Read(p[:min(int64(len(p)), g.left)])
			g.left -= int64(n)
			if n == 0 && errors.Is(err, io.EOF) {
				err = io.ErrUnexpectedEOF
			}
			return n, err
		}
		if err := g.next(); err != nil {
			return 0, err
		}
	}
	return 0, nil
}

// take reads n bytes that are passed on later.
func (g *xzGuard) take(n int) ([]byte, error) {
	from := len(g.out)
	g.out = append(g.out, make([]byte, n)...)
	if _, err := io.ReadFull(g.r, g.out[from:]); err != nil {
		if errors.Is(err, io.EOF) {
			err = io.ErrUnexpectedEOF
		}
		return nil, err
	}
	return g.out[from:], nil
}

// number reads one of the format's integers.
func (g *xzGuard) number() (v uint64, size int64, err error) {
	for shift := 0; shift < 63; shift += 7 {
		b, err := g.take(1)
		if err != nil {
			return 0, 0, err
		}
		v |= uint64(b[0]&0x7f) << shift
		if size++; b[0] < 0x80 {
			return v, size, nil
		}
	}
	return 0, 0, invalid("xz: a number is too large")
}

func (g *xzGuard) next() error {
	g.out = g.out[:0]
	switch g.state {
	case xzHeader:
		if _, err := g.r.Peek(1); err != nil {
			return err // the end
		}
		b, err := g.take(4)
		if err != nil || b[0] == 0 { // padding between streams
			return err
		}
		if b, err = g.take(8); err != nil {
			return err
		}
		g.check = [16]int64{0, 4, 4, 4, 8, 8, 8, 16, 16, 16, 32, 32, 32, 64, 64, 64}[b[3]&0xf]
		g.state, g.blocks = xzBlock, 0
		return nil
	case xzBlock:
		b, err := g.take(1)
		if err != nil {
			return err
		}
		if b[0] == 0 {
			return g.index()
		}
		if g.blocks++; g.blocks > xzBlocks {
			return tooMuch("xz: more than %d blocks", xzBlocks)
		}
		h, err := g.take(int(b[0])*4 + 3)
		if err != nil {
			return err
		}
		g.state, g.size = xzChunk, 0
		return checkBlock(h)
	}
	return g.chunk()
}

// checkBlock looks at a block's header, without its size and with its checksum.
func checkBlock(h []byte) error {
	flags, rest := h[0], h[1:len(h)-4]
	skip := int(flags>>6&1) + int(flags>>7&1) // sizes, if they are there
	for ; skip > 0 && len(rest) > 0; rest = rest[1:] {
		if rest[0] < 0x80 {
			skip--
		}
	}
	const lzma2 = 0x21
	if flags&0x3f != 0 || len(rest) < 3 || rest[0] != lzma2 || rest[1] != 1 {
		return invalid("xz: only LZMA2 without filters is supported")
	}
	bits := rest[2]
	if bits > 40 || int64(2|bits&1)<<(bits/2+11) > xzDictionary {
		return tooMuch("xz: a dictionary of more than %d bytes", xzDictionary)
	}
	return nil
}

// chunk passes one chunk on, or the end of a block.
func (g *xzGuard) chunk() error {
	b, err := g.take(1)
	if err != nil {
		return err
	}
	switch control := b[0]; {
	case control == 0:
		g.size++
		g.left = -g.size&3 + g.check // padding, checksum
		g.state = xzBlock
		return nil
	case control < 3: // not compressed
		if b, err = g.take(2); err != nil {
			return err
		}
		g.left = int64(b[0])<<8 + int64(b[1]) + 1
		g.size += 3 + g.left
		return nil
	case control < 0x80:
		return invalid("xz: unknown chunk %#x", control)
	default:
		header := 4
		if control >= 0xc0 { // with new properties
			header = 5
		}
		if b, err = g.take(header); err != nil {
			return err
		}
		g.left = int64(b[2])<<8 + int64(b[3]) + 1
		g.size += 1 + int64(header) + g.left
		return nil
	}
}

// index passes a stream's index and its footer on.
func (g *xzGuard) index() error {
	records, size, err := g.number()
	if err != nil {
		return err
	}
	if records > xzBlocks {
		return tooMuch("xz: more than %d blocks", xzBlocks)
	}
	total := 1 + size
	for range 2 * records {
		_, size, err := g.number()
		if err != nil {
			return err
		}
		total += size
	}
	const checksum, footer = 4, 12
	g.left = -total&3 + checksum + footer
	g.state = xzHeader
	return nil
}
