package logfile

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/moby/moby/api/pkg/stdcopy"
)

var epoch = time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)

func entry(n int, stream, text string) string {
	b, err := json.Marshal(line{Log: text, Stream: stream, Time: epoch.Add(time.Duration(n) * time.Second), Attrs: map[string]string{"k": "v", "a": "b"}})
	if err != nil {
		panic(err)
	}
	return string(b) + "\n"
}

// numbered writes lines first…last (odd ones to stderr), each with padding bytes.
func numbered(t *testing.T, path string, first, last, padding int) {
	t.Helper()
	var b strings.Builder
	for n := first; n <= last; n++ {
		stream := "stdout"
		if n%2 == 1 {
			stream = "stderr"
		}
		b.WriteString(entry(n, stream, fmt.Sprintf("%d%s\n", n, strings.Repeat(".", padding))))
	}
	if err := os.WriteFile(path, []byte(b.String()), 0o600); err != nil {
		t.Fatal(err)
	}
}

func read(t *testing.T, path string, o Options) string {
	t.Helper()
	var out bytes.Buffer
	if err := Copy(t.Context(), &out, path, o, true, nil); err != nil {
		t.Fatal(err)
	}
	return strings.ReplaceAll(strings.TrimSpace(out.String()), "\n", " ")
}

func TestCopy(t *testing.T) {
	path := filepath.Join(t.TempDir(), "log")
	numbered(t, path+".2", 1, 3, 0)
	numbered(t, path+".1", 4, 6, 0)
	numbered(t, path, 7, 9, 0)
	both := Options{Stdout: true, Stderr: true, Tail: -1}
	with := func(f func(*Options)) Options { o := both; f(&o); return o }
	for _, c := range []struct {
		name string
		o    Options
		want string
	}{
		{"all", both, "1 2 3 4 5 6 7 8 9"},
		{"stdout", with(func(o *Options) { o.Stderr = false }), "2 4 6 8"},
		{"stderr", with(func(o *Options) { o.Stdout = false }), "1 3 5 7 9"},
		{"nothing", with(func(o *Options) { o.Tail = 0 }), ""},
		{"last", with(func(o *Options) { o.Tail = 1 }), "9"},
		{"a whole file", with(func(o *Options) { o.Tail = 3 }), "7 8 9"},
		{"over two files", with(func(o *Options) { o.Tail = 4 }), "6 7 8 9"},
		{"over three files", with(func(o *Options) { o.Tail = 7 }), "3 4 5 6 7 8 9"},
		{"exactly all", with(func(o *Options) { o.Tail = 9 }), "1 2 3 4 5 6 7 8 9"},
		{"more than there is", with(func(o *Options) { o.Tail = 99 }), "1 2 3 4 5 6 7 8 9"},
		{"since", with(func(o *Options) { o.Since = epoch.Add(8 * time.Second) }), "8 9"},
		{"until", with(func(o *Options) { o.Until = epoch.Add(2 * time.Second) }), "1 2"},
		{"timestamps", with(func(o *Options) { o.Tail, o.Timestamps = 1, true }), "2026-01-02T03:04:14.000000000Z 9"},
		{"details", with(func(o *Options) { o.Tail, o.Details = 1, true }), "a=b,k=v 9"},
	} {
		t.Run(c.name, func(t *testing.T) {
			if got := read(t, path, c.o); got != c.want {
				t.Errorf("%q, want %q", got, c.want)
			}
		})
	}
}

func TestTailOverBlocks(t *testing.T) {
	path := filepath.Join(t.TempDir(), "log")
	numbered(t, path, 1, 500, 1000) // half a megabyte
	for _, n := range []int{1, 63, 64, 65, 200, 499, 500, 501} {
		got := strings.Count(read(t, path, Options{Stdout: true, Stderr: true, Tail: n}), " ") + 1
		if got != min(n, 500) {
			t.Errorf("tail %d: %d lines", n, got)
		}
	}
}

