// Package logfile reads container logs in Docker's json-file format, over rotated files, from the end and following.
//
// Trust: the lines are written by the engine's shims from what hostile containers print; a line that does not parse ends
// the file it is in, and a line beyond MaxLine is an error.
// Invariants: a reader never holds more than one line and one block in memory.
// Failure: a missing log is an empty one.
package logfile

import (
	"bufio"
	"bytes"
	"context"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"os"
	"slices"
	"strconv"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/moby/moby/api/pkg/stdcopy"
)

// MaxLine bounds one line of the file: 16 KiB of output, escaped, with time and attributes.
const MaxLine = 1 << 20

// pollEvery is how often a follower looks for more.
const pollEvery = 50 * time.Millisecond

// timeFormat is RFC 3339 with all nine digits, as Docker prints it.
const timeFormat = "2006-01-02T15:04:05.000000000Z07:00"

// Options say which lines are wanted and how they are printed.
type Options struct {
	Stdout, Stderr bool
	Since, Until   time.Time // zero: no bound
	Tail           int       // number of last lines, negative: all
	Timestamps     bool
	Details        bool
	Follow         bool
}

type line struct {
	Log    string            `json:"log"`
	Stream string            `json:"stream"`
	Time   time.Time         `json:"time"`
	Attrs  map[string]string `json:"attrs,omitempty"`
}

// Copy writes the wanted lines of the log at path to w: raw, or multiplexed as in the Engine API. A following copy ends
// when done is closed and everything written until then was copied, or with ctx.
func Copy(ctx context.Context, w io.Writer, path string, o Options, raw bool, done <-chan struct{}) error {
	if path == "" || o.Tail == 0 && !o.Follow {
		return nil
	}
	p := &printer{w: bufio.NewWriterSize(w, block/2), o: o, raw: raw}
	files, err := open(path)
	if err != nil {
		return err
	}
	defer func() { closeAll(files) }()
	first, offset, err := tailStart(files, o.Tail)
	if err != nil {
		return err
	}
	var rest []byte
	for i := first; i < len(files); i++ {
		at := int64(0)
		if i == first {
			at = offset
		}
		if _, err := files[i].Seek(at, io.SeekStart); err != nil {
			return err
		}
		if rest, err = p.lines(ctx, files[i], nil); err != nil {
			return ended(err)
		}
	}
	if !o.Follow {
		return nil
	}
	var current *os.File
	if len(files) > 0 {
		current = files[len(files)-1]
		files = files[:len(files)-1]
	}
	return ended(p.follow(ctx, path, current, rest, done))
}

// errUntil ends a copy at the first line after Until.
var errUntil = errors.New("past the end")

func ended(err error) error {
	if errors.Is(err, errUntil) || errors.Is(err, context.Canceled) {
		return nil
	}
	return err
}

// open opens the log's files, oldest first.
func open(path string) ([]*os.File, error) {
	var out []*os.File
	for n := 0; ; n++ {
		name := path
		if n > 0 {
			name = fmt.Sprintf("%s.%d", path, n)
		}
		f, err := os.Open(name)
		if errors.Is(err, os.ErrNotExist) {
			if n == 0 {
				continue // between two files of a rotation
			}
			break
		}
		if err != nil {
			closeAll(out)
			return nil, fmt.Errorf("open log: %w", err)
		}
		out = append(out, f)
	}
	slices.Reverse(out)
	return out, nil
}

const block = 64 << 10

