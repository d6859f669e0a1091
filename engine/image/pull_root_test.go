//go:build root

package image

import (
	"encoding/base64"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	api "github.com/moby/moby/api/types/image"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

// fakeRegistry answers on loopback with what tests put in, true or not.
type fakeRegistry struct {
	*httptest.Server
	t     *testing.T
	mu    sync.Mutex
	files map[string]served // path → content
	seen  []string          // "METHOD path authorization range"
	// before, if set, may answer in place of the registry.
	before func(w http.ResponseWriter, r *http.Request) bool
}

type served struct {
	mediaType string
	body      []byte
}

func newRegistry(t *testing.T, secure bool) *fakeRegistry {
	t.Helper()
	f := &fakeRegistry{t: t, files: map[string]served{}}
	f.Server = httptest.NewUnstartedServer(f)
	if secure {
		f.StartTLS()
	} else {
		f.Start()
	}
	t.Cleanup(f.Close)
	return f
}

func (f *fakeRegistry) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	f.mu.Lock()
	f.seen = append(f.seen, fmt.Sprintf("%s %s %q %s", r.Method, r.URL.Path, r.Header.Get("Authorization"), r.Header.Get("Range")))
	file, ok := f.files[r.URL.Path]
	f.mu.Unlock()
	if f.before != nil && f.before(w, r) {
		return
	}
	if !ok {
		http.NotFound(w, r)
		return
	}
	w.Header().Set("Content-Type", file.mediaType)
	if strings.Contains(r.URL.Path, "/manifests/") {
		w.Header().Set("Docker-Content-Digest", digest.FromBytes(file.body).String())
	}
	http.ServeContent(w, r, "", fixedTime, strings.NewReader(string(file.body)))
}

func (f *fakeRegistry) requests() string {
	f.mu.Lock()
	defer f.mu.Unlock()
	return strings.Join(f.seen, "\n")
}

func (f *fakeRegistry) host() string { return f.Listener.Addr().String() }

func (f *fakeRegistry) serve(path, mediaType string, body []byte) {
	f.files["/v2/app/"+path] = served{mediaType, body}
}

func (f *fakeRegistry) blob(mediaType string, body []byte) ocispec.Descriptor {
	d := ocispec.Descriptor{MediaType: mediaType, Digest: digest.FromBytes(body), Size: int64(len(body))}
	f.serve("blobs/"+d.Digest.String(), mediaType, body)
	return d
}

// put serves v as a manifest or index under its digest and a tag.
func (f *fakeRegistry) put(mediaType, tag string, v any) ocispec.Descriptor {
	f.t.Helper()
	data, ok := v.([]byte)
	if !ok {
		var err error
		if data, err = json.Marshal(v); err != nil {
			f.t.Fatal(err)
		}
	}
	d := ocispec.Descriptor{MediaType: mediaType, Digest: digest.FromBytes(data), Size: int64(len(data))}
	f.serve("manifests/"+d.Digest.String(), mediaType, data)
	f.serve("manifests/"+tag, mediaType, data)
	return d
}

// manifest is an honest manifest of img, whose blobs are served.
func (f *fakeRegistry) manifest(img sample) ocispec.Manifest {
	m := ocispec.Manifest{MediaType: ocispec.MediaTypeImageManifest, Config: f.blob(ocispec.MediaTypeImageConfig, img.config)}
	m.SchemaVersion = 2
	for _, l := range img.layers {
		m.Layers = append(m.Layers, f.blob(ocispec.MediaTypeImageLayerGzip, gzipped(f.t, l)))
	}
	return m
}

// allow makes a store that talks to plain registries.
func allow(hosts ...*fakeRegistry) func(*Config) {
	return func(c *Config) {
		for _, h := range hosts {
			c.Insecure = append(c.Insecure, h.host())
		}
	}
}

func credentials(user, password string) http.Header {
	j := fmt.Sprintf(`{"username":%q,"password":%q}`, user, password)
	return http.Header{"X-Registry-Auth": {base64.URLEncoding.EncodeToString([]byte(j))}}
}

