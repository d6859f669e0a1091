package audit

import (
	"errors"
	"io"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"
)

type short struct{}

func (short) Write(p []byte) (int, error) { return len(p) - 1, nil }

// tearing takes so many bytes and no more.
type tearing struct {
	b    strings.Builder
	room int
}

func (w *tearing) Write(p []byte) (int, error) {
	if len(p) > w.room {
		w.b.Write(p[:w.room])
		return w.room, errors.New("no space left on device")
	}
	return w.b.Write(p)
}

// SECURITY(T-801): room for records is kept behind the end of the file.
func TestReserve(t *testing.T) {
	f, err := os.OpenFile(filepath.Join(t.TempDir(), "log"), os.O_WRONLY|os.O_CREATE|os.O_APPEND, 0o600)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if err := New(f).Write(Record{ID: "x"}); err != nil {
		t.Fatal(err)
	}
	fi, err := f.Stat()
	if err != nil {
		t.Fatal(err)
	}
	if st := fi.Sys().(*syscall.Stat_t); fi.Size() > 1000 || st.Blocks*512 < ahead {
		t.Errorf("%d bytes take %d", fi.Size(), st.Blocks*512)
	}
}

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
	// A line that was cut off does not swallow the next one.
	torn := &tearing{room: 10}
	l = New(torn)
	if err := l.Write(r); err == nil {
		t.Error("a torn line is no error")
	}
	torn.room = 1 << 20
	if err := l.Write(r); err != nil || torn.b.String() != want[:10]+"\n"+want {
		t.Errorf("after a torn line: %v %s", err, torn.b.String())
	}
	if a, b := NewID(), NewID(); len(a) != 16 || a == b {
		t.Errorf("ids %s, %s", a, b)
	}
}