// tailStart finds the file and the offset at which the last n lines begin, reading blocks from the end.
func tailStart(files []*os.File, n int) (int, int64, error) {
	if n < 0 || len(files) == 0 {
		return 0, 0, nil
	}
	buf := make([]byte, block)
	for i := len(files) - 1; i >= 0; i-- {
		end, err := files[i].Seek(0, io.SeekEnd)
		if err != nil {
			return 0, 0, err
		}
		if n == 0 {
			return i, end, nil
		}
		if end == 0 {
			continue
		}
		// The newline at the very end closes the last line; each one before it begins one.
		for upper := end - 1; upper > 0; {
			size := min(int64(block), upper)
			b := buf[:size]
			if _, err := files[i].ReadAt(b, upper-size); err != nil {
				return 0, 0, err
			}
			for at := bytes.LastIndexByte(b, '\n'); at >= 0; at = bytes.LastIndexByte(b, '\n') {
				if n--; n == 0 {
					return i, upper - size + int64(at) + 1, nil
				}
				b = b[:at]
			}
			upper -= size
		}
		if n--; n == 0 { // the file's first line
			return i, 0, nil
		}
	}
	return 0, 0, nil
}

type printer struct {
	w      *bufio.Writer
	o      Options
	raw    bool
	header [8]byte
	text   []byte // of the current line
}

// lines prints the complete lines that r has and returns what follows the last newline. rest came before. Nothing stays
// behind in the buffer.
func (p *printer) lines(ctx context.Context, r io.Reader, rest []byte) (_ []byte, err error) {
	defer func() { err = errors.Join(err, p.w.Flush()) }()
	br := bufio.NewReaderSize(r, block)
	for {
		if err := ctx.Err(); err != nil {
			return nil, err
		}
		part, err := br.ReadSlice('\n')
		rest = append(rest, part...)
		if len(rest) > MaxLine {
			return nil, errors.New("log line too long")
		}
		switch {
		case errors.Is(err, bufio.ErrBufferFull):
			continue
		case errors.Is(err, io.EOF):
			return rest, nil
		case err != nil:
			return nil, fmt.Errorf("read log: %w", err)
		}
		if err := p.print(rest); err != nil {
			return nil, err
		}
		rest = rest[:0]
	}
}

func (p *printer) print(b []byte) error {
	l, err := p.parse(b)
	if err != nil {
		return nil // a line cut off by a crash
	}
	if !p.o.Since.IsZero() && l.Time.Before(p.o.Since) {
		return nil
	}
	if !p.o.Until.IsZero() && l.Time.After(p.o.Until) {
		return errUntil
	}
	stream := stdcopy.Stdout
	if l.Stream == "stderr" {
		stream = stdcopy.Stderr
	}
	if stream == stdcopy.Stdout && !p.o.Stdout || stream == stdcopy.Stderr && !p.o.Stderr {
		return nil
	}
	prefix := ""
	if p.o.Timestamps {
		prefix = l.Time.UTC().Format(timeFormat) + " "
	}
	if p.o.Details {
		prefix += details(l.Attrs) + " "
	}
	if !p.raw {
		p.header[0] = byte(stream)
		binary.BigEndian.PutUint32(p.header[4:], uint32(len(prefix)+len(p.text)))
		_, _ = p.w.Write(p.header[:])
	}
	_, _ = p.w.WriteString(prefix) // an error stays with the writer
	_, err = p.w.Write(p.text)
	return err
}

// parse reads one line; its text goes to p.text. Lines as the monitor writes them need no encoding/json, which is slow.
func (p *printer) parse(b []byte) (line, error) {
	var l line
	var err error
	if rest, ok := p.unescape(b); ok {
		for _, stream := range []string{"stdout", "stderr"} {
			if at, ok := bytes.CutPrefix(rest, []byte(`,"stream":"`+stream+`","time":"`)); ok {
				if at, ok = bytes.CutSuffix(at, []byte("\"}\n")); ok && bytes.IndexByte(at, '\\') < 0 {
					l.Stream = stream
					l.Time, err = time.Parse(time.RFC3339Nano, string(at))
					return l, err
				}
			}
		}
	}
	l = line{}
	err = json.Unmarshal(b, &l)
	p.text = append(p.text[:0], l.Log...)
	return l, err
}

