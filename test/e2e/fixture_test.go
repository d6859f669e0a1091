//go:build root

package e2e

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"encoding/json"
	"runtime"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/opencontainers/go-digest"
	"github.com/opencontainers/image-spec/specs-go"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"stockade/internal/demoimage"
)

var created = time.Date(2026, 2, 3, 4, 5, 6, 0, time.UTC)

// entry is a file of a layer; its header's size and form follow from the rest.
type entry struct {
	tar.Header
	body string
}

func dir(name string, mode int64) entry {
	return entry{Header: tar.Header{Name: name + "/", Typeflag: tar.TypeDir, Mode: mode}}
}

func file(name, body string) entry {
	return entry{Header: tar.Header{Name: name, Typeflag: tar.TypeReg, Mode: 0o644}, body: body}
}

func hardLink(name, to string) entry {
	return entry{Header: tar.Header{Name: name, Typeflag: tar.TypeLink, Linkname: to, Mode: 0o644}}
}

// archive makes a tar.
func archive(t testing.TB, entries ...entry) []byte {
	t.Helper()
	var b bytes.Buffer
	w := tar.NewWriter(&b)
	for _, e := range entries {
		e.Size, e.ModTime, e.Format = int64(len(e.body)), created, tar.FormatPAX
		if err := w.WriteHeader(&e.Header); err != nil {
			t.Fatalf("%s: %v", e.Name, err)
		}
		if _, err := w.Write([]byte(e.body)); err != nil {
			t.Fatal(err)
		}
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

// image is an image that a test makes.
type image struct {
	config ocispec.Image
	layers [][]byte // tar
}

// base is a layer with busybox.
var base = sync.OnceValues(func() ([]byte, error) {
	files, err := demoimage.BusyboxLayer(demoimage.Busybox)
	if err != nil {
		return nil, err
	}
	return demoimage.Layer(files)
})

// newImage makes an image of busybox and further layers.
func newImage(t testing.TB, config ocispec.ImageConfig, layers ...[]byte) image {
	t.Helper()
	bottom, err := base()
	if err != nil {
		t.Fatal(err)
	}
	img := image{layers: slices.Concat([][]byte{bottom}, layers)}
	if config.Cmd == nil {
		config.Cmd = []string{"sh"}
	}
	img.config = ocispec.Image{
		Created: &created, Platform: ocispec.Platform{Architecture: runtime.GOARCH, OS: "linux"}, Config: config,
		RootFS: ocispec.RootFS{Type: "layers"},
	}
	for _, l := range img.layers {
		img.config.RootFS.DiffIDs = append(img.config.RootFS.DiffIDs, digest.FromBytes(l))
		img.config.History = append(img.config.History, ocispec.History{Created: &created, CreatedBy: "e2e"})
	}
	return img
}

func toJSON(t testing.TB, v any) []byte {
	t.Helper()
	data, err := json.Marshal(v)
	if err != nil {
		t.Fatal(err)
	}
	return data
}

// blobs returns the manifest and everything that it names.
func (img image) blobs(t testing.TB) (manifest []byte, named [][]byte) {
	t.Helper()
	config := toJSON(t, img.config)
	m := ocispec.Manifest{
		Versioned: specs.Versioned{SchemaVersion: 2}, MediaType: ocispec.MediaTypeImageManifest,
		Config: descriptor(ocispec.MediaTypeImageConfig, config),
	}
	named = append(named, config)
	for _, l := range img.layers {
		var b bytes.Buffer
		w, _ := gzip.NewWriterLevel(&b, gzip.BestSpeed)
		if _, err := w.Write(l); err != nil {
			t.Fatal(err)
		}
		if err := w.Close(); err != nil {
			t.Fatal(err)
		}
		m.Layers = append(m.Layers, descriptor(ocispec.MediaTypeImageLayerGzip, b.Bytes()))
		named = append(named, b.Bytes())
	}
	return toJSON(t, m), named
}

func descriptor(mediaType string, data []byte) ocispec.Descriptor {
	return ocispec.Descriptor{MediaType: mediaType, Digest: digest.FromBytes(data), Size: int64(len(data))}
}

// push uploads the image; tag may be empty.
func (img image) push(t testing.TB, r registry, repo, tag string) ocispec.Descriptor {
	t.Helper()
	manifest, named := img.blobs(t)
	for _, b := range named {
		r.blob(t, repo, b)
	}
	r.manifest(t, repo, tag, ocispec.MediaTypeImageManifest, manifest)
	d := descriptor(ocispec.MediaTypeImageManifest, manifest)
	d.Platform = &img.config.Platform
	return d
}

// dockerArchive is what "docker save" writes.
func (img image) dockerArchive(t testing.TB, tags ...string) string {
	t.Helper()
	config := toJSON(t, img.config)
	name := digest.FromBytes(config).Encoded() + ".json"
	files := []entry{file(name, string(config))}
	var layers []string
	for _, l := range img.layers {
		layer := digest.FromBytes(l).Encoded() + "/layer.tar"
		files, layers = append(files, file(layer, string(l))), append(layers, layer)
	}
	manifest := toJSON(t, []map[string]any{{"Config": name, "RepoTags": tags, "Layers": layers}})
	return string(archive(t, append(files, file("manifest.json", string(manifest)))...))
}

// ociArchive is an OCI image layout.
func (img image) ociArchive(t testing.TB, ref string) string {
	t.Helper()
	manifest, named := img.blobs(t)
	d := descriptor(ocispec.MediaTypeImageManifest, manifest)
	d.Annotations = map[string]string{"io.containerd.image.name": ref, ocispec.AnnotationRefName: ref[strings.LastIndex(ref, ":")+1:]}
	index := ocispec.Index{Versioned: specs.Versioned{SchemaVersion: 2}, MediaType: ocispec.MediaTypeImageIndex, Manifests: []ocispec.Descriptor{d}}
	files := []entry{file("oci-layout", `{"imageLayoutVersion":"1.0.0"}`), file("index.json", string(toJSON(t, index)))}
	for _, b := range append(named, manifest) {
		files = append(files, file("blobs/sha256/"+digest.FromBytes(b).Encoded(), string(b)))
	}
	return string(archive(t, files...))
}
