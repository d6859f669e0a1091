package audit

import (
	"errors"
	"io"
	"strings"
	"testing"
	"time"
)

type short struct{}

func (short) Write(p []byte) (int, error) { return len(p) - 1, nil }

func TestWrite(t *testing.T) {
	var b strings.Builder
	l := New(&b)
	r := Record{Time: time.Unix(0, 0).UTC(), ID: "0123456789abcdef", UID: 1000, PID: 7, Tenant: "default", Operation: "ImageDelete", Object: "a\n{\"x\":1}", Decision: Refused, Rule: "decode"}
	for range 2 {
		if err := l.Write(r); err != nil {
			t.Fatal(err)
		}
	}
	want := `{"time":"1970-01-01T00:00:00Z","id":"0123456789abcdef","uid":1000,"pid":7,"tenant":"default","operation":"ImageDelete","object":"a\n{\"x\":1}","decision":"refused","rule":"decode"}` + "\n"
	if got := b.String(); got != want+want { // an object cannot forge a line
		t.Errorf("got %s", got)
	}
	if err := New(short{}).Write(r); !errors.Is(err, io.ErrShortWrite) {
		t.Errorf("short write: %v", err)
	}
	if a, b := NewID(), NewID(); len(a) != 16 || a == b {
		t.Errorf("ids %s, %s", a, b)
	}
}
