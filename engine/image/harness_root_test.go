//go:build root

package image

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	dockerspec "github.com/moby/docker-image-spec/specs-go/v1"
	"github.com/moby/moby/api/types/events"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"stockade/api/scope"
	"stockade/engine/httpapi"
	"stockade/engine/unpack"
)

// testBase is where the tests' store ids begin: no process of the host has them.
const testBase = 2000100000

var fixedTime = time.Unix(1700000000, 0)

var binary string

func TestMain(m *testing.M) {
	os.Exit(func() int {
		dir, err := os.MkdirTemp("", "stkt-image")
		if err != nil {
			fmt.Fprintln(os.Stderr, err)
			return 1
		}
		defer os.RemoveAll(dir)
		binary = filepath.Join(dir, "stockade-unpack")
		cmd := exec.Command("go", "build", "-o", binary, "stockade/cmd/stockade-unpack")
		cmd.Env = append(os.Environ(), "CGO_ENABLED=0") // the child changes all of its threads
		cmd.Stderr = os.Stderr
		if err := cmd.Run(); err != nil {
			return 1
		}
		if err := os.Chmod(dir, 0o755); err != nil {
			fmt.Fprintln(os.Stderr, err)
			return 1
		}
		return m.Run()
	}())
}

// server is a store with its routes.
type server struct {
	*Store
	t      *testing.T
	mux    *httpapi.Router
	users  map[string][]ContainerRef // by tenant and image id
	now    time.Time
	events []string
}

func serve(t *testing.T, change func(*Config)) *server {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Fatal("needs root")
	}
	data, err := os.MkdirTemp("", "stkt-data")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(data) })
	if err := os.Chmod(data, 0o711); err != nil {
		t.Fatal(err)
	}
	return reopen(t, data, change)
}

func reopen(t *testing.T, data string, change func(*Config)) *server {
	t.Helper()
	srv := &server{t: t, users: map[string][]ContainerRef{}, now: time.Unix(1800000000, 0).UTC()}
	cfg := Config{
		Data: data, Unpack: unpack.Config{Path: binary, Base: testBase}, Log: slog.New(slog.NewTextHandler(t.Output(), nil)),
		Now:   func() time.Time { return srv.now },
		InUse: func(tenant, id string) []ContainerRef { return srv.users[tenant+" "+id] },
		Event: func(tenant string, action events.Action, _ string, attrs map[string]string) {
			srv.events = append(srv.events, fmt.Sprintf("%s %s %s", tenant, action, attrs["name"]))
		},
	}
	if change != nil {
		change(&cfg)
	}
	s, err := Open(t.Context(), cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { s.Close() })
	srv.Store, srv.mux = s, httpapi.NewRouter(cfg.Log)
	s.Register(srv.mux)
	return srv
}

// call sends one request as tenant "a".
func (s *server) call(method, url string, body io.Reader) *httptest.ResponseRecorder {
	s.t.Helper()
	return s.as("a", method, url, body, nil)
}

func (s *server) as(tenant, method, url string, body io.Reader, header http.Header) *httptest.ResponseRecorder {
	s.t.Helper()
	r := httptest.NewRequest(method, url, body).WithContext(s.t.Context())
	for k, v := range header {
		r.Header[k] = v
	}
	scope.Scope{Tenant: tenant, UID: 1000, Version: "1.51"}.Set(r.Header)
	w := httptest.NewRecorder()
	s.mux.ServeHTTP(w, r)
	return w
}

// ok is call, decoded; any other status than 2xx ends the test.
func ok[T any](s *server, method, url string, body io.Reader) (v T) {
	s.t.Helper()
	w := s.call(method, url, body)
	if w.Code/100 != 2 {
		s.t.Fatalf("%s %s: %d %s", method, url, w.Code, w.Body)
	}
	if w.Body.Len() > 0 {
		if err := json.Unmarshal(w.Body.Bytes(), &v); err != nil {
			s.t.Fatalf("%s %s: %v in %s", method, url, err, w.Body)
		}
	}
	return v
}

// tarOf is a tar of files, in the order of their names in pairs.
func tarOf(t *testing.T, pairs ...string) []byte {
	t.Helper()
	var b bytes.Buffer
	w := tar.NewWriter(&b)
	for i := 0; i < len(pairs); i += 2 {
		h := &tar.Header{Name: pairs[i], Mode: 0o644, Size: int64(len(pairs[i+1])), Typeflag: tar.TypeReg}
		if err := w.WriteHeader(h); err != nil {
			t.Fatal(err)
		}
		if _, err := io.WriteString(w, pairs[i+1]); err != nil {
			t.Fatal(err)
		}
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

func gzipped(t *testing.T, data []byte) []byte {
	t.Helper()
	var b bytes.Buffer
	w := gzip.NewWriter(&b)
	if _, err := w.Write(data); err != nil {
		t.Fatal(err)
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

// sample is an image made of layers, which are tars.
type sample struct {
	config []byte
	layers [][]byte
}

func (s sample) id() string { return digest.FromBytes(s.config).String() }

func sampleImage(t *testing.T, label string, layers ...[]byte) sample {
	t.Helper()
	created := time.Unix(1700000000, 0).UTC()
	var cfg dockerspec.DockerOCIImage
	cfg.Created, cfg.OS, cfg.Architecture, cfg.Author = &created, "linux", "amd64", "Alice"
	cfg.Config.Cmd, cfg.Config.Env = []string{"sh"}, []string{"PATH=/bin"}
	cfg.Config.Labels = map[string]string{"label": label}
	cfg.RootFS.Type = "layers"
	for _, l := range layers {
		cfg.RootFS.DiffIDs = append(cfg.RootFS.DiffIDs, digest.FromBytes(l))
		cfg.History = append(cfg.History, ocispec.History{Created: &created, CreatedBy: "ADD layer"})
	}
	cfg.History = append(cfg.History, ocispec.History{Created: &created, CreatedBy: "CMD sh", EmptyLayer: true, Comment: "last"})
	data, err := json.Marshal(cfg)
	if err != nil {
		t.Fatal(err)
	}
	return sample{data, layers}
}

// dockerArchive is what docker save wrote before 25.0.
func dockerArchive(t *testing.T, s sample, tags ...string) []byte {
	t.Helper()
	files := []string{"config.json", string(s.config)}
	names := []string{}
	for i, l := range s.layers {
		name := fmt.Sprintf("%d/layer.tar", i)
		names = append(names, name)
		files = append(files, name, string(l))
	}
	m, err := json.Marshal([]map[string]any{{"Config": "config.json", "RepoTags": tags, "Layers": names}})
	if err != nil {
		t.Fatal(err)
	}
	return tarOf(t, append(files, "manifest.json", string(m))...)
}

// load takes an archive in and wants its output to contain text.
func (s *server) mustLoad(archive []byte, text string) {
	s.t.Helper()
	w := s.call("POST", "/images/load?quiet=1", bytes.NewReader(archive))
	if w.Code != 200 || !strings.Contains(w.Body.String(), text) || strings.Contains(w.Body.String(), "errorDetail") {
		s.t.Fatalf("load: %d %s", w.Code, w.Body)
	}
}
