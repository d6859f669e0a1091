//go:build root

package image

import (
	"os"
	"path/filepath"
	"testing"

	api "github.com/moby/moby/api/types/image"
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