func TestMissingAndBroken(t *testing.T) {
	path := filepath.Join(t.TempDir(), "log")
	all := Options{Stdout: true, Stderr: true, Tail: -1}
	if got := read(t, path, all); got != "" {
		t.Errorf("missing log: %q", got)
	}
	text := entry(1, "stdout", "whole\n") + "not json\n" + entry(2, "stdout", "cut")[:20]
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	if got := read(t, path, all); got != "whole" {
		t.Errorf("broken log: %q", got)
	}
	if err := os.WriteFile(path, bytes.Repeat([]byte("x"), MaxLine+2), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := Copy(t.Context(), &bytes.Buffer{}, path, all, true, nil); err == nil {
		t.Error("a line without end is read without end")
	}
}

func TestMultiplexed(t *testing.T) {
	path := filepath.Join(t.TempDir(), "log")
	numbered(t, path, 1, 4, 0)
	var mux, stdout, stderr bytes.Buffer
	if err := Copy(t.Context(), &mux, path, Options{Stdout: true, Stderr: true, Tail: -1}, false, nil); err != nil {
		t.Fatal(err)
	}
	if _, err := stdcopy.StdCopy(&stdout, &stderr, &mux); err != nil {
		t.Fatal(err)
	}
	if stdout.String() != "2\n4\n" || stderr.String() != "1\n3\n" {
		t.Errorf("%q %q", &stdout, &stderr)
	}
}

type buffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (b *buffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.b.Write(p)
}

func (b *buffer) words() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return strings.ReplaceAll(strings.TrimSpace(b.b.String()), "\n", " ")
}

func TestFollow(t *testing.T) {
	path := filepath.Join(t.TempDir(), "log")
	numbered(t, path, 1, 3, 0)
	out, done, result := &buffer{}, make(chan struct{}), make(chan error, 1)
	go func() {
		result <- Copy(context.Background(), out, path, Options{Stdout: true, Stderr: true, Tail: 1, Follow: true}, true, done)
	}()
	want := func(s string) {
		t.Helper()
		for range 500 {
			if out.words() == s {
				return
			}
			time.Sleep(10 * time.Millisecond)
		}
		t.Fatalf("%q, want %q", out.words(), s)
	}
	add := func(text string) {
		t.Helper()
		f, err := os.OpenFile(path, os.O_APPEND|os.O_CREATE|os.O_WRONLY, 0o600)
		if err != nil {
			t.Fatal(err)
		}
		defer f.Close()
		if _, err := f.WriteString(text); err != nil {
			t.Fatal(err)
		}
	}
	want("3")
	e := entry(4, "stdout", "4\n")
	add(e[:10])
	add(e[10:])
	want("3 4")
	// Two rotations at once: the file in between is read, too.
	for _, n := range []int{5, 6} {
		if n == 6 {
			if err := os.Rename(path+".1", path+".2"); err != nil {
				t.Fatal(err)
			}
		}
		if err := os.Rename(path, path+".1"); err != nil {
			t.Fatal(err)
		}
		add(entry(n, "stdout", fmt.Sprintf("%d\n", n)))
	}
	want("3 4 5 6")
	add(entry(7, "stdout", "7\n"))
	close(done)
	if err := <-result; err != nil {
		t.Fatal(err)
	}
	want("3 4 5 6 7")
}

// Lines mean what encoding/json says that they mean.
func TestParse(t *testing.T) {
	var lines []string
	for _, text := range []string{"", "plain\n", `quote " and \`, "\t\r\n", "\x00\x1f\x7f", "<&>", "\u2028 äöü 世界 😀", "\xff"} {
		for _, attrs := range []map[string]string{nil, {"a": "b"}} {
			b, err := json.Marshal(line{Log: text, Stream: "stdout", Time: epoch, Attrs: attrs})
			if err != nil {
				t.Fatal(err)
			}
			lines = append(lines, string(b)+"\n")
		}
	}
	const end = `","stream":"stderr","time":"2026-01-02T03:04:05.000000006Z"}` + "\n"
	for _, text := range []string{"plain", `\u00e4`, `\ud83d\ude00`, `\ud83d`, `\/\b\f`, `\u12`, `\x`, `\`, "\xff", "\x01", `x","stream":"stdout`} {
		lines = append(lines, `{"log":"`+text+end)
	}
	lines = append(lines, `{"log":"x","stream":"stdout","time":"yesterday"}`+"\n", `{"log":"x`, `{"log":"`, "", "\n", `{"log":"x","stream":"stdout","time":"2026-01-02T03:04:05Z","more":1}`+"\n")
	for _, b := range lines {
		var want line
		werr := json.Unmarshal([]byte(b), &want)
		p := &printer{}
		got, err := p.parse([]byte(b))
		if (err == nil) != (werr == nil) {
			t.Errorf("%q: error %v, want %v", b, err, werr)
		}
		if err == nil && (string(p.text) != want.Log || got.Stream != want.Stream || !got.Time.Equal(want.Time) || got.Attrs["a"] != want.Attrs["a"]) {
			t.Errorf("%q: %q %+v, want %+v", b, p.text, got, want)
		}
	}
}
