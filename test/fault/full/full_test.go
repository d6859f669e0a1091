//go:build root

package full

import (
	"bytes"
	"fmt"
	"strings"
	"testing"

	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"stockade/internal/demoimage"
	"stockade/test/harness"
)

func TestMain(m *testing.M) { harness.MainWith(m, harness.Options{Disk: "192m"}) }

// TestDiskFull is T-801.
func TestDiskFull(t *testing.T) {
	s := harness.Get(t)
	kept := s.Must(t, "run", "-d", "-v", "kept:/v", "busybox", "sh", "-c", "echo kept >/v/file; sleep 1000")
	harness.Poll(t, "the volume's file", func() (string, bool) {
		r := s.Docker(t, "exec", kept, "cat", "/v/file")
		return r.String(), strings.TrimSpace(r.Stdout) == "kept"
	})
	var archive bytes.Buffer
	if err := demoimage.Write(&archive, []demoimage.Image{{Tags: []string{"fault/big:latest"}, Config: ocispec.ImageConfig{Cmd: []string{"true"}},
		Layers: [][]demoimage.File{{{Name: "file", Mode: 0o644, Body: bytes.Repeat([]byte("0123456789abcdef"), 1<<18)}}}}}); err != nil {
		t.Fatal(err)
	}
	load := func() harness.Result {
		return s.Exec(t, s.User, bytes.NewReader(archive.Bytes()), s.DockerPath(), "load")
	}
	if r := s.Docker(t, "run", "--name", "filler", "-v", "fill:/v", "busybox", "dd", "if=/dev/zero", "of=/v/all", "bs=64k"); r.Code == 0 || !strings.Contains(r.Stderr, "No space left on device") {
		t.Fatalf("the disk was not filled: %v", r)
	}
	for round := range 2 {
		if r := load(); r.Code == 0 || !strings.Contains(r.Stderr+r.Stdout, "no space left on device") {
			t.Errorf("load on a full disk: %v", r)
		}
		for i := range 5 {
			if r := s.Docker(t, "create", "--name", fmt.Sprintf("full-%d-%d", round, i), "busybox"); r.Code != 0 && !strings.Contains(r.Stderr, "no space left on device") {
				t.Errorf("create on a full disk: %v", r)
			}
		}
		if got := s.Must(t, "exec", kept, "cat", "/v/file"); got != "kept" {
			t.Errorf("got %q", got)
		}
		if r := s.Docker(t, "ps", "-a"); !strings.Contains(r.Stdout, "filler") {
			t.Error(r)
		}
		if round == 0 { // a restart on the full disk changes nothing
			s.KillAndWait(t, "engine")
			s.KillAndWait(t, "gate")
		}
	}
	// The caller makes room.
	s.Must(t, "rm", "filler")
	s.Must(t, "volume", "rm", "fill")
	harness.Poll(t, "room for an image", func() (string, bool) {
		r := load()
		return r.String(), r.Code == 0
	})
	if got := s.Must(t, "run", "--rm", "-v", "kept:/v", "busybox", "cat", "/v/file"); got != "kept" {
		t.Errorf("got %q", got)
	}
	s.Must(t, "stop", "-t", "0", kept)
	if got := s.Must(t, "inspect", "-f", "{{.State.Status}}", kept); got != "exited" {
		t.Errorf("got %q", got)
	}
	names := strings.Fields(s.Must(t, "ps", "-aq"))
	s.Must(t, append([]string{"rm", "-f", "-v"}, names...)...)
	s.Must(t, "volume", "rm", "-f", "kept")
	if got := s.Must(t, "run", "--rm", "busybox", "echo", "well"); got != "well" {
		t.Errorf("got %q", got)
	}
}
