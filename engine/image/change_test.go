package image

import (
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	dockerspec "github.com/moby/docker-image-spec/specs-go/v1"
)

func TestApplyChanges(t *testing.T) {
	var cfg dockerspec.DockerOCIImageConfig
	cfg.Env, cfg.Labels, cfg.WorkingDir = []string{"A=old", "B=b"}, map[string]string{"k": "v"}, "/srv"
	err := ApplyChanges(&cfg, []string{"CMD echo hi", `ENTRYPOINT ["/e", "x"]`, `ENV A=new C="c d" E=a\ b`, "ENV OLD the old form",
		"EXPOSE 80 53/udp 90-91", `LABEL x=1 "y z"='2 3'`, "USER 1000:5", `VOLUME ["/a b"]`, "VOLUME /c /d", "WORKDIR sub/../x", "STOPSIGNAL SIGINT",
		"HEALTHCHECK --interval=5s --retries=3 CMD curl -f x || exit 1", "ONBUILD RUN x", "# nothing\nuser 7"})
	if err != nil {
		t.Fatal(err)
	}
	var want dockerspec.DockerOCIImageConfig
	want.Cmd = []string{"/bin/sh", "-c", "echo hi"}
	want.Entrypoint = []string{"/e", "x"}
	want.Env = []string{"A=new", "B=b", "C=c d", "E=a b", "OLD=the old form"}
	want.ExposedPorts = map[string]struct{}{"80/tcp": {}, "53/udp": {}, "90/tcp": {}, "91/tcp": {}}
	want.Labels = map[string]string{"k": "v", "x": "1", "y z": "2 3"}
	want.User = "7"
	want.Volumes = map[string]struct{}{"/a b": {}, "/c": {}, "/d": {}}
	want.WorkingDir = "/srv/x"
	want.StopSignal = "SIGINT"
	want.Healthcheck = &dockerspec.HealthcheckConfig{Test: []string{"CMD-SHELL", "curl -f x || exit 1"}, Interval: 5 * time.Second, Retries: 3}
	want.OnBuild = []string{"RUN x"}
	if diff := cmp.Diff(want, cfg); diff != "" {
		t.Error(diff)
	}
}

func TestApplyChangesRefuses(t *testing.T) {
	for _, row := range []struct{ change, want string }{
		{"RUN rm -rf /", "RUN is not a valid change command"},
		{"FROM x", "FROM is not a valid change command"},
		{"ADD x /", "ADD is not a valid change command"},
		{"ENV", "ENV requires at least one argument"},
		{"ENV A", "ENV must have two arguments"},
		{`ENV A="b`, "unterminated"},
		{"LABEL a=b c", "Syntax error"},
		{"EXPOSE 0x1", "invalid containerPort"},
		{"EXPOSE 90-80", "invalid containerPort"},
		{"EXPOSE 70000", "invalid containerPort"},
		{"HEALTHCHECK --x=1 CMD y", "unknown flag"},
		{"HEALTHCHECK --interval=1ns CMD y", "invalid --interval"},
		{"HEALTHCHECK CMD", "Missing command"},
		{"ONBUILD ONBUILD RUN x", "isn't allowed"},
		{"SHELL sh", "JSON form"},
	} {
		var cfg dockerspec.DockerOCIImageConfig
		if err := ApplyChanges(&cfg, []string{row.change}); err == nil || !strings.Contains(err.Error(), row.want) {
			t.Errorf("%s: %v, want %q", row.change, err, row.want)
		}
	}
}
