package archive

import (
	"testing"

	"github.com/google/go-cmp/cmp"
	dockerspec "github.com/moby/docker-image-spec/specs-go/v1"
	"github.com/moby/moby/api/types/container"
	"github.com/moby/moby/api/types/network"
)

func TestInherit(t *testing.T) {
	from := &container.Config{
		Cmd: []string{"c"}, Entrypoint: []string{"e"}, Env: []string{"A=1", "B=2"}, User: "u", Labels: map[string]string{"x": "1", "y": "1"},
		ExposedPorts: network.PortSet{network.MustParsePort("80/tcp"): {}}, Hostname: "h", Tty: true,
	}
	var c, want dockerspec.DockerOCIImageConfig
	c.Env, c.Labels = []string{"A=9"}, map[string]string{"x": "9"}
	if err := inherit(&c, from); err != nil {
		t.Fatal(err)
	}
	want.Cmd, want.Entrypoint, want.User = []string{"c"}, []string{"e"}, "u"
	want.Env, want.Labels = []string{"A=9", "B=2"}, map[string]string{"x": "9", "y": "1"}
	want.ExposedPorts = map[string]struct{}{"80/tcp": {}}
	if diff := cmp.Diff(want, c); diff != "" {
		t.Error(diff)
	}
	var own dockerspec.DockerOCIImageConfig
	own.Entrypoint = []string{"mine"}
	if err := inherit(&own, from); err != nil {
		t.Fatal(err)
	}
	if own.Cmd != nil || own.Entrypoint[0] != "mine" {
		t.Errorf("an own entrypoint keeps the old command: %+v", own)
	}
}
