//go:build root

package e2e

import (
	"bytes"
	"encoding/json"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/opencontainers/image-spec/specs-go"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

// forget removes an image with the test.
func (d client) forget(refs ...string) {
	d.t.Cleanup(func() {
		for _, ref := range refs {
			d.run("rmi", "-f", ref)
		}
	})
}

// small is an image that differs from all others by a word.
func small(t testing.TB, word string) image {
	return newImage(t, ocispec.ImageConfig{Env: []string{"WORD=" + word, "PATH=/bin"}}, archive(t, file("word", word+"\n")))
}

func TestPull(t *testing.T) {
	both(t, func(t *testing.T, d client) {
		repo := unique()
		desc := small(t, repo).push(t, plain, repo, "one")
		ref := plain.host + "/" + repo + ":one"
		byDigest := plain.host + "/" + repo + "@" + desc.Digest.String()
		d.forget(ref, byDigest)
		out := d.ok("pull", ref)
		for _, want := range []string{"one: Pulling from " + repo, "Pull complete", "Digest: " + desc.Digest.String(), "Status: Downloaded newer image for " + ref, ref} {
			if !strings.Contains(out, want) {
				t.Errorf("pull does not say %q:\n%s", want, out)
			}
		}
		if out := d.ok("pull", ref); !strings.Contains(out, "Status: Image is up to date for "+ref) {
			t.Errorf("second pull: %s", out)
		}
		d.want(repo, "run", "--rm", ref, "cat", "/word")
		d.want("["+byDigest+"]", "image", "inspect", "-f", "{{.RepoDigests}}", ref)
		d.ok("rmi", ref)

		d.want(byDigest, "pull", "-q", byDigest)
		d.want(repo, "run", "--rm", byDigest, "cat", "/word")
		d.want("[]", "image", "inspect", "-f", "{{.RepoTags}}", byDigest)
		d.ok("rmi", byDigest)

		// What is missing is pulled on the way.
		d.want(repo, "run", "--rm", "-q", ref, "cat", "/word")
		d.fails(125, "not found", "run", "--rm", plain.host+"/"+repo+":none", "true")
		d.fails(1, "not found", "pull", plain.host+"/"+repo+":none")
	})
}

func TestPullAtTerminal(t *testing.T) {
	d := docker(t)
	repo := unique()
	small(t, repo).push(t, plain, repo, "latest")
	ref := plain.host + "/" + repo
	d.forget(ref)
	c := d.terminal(40, 120, "pull", ref)
	c.sees("Using default tag: latest")
	c.sees("Pull complete")
	c.sees("Status: Downloaded newer image for " + ref + ":latest")
	c.ends(0)
}

func TestPullPlatforms(t *testing.T) {
	d := docker(t)
	repo := unique()
	ours, theirs := small(t, repo+"-ours"), small(t, repo+"-theirs")
	theirs.config.Platform = ocispec.Platform{OS: "linux", Architecture: "s390x"}
	index := ocispec.Index{
		Versioned: specs.Versioned{SchemaVersion: 2}, MediaType: ocispec.MediaTypeImageIndex,
		Manifests: []ocispec.Descriptor{theirs.push(t, plain, repo, ""), ours.push(t, plain, repo, "")},
	}
	sum := plain.manifest(t, repo, "multi", ocispec.MediaTypeImageIndex, toJSON(t, index))
	index.Manifests = index.Manifests[:1]
	plain.manifest(t, repo, "foreign", ocispec.MediaTypeImageIndex, toJSON(t, index))

	ref := plain.host + "/" + repo + ":multi"
	d.forget(ref)
	if out := d.ok("pull", ref); !strings.Contains(out, "Digest: "+sum.String()) {
		t.Errorf("the digest is not the index's: %s", out)
	}
	d.want(repo+"-ours", "run", "--rm", ref, "cat", "/word")
	d.want(plain.host+"/"+repo+"@"+sum.String(), "image", "inspect", "-f", "{{join .RepoDigests \" \"}}", ref)
	d.fails(1, "no matching manifest", "pull", plain.host+"/"+repo+":foreign")
	d.ok("rmi", ref)
	d.ok("pull", "--platform", "linux/s390x", ref)
	d.want("s390x", "image", "inspect", "-f", "{{.Architecture}}", ref)
}

func TestPullWithPassword(t *testing.T) {
	both(t, func(t *testing.T, d client) {
		repo := unique()
		small(t, repo).push(t, locked, repo, "1")
		ref := locked.host + "/" + repo + ":1"
		d.forget(ref)
		config := "--config=" + d.folder()
		d.fails(1, "pull access denied", config, "pull", ref)
		r := d.feed("wrong", config, "login", "-u", registryUser, "--password-stdin", locked.host)
		if r.Code == 0 {
			t.Errorf("login with a wrong password: %v", r)
		}
		r = d.feed(registryPassword, config, "login", "-u", registryUser, "--password-stdin", locked.host)
		if r.Code != 0 || !strings.Contains(r.Stdout, "Login Succeeded") {
			t.Fatal(r)
		}
		d.ok(config, "pull", ref)
		d.want(repo, "run", "--rm", ref, "cat", "/word")
		d.ok(config, "logout", locked.host)
		d.ok("rmi", ref)
		d.fails(1, "pull access denied", config, "pull", ref)
	})
}

// TestPullRefused holds that neither plain HTTP nor a certificate of somebody is enough.
func TestPullRefused(t *testing.T) {
	d := docker(t)
	var requests atomic.Int64
	answer := http.HandlerFunc(func(http.ResponseWriter, *http.Request) { requests.Add(1) })
	open, private := httptest.NewServer(answer), httptest.NewUnstartedServer(answer)
	defer open.Close()
	private.Config.ErrorLog = nil
	private.StartTLS()
	defer private.Close()
	d.fails(1, "server gave HTTP response to HTTPS client", "pull", strings.TrimPrefix(open.URL, "http://")+"/x:1")
	d.fails(1, "certificate", "pull", strings.TrimPrefix(private.URL, "https://")+"/x:1")
	if n := requests.Load(); n != 0 {
		t.Errorf("%d requests came without trust", n)
	}
}

// TestPullCorrupt holds that content is checked against its digest.
func TestPullCorrupt(t *testing.T) {
	d := docker(t)
	img := small(t, unique())
	manifest, named := img.blobs(t)
	named[2] = bytes.Repeat([]byte{'x'}, len(named[2]))
	var m ocispec.Manifest
	if err := json.Unmarshal(manifest, &m); err != nil {
		t.Fatal(err)
	}
	blobs := map[string][]byte{m.Config.Digest.String(): named[0]}
	for i, l := range m.Layers {
		blobs[l.Digest.String()] = named[1+i]
	}
	lying := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		last := r.URL.Path[strings.LastIndex(r.URL.Path, "/")+1:]
		switch b, ok := blobs[last]; {
		case strings.Contains(r.URL.Path, "/manifests/"):
			w.Header().Set("Content-Type", ocispec.MediaTypeImageManifest)
			w.Header().Set("Docker-Content-Digest", descriptor("", manifest).Digest.String())
			_, _ = w.Write(manifest)
		case ok:
			_, _ = w.Write(b)
		default:
			w.WriteHeader(http.StatusNotFound)
		}
	}))
	defer lying.Close()
	ref := "localhost" + strings.TrimPrefix(lying.URL, "http://127.0.0.1") + "/lying:1" // localhost may be without TLS
	d.fails(1, "", "pull", ref)
	d.want("", "images", "-q", ref)
}