func (s *server) pullApp(f *fakeRegistry, tag string, h http.Header) *httptest.ResponseRecorder {
	s.t.Helper()
	return s.as("a", "POST", "/images/create?fromImage="+f.host()+"/app&tag="+tag, nil, h)
}

func TestPull(t *testing.T) {
	f := newRegistry(t, false)
	s := serve(t, allow(f))
	img := sampleImage(t, "x", tarOf(t, "bin/sh", "#!"), tarOf(t, "etc/x", "xyz"))
	m := f.put(ocispec.MediaTypeImageManifest, "single", f.manifest(img))
	m.Platform = &ocispec.Platform{OS: "linux", Architecture: "amd64"}
	other := m
	other.Digest, other.Platform = digest.FromString("other"), &ocispec.Platform{OS: "linux", Architecture: "s390x"}
	top := f.put(ocispec.MediaTypeImageIndex, "latest", map[string]any{"schemaVersion": 2, "manifests": []any{other, m}})

	w := s.as("a", "POST", "/images/create?fromImage="+f.host()+"/app&tag=latest&platform=linux/amd64", nil, nil)
	for _, text := range []string{`"status":"Pulling from app"`, "Pulling fs layer", "Verifying Checksum", "Download complete", "Extracting",
		"Pull complete", "Digest: " + top.Digest.String(), "Status: Downloaded newer image for " + f.host() + "/app:latest"} {
		if !strings.Contains(w.Body.String(), text) {
			t.Errorf("no %q in %s", text, w.Body)
		}
	}
	list := ok[[]api.Summary](s, "GET", "/images/json", nil)
	if len(list) != 1 || list[0].ID != img.id() || list[0].RepoDigests[0] != f.host()+"/app@"+top.Digest.String() {
		t.Fatalf("list: %+v", list)
	}
	w = s.as("a", "POST", "/images/create?fromImage="+f.host()+"/app&platform=linux/amd64", nil, nil)
	if !strings.Contains(w.Body.String(), "Image is up to date") || strings.Contains(w.Body.String(), "fs layer") {
		t.Errorf("again: %s", w.Body)
	}
	for _, ref := range []string{"app", "app:latest", "app@" + top.Digest.String()} {
		if _, err := s.Resolve(t.Context(), "a", f.host()+"/"+ref, "linux/amd64"); err != nil {
			t.Errorf("%s: %v", ref, err)
		}
	}
	if _, err := s.Resolve(t.Context(), "a", f.host()+"/app", "linux/arm64"); err == nil {
		t.Error("resolved for another platform")
	}
	w = s.as("a", "POST", "/images/create?fromImage="+f.host()+"/app@"+m.Digest.String()+"&platform=linux/amd64", nil, nil)
	if !strings.Contains(w.Body.String(), m.Digest.String()+`"`) || strings.Contains(w.Body.String(), "error") {
		t.Errorf("by digest: %s", w.Body)
	}
	w = s.as("a", "POST", "/images/create?fromImage="+f.host()+"/app&platform=linux/riscv64", nil, nil)
	if w.Code != 404 || !strings.Contains(w.Body.String(), "no matching manifest for linux/riscv64 in the manifest list entries") {
		t.Errorf("other platform: %d %s", w.Code, w.Body)
	}
	w = s.pullApp(f, "nope", nil)
	if w.Code != 404 || !strings.Contains(w.Body.String(), "manifest unknown") {
		t.Errorf("unknown tag: %d %s", w.Code, w.Body)
	}
}

