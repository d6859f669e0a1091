package shim

import (
	"bytes"
	"encoding/json"
	"strconv"
	"time"
	"unicode/utf8"
)

// The messages of every container's life are read and written here for the monitor, of which there is one per container:
// encoding/json's tables of these types would be a tenth of its memory, and of its time before the first instruction.
// What a scan does not fully understand is left to encoding/json, so that both always mean the same.

// ParseOpen reads the first line of a connection.
func ParseOpen(line []byte) (Open, error) {
	var o Open
	s := scan{rest: line}
	s.object(func(key string) {
		switch key {
		case "control":
			o.Control = s.boolean()
		case "exec":
			o.Exec = s.text()
		case "stdin":
			o.Stdin = s.boolean()
		case "stdout":
			o.Stdout = s.boolean()
		case "stderr":
			o.Stderr = s.boolean()
		default:
			s.bad = true
		}
	})
	if s.whole() {
		return o, nil
	}
	o = Open{}
	return o, json.Unmarshal(line, &o)
}

// ParseRequest reads one order of the engine.
func ParseRequest(line []byte) (Request, error) {
	var r Request
	s := scan{rest: line}
	s.object(func(key string) {
		switch key {
		case "seq":
			r.Seq = uint64(s.number(1<<62 - 1))
		case "op":
			r.Op = Op(s.text())
		case "exec":
			r.Exec = s.text()
		case "create":
			if r.Create != nil { // encoding/json would merge the two
				s.bad = true
				return
			}
			r.Create = &Create{}
			s.create(r.Create)
		case "height":
			r.Height = uint16(s.number(1<<16 - 1))
		case "width":
			r.Width = uint16(s.number(1<<16 - 1))
		default: // orders for execs
			s.bad = true
		}
	})
	if s.whole() {
		return r, nil
	}
	r = Request{}
	return r, json.Unmarshal(line, &r)
}

func (s *scan) create(c *Create) {
	s.object(func(key string) {
		switch key {
		case "run":
			s.run(&c.Run)
		case "fifo":
			c.Fifo = s.text()
		case "log":
			s.log(&c.Log)
		default:
			s.bad = true
		}
	})
}

func (s *scan) run(r *Run) {
	s.object(func(key string) {
		switch key {
		case "argv":
			r.Argv = []string{}
			s.list(func() { r.Argv = append(r.Argv, s.text()) })
		case "tty":
			r.TTY = s.boolean()
		case "stdin":
			r.Stdin = s.boolean()
		case "stdinOnce":
			r.StdinOnce = s.boolean()
		case "pidFile":
			r.PIDFile = s.text()
		case "logFile":
			r.LogFile = s.text()
		case "console":
			r.Console = s.text()
		case "uid":
			r.UID = int(s.number(1<<62 - 1))
		case "gid":
			r.GID = int(s.number(1<<62 - 1))
		case "height":
			r.Height = uint16(s.number(1<<16 - 1))
		case "width":
			r.Width = uint16(s.number(1<<16 - 1))
		default:
			s.bad = true
		}
	})
}

func (s *scan) log(l *Log) {
	s.object(func(key string) {
		switch key {
		case "path":
			l.Path = s.text()
		case "maxSize":
			l.MaxSize = s.number(1<<62 - 1)
		case "maxFile":
			l.MaxFile = int(s.number(1<<62 - 1))
		default: // attributes
			s.bad = true
		}
	})
}

// scan reads JSON as encoding/json writes it: without spaces, null or fractions.
type scan struct {
	rest []byte
	bad  bool
}

// whole tells whether everything was understood.
func (s *scan) whole() bool { return !s.bad && (len(s.rest) == 0 || string(s.rest) == "\n") }

// take removes a byte if it comes next.
func (s *scan) take(c byte) bool {
	if s.bad || len(s.rest) == 0 || s.rest[0] != c {
		return false
	}
	s.rest = s.rest[1:]
	return true
}

func (s *scan) want(c byte) {
	if !s.take(c) {
		s.bad = true
	}
}

// object calls field for each key, which takes the value.
func (s *scan) object(field func(key string)) {
	s.want('{')
	for first := true; !s.bad && !s.take('}'); first = false {
		if !first {
			s.want(',')
		}
		key := s.text()
		s.want(':')
		if !s.bad {
			field(key)
		}
	}
}

func (s *scan) list(element func()) {
	s.want('[')
	for first := true; !s.bad && !s.take(']'); first = false {
		if !first {
			s.want(',')
		}
		if !s.bad {
			element()
		}
	}
}

func (s *scan) boolean() bool {
	for _, word := range []string{"true", "false"} {
		if rest, ok := bytes.CutPrefix(s.rest, []byte(word)); ok && !s.bad {
			s.rest = rest
			return word == "true"
		}
	}
	s.bad = true
	return false
}

