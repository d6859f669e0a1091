package archive

import (
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
	"github.com/moby/moby/api/types/container"
	"github.com/moby/moby/api/types/network"

	"stockade/engine/httpapi"
)

func TestApplyChanges(t *testing.T) {
	c := &container.Config{Env: []string{"A=old", "B=stays"}}
	err := applyChanges(c, []string{
		`CMD ["nginx","-g"]`, `entrypoint run it`, `ENV A=new C="x y" D=e\ f`, `ENV OLD form value`, "USER 5:6\nWORKDIR /srv",
		`LABEL k=v "q r"=s`, `EXPOSE 80 53/udp`, `VOLUME ["/a b"]`, `VOLUME /c /d`, `ONBUILD RUN x`, `STOPSIGNAL SIGINT`, `# note`,
	})
	if err != nil {
		t.Fatal(err)
	}
	want := &container.Config{
		Cmd: []string{"nginx", "-g"}, Entrypoint: []string{"/bin/sh", "-c", "run it"},
		Env:  []string{"B=stays", "A=new", "C=x y", "D=e f", "OLD=form value"},
		User: "5:6", WorkingDir: "/srv", Labels: map[string]string{"k": "v", "q r": "s"},
		ExposedPorts: network.PortSet{network.MustParsePort("80/tcp"): {}, network.MustParsePort("53/udp"): {}},
		Volumes:      map[string]struct{}{"/a b": {}, "/c": {}, "/d": {}}, OnBuild: []string{"RUN x"}, StopSignal: "SIGINT",
	}
	if diff := cmp.Diff(want, c, cmpopts.EquateComparable(network.Port{})); diff != "" {
		t.Error(diff)
	}
	for _, bad := range []string{"RUN x", "ENV", "ENV A", `ENV A="open`, "EXPOSE x", "FROM y"} {
		if err := applyChanges(&container.Config{}, []string{bad}); httpapi.Status(err) != 400 {
			t.Errorf("%q: %v", bad, err)
		}
	}
}

func TestInherit(t *testing.T) {
	from := &container.Config{
		Cmd: []string{"c"}, Entrypoint: []string{"e"}, Env: []string{"A=1", "B=2"}, User: "u", Labels: map[string]string{"x": "1", "y": "1"},
	}
	c := &container.Config{Env: []string{"A=9"}, Labels: map[string]string{"x": "9"}}
	inherit(c, from)
	want := &container.Config{
		Cmd: []string{"c"}, Entrypoint: []string{"e"}, Env: []string{"A=9", "B=2"}, User: "u", Labels: map[string]string{"x": "9", "y": "1"},
	}
	if diff := cmp.Diff(want, c, cmpopts.EquateComparable(network.Port{})); diff != "" {
		t.Error(diff)
	}
	own := &container.Config{Entrypoint: []string{"mine"}}
	inherit(own, from)
	if own.Cmd != nil || own.Entrypoint[0] != "mine" {
		t.Errorf("an own entrypoint keeps the old command: %+v", own)
	}
}