func TestPullAuth(t *testing.T) {
	for _, scheme := range []string{"basic", "token"} {
		t.Run(scheme, func(t *testing.T) {
			f := newRegistry(t, false)
			s := serve(t, allow(f))
			img := sampleImage(t, "x", tarOf(t, "f", "x"))
			f.put(ocispec.MediaTypeImageManifest, "latest", f.manifest(img))
			f.before = func(w http.ResponseWriter, r *http.Request) bool {
				user, password, _ := r.BasicAuth()
				right := user == "alice" && password == "secret"
				switch {
				case scheme == "token" && r.URL.Path == "/token":
					if r.Method == http.MethodPost {
						right = r.FormValue("username") == "alice" && r.FormValue("password") == "secret"
					}
					if !right {
						http.Error(w, "no", http.StatusUnauthorized)
						return true
					}
					fmt.Fprint(w, `{"token":"T","access_token":"T"}`)
					return true
				case scheme == "token" && r.Header.Get("Authorization") != "Bearer T":
					w.Header().Set("WWW-Authenticate", `Bearer realm="`+f.URL+`/token",service="s",scope="repository:app:pull"`)
				case scheme == "basic" && !right:
					w.Header().Set("WWW-Authenticate", `Basic realm="r"`)
				default:
					return false
				}
				w.WriteHeader(http.StatusUnauthorized)
				return true
			}
			for _, h := range []http.Header{nil, credentials("alice", "wrong")} {
				w := s.pullApp(f, "latest", h)
				if w.Code != 404 || !strings.Contains(w.Body.String(), "pull access denied for "+f.host()+"/app, repository does not exist") {
					t.Errorf("%v: %d %s", h, w.Code, w.Body)
				}
			}
			if w := s.pullApp(f, "latest", credentials("alice", "secret")); !strings.Contains(w.Body.String(), "Downloaded newer image") {
				t.Errorf("right password: %d %s", w.Code, w.Body)
			}
		})
	}
}