// number reads a whole number from 0 to most.
func (s *scan) number(most int64) int64 {
	n := 0
	for n < len(s.rest) && s.rest[n] >= '0' && s.rest[n] <= '9' {
		n++
	}
	v, err := strconv.ParseInt(string(s.rest[:n]), 10, 64)
	// Something else may follow a number only in JSON that is written otherwise.
	if s.bad || err != nil || v > most || n > 1 && s.rest[0] == '0' {
		s.bad = true
		return 0
	}
	s.rest = s.rest[n:]
	return v
}

// text reads a string.
func (s *scan) text() string {
	s.want('"')
	end := bytes.IndexByte(s.rest, '"')
	if s.bad || end < 0 {
		s.bad = true
		return ""
	}
	raw := s.rest[:end]
	for _, c := range raw {
		if c < 0x20 || c == '\\' { // rare in what the engine sends
			s.bad = true
			return ""
		}
	}
	if !utf8.Valid(raw) {
		s.bad = true
		return ""
	}
	s.rest = s.rest[end+1:]
	return string(raw)
}

// AppendOpened appends the answer to Open as a line.
func AppendOpened(b []byte, o Opened) []byte {
	w := object{b: b}
	w.text("err", o.Err)
	w.number("stubPid", int64(o.StubPID))
	w.exit("exit", o.Exit)
	w.number("pid", int64(o.PID))
	return w.line()
}

// AppendEvent appends an event as a line.
func AppendEvent(b []byte, e Event) []byte {
	w := object{b: b}
	w.number("seq", int64(e.Seq))
	w.text("err", e.Err)
	w.number("pid", int64(e.PID))
	w.text("exec", e.Exec)
	w.exit("exit", e.Exit)
	return w.line()
}

// AppendExit appends an exit as a line.
func AppendExit(b []byte, e Exit) []byte {
	b = append(b, `{"code":`...)
	b = strconv.AppendInt(b, int64(e.Code), 10)
	b = append(b, `,"at":"`...)
	b = e.At.AppendFormat(b, time.RFC3339Nano)
	return append(b, "\"}\n"...)
}

// object writes the fields of a JSON object that have a value.
type object struct {
	b    []byte
	some bool
}

func (w *object) key(k string) {
	c := byte('{')
	if w.some {
		c = ','
	}
	w.some = true
	w.b = append(append(append(w.b, c, '"'), k...), '"', ':')
}

func (w *object) text(k, v string) {
	if v != "" {
		w.key(k)
		w.b = append(AppendEscaped(append(w.b, '"'), []byte(v)), '"')
	}
}

func (w *object) number(k string, v int64) {
	if v != 0 {
		w.key(k)
		w.b = strconv.AppendInt(w.b, v, 10)
	}
}

func (w *object) exit(k string, e *Exit) {
	if e != nil {
		w.key(k)
		w.b = AppendExit(w.b, *e)
		w.b = w.b[:len(w.b)-1]
	}
}

func (w *object) line() []byte {
	if !w.some {
		w.b = append(w.b, '{')
	}
	return append(w.b, '}', '\n')
}

const hex = "0123456789abcdef"

// plain are the bytes that stand for themselves in a JSON string.
var plain = func() (t [256]bool) {
	for c := 0x20; c < 0x7f; c++ {
		t[c] = c != '"' && c != '\\' && c != '<' && c != '>' && c != '&'
	}
	return t
}()

// AppendEscaped appends text as it stands within a JSON string: as encoding/json escapes it, and DEL as well. What is no
// UTF-8 becomes U+FFFD.
func AppendEscaped(b, text []byte) []byte {
	for i := 0; i < len(text); {
		run := i
		for run < len(text) && plain[text[run]] {
			run++
		}
		if run > i {
			b = append(b, text[i:run]...)
			i = run
			continue
		}
		c := text[i]
		switch {
		case c == '"' || c == '\\':
			b = append(b, '\\', c)
		case c == '\n':
			b = append(b, '\\', 'n')
		case c == '\r':
			b = append(b, '\\', 'r')
		case c == '\t':
			b = append(b, '\\', 't')
		case c < utf8.RuneSelf:
			b = append(b, '\\', 'u', '0', '0', hex[c>>4], hex[c&15])
		default:
			r, n := utf8.DecodeRune(text[i:])
			switch {
			case r == utf8.RuneError && n == 1:
				b = append(b, `\ufffd`...)
			case r == '\u2028' || r == '\u2029':
				b = append(append(b, `\u202`...), hex[r&15])
			default:
				b = append(b, text[i:i+n]...)
			}
			i += n
			continue
		}
		i++
	}
	return b
}
