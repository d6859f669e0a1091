package monitor

import (
	"bytes"
	"encoding/json"
	"fmt"
	"os"
	"sync"
	"time"

	"stockade/engine/shim"
)

// maxLine is where a line without an end is cut, as Docker does.
const maxLine = 16 << 10

// logWriter writes Docker's json-file format with rotation.
type logWriter struct {
	mu      sync.Mutex
	cfg     shim.Log
	f       *os.File
	size    int64
	attrs   []byte // ,"attrs":{…}
	partial [3][]byte
	out     []byte
	failed  bool

	ending    []byte // see end
	endStream byte
	endTime   time.Time
}

func openLog(cfg shim.Log) (*logWriter, error) {
	w := &logWriter{cfg: cfg}
	if cfg.Path == "" {
		return w, nil
	}
	if len(cfg.Attrs) > 0 {
		b, err := json.Marshal(cfg.Attrs)
		if err != nil {
			return nil, err
		}
		w.attrs = append([]byte(`"attrs":`), b...)
		w.attrs = append(w.attrs, ',')
	}
	return w, w.open()
}

func (w *logWriter) open() error {
	f, err := os.OpenFile(w.cfg.Path, os.O_WRONLY|os.O_APPEND|os.O_CREATE, 0o640)
	if err != nil {
		return err
	}
	st, err := f.Stat()
	if err != nil {
		f.Close()
		return err
	}
	w.f, w.size = f, st.Size()
	return nil
}

// write adds output; whole lines, and pieces of maxLine bytes, are written in one call.
func (w *logWriter) write(stream byte, data []byte) {
	if w.cfg.Path == "" {
		return
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	now := time.Now().UTC()
	w.out = w.out[:0]
	for len(data) > 0 {
		part := w.partial[stream]
		i := bytes.IndexByte(data, '\n')
		room := maxLine - len(part)
		var chunk []byte
		switch {
		case i >= 0 && i < room:
			chunk, data = data[:i+1], data[i+1:]
		case len(data) >= room:
			chunk, data = data[:room], data[room:]
		default:
			w.partial[stream] = append(part, data...)
			data = nil
			continue
		}
		if len(part) > 0 {
			part = append(part, chunk...)
			w.entry(stream, part, now)
			w.partial[stream] = part[:0]
		} else {
			w.entry(stream, chunk, now)
		}
	}
	w.put()
}

// flush writes a last line without an end.
func (w *logWriter) flush(stream byte) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.cfg.Path != "" && len(w.partial[stream]) > 0 {
		w.out = w.out[:0]
		w.entry(stream, w.partial[stream], time.Now().UTC())
		w.partial[stream] = nil
		w.put()
	}
}

func (w *logWriter) put() {
	if len(w.out) == 0 {
		return
	}
	if w.f == nil {
		if err := w.open(); err != nil {
			w.fail(err)
			return
		}
	}
	if w.cfg.MaxSize > 0 && w.size > 0 && w.size+int64(len(w.out)) > w.cfg.MaxSize {
		if err := w.rotate(); err != nil {
			w.fail(err)
			return
		}
	}
	n, err := w.f.Write(w.out)
	w.size += int64(n)
	if err != nil {
		// A half-written entry would spoil the next one.
		if n > 0 {
			if terr := w.f.Truncate(w.size - int64(n)); terr == nil {
				w.size -= int64(n)
			}
		}
		w.fail(err)
		return
	}
	w.failed = false
}

func (w *logWriter) fail(err error) {
	if !w.failed {
		fmt.Fprintln(os.Stderr, "stockade-shim: write log:", err)
	}
	w.failed = true
}

func (w *logWriter) rotate() error {
	w.f.Close()
	w.f = nil
	n := max(w.cfg.MaxFile, 1)
	name := func(i int) string {
		if i == 0 {
			return w.cfg.Path
		}
		return fmt.Sprintf("%s.%d", w.cfg.Path, i)
	}
	if n == 1 {
		if err := os.Remove(w.cfg.Path); err != nil && !os.IsNotExist(err) {
			return err
		}
	}
	for i := n - 1; i > 0; i-- {
		if err := os.Rename(name(i-1), name(i)); err != nil && !os.IsNotExist(err) {
			return err
		}
	}
	return w.open()
}

// Close closes the file.
func (w *logWriter) Close() {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.f != nil {
		w.f.Close()
		w.f = nil
	}
}

// entry appends one line of the json-file format to w.out.
func (w *logWriter) entry(stream byte, line []byte, now time.Time) {
	before := len(w.out)
	b := append(w.out, `{"log":"`...)
	b = shim.AppendEscaped(b, line)
	if w.endStream != stream || !w.endTime.Equal(now) {
		w.end(stream, now)
	}
	w.out = append(b, w.ending...)
	if before > 0 && w.cfg.MaxSize > 0 && w.size+int64(len(w.out)) > w.cfg.MaxSize {
		// What arrived together fills more than one file.
		last := w.out[before:]
		w.out = w.out[:before]
		w.put()
		w.out = append(w.out[:0], last...)
	}
}

// end makes what follows the text of an entry: the same for all lines that arrive together.
func (w *logWriter) end(stream byte, now time.Time) {
	name := "stdout"
	if stream == stderr {
		name = "stderr"
	}
	b := append(w.ending[:0], `","stream":"`...)
	b = append(b, name...)
	b = append(b, `",`...)
	b = append(b, w.attrs...)
	b = append(b, `"time":"`...)
	b = now.AppendFormat(b, time.RFC3339Nano)
	w.ending, w.endStream, w.endTime = append(b, "\"}\n"...), stream, now
}