// SECURITY(T-403)
func TestHostileRegistry(t *testing.T) {
	layer := tarOf(t, "f", "x")
	for _, row := range []struct {
		name string
		want string // in the answer
		lie  func(t *testing.T, f *fakeRegistry, elsewhere string)
	}{
		{"control", "Downloaded newer image", func(t *testing.T, f *fakeRegistry, _ string) {
			f.put(ocispec.MediaTypeImageManifest, "latest", f.manifest(sampleImage(t, "x", layer)))
		}},
		{"layer with other bytes", "verification failed", func(t *testing.T, f *fakeRegistry, _ string) {
			m := f.manifest(sampleImage(t, "x", layer))
			f.serve("blobs/"+m.Layers[0].Digest.String(), "", make([]byte, m.Layers[0].Size))
			f.put(ocispec.MediaTypeImageManifest, "latest", m)
		}},
		{"layer longer than announced", "verification failed", func(t *testing.T, f *fakeRegistry, _ string) {
			m := f.manifest(sampleImage(t, "x", layer))
			m.Layers[0].Size -= 5
			f.put(ocispec.MediaTypeImageManifest, "latest", m)
		}},
		{"layer shorter than announced", "error", func(t *testing.T, f *fakeRegistry, _ string) {
			m := f.manifest(sampleImage(t, "x", layer))
			m.Layers[0].Size += 5
			f.put(ocispec.MediaTypeImageManifest, "latest", m)
		}},
		{"configuration names another layer", "layer verification failed", func(t *testing.T, f *fakeRegistry, _ string) {
			m := f.manifest(sampleImage(t, "x", layer))
			m.Layers[0] = f.blob(ocispec.MediaTypeImageLayerGzip, gzipped(t, tarOf(t, "g", "y")))
			f.put(ocispec.MediaTypeImageManifest, "latest", m)
		}},
		{"configuration with other bytes", "announced", func(t *testing.T, f *fakeRegistry, _ string) {
			m := f.manifest(sampleImage(t, "x", layer))
			f.serve("blobs/"+m.Config.Digest.String(), "", make([]byte, m.Config.Size))
			f.put(ocispec.MediaTypeImageManifest, "latest", m)
		}},
		{"manifest with other bytes", "announced", func(t *testing.T, f *fakeRegistry, _ string) {
			d := f.put(ocispec.MediaTypeImageManifest, "latest", f.manifest(sampleImage(t, "x", layer)))
			f.serve("manifests/"+d.Digest.String(), d.MediaType, make([]byte, d.Size))
		}},
		{"foreign URL", "foreign", func(t *testing.T, f *fakeRegistry, elsewhere string) {
			m := f.manifest(sampleImage(t, "x", layer))
			m.Layers[0].URLs = []string{elsewhere + "/layer"}
			f.put(ocispec.MediaTypeImageManifest, "latest", m)
		}},
		{"foreign layer", "foreign", func(t *testing.T, f *fakeRegistry, _ string) {
			m := f.manifest(sampleImage(t, "x", layer))
			m.Layers[0].MediaType = "application/vnd.docker.image.rootfs.foreign.diff.tar.gzip"
			f.put(ocispec.MediaTypeImageManifest, "latest", m)
		}},
		{"foreign URL in an index", "foreign", func(t *testing.T, f *fakeRegistry, elsewhere string) {
			d := f.put(ocispec.MediaTypeImageManifest, "x", f.manifest(sampleImage(t, "x", layer)))
			d.URLs = []string{elsewhere + "/manifest"}
			f.put(ocispec.MediaTypeImageIndex, "latest", map[string]any{"schemaVersion": 2, "manifests": []any{d}})
		}},
		{"thousands of layers", "more than 127 layers", func(t *testing.T, f *fakeRegistry, _ string) {
			m := f.manifest(sampleImage(t, "x", layer))
			for len(m.Layers) < 5000 {
				m.Layers = append(m.Layers, m.Layers[0])
			}
			f.put(ocispec.MediaTypeImageManifest, "latest", m)
		}},
		{"deep index", "deep", func(t *testing.T, f *fakeRegistry, _ string) {
			d := f.put(ocispec.MediaTypeImageManifest, "x", f.manifest(sampleImage(t, "x", layer)))
			for range 4 {
				d = f.put(ocispec.MediaTypeImageIndex, "latest", map[string]any{"schemaVersion": 2, "manifests": []any{d}})
			}
		}},
		{"manifest and index in one", "index with layers", func(t *testing.T, f *fakeRegistry, _ string) {
			m := f.manifest(sampleImage(t, "x", layer))
			f.put(ocispec.MediaTypeImageIndex, "latest", map[string]any{"schemaVersion": 2, "config": m.Config, "layers": m.Layers, "manifests": []any{}})
		}},
		{"another media type inside", "calls itself", func(t *testing.T, f *fakeRegistry, _ string) {
			f.put("application/vnd.docker.distribution.manifest.v2+json", "latest", f.manifest(sampleImage(t, "x", layer)))
		}},
		{"schema version 1", "schema version 1", func(t *testing.T, f *fakeRegistry, _ string) {
			f.put(ocispec.MediaTypeImageManifest, "latest", []byte(`{"schemaVersion":1,"fsLayers":[]}`))
		}},
		{"huge manifest", "manifest unknown", func(t *testing.T, f *fakeRegistry, _ string) {
			f.put(ocispec.MediaTypeImageManifest, "latest", []byte(`{"schemaVersion":2,"x":"`+strings.Repeat("x", 6<<20)+`"}`))
		}},
		{"no image", "not an image", func(t *testing.T, f *fakeRegistry, _ string) {
			m := f.manifest(sampleImage(t, "x", layer))
			m.Config.MediaType = "application/vnd.cncf.helm.config.v1+json"
			f.put(ocispec.MediaTypeImageManifest, "latest", m)
		}},
		{"hostile digest", "unsupported digest", func(t *testing.T, f *fakeRegistry, _ string) {
			m := f.manifest(sampleImage(t, "x", layer))
			m.Layers[0].Digest = "sha256:../../../etc/passwd"
			f.put(ocispec.MediaTypeImageManifest, "latest", m)
		}},
		{"redirect to a metadata service", "refused", func(t *testing.T, f *fakeRegistry, _ string) {
			f.put(ocispec.MediaTypeImageManifest, "latest", f.manifest(sampleImage(t, "x", layer)))
			f.before = redirectBlobs("http://169.254.169.254/latest/meta-data")
		}},
		{"redirect to this host by another name", "refused", func(t *testing.T, f *fakeRegistry, elsewhere string) {
			f.put(ocispec.MediaTypeImageManifest, "latest", f.manifest(sampleImage(t, "x", layer)))
			f.before = redirectBlobs(strings.Replace(elsewhere, "127.0.0.1", "localhost", 1))
		}},
		{"redirect loop", "redirects", func(t *testing.T, f *fakeRegistry, _ string) {
			f.put(ocispec.MediaTypeImageManifest, "latest", f.manifest(sampleImage(t, "x", layer)))
			f.before = redirectBlobs(f.URL + "/v2/app/blobs/again")
		}},
	} {
		t.Run(row.name, func(t *testing.T) {
			f, elsewhere := newRegistry(t, false), newRegistry(t, false)
			s := serve(t, allow(f))
			row.lie(t, f, elsewhere.URL)
			w := s.pullApp(f, "latest", nil)
			if !strings.Contains(w.Body.String(), row.want) {
				t.Errorf("answer %d %s, want %q", w.Code, w.Body, row.want)
			}
			if n := s.Count("a"); (n == 1) != (row.name == "control") {
				t.Errorf("%d images", n)
			}
			if got := elsewhere.requests(); got != "" {
				t.Errorf("another host was asked: %s", got)
			}
		})
	}
}

