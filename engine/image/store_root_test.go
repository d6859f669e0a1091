//go:build root

package image

import (
	"bytes"
	"encoding/json"
	"errors"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/containerd/containerd/v2/core/content"
	"github.com/containerd/errdefs"
	api "github.com/moby/moby/api/types/image"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

func TestLoadListInspect(t *testing.T) {
	s := serve(t, nil)
	img := sampleImage(t, "x", tarOf(t, "bin/sh", "#!"), tarOf(t, "etc/x", "xyz"))
	s.mustLoad(dockerArchive(t, img, "busybox:latest", "example.org/b:1"), "Loaded image: busybox:latest\\n")
	list := ok[[]api.Summary](s, "GET", "/images/json", nil)
	if len(list) != 1 || list[0].ID != img.id() || len(list[0].RepoTags) != 2 || list[0].RepoTags[0] != "busybox:latest" || list[0].Size != 5 {
		t.Fatalf("list: %+v", list)
	}
	got := ok[api.InspectResponse](s, "GET", "/images/busybox/json", nil)
	if got.ID != img.id() || got.Author != "Alice" || got.Comment != "last" || got.Config.Cmd[0] != "sh" || len(got.RootFS.Layers) != 2 ||
		got.Created != "2023-11-14T22:13:20Z" || got.Os != "linux" {
		t.Errorf("inspect: %+v", got)
	}
	for _, ref := range []string{"busybox", "docker.io/library/busybox:latest", img.id(), img.id()[7:20], "sha256:" + img.id()[7:20]} {
		r, err := s.Resolve(t.Context(), "a", ref, "")
		if err != nil || r.ID != img.id() || r.Name != ref || len(r.Layers) != 2 {
			t.Errorf("resolve %s: %+v, %v", ref, r, err)
			continue
		}
		// Top first.
		if b, err := os.ReadFile(filepath.Join(s.dir, r.Layers[0], "fs/etc/x")); err != nil || string(b) != "xyz" {
			t.Errorf("top layer: %q, %v", b, err)
		}
	}
}

// onDisk lists the folders of unpacked layers.
func (s *server) onDisk() (names []string) {
	s.t.Helper()
	entries, err := os.ReadDir(s.dir)
	if err != nil {
		s.t.Fatal(err)
	}
	for _, e := range entries {
		names = append(names, e.Name())
	}
	return names
}

func (s *server) collectNow() {
	s.t.Helper()
	if err := s.collect(s.t.Context()); err != nil {
		s.t.Fatal(err)
	}
}

// blobCount counts blobs on disk, whoever they belong to.
func (s *server) blobCount() int {
	s.t.Helper()
	entries, err := os.ReadDir(filepath.Join(s.cfg.Data, "content", "blobs", "sha256"))
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		s.t.Fatal(err)
	}
	return len(entries)
}

