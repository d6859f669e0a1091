package demoimage

import (
	"archive/tar"
	"bytes"
	"encoding/json"
	"io"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

func TestWrite(t *testing.T) {
	shared := []File{{Name: "bin/", Mode: 0o755}, {Name: "bin/a", Mode: 0o755, Body: []byte("x")}, {Name: "bin/b", Mode: 0o777, Link: "a"}}
	images := []Image{
		{Tags: []string{"a:1"}, Config: ocispec.ImageConfig{Cmd: []string{"sh"}}, Layers: [][]File{shared}},
		{Tags: []string{"b:1"}, Layers: [][]File{shared, {{Name: "c", Mode: 0o600, UID: 5, GID: 6}}}},
	}
	var one, two bytes.Buffer
	if err := Write(&one, images); err != nil {
		t.Fatal(err)
	}
	if err := Write(&two, images); err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(one.Bytes(), two.Bytes()) {
		t.Error("two archives of the same images differ")
	}
	files := map[string][]byte{}
	r := tar.NewReader(&one)
	for {
		h, err := r.Next()
		if err == io.EOF {
			break
		}
		if err != nil {
			t.Fatal(err)
		}
		if _, twice := files[h.Name]; twice {
			t.Errorf("%s is there twice", h.Name)
		}
		if files[h.Name], err = io.ReadAll(r); err != nil {
			t.Fatal(err)
		}
	}
	var manifest []struct {
		Config   string
		RepoTags []string
		Layers   []string
	}
	if err := json.Unmarshal(files["manifest.json"], &manifest); err != nil {
		t.Fatal(err)
	}
	if len(manifest) != 2 || len(files) != 5 {
		t.Fatalf("%d images and %d files, want 2 and 5", len(manifest), len(files))
	}
	for i, m := range manifest {
		var config ocispec.Image
		if err := json.Unmarshal(files[m.Config], &config); err != nil {
			t.Fatal(err)
		}
		var want []string
		for _, d := range config.RootFS.DiffIDs {
			want = append(want, d.Encoded()+"/layer.tar")
		}
		if diff := cmp.Diff(want, m.Layers); diff != "" {
			t.Errorf("image %d: layers (-config +manifest):\n%s", i, diff)
		}
		for _, name := range m.Layers {
			if hexSum(files[name]) != strings.TrimSuffix(name, "/layer.tar") {
				t.Errorf("layer %s has another digest", name)
			}
		}
	}
}