func redirectBlobs(to string) func(http.ResponseWriter, *http.Request) bool {
	return func(w http.ResponseWriter, r *http.Request) bool {
		if !strings.Contains(r.URL.Path, "/blobs/") {
			return false
		}
		http.Redirect(w, r, to, http.StatusTemporaryRedirect)
		return true
	}
}

// A host that a registry redirects to gets neither credentials nor tokens, not even when it asks (CVE-2020-15157).
//
// SECURITY(T-403)
func TestCredentialsStayHome(t *testing.T) {
	f, evil := newRegistry(t, false), newRegistry(t, false)
	s := serve(t, allow(f))
	f.put(ocispec.MediaTypeImageManifest, "latest", f.manifest(sampleImage(t, "x", tarOf(t, "f", "x"))))
	f.before = func(w http.ResponseWriter, r *http.Request) bool {
		if _, p, _ := r.BasicAuth(); p != "secret" {
			w.Header().Set("WWW-Authenticate", `Basic realm="r"`)
			w.WriteHeader(http.StatusUnauthorized)
			return true
		}
		return redirectBlobs(evil.URL+"/blob")(w, r)
	}
	for _, challenge := range []string{`Basic realm="r"`, `Bearer realm="` + evil.URL + `/token",service="s"`} {
		evil.before = func(w http.ResponseWriter, r *http.Request) bool {
			if r.URL.Path == "/token" {
				if b, _ := io.ReadAll(r.Body); strings.Contains(string(b), "secret") {
					t.Errorf("token request carries the password: %s", b)
				}
				fmt.Fprint(w, `{"token":"evil"}`)
				return true
			}
			w.Header().Set("WWW-Authenticate", challenge)
			w.WriteHeader(http.StatusUnauthorized)
			return true
		}
		s.pullApp(f, "latest", credentials("alice", "secret"))
	}
	// The password in base64 begins the same in every request of alice.
	leak := base64.StdEncoding.EncodeToString([]byte("alice:secret"))
	if got := evil.requests(); got == "" || strings.Contains(got, leak) {
		t.Errorf("the other host saw: %s", got)
	}
	// Control: the registry itself gets them.
	if !strings.Contains(f.requests(), leak) {
		t.Error("control: the registry did not get the credentials")
	}
}

