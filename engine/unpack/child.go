package unpack

import (
	"archive/tar"
	"bufio"
	"bytes"
	"compress/bzip2"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"hash"
	"io"
	"os"

	"github.com/klauspost/compress/gzip"
	"github.com/klauspost/compress/zstd"
	"github.com/opencontainers/go-digest"
	"golang.org/x/sys/unix"
)

// Descriptors of the child.
const (
	rootFD   = 3 // the folder to fill
	reportFD = 4 // pipe for the report
)

// Classes of a report.
const (
	classInvalid = "invalid"
	classLimit   = "limit"
	classSpace   = "space"
)

const maxWarnings = 64

// zstdWindow is the largest window that a stream may ask for.
const zstdWindow = 128 << 20

// refusal is an error about the blob rather than about us.
type refusal struct {
	class string
	err   error
}

func (r *refusal) Error() string { return r.err.Error() }
func (r *refusal) Unwrap() error { return r.err }

func invalid(format string, a ...any) error {
	return &refusal{class: classInvalid, err: fmt.Errorf(format, a...)}
}

func tooMuch(format string, a ...any) error {
	return &refusal{class: classLimit, err: fmt.Errorf(format, a...)}
}

// Main is the child: args are the mode and the limits; it reads the blob on descriptor 0 and returns the exit status.
func Main(args []string) int {
	out := os.NewFile(reportFD, "report")
	if len(args) != 2 || out == nil {
		fmt.Fprintln(os.Stderr, "stockade-unpack is started by the engine")
		return 2
	}
	res, err := child(args[0], args[1])
	r := report{Result: res}
	if err != nil {
		r.Err = err.Error()
		var ref *refusal
		switch {
		case errors.As(err, &ref):
			r.Class = ref.class
		case errors.Is(err, unix.ENOSPC), errors.Is(err, unix.EDQUOT):
			r.Class = classSpace
		}
	}
	if err := json.NewEncoder(out).Encode(r); err != nil || r.Err != "" {
		return 1
	}
	return 0
}

func child(mode, limits string) (Result, error) {
	var l Limits
	if err := json.Unmarshal([]byte(limits), &l); err != nil {
		return Result{}, fmt.Errorf("limits: %w", err)
	}
	if err := enter(l); err != nil {
		return Result{}, fmt.Errorf("confine: %w", err)
	}
	s, err := openStream(os.Stdin, l)
	if err != nil {
		return Result{}, err
	}
	var res Result
	switch mode {
	case "layer":
		a := newApplier(rootFD, l)
		if err := a.apply(tar.NewReader(s)); err != nil {
			return Result{}, err
		}
		res = a.res
	case "digest":
	default:
		return Result{}, fmt.Errorf("unknown mode %q", mode)
	}
	// The digest covers everything, also what follows the archive's end.
	if _, err := io.Copy(io.Discard, s); err != nil {
		return Result{}, err
	}
	if mode == "layer" {
		if err := unix.Syncfs(rootFD); err != nil {
			return Result{}, fmt.Errorf("sync: %w", err)
		}
	}
	res.DiffID = digest.NewDigest(digest.SHA256, s.sum)
	res.Stream = s.out
	return res, nil
}

// stream is the decompressed blob: counted, limited and hashed.
type stream struct {
	plain  io.Reader
	in     *counter
	out    int64
	limits Limits
	sum    hash.Hash
}

type counter struct {
	r io.Reader
	n int64
}

func (c *counter) Read(p []byte) (int, error) {
	n, err := c.r.Read(p)
	c.n += int64(n)
	return n, err
}

func openStream(r io.Reader, l Limits) (*stream, error) {
	s := &stream{in: &counter{r: r}, limits: l, sum: sha256.New()}
	buf := bufio.NewReaderSize(s.in, 256<<10)
	head, err := buf.Peek(6)
	if err != nil && !errors.Is(err, io.EOF) {
		return nil, err
	}
	switch {
	case bytes.HasPrefix(head, []byte{0x1f, 0x8b}):
		s.plain, err = gzip.NewReader(buf)
	case bytes.HasPrefix(head, []byte{0x28, 0xb5, 0x2f, 0xfd}), isSkippable(head):
		s.plain, err = zstd.NewReader(buf, zstd.WithDecoderConcurrency(1), zstd.WithDecoderMaxWindow(zstdWindow))
	case bytes.HasPrefix(head, []byte("BZh")):
		s.plain, err = bzip2.NewReader(buf), nil
	case bytes.HasPrefix(head, []byte("\xfd7zXZ\x00")):
		s.plain, err = newXZ(buf)
	default:
		s.plain, err = buf, nil
	}
	var ref *refusal
	if err != nil && !errors.As(err, &ref) {
		err = invalid("decompress: %w", err)
	}
	if err != nil {
		return nil, err
	}
	return s, nil
}

// isSkippable tells a zstd skippable frame, with which seekable streams may begin.
func isSkippable(head []byte) bool {
	return len(head) >= 4 && head[0]&0xf0 == 0x50 && head[1] == 0x2a && head[2] == 0x4d && head[3] == 0x18
}

func (s *stream) Read(p []byte) (int, error) {
	n, err := s.plain.Read(p)
	s.out += int64(n)
	s.sum.Write(p[:n])
	// SECURITY(T-402): compression bombs.
	if s.out > s.limits.Bytes {
		return n, tooMuch("layer is larger than %d bytes", s.limits.Bytes)
	}
	if s.out > 1<<30 && s.out/s.limits.Ratio > s.in.n {
		return n, tooMuch("layer decompresses to more than %d times its size", s.limits.Ratio)
	}
	var ref *refusal
	if err != nil && !errors.Is(err, io.EOF) && !errors.As(err, &ref) {
		return n, invalid("read layer: %w", err)
	}
	return n, err
}
