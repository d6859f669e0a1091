package config

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

func TestParse(t *testing.T) {
	const ids = "[ids]\nfirst = 1879048192\ncount = 131072\n"
	for _, tc := range []struct{ name, text, want string }{
		{"empty", ids, ""},
		{"all keys", "data='/d'\nrun='/r'\nbin='/b'\ngroup='g'\nadmin_group='a'\ncgroup_parent='p'\nlow_ports=[53]\nbind_prefixes=['/srv']\nstop_seconds=3\n" + ids + "[network]\nprefix='abc'\npool='10.1.0.0/16'\n[runtimes]\nx='/bin/x'\n[registries]\ninsecure=['r:5000']\nca='/ca'\n", ""},
		{"unknown key", "data='/d'\n\ncolour='red'\n", `line 3: unknown key "colour"`},
		{"unknown key in a table", "[network]\nprefix='abc'\nmtu=5\n", `line 3: unknown key "network.mtu"`},
		{"wrong type", "data=5\n", "line 1"},
		{"relative data", "data='d'\n", "data: "},
		{"dots", "data='/a/../b'\n", "data: "},
		{"root as data", "data='/'\n", "data: "},
		{"run too long", "run='/" + strings.Repeat("x", 80) + "'\n", "run: longer"},
		{"group root", "group='root'\n", "group: "},
		{"bind prefix /", "bind_prefixes=['/']\n", "bind_prefixes: "},
		{"bind prefix /etc", "bind_prefixes=['/etc/x']\n", "system folder /etc"},
		{"bind prefix above a system folder", "bind_prefixes=['/var']\n", "system folder"},
		{"bind prefix over data", "data='/srv/stockade'\nbind_prefixes=['/srv']\n", "data or run"},
		{"public pool", "[network]\npool='8.8.0.0/16'\n", "network.pool"},
		{"pool with host bits", "[network]\npool='10.0.0.1/16'\n", "network.pool"},
		{"prefix", "[network]\nprefix='Stk'\n", "network.prefix"},
		{"cgroup parent path", "cgroup_parent='a/b'\n", "cgroup_parent"},
		{"low port", "low_ports=[8080]\n", "low_ports"},
		{"ids low", "[ids]\nfirst=1000\ncount=131072\n", "ids: first"},
		{"ids one block", "[ids]\nfirst=100000\ncount=65536\n", "ids: count"},
		{"ids in the ghost range", "[ids]\nfirst=2147418112\ncount=131072\n", "ids: the range ends"},
		{"runtime path", "[runtimes]\nrunc='runc'\n", "runtimes"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			_, err := Parse(strings.NewReader(tc.text))
			if tc.want == "" && err != nil {
				t.Fatalf("got %v", err)
			}
			if tc.want != "" && (err == nil || !strings.Contains(err.Error(), tc.want)) {
				t.Fatalf("got %v, want …%s…", err, tc.want)
			}
		})
	}
}

func TestLoadRefusesWritable(t *testing.T) {
	path := filepath.Join(t.TempDir(), "c.toml")
	if err := os.WriteFile(path, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Chmod(path, 0o666); err != nil {
		t.Fatal(err)
	}
	if _, err := Load(path); err == nil || !strings.Contains(err.Error(), "changed by others") {
		t.Fatalf("got %v", err)
	}
	if _, err := Load(path + ".missing"); err == nil {
		t.Fatal("a named file that is missing was accepted")
	}
}

// TestExample holds dist/stockade.toml against the real keys and defaults.
func TestExample(t *testing.T) {
	data, err := os.ReadFile("../../dist/stockade.toml")
	if err != nil {
		t.Fatal(err)
	}
	var text strings.Builder
	for line := range strings.Lines(string(data)) {
		if rest, ok := strings.CutPrefix(line, "#"); ok && !strings.HasPrefix(rest, " ") {
			text.WriteString(rest)
		}
	}
	got, err := Parse(strings.NewReader(text.String()))
	if err != nil {
		t.Fatal(err)
	}
	want := Default()
	want.Bin, want.IDs = "/usr/local/libexec/stockade", IDs{First: 1879048192, Count: 33554432}
	want.Runtimes = map[string]string{"runc": "/usr/local/libexec/stockade/runc"}
	want.Registries.Insecure, want.Registries.NoProxy = []string{}, []string{}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("the example says other defaults (-built in +example):\n%s", diff)
	}
}