// A registry cannot send credentials to a token server of another domain.
//
// SECURITY(T-403)
func TestTokenServerOfAnotherDomain(t *testing.T) {
	for _, row := range []struct {
		name, from, to string
		leaks          bool
	}{
		{"same host", "127.0.0.1", "127.0.0.1", true}, // control
		{"other host", "127.0.0.1", "localhost", false},
	} {
		t.Run(row.name, func(t *testing.T) {
			f, tokens := newRegistry(t, false), newRegistry(t, false)
			s := serve(t, allow(f))
			f.before = func(w http.ResponseWriter, _ *http.Request) bool {
				w.Header().Set("WWW-Authenticate", `Bearer realm="`+strings.Replace(tokens.URL, row.from, row.to, 1)+`/token",service="s"`)
				w.WriteHeader(http.StatusUnauthorized)
				return true
			}
			w := s.pullApp(f, "latest", credentials("alice", "secret"))
			if w.Code/100 == 2 {
				t.Errorf("pulled: %s", w.Body)
			}
			if got := tokens.requests(); (got != "") != row.leaks {
				t.Errorf("token server saw %q; answer %s", got, w.Body)
			}
		})
	}
}

// SECURITY(T-403): TLS by a trusted authority, and no way down from it.
func TestTLS(t *testing.T) {
	f, plain := newRegistry(t, true), newRegistry(t, false)
	f.put(ocispec.MediaTypeImageManifest, "latest", f.manifest(sampleImage(t, "x", tarOf(t, "f", "x"))))
	dir := t.TempDir()
	cert := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: f.Certificate().Raw})
	if err := os.WriteFile(filepath.Join(dir, "ca.pem"), cert, 0o600); err != nil {
		t.Fatal(err)
	}
	if w := serve(t, nil).pullApp(f, "latest", nil); w.Code != 500 || !strings.Contains(w.Body.String(), "certificate") {
		t.Errorf("unknown authority: %d %s", w.Code, w.Body)
	}
	if w := serve(t, nil).pullApp(plain, "latest", nil); w.Code != 500 || plain.requests() != "" {
		t.Errorf("plain registry: %d %s; it saw %q", w.Code, w.Body, plain.requests())
	}
	s := serve(t, func(c *Config) { c.RegistryCA = dir })
	f.before = redirectBlobs(plain.URL + "/blob")
	if w := s.pullApp(f, "latest", nil); !strings.Contains(w.Body.String(), "refused") || plain.requests() != "" {
		t.Errorf("downgrade: %d %s; plain host saw %q", w.Code, w.Body, plain.requests())
	}
	f.before = nil // control
	if w := s.pullApp(f, "latest", nil); !strings.Contains(w.Body.String(), "Downloaded newer image") {
		t.Errorf("control: %d %s", w.Code, w.Body)
	}
}

func TestPullResumes(t *testing.T) {
	f := newRegistry(t, false)
	s := serve(t, allow(f))
	random := make([]byte, 4<<20)
	for i := range random {
		random[i] = byte(i * i >> 7)
	}
	img := sampleImage(t, "x", tarOf(t, "f", string(random)))
	m := f.manifest(img)
	m.Layers[0] = f.blob(ocispec.MediaTypeImageLayer, img.layers[0])
	f.put(ocispec.MediaTypeImageManifest, "latest", m)
	cut := true
	f.before = func(w http.ResponseWriter, r *http.Request) bool {
		if !cut || !strings.HasSuffix(r.URL.Path, m.Layers[0].Digest.String()) {
			return false
		}
		w.Header().Set("Content-Length", fmt.Sprint(len(img.layers[0])))
		_, _ = w.Write(img.layers[0][:3<<20])
		_ = http.NewResponseController(w).Flush()
		panic(http.ErrAbortHandler)
	}
	if w := s.pullApp(f, "latest", nil); !strings.Contains(w.Body.String(), "errorDetail") {
		t.Fatalf("cut: %s", w.Body)
	}
	cut = false
	if w := s.pullApp(f, "latest", nil); !strings.Contains(w.Body.String(), "Downloaded newer image") {
		t.Fatalf("resumed: %s", w.Body)
	}
	if !strings.Contains(f.requests(), "bytes=") {
		t.Errorf("no request for a range in %s", f.requests())
	}
}