// unescape reads the text at the beginning of a line into p.text and returns what follows; false leaves it to
// encoding/json.
func (p *printer) unescape(b []byte) ([]byte, bool) {
	b, ok := bytes.CutPrefix(b, []byte(`{"log":"`))
	if !ok {
		return nil, false
	}
	p.text = p.text[:0]
	for {
		n := 0
		for n < len(b) && b[n] >= 0x20 && b[n] != '"' && b[n] != '\\' {
			n++
		}
		if n == len(b) || b[n] < 0x20 || !utf8.Valid(b[:n]) {
			return nil, false
		}
		p.text = append(p.text, b[:n]...)
		if b[n] == '"' {
			return b[n+1:], true
		}
		if n+1 == len(b) {
			return nil, false
		}
		switch b[n+1] {
		case 'n':
			p.text = append(p.text, '\n')
		case 'r':
			p.text = append(p.text, '\r')
		case 't':
			p.text = append(p.text, '\t')
		case '"', '\\':
			p.text = append(p.text, b[n+1])
		case 'u':
			if len(b) < n+6 {
				return nil, false
			}
			r, err := strconv.ParseUint(string(b[n+2:n+6]), 16, 16)
			if err != nil || r >= 0xd800 && r < 0xe000 {
				return nil, false
			}
			p.text = utf8.AppendRune(p.text, rune(r))
			b = b[n+6:]
			continue
		default:
			return nil, false
		}
		b = b[n+2:]
	}
}

func details(attrs map[string]string) string {
	var kv []string
	for _, k := range slices.Sorted(maps.Keys(attrs)) {
		kv = append(kv, k+"="+attrs[k])
	}
	return strings.Join(kv, ",")
}

// follow prints what is appended to current, and to the files that replace it.
func (p *printer) follow(ctx context.Context, path string, current *os.File, rest []byte, done <-chan struct{}) (err error) {
	defer func() {
		if current != nil {
			current.Close()
		}
	}()
	tick := time.NewTicker(pollEvery)
	defer tick.Stop()
	var until <-chan time.Time
	if !p.o.Until.IsZero() {
		t := time.NewTimer(time.Until(p.o.Until))
		defer t.Stop()
		until = t.C
	}
	for last := false; ; {
		if current != nil {
			if rest, err = p.lines(ctx, current, rest); err != nil {
				return err
			}
		}
		next, err := newer(path, current)
		if err != nil {
			return err
		}
		if len(next) > 0 {
			if current != nil {
				// Once more: the writer may have added a line before it turned to the new file.
				if _, err := p.lines(ctx, current, rest); err != nil {
					closeAll(next)
					return err
				}
				current.Close()
			}
			newest := len(next) - 1
			current, rest = next[newest], nil
			for i, f := range next[:newest] {
				if _, err := p.lines(ctx, f, nil); err != nil {
					closeAll(next[i:newest])
					return err
				}
				f.Close()
			}
			continue
		}
		if last {
			return nil
		}
		select {
		case <-tick.C:
		case <-until:
			last = true
		case <-done:
			last = true // once more, for what was written until the end
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// newer opens the files that came after current, oldest first; none if current is the newest.
func newer(path string, current *os.File) ([]*os.File, error) {
	if current != nil {
		info, err := os.Stat(path)
		if errors.Is(err, os.ErrNotExist) {
			return nil, nil
		}
		if err != nil {
			return nil, err
		}
		have, err := current.Stat()
		if err != nil {
			return nil, err
		}
		if os.SameFile(info, have) {
			return nil, nil
		}
	}
	files, err := open(path)
	if err != nil || current == nil {
		return files, err
	}
	have, err := current.Stat()
	if err != nil {
		closeAll(files)
		return nil, err
	}
	for i, f := range files {
		if info, err := f.Stat(); err == nil && os.SameFile(info, have) {
			closeAll(files[:i+1])
			return files[i+1:], nil
		}
	}
	return files, nil
}

func closeAll(files []*os.File) {
	for _, f := range files {
		f.Close()
	}
}