func TestDelete(t *testing.T) {
	base := tarOf(t, "base", "b")
	one, two := sampleImage(t, "1", base, tarOf(t, "one", "1")), sampleImage(t, "2", base, tarOf(t, "two", "2"))
	s := serve(t, nil)
	s.mustLoad(dockerArchive(t, one, "one:1", "one:2", "uno:1"), "")
	s.mustLoad(dockerArchive(t, two, "two:1"), "")
	s.collectNow()
	if got := s.onDisk(); len(got) != 3 {
		t.Fatalf("layers: %v", got)
	}
	conflictOf := func(url, text string) {
		t.Helper()
		if w := s.call("DELETE", url, nil); w.Code != 409 || !strings.Contains(w.Body.String(), text) {
			t.Errorf("DELETE %s: %d %s", url, w.Code, w.Body)
		}
	}
	conflictOf("/images/"+one.id(), "(must be forced) - image is referenced in multiple repositories")
	got := ok[[]api.DeleteResponse](s, "DELETE", "/images/one:1", nil)
	if len(got) != 1 || got[0].Untagged != "one:1" {
		t.Errorf("untag: %+v", got)
	}
	ok[any](s, "DELETE", "/images/uno:1", nil)

	key := "a " + one.id()
	s.users[key] = []ContainerRef{{ID: "0123456789abcdef", Running: true}}
	conflictOf("/images/one:2", "unable to delete one:2 (must be forced) - container 0123456789ab is using")
	conflictOf("/images/"+one.id()+"?force=1", "(cannot be forced) - image is being used by running container 0123456789ab")
	s.users[key][0].Running = false
	conflictOf("/images/"+one.id(), "(must be forced) - image is being used by stopped container 0123456789ab")

	// By force; the stopped container keeps its layers.
	got = ok[[]api.DeleteResponse](s, "DELETE", "/images/"+one.id()+"?force=1", nil)
	if len(got) != 2 || got[0].Untagged != "one:2" || got[1].Deleted != one.id() {
		t.Errorf("forced: %+v", got)
	}
	s.collectNow()
	if got := s.onDisk(); len(got) != 3 {
		t.Errorf("layers of a container removed: %v", got)
	}
	if _, err := s.Resolve(t.Context(), "a", one.id(), ""); !errdefs.IsNotFound(err) {
		t.Errorf("deleted image resolved: %v", err)
	}
	if img, err := s.ByID(t.Context(), "a", one.id()); err != nil || len(img.Layers) != 2 {
		t.Errorf("container's image: %+v, %v", img, err)
	}
	delete(s.users, key)
	s.collectNow()
	if got := s.onDisk(); len(got) != 2 {
		t.Errorf("layers after the container: %v", got)
	}

	// A container may be in the making, which nobody lists yet.
	if _, err := s.Resolve(t.Context(), "a", "two:1", ""); err != nil {
		t.Fatal(err)
	}
	ok[any](s, "DELETE", "/images/two:1?force=1", nil)
	s.collectNow()
	if got := s.onDisk(); len(got) != 2 {
		t.Errorf("layers of a resolved image removed: %v", got)
	}
	s.now = s.now.Add(grace)
	s.collectNow()
	if got := s.onDisk(); len(got) != 0 {
		t.Errorf("layers of nothing: %v", got)
	}
	if n := s.blobCount(); n != 0 {
		t.Errorf("%d blobs of nothing", n)
	}
	if w := s.call("DELETE", "/images/two:1", nil); w.Code != 404 || !strings.Contains(w.Body.String(), "No such image: two:1") {
		t.Errorf("again: %d %s", w.Code, w.Body)
	}
	if want := "a load ,a load ,a untag one:1,a untag uno:1,a untag one:2,a delete ,a untag two:1,a delete "; strings.Join(s.events, ",") != want {
		t.Errorf("events %q", strings.Join(s.events, ","))
	}
}

func TestTagListHistoryPrune(t *testing.T) {
	s := serve(t, nil)
	one, two := sampleImage(t, "1", tarOf(t, "a", "1")), sampleImage(t, "2", tarOf(t, "a", "22"))
	s.mustLoad(dockerArchive(t, one, "one:1"), "")
	s.mustLoad(dockerArchive(t, two), "Loaded image ID: "+two.id())
	ok[any](s, "POST", "/images/one:1/tag?repo=example.org/x&tag=v", nil)
	for _, row := range []struct {
		filters string
		want    int
	}{
		{`{}`, 2}, {`{"dangling":["true"]}`, 1}, {`{"dangling":["false"]}`, 1}, {`{"reference":["one"]}`, 1}, {`{"reference":["o*:1"]}`, 1},
		{`{"reference":["example.org/*"]}`, 1}, {`{"reference":["two"]}`, 0}, {`{"label":["label=2"]}`, 1}, {`{"label":["label"]}`, 2},
		{`{"until":["24h"]}`, 2}, {`{"until":["2020-01-01"]}`, 0}, {`{"before":["one:1"]}`, 0}, {`{"since":["one:1"]}`, 0},
	} {
		if got := ok[[]api.Summary](s, "GET", "/images/json?filters="+url.QueryEscape(row.filters), nil); len(got) != row.want {
			t.Errorf("%s: %d images", row.filters, len(got))
		}
	}
	history := ok[[]api.HistoryResponseItem](s, "GET", "/images/one:1/history", nil)
	if len(history) != 2 || history[0].ID != one.id() || history[0].CreatedBy != "CMD sh" || history[1].Size != 1 || len(history[0].Tags) != 2 {
		t.Errorf("history: %+v", history)
	}
	// The name moves.
	ok[any](s, "POST", "/images/"+two.id()+"/tag?repo=one&tag=1", nil)
	if r, err := s.Resolve(t.Context(), "a", "one:1", ""); err != nil || r.ID != two.id() {
		t.Errorf("moved name: %v, %v", r.ID, err)
	}
	ok[any](s, "DELETE", "/images/example.org%2Fx:v", nil)
	s.mustLoad(dockerArchive(t, one), "")
	report := ok[api.PruneReport](s, "POST", "/images/prune", nil)
	if len(report.ImagesDeleted) != 2 || report.ImagesDeleted[0].Deleted != one.id() || report.SpaceReclaimed != 1 {
		t.Errorf("prune: %+v", report)
	}
	for _, bad := range []string{"/images/one:1/tag?repo=UPPER", "/images/one:1/tag?repo=x@sha256:" + strings.Repeat("0", 64), "/images/one:1/tag?repo=x&tag=a/b"} {
		if w := s.call("POST", bad, nil); w.Code != 400 {
			t.Errorf("%s: %d %s", bad, w.Code, w.Body)
		}
	}
}

