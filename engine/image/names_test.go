package image

import (
	"encoding/base64"
	"net/http"
	"net/url"
	"strings"
	"testing"

	"github.com/distribution/reference"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

func TestParseSource(t *testing.T) {
	d := "sha256:" + strings.Repeat("a", 64)
	for _, row := range []struct{ from, tag, want string }{
		{"busybox", "", "docker.io/library/busybox:latest"},
		{"busybox", "1", "docker.io/library/busybox:1"},
		{"busybox:1", "2", "docker.io/library/busybox:2"},
		{"example.org:5000/a/b", "", "example.org:5000/a/b:latest"},
		{"busybox", d, "docker.io/library/busybox@" + d},
		{"busybox:1@" + d, "", "docker.io/library/busybox@" + d},
		{"UPPER", "", ""},
		{"a b", "", ""},
		{"busybox", "a/b", ""},
		{"../x", "", ""},
		{strings.Repeat("a", 64), "", ""}, // would be an id
	} {
		got, err := parseSource(row.from, row.tag)
		if row.want == "" {
			if err == nil {
				t.Errorf("%s %s: %s", row.from, row.tag, got)
			}
			continue
		}
		if err != nil || got.String() != row.want {
			t.Errorf("%s %s: %v, %v, want %s", row.from, row.tag, got, err, row.want)
		}
	}
}

func TestReferenceMatches(t *testing.T) {
	for _, row := range []struct {
		pattern, name string
		want          bool
	}{
		{"busybox", "docker.io/library/busybox:latest", true},
		{"busybox:lat*", "docker.io/library/busybox:latest", true},
		{"busy*", "docker.io/library/busybox:latest", true},
		{"docker.io/library/busybox", "docker.io/library/busybox:latest", true},
		{"busybox:1", "docker.io/library/busybox:latest", false},
		{"app", "example.org/app:1", false},
		{"*/app", "example.org/app:1", true},
		{"example.org/app:*", "example.org/app:1", true},
		{"[", "docker.io/library/busybox:latest", false},
	} {
		if got := referenceMatches([]string{row.pattern}, row.name); got != row.want {
			t.Errorf("%s %s: %v", row.pattern, row.name, got)
		}
	}
}

func TestParseAuth(t *testing.T) {
	json := `{"username":"a","password":"p?>~"}`
	for name, header := range map[string]string{
		"padded": base64.URLEncoding.EncodeToString([]byte(json)), "unpadded": base64.RawURLEncoding.EncodeToString([]byte(json)),
	} {
		if a, err := parseAuth(header); err != nil || a.Username != "a" || a.Password != "p?>~" {
			t.Errorf("%s: %+v, %v", name, a, err)
		}
	}
	for _, bad := range []string{"!", base64.URLEncoding.EncodeToString([]byte(`{"password":"secret"`))} {
		if _, err := parseAuth(bad); err == nil || strings.Contains(err.Error(), "secret") {
			t.Errorf("%q: %v", bad, err)
		}
	}
}

// SECURITY(T-403)
func TestRelated(t *testing.T) {
	for _, row := range []struct {
		registry, realm string
		want            bool
	}{
		{"registry-1.docker.io", "auth.docker.io", true},
		{"registry.gitlab.com", "gitlab.com", true},
		{"ghcr.io", "GHCR.io", true},
		{"localhost", "localhost", true},
		{"registry.example.org", "evil.org", false},
		{"registry.example.co.uk", "evil.co.uk", false}, // a public suffix is nobody's domain
		{"10.0.0.1", "10.0.0.2", false},
		{"1.2.3.4", "1.2.3.4", true},
		{"intern", "other", false},
	} {
		if got := related(row.registry, row.realm); got != row.want {
			t.Errorf("%s %s: %v", row.registry, row.realm, got)
		}
	}
}

// SECURITY(T-403)
func TestRedirect(t *testing.T) {
	for _, row := range []struct {
		from, to string
		plain    bool
		ok, auth bool
	}{
		{"https://r.org/v2/x", "https://r.org/v2/y", false, true, true},
		{"https://r.org/v2/x", "https://cdn.org/y", false, true, false},
		{"https://r.org/v2/x", "https://sub.r.org/y", false, true, false},
		{"https://r.org/v2/x", "https://r.org:444/y", false, true, false},
		{"https://r.org/v2/x", "http://r.org/y", false, false, false},
		{"https://r.org/v2/x", "ftp://r.org/y", false, false, false},
		{"http://r.org/v2/x", "http://r.org/y", true, true, true},
		{"http://r.org/v2/x", "file:///etc/passwd", true, false, false},
	} {
		parse := func(s string) *http.Request {
			u, err := url.Parse(s)
			if err != nil {
				t.Fatal(err)
			}
			return &http.Request{URL: u, Header: http.Header{"Authorization": {"Bearer x"}}}
		}
		req := parse(row.to)
		err := (&remote{host: "r.org", plain: row.plain}).redirect(req, []*http.Request{parse(row.from)})
		if (err == nil) != row.ok || row.ok && (req.Header.Get("Authorization") != "") != row.auth {
			t.Errorf("%s → %s: %v, authorization %q", row.from, row.to, err, req.Header.Get("Authorization"))
		}
	}
}

func TestChoose(t *testing.T) {
	entry := func(arch, variant string) ocispec.Descriptor {
		return ocispec.Descriptor{MediaType: ocispec.MediaTypeImageManifest, Platform: &ocispec.Platform{OS: "linux", Architecture: arch, Variant: variant}}
	}
	attestation := entry("amd64", "")
	attestation.Annotations = map[string]string{"vnd.docker.reference.type": "attestation-manifest"}
	index := &ocispec.Index{Manifests: []ocispec.Descriptor{attestation, entry("arm", "v6"), entry("arm", "v7"), entry("s390x", "")}}
	for word, want := range map[string]string{"linux/arm/v7": "v7", "linux/arm/v6": "v6", "linux/amd64": "none", "linux/s390x": ""} {
		m, w, err := wanted(word)
		if err != nil {
			t.Fatal(err)
		}
		got, err := choose(index, m, w)
		if want == "none" {
			if err == nil {
				t.Errorf("%s: %+v", word, got)
			}
			continue
		}
		if err != nil || got.Platform.Variant != want {
			t.Errorf("%s: %+v, %v", word, got.Platform, err)
		}
	}
	if w := platformWord(`{"architecture":"arm64","os":"linux","variant":"v8"}`); w != "linux/arm64/v8" && w != "linux/arm64" {
		t.Errorf("platform as JSON: %q", w)
	}
}

func TestAddWithout(t *testing.T) {
	list := add([]string{"b"}, "a", "b")
	if strings.Join(list, "") != "ab" || strings.Join(without(list, "a"), "") != "b" {
		t.Errorf("%v", list)
	}
	if ref, err := reference.ParseNormalizedNamed("x"); err != nil || familiar([]string{ref.String()})[0] != "x" {
		t.Error("familiar name")
	}
}
