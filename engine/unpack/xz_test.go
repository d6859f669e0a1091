package unpack

import (
	"bufio"
	"bytes"
	"errors"
	"io"
	"math/rand/v2"
	"slices"
	"testing"

	"github.com/ulikunitz/xz"
)

func xzFile(t testing.TB, c xz.WriterConfig, data []byte) []byte {
	t.Helper()
	var b bytes.Buffer
	w, err := c.NewWriter(&b)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := w.Write(data); err != nil {
		t.Fatal(err)
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

func unxz(data []byte) ([]byte, error) {
	r, err := newXZ(bufio.NewReader(bytes.NewReader(data)))
	if err != nil {
		return nil, err
	}
	return io.ReadAll(r)
}

// plainText is n bytes of which about half can be compressed away.
func plainText(n int) []byte {
	random := rand.New(rand.NewPCG(1, 2))
	data := make([]byte, n)
	for i := range data {
		if i/5000%2 == 0 {
			data[i] = byte(random.Uint32())
		}
	}
	return data
}

func TestXZ(t *testing.T) {
	data := plainText(100_000)
	small := xz.WriterConfig{DictCap: 1 << 16}
	for name, file := range map[string][]byte{
		"empty":       xzFile(t, small, nil),
		"one byte":    xzFile(t, small, data[:1]),
		"one block":   xzFile(t, small, data),
		"many blocks": xzFile(t, xz.WriterConfig{DictCap: 1 << 16, BlockSize: 10000}, data),
		"CRC32":       xzFile(t, xz.WriterConfig{DictCap: 1 << 16, CheckSum: xz.CRC32}, data),
		"SHA-256":     xzFile(t, xz.WriterConfig{DictCap: 1 << 16, CheckSum: xz.SHA256, BlockSize: 12345}, data),
		"no check":    xzFile(t, xz.WriterConfig{DictCap: 1 << 16, NoCheckSum: true}, data),
		"xz -9":       xzFile(t, xz.WriterConfig{DictCap: 64 << 20}, data[:10000]),
		"two streams": slices.Concat(xzFile(t, small, data[:5]), make([]byte, 8), xzFile(t, small, data[5:10])),
	} {
		want := data
		switch name {
		case "empty":
			want = nil
		case "one byte":
			want = data[:1]
		case "xz -9", "two streams":
			want = data[:map[string]int{"xz -9": 10000, "two streams": 10}[name]]
		}
		if got, err := unxz(file); err != nil || !bytes.Equal(got, want) {
			t.Errorf("%s: %d bytes of %d, %v", name, len(got), len(want), err)
		}
		// What the guard passes on is what it gets.
		passed, err := io.ReadAll(&xzGuard{r: bufio.NewReader(bytes.NewReader(file))})
		if err != nil || !bytes.Equal(passed, file) {
			t.Errorf("%s: %d bytes of %d passed on, %v", name, len(passed), len(file), err)
		}
		for _, cut := range []int{3, 12, 13, len(file) - 1} {
			if _, err := unxz(file[:cut]); err == nil {
				t.Errorf("%s: accepted after %d bytes", name, cut)
			}
		}
	}
}

// SECURITY(T-402): no block gets more memory than we give, the first or a later one.
func TestXZBounds(t *testing.T) {
	block := func(properties byte) []byte { // a block's header; the guard looks at it before anybody sums it up
		return []byte{2, 0, 0x21, 1, properties, 0, 0, 0, 0, 0, 0, 0}
	}
	stream := xzFile(t, xz.WriterConfig{DictCap: 1 << 16}, []byte("x"))[:12]
	first := xzFile(t, xz.WriterConfig{DictCap: 1 << 16}, []byte("x"))
	footer := len(first) - 12
	index := (int(first[footer+4]) + 1) * 4
	end := footer - index
	for name, c := range map[string]struct {
		file  []byte
		class string
	}{
		"4 GiB":          {slices.Concat(stream, block(40)), classLimit},
		"192 MiB":        {slices.Concat(stream, block(31)), classLimit},
		"odd":            {slices.Concat(stream, block(255)), classLimit},
		"later":          {slices.Concat(first[:end], block(40)), classLimit},
		"another filter": {slices.Concat(stream, []byte{2, 0, 3, 1, 0, 0, 0, 0, 0, 0, 0, 0}), classInvalid},
		"two filters":    {slices.Concat(stream, []byte{2, 1, 3, 1, 0, 0x21, 1, 0, 0, 0, 0, 0}), classInvalid},
		"chunk":          {slices.Concat(stream, block(10), []byte{0x10}), classInvalid},
		"index":          {slices.Concat(stream, []byte{0, 0xff, 0xff, 0xff, 0xff, 0x7f}), classLimit},
		"number":         {slices.Concat(stream, []byte{0}, bytes.Repeat([]byte{0xff}, 12)), classInvalid},
	} {
		_, err := io.ReadAll(&xzGuard{r: bufio.NewReader(bytes.NewReader(c.file))})
		var ref *refusal
		if !errors.As(err, &ref) || ref.class != c.class {
			t.Errorf("%s: %v, want class %s", name, err, c.class)
		}
	}
	// The control: the largest dictionary that is allowed.
	if _, err := io.ReadAll(&xzGuard{r: bufio.NewReader(bytes.NewReader(slices.Concat(stream, block(30))))}); !errors.Is(err, io.ErrUnexpectedEOF) {
		t.Errorf("128 MiB: %v", err)
	}
}

func FuzzXZ(f *testing.F) {
	f.Add(xzFile(f, xz.WriterConfig{DictCap: 1 << 16, BlockSize: 1000}, plainText(5000)))
	f.Add([]byte("\xfd7zXZ\x00"))
	f.Fuzz(func(t *testing.T, data []byte) {
		passed, err := io.ReadAll(&xzGuard{r: bufio.NewReader(bytes.NewReader(data))})
		if !bytes.HasPrefix(data, passed) {
			t.Error("other bytes were passed on")
		}
		// What is a file for the reader itself is one behind the guard, unless it asks for too much or ends too early.
		var ref *refusal
		if err == nil || errors.As(err, &ref) || errors.Is(err, io.ErrUnexpectedEOF) {
			return
		}
		if r, oerr := xz.NewReader(bytes.NewReader(data)); oerr == nil {
			if _, oerr = io.Copy(io.Discard, r); oerr == nil {
				t.Errorf("refused: %v", err)
			}
		}
	})
}