// SECURITY(T-204): a tenant neither sees nor gets what another has.
func TestTenants(t *testing.T) {
	s := serve(t, nil)
	secret := tarOf(t, "secret", "of a")
	img := sampleImage(t, "a", secret)
	s.mustLoad(dockerArchive(t, img, "private:1"), "")
	for _, url := range []string{"/images/private:1/json", "/images/" + img.id() + "/json", "/images/" + img.id()[7:15] + "/json", "/images/private:1/history"} {
		if w := s.as("b", "GET", url, nil, nil); w.Code != 404 {
			t.Errorf("%s: %d %s", url, w.Code, w.Body)
		}
	}
	if w := s.as("b", "GET", "/images/json", nil, nil); strings.TrimSpace(w.Body.String()) != "[]" {
		t.Errorf("list of b: %s", w.Body)
	}
	// b knows the layer's digest, not its bytes: claims it in a configuration, and in an image layout.
	claim := dockerArchive(t, sample{img.config, [][]byte{tarOf(t, "other", "bytes")}}, "mine:1")
	if w := s.as("b", "POST", "/images/load", bytes.NewReader(claim), nil); !strings.Contains(w.Body.String(), "layer verification failed") {
		t.Errorf("claimed layer: %d %s", w.Code, w.Body)
	}
	layout := ociLayout(t, img, "mine:1")
	delete(layout, "blobs/sha256/"+digest.FromBytes(secret).Encoded())
	if w := s.as("b", "POST", "/images/load", bytes.NewReader(tarMap(t, layout)), nil); !strings.Contains(w.Body.String(), "is missing") {
		t.Errorf("missing blob: %d %s", w.Code, w.Body)
	}
	if s.Count("b") != 0 {
		t.Error("b has an image")
	}
	// Control: with the bytes it works, and the layer is shared.
	if w := s.as("b", "POST", "/images/load", bytes.NewReader(tarMap(t, ociLayout(t, img, "mine:1"))), nil); !strings.Contains(w.Body.String(), "Loaded image: mine:1") {
		t.Errorf("control: %d %s", w.Code, w.Body)
	}
	if got := s.onDisk(); len(got) != 1 {
		t.Errorf("layers: %v", got)
	}
	ok[any](s, "DELETE", "/images/private:1", nil)
	s.collectNow()
	if got := s.onDisk(); len(got) != 1 {
		t.Errorf("b's layer went with a's image: %v", got)
	}
}

// ociLayout is the files of an image layout as docker buildx writes them.
func ociLayout(t *testing.T, img sample, name string) map[string]string {
	t.Helper()
	files := map[string]string{"oci-layout": `{"imageLayoutVersion":"1.0.0"}`}
	blob := func(mediaType string, data []byte) ocispec.Descriptor {
		d := ocispec.Descriptor{MediaType: mediaType, Digest: digest.FromBytes(data), Size: int64(len(data))}
		files["blobs/sha256/"+d.Digest.Encoded()] = string(data)
		return d
	}
	m := ocispec.Manifest{MediaType: ocispec.MediaTypeImageManifest, Config: blob(ocispec.MediaTypeImageConfig, img.config)}
	m.SchemaVersion = 2
	for _, l := range img.layers {
		m.Layers = append(m.Layers, blob(ocispec.MediaTypeImageLayer, l))
	}
	data, err := json.Marshal(m)
	if err != nil {
		t.Fatal(err)
	}
	d := blob(ocispec.MediaTypeImageManifest, data)
	d.Annotations = map[string]string{"io.containerd.image.name": "docker.io/library/" + name}
	index, err := json.Marshal(map[string]any{"schemaVersion": 2, "manifests": []any{d}})
	if err != nil {
		t.Fatal(err)
	}
	files["index.json"] = string(index)
	return files
}

