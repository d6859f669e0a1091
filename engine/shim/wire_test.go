package shim

import (
	"encoding/json"
	"reflect"
	"strings"
	"testing"
	"testing/quick"
	"time"
)

// Requests as the engine writes them mean to the monitor what encoding/json would make of them.
func TestParseRequest(t *testing.T) {
	whole := Request{Seq: 7, Op: OpCreate, Exec: "e", Height: 24, Width: 80, Create: &Create{
		Run:  Run{Argv: []string{"/bin/runc", "--root", "/run/x", "create"}, TTY: true, Stdin: true, StdinOnce: true, PIDFile: "p", LogFile: "l", Console: "c", UID: 65537, GID: 65538, Height: 1, Width: 65535},
		Fifo: "/run/x/fifo", Log: Log{Path: "/var/lib/log", MaxSize: 1 << 40, MaxFile: 3},
	}}
	cases := []Request{{}, {Seq: 1, Op: OpStart}, {Op: OpExec, Join: &Join{From: "w"}}, {Run: &Run{}}, {Create: &Create{}}, {Create: &Create{Run: Run{Argv: []string{}}}}, whole}
	with := func(f func(*Create)) {
		r := whole
		c := *whole.Create
		r.Create = &c
		f(r.Create)
		cases = append(cases, r)
	}
	for _, text := range []string{`quote " and \`, "tab\t", "<&>", "\u2028", "\x7f", "\x00", "äöü 世界", "\xff", "}{][,:"} {
		with(func(c *Create) { c.Fifo = text })
		with(func(c *Create) { c.Run.Argv = []string{text, text} })
	}
	with(func(c *Create) { c.Log.Attrs = map[string]string{"a": "b"} })
	with(func(c *Create) { c.Run.UID = -1 })
	with(func(c *Create) { c.Log.MaxSize = 1<<63 - 1 })
	for _, r := range cases {
		line, err := json.Marshal(r)
		if err != nil {
			t.Fatal(err)
		}
		var want Request
		if err := json.Unmarshal(line, &want); err != nil {
			t.Fatal(err)
		}
		if got, err := ParseRequest(append(line, '\n')); err != nil || !reflect.DeepEqual(got, want) {
			t.Errorf("%s: %+v, %v", line, got, err)
		}
	}
}

// FuzzParse: whatever the bytes are, the result is encoding/json's.
func FuzzParse(f *testing.F) {
	for _, s := range []string{
		`{"seq":1,"op":"start"}`, `{"control":true}`, `{"exec":"x","stdin":true,"stdout":false}`, `{"seq":01}`, `{"seq":1,}`, `{"seq":1.5}`,
		`{"op":"create","create":{"run":{"argv":["a","b"],"uid":5},"fifo":"f","log":{"path":"p","maxSize":9}}}`, `{"seq":1}{"seq":2}`, `{"Seq":3}`, `[]`,
		`{"create":null}`, `{"create":{},"create":{"fifo":"x"}}`, `{"create":{"fifo":"x"},"create":{}}`, `{"op":"a\u0062"}`, `{"height":65536}`, ` {"seq" : 1}`,
	} {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, line []byte) {
		var r Request
		rerr := json.Unmarshal(line, &r)
		if got, err := ParseRequest(line); (err == nil) != (rerr == nil) || err == nil && !reflect.DeepEqual(got, r) {
			t.Errorf("%q: %+v %v, want %+v %v", line, got, err, r, rerr)
		}
		var o Open
		oerr := json.Unmarshal(line, &o)
		if got, err := ParseOpen(line); (err == nil) != (oerr == nil) || err == nil && got != o {
			t.Errorf("%q: %+v %v, want %+v %v", line, got, err, o, oerr)
		}
	})
}

func TestAppend(t *testing.T) {
	at := time.Date(2026, 1, 2, 3, 4, 5, 67, time.UTC)
	check := func(line []byte, got, want any) bool {
		if err := json.Unmarshal(line, got); err != nil || !reflect.DeepEqual(got, want) || !strings.HasSuffix(string(line), "}\n") {
			t.Errorf("%s: %+v %v, want %+v", line, got, err, want)
			return false
		}
		return true
	}
	err := quick.Check(func(seq uint32, pid int, text, exec string, code int, some bool) bool {
		text, exec = strings.ToValidUTF8(text, "?"), strings.ToValidUTF8(exec, "?")
		e, o := Event{Seq: uint64(seq), Err: text, PID: pid, Exec: exec}, Opened{Err: text, StubPID: pid, PID: code}
		if some {
			e.Exit = &Exit{Code: code, At: at}
			o.Exit = e.Exit
		}
		return check(AppendEvent(nil, e), &Event{}, &e) && check(AppendOpened(nil, o), &Opened{}, &o) && check(AppendExit(nil, Exit{code, at}), &Exit{}, &Exit{code, at})
	}, nil)
	if err != nil {
		t.Error(err)
	}
	check(AppendEvent(nil, Event{}), &Event{}, &Event{})
	check(AppendOpened(nil, Opened{Err: "a \" \\ \n \x01 < \u2028 ä"}), &Opened{}, &Opened{Err: "a \" \\ \n \x01 < \u2028 ä"})
}
