package container

import (
	"encoding/binary"
	"io"
	"sync"
)

// limited keeps the first bytes of what is written to it.
type limited struct {
	mu   sync.Mutex
	max  int
	buf  []byte
	more bool
}

func (l *limited) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	room := l.max - len(l.buf)
	if room < len(p) {
		l.more = true
	} else {
		room = len(p)
	}
	l.buf = append(l.buf, p[:room]...)
	return len(p), nil
}

func (l *limited) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.more {
		return string(l.buf) + "..."
	}
	return string(l.buf)
}

// demux passes on the contents of a multiplexed stream, both streams in one.
type demux struct {
	w      io.Writer
	header []byte
	left   uint32 // of the current frame
}

func (d *demux) Write(p []byte) (int, error) {
	n := len(p)
	for len(p) > 0 {
		if d.left > 0 {
			take := min(uint32(len(p)), d.left)
			if _, err := d.w.Write(p[:take]); err != nil {
				return 0, err
			}
			p, d.left = p[take:], d.left-take
			continue
		}
		need := min(8-len(d.header), len(p))
		d.header, p = append(d.header, p[:need]...), p[need:]
		if len(d.header) == 8 {
			d.left, d.header = binary.BigEndian.Uint32(d.header[4:]), d.header[:0]
		}
	}
	return n, nil
}