func tarMap(t *testing.T, files map[string]string) []byte {
	t.Helper()
	var pairs []string
	for k, v := range files {
		pairs = append(pairs, k, v)
	}
	return tarOf(t, pairs...)
}

func TestArchives(t *testing.T) {
	img := sampleImage(t, "x", tarOf(t, "f", "x"))
	swapped := ociLayout(t, img, "x:1")
	for name := range swapped {
		if strings.HasSuffix(name, digest.FromBytes(img.layers[0]).Encoded()) {
			swapped[name] = strings.ToUpper(swapped[name])
		}
	}
	manifest := func(v string) []byte { return tarOf(t, "config.json", string(img.config), "manifest.json", v) }
	for _, row := range []struct {
		name    string
		archive []byte
		want    string
	}{
		{"docker", dockerArchive(t, img, "x:1"), "Loaded image: x:1"},
		{"compressed", gzipped(t, dockerArchive(t, img, "x:1")), "Loaded image: x:1"},
		{"layout", tarMap(t, ociLayout(t, img, "x:1")), "Loaded image: x:1"},
		{"layout with another layer", tarMap(t, swapped), "has another digest"},
		{"empty", tarOf(t), "neither manifest.json nor index.json"},
		{"no tar", []byte(strings.Repeat("x", 3000)), "invalid image archive"},
		{"no list", manifest(`{}`), "manifest.json"},
		{"configuration outside", manifest(`[{"Config":"../../../../etc/passwd"}]`), "no file"},
		{"layer outside", manifest(`[{"Config":"config.json","Layers":["/etc/passwd"]}]`), "no file"},
		{"layers do not match", manifest(`[{"Config":"config.json","Layers":[]}]`), "names 1 layers"},
		{"bad name", dockerArchive(t, img, "../../x"), "invalid reference format"},
		{"hostile layer", dockerArchive(t, sampleImage(t, "x", tarOf(t, "../../../canary", "dead")), "x:1"), "leads out of the layer"},
	} {
		t.Run(row.name, func(t *testing.T) {
			s := serve(t, nil)
			canary := filepath.Join(s.cfg.Data, "canary")
			if err := os.WriteFile(canary, []byte("alive"), 0o666); err != nil {
				t.Fatal(err)
			}
			w := s.call("POST", "/images/load", bytes.NewReader(row.archive))
			if !strings.Contains(w.Body.String(), row.want) {
				t.Errorf("%d %s, want %q", w.Code, w.Body, row.want)
			}
			good := strings.HasPrefix(row.want, "Loaded")
			if n := s.Count("a"); (n == 1) != good {
				t.Errorf("%d images", n)
			}
			if b, err := os.ReadFile(canary); err != nil || string(b) != "alive" {
				t.Errorf("canary: %q, %v", b, err)
			}
			s.collectNow()
			if n := s.blobCount(); !good && n != 0 {
				t.Errorf("%d blobs are left", n)
			}
			if n := len(s.onDisk()); (n == 1) != good {
				t.Errorf("layers: %v", s.onDisk())
			}
		})
	}
}

