//go:build root

package resource

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"golang.org/x/sys/unix"

	"stockade/internal/demoimage"
	"stockade/test/harness"
)

// freeInodes is how many files the data folder's file system may still have.
func freeInodes(t *testing.T) uint64 {
	t.Helper()
	var st unix.Statfs_t
	must(t, unix.Statfs(harness.Data, &st))
	return st.Ffree
}

// exhaust takes the last inodes.
func exhaust(t *testing.T, dir string) {
	t.Helper()
	for i := 0; ; i++ {
		f, err := os.Create(filepath.Join(dir, fmt.Sprint(i)))
		if errors.Is(err, unix.ENOSPC) {
			return
		}
		must(t, err)
		f.Close()
	}
}

// T-801: no inodes are left on the data folder's file system.
func TestNoInodes(t *testing.T) {
	s := harness.Get(t)
	before := s.Settled(t)
	kept := s.Must(t, "run", "-d", "-v", "kept:/v", "busybox", "sh", "-c", "echo kept >/v/file; sleep 1000")
	harness.Poll(t, "the volume's file", func() (string, bool) {
		r := s.Docker(t, "exec", kept, "cat", "/v/file")
		return r.String(), strings.TrimSpace(r.Stdout) == "kept"
	})
	rest := filepath.Join(harness.Data, "stkt-rest")
	must(t, os.Mkdir(rest, 0o700))
	t.Cleanup(func() { must(t, os.RemoveAll(rest)) })
	var archive bytes.Buffer
	must(t, demoimage.Write(&archive, []demoimage.Image{{Tags: []string{"fault/files:latest"}, Config: ocispec.ImageConfig{Cmd: []string{"true"}},
		Layers: [][]demoimage.File{{{Name: "a", Mode: 0o644, Body: []byte("a")}, {Name: "b", Mode: 0o644, Body: []byte("b")}}}}}))
	load := func() harness.Result {
		return s.Exec(t, s.User, bytes.NewReader(archive.Bytes()), s.DockerPath(), "load")
	}
	if r := s.Docker(t, "run", "--name", "filler", "-v", "fill:/v", "busybox", "sh", "-c", fmt.Sprintf("cd /v && seq 1 %d | xargs touch", inodes)); r.Code == 0 || !strings.Contains(r.Stderr, "No space left on device") {
		t.Fatalf("the inodes were not used up: %v", r)
	}
	exhaust(t, rest)
	if n := freeInodes(t); n != 0 {
		t.Fatalf("control: %d inodes are free", n)
	}
	for round := range 2 {
		if r := load(); r.Code == 0 || !strings.Contains(r.Stderr+r.Stdout, "no space left on device") {
			t.Errorf("load without inodes: %v", r)
		}
		for _, c := range []struct{ kind, method, path, body string }{
			{"container", "POST", "/v1.51/containers/create?name=half", `{"Image":"busybox"}`},
			{"volume", "POST", "/v1.51/volumes/create", `{"Name":"half"}`},
		} {
			r := s.API(t, s.User, c.method, c.path, c.body)
			if r.Status < 500 || !strings.Contains(message(t, r), "no space left on device") {
				t.Errorf("create a %s without inodes: %+v", c.kind, r)
			}
		}
		if r := s.Docker(t, "run", "--rm", "busybox", "true"); r.Code == 0 || !strings.Contains(r.Stderr, "no space left on device") {
			t.Errorf("run without inodes: %v", r)
		}
		if got := s.Must(t, "exec", kept, "cat", "/v/file"); got != "kept" {
			t.Errorf("got %q", got)
		}
		if got := s.Must(t, "ps", "-a", "--format", "{{.Names}}", "-f", "name=half") + s.Must(t, "volume", "ls", "-q", "-f", "name=half") + s.Must(t, "images", "-q", "fault/files"); got != "" {
			t.Errorf("half done: %q", got)
		}
		if round == 0 { // a restart without inodes changes nothing
			s.KillAndWait(t, "engine")
			s.KillAndWait(t, "gate")
			exhaust(t, rest)
		}
	}
	if n := freeInodes(t); n != 0 {
		t.Fatalf("control: %d inodes are free", n)
	}
	// What needs no new file works: the caller makes room.
	s.Must(t, "rm", "filler")
	s.Must(t, "volume", "rm", "fill")
	harness.Poll(t, "room for an image", func() (string, bool) {
		r := load()
		return r.String(), r.Code == 0
	})
	must(t, os.RemoveAll(rest))
	for _, name := range []string{"half", "another"} {
		s.Must(t, "volume", "create", name)
		s.Must(t, "create", "--name", name, "-v", name+":/v", "busybox")
	}
	if got := s.Must(t, "run", "--rm", "-v", "kept:/v", "busybox", "cat", "/v/file"); got != "kept" {
		t.Errorf("got %q", got)
	}
	s.Must(t, "rm", "-f", "-v", kept, "half", "another")
	s.Must(t, "volume", "rm", "kept", "half", "another")
	s.Must(t, "rmi", "fault/files")
	s.NoLeaks(t, before)
}
