//go:build root

package attack

import (
	"bytes"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"

	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"stockade/internal/demoimage"
	"stockade/test/harness"
)

// probeEnv names what this program does instead of the tests; it is copied into containers and namespaces.
const probeEnv = "STOCKADE_ATTACK_PROBE"

// logMiB is the default size of a log in this server: small, so that a container fills it soon.
const logMiB = 8

const probeImage = "attack/probe:latest"

var probePath = harness.Bin + "/attack-probe"

func TestMain(m *testing.M) {
	if what := os.Getenv(probeEnv); what != "" {
		probe(what, os.Args[1:])
		os.Exit(0)
	}
	harness.MainWith(m, harness.Options{Tables: fmt.Sprintf("[limits]\nlog_mib = %d", logMiB)})
}

// withProbe makes the probe available: as an image and at probePath on the host.
func withProbe(t *testing.T, s *harness.Server) {
	t.Helper()
	if _, err := os.Stat(probePath); err == nil {
		return
	}
	self, err := os.ReadFile("/proc/self/exe")
	must(t, err)
	must(t, os.WriteFile(probePath, self, 0o755))
	must(t, os.Chmod(probePath, 0o755))
	base, err := demoimage.BusyboxLayer(demoimage.Busybox)
	must(t, err)
	load(t, s, demoimage.Image{
		Tags:   []string{probeImage},
		Config: ocispec.ImageConfig{Env: []string{"PATH=/bin"}, Cmd: []string{"sh"}},
		Layers: [][]demoimage.File{base, {{Name: "bin/probe", Mode: 0o755, Body: self}}},
	})
}

// load loads an image as the ordinary user.
func load(t *testing.T, s *harness.Server, images ...demoimage.Image) {
	t.Helper()
	var b bytes.Buffer
	must(t, demoimage.Write(&b, images))
	if r := s.Exec(t, s.User, &b, s.DockerPath(), "load"); r.Code != 0 {
		t.Fatal(r)
	}
}

// runProbe runs the probe in a container and returns what it says.
func runProbe(t *testing.T, s *harness.Server, what string, args ...string) string {
	t.Helper()
	withProbe(t, s)
	return s.Must(t, append(append([]string{"run", "--rm", "-e", probeEnv + "=" + what}, args...), probeImage, "probe")...)
}

// folder makes a folder on the host in which everybody may do everything, so that only the server's checks protect it.
func folder(t *testing.T) string {
	t.Helper()
	dir, err := os.MkdirTemp("/var/tmp", "stkt-attack-")
	must(t, err)
	t.Cleanup(func() { must(t, os.RemoveAll(dir)) })
	must(t, os.Chmod(dir, 0o777))
	return dir
}

// tree describes every file beneath dir with its mode, owner and content.
func tree(t *testing.T, dir string) string {
	t.Helper()
	var b strings.Builder
	must(t, filepath.Walk(dir, func(path string, fi os.FileInfo, err error) error {
		if err != nil {
			return err
		}
		body := ""
		if fi.Mode().IsRegular() {
			f, err := os.Open(path)
			if err != nil {
				return err
			}
			defer f.Close()
			data, err := io.ReadAll(io.LimitReader(f, 1<<16))
			if err != nil {
				return err
			}
			body = string(data)
		}
		fmt.Fprintf(&b, "%s %v %s %q\n", strings.TrimPrefix(path, dir), fi.Mode(), owner(fi), body)
		return nil
	}))
	return b.String()
}

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}