// SECURITY(T-801): what a crash leaves is removed, what was acknowledged is there.
func TestReopen(t *testing.T) {
	s := serve(t, nil)
	img := sampleImage(t, "x", tarOf(t, "f", "x"))
	s.mustLoad(dockerArchive(t, img, "x:1"), "")
	// An upload that was not finished,
	ctx, _, err := s.lease(t.Context(), "a", false)
	if err != nil {
		t.Fatal(err)
	}
	w, err := content.OpenWriter(ctx, s.blobs, content.WithRef("upload"))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := w.Write(make([]byte, 1000)); err != nil {
		t.Fatal(err)
	}
	// a layer that was not finished, and one that was not recorded.
	for _, name := range []string{tempPrefix + "123/fs/d", strings.Repeat("0", 64) + "/fs"} {
		if err := os.MkdirAll(filepath.Join(s.dir, name), 0o700); err != nil {
			t.Fatal(err)
		}
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	s = reopen(t, s.cfg.Data, nil)
	s.collectNow()
	if got := s.onDisk(); len(got) != 1 {
		t.Errorf("layers: %v", got)
	}
	if left, err := os.ReadDir(filepath.Join(s.cfg.Data, "content", "ingest")); err != nil || len(left) != 0 {
		t.Errorf("uploads: %v, %v", left, err)
	}
	if got := ok[api.InspectResponse](s, "GET", "/images/x:1/json", nil); got.ID != img.id() {
		t.Errorf("inspect: %+v", got)
	}
	// A layer that somebody removed comes back with its image.
	if err := os.RemoveAll(filepath.Join(s.dir, s.onDisk()[0])); err != nil {
		t.Fatal(err)
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	s = reopen(t, s.cfg.Data, nil)
	s.mustLoad(dockerArchive(t, img, "x:1"), "")
	if got := s.onDisk(); len(got) != 1 {
		t.Errorf("layers after repair: %v", got)
	}
}

func TestImportCommit(t *testing.T) {
	s := serve(t, nil)
	q := url.Values{"fromSrc": {"-"}, "repo": {"base"}, "tag": {"1"}, "message": {"hello"}, "platform": {"linux/amd64"},
		"changes": {`CMD ["sh","-c","x"]`, `ENV A=1 B="2 3"`, "EXPOSE 80", "WORKDIR /w", "USER 1000"}}
	w := s.call("POST", "/images/create?"+q.Encode(), bytes.NewReader(gzipped(t, tarOf(t, "bin/sh", "#!"))))
	if w.Code != 200 || !strings.Contains(w.Body.String(), `{"status":"sha256:`) {
		t.Fatalf("import: %d %s", w.Code, w.Body)
	}
	base, err := s.Resolve(t.Context(), "a", "base:1", "")
	if err != nil {
		t.Fatal(err)
	}
	if c := base.Config; c.Cmd[2] != "x" || c.Env[1] != "B=2 3" || c.User != "1000" || c.WorkingDir != "/w" || len(c.ExposedPorts) != 1 {
		t.Errorf("config: %+v", c)
	}
	cfg := base.Config
	cfg.Env = append(cfg.Env, "C=3")
	id, err := s.Commit(t.Context(), "a", Commit{Parent: base.ID, Diff: bytes.NewReader(tarOf(t, "new", "n", "bin/.wh.sh", "")), Config: cfg,
		Author: "Bob", Comment: "why", CreatedBy: "sh -c x", Repo: "made"})
	if err != nil {
		t.Fatal(err)
	}
	made, err := s.Resolve(t.Context(), "a", "made", "")
	if err != nil || made.ID != id || len(made.Layers) != 2 || made.Layers[1] != base.Layers[0] || made.Config.Env[2] != "C=3" {
		t.Errorf("made: %+v, %v", made, err)
	}
	if fi, err := os.Lstat(filepath.Join(s.dir, made.Layers[0], "fs/bin/sh")); err != nil || fi.Mode()&os.ModeCharDevice == 0 {
		t.Errorf("whiteout: %v, %v", fi, err)
	}
	got := ok[api.InspectResponse](s, "GET", "/images/made/json", nil)
	if got.Author != "Bob" || got.Comment != "why" || len(got.RootFS.Layers) != 2 {
		t.Errorf("inspect: %+v", got)
	}
	// The parent's blobs stay as long as the child needs them.
	ok[any](s, "DELETE", "/images/base:1", nil)
	s.collectNow()
	if _, err := s.Commit(t.Context(), "a", Commit{Parent: id, Diff: bytes.NewReader(tarOf(t)), Config: cfg, Repo: "again"}); err != nil {
		t.Errorf("commit on a commit: %v", err)
	}
	if got := s.onDisk(); len(got) != 3 {
		t.Errorf("layers: %v", got)
	}
	if _, err := s.Commit(t.Context(), "b", Commit{Parent: id, Diff: bytes.NewReader(tarOf(t))}); !errdefs.IsNotFound(err) {
		t.Errorf("commit of another tenant's image: %v", err)
	}
}
