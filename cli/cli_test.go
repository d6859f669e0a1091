package cli

import (
	"bytes"
	"encoding/json"
	"fmt"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"

	"stockade/priv/supervisor"
)

// run carries out one command line.
func run(t *testing.T, args ...string) (string, error) {
	t.Helper()
	cmd := New()
	var out bytes.Buffer
	cmd.SetOut(&out)
	cmd.SetErr(&out)
	cmd.SetArgs(args)
	err := cmd.Execute()
	return out.String(), err
}

func writeConfig(t *testing.T, dir string) string {
	t.Helper()
	path := filepath.Join(dir, "c.toml")
	text := fmt.Sprintf("data = %q\nrun = %q\n[ids]\nfirst = 1879048192\ncount = 131072\n", dir+"/data", dir)
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

func shortDir(t *testing.T) string {
	t.Helper()
	dir, err := os.MkdirTemp("", "cli") // socket paths are short
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	return dir
}

func TestStatus(t *testing.T) {
	dir := shortDir(t)
	config := writeConfig(t, dir)
	if _, err := run(t, "status", "--config", config); err == nil || !strings.Contains(err.Error(), "no server runs") {
		t.Errorf("without a server: %v", err)
	}

	l, err := net.Listen("unix", filepath.Join(dir, "docker.sock"))
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	var sick atomic.Bool
	go http.Serve(l, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path != "/_ping" || sick.Load() {
			w.WriteHeader(http.StatusServiceUnavailable)
		}
	}))
	// A process that cannot be: another start than that of this pid.
	state := supervisor.State{Processes: []supervisor.Instance{{Name: "gate", PID: os.Getpid(), Start: 1}}}
	data, err := json.Marshal(state)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dir, "state.json"), data, 0o600); err != nil {
		t.Fatal(err)
	}
	out, err := run(t, "status", "--json", "--config", config)
	if err != nil {
		t.Fatal(err)
	}
	var st Status
	if err := json.Unmarshal([]byte(out), &st); err != nil {
		t.Fatal(err)
	}
	if !st.Healthy || len(st.Processes) != 0 {
		t.Errorf("got %+v", st)
	}
	sick.Store(true)
	if _, err := run(t, "status", "--config", config); err == nil || !strings.Contains(err.Error(), "503") {
		t.Errorf("a sick server: %v", err)
	}
}

func TestRefusals(t *testing.T) {
	config := writeConfig(t, shortDir(t))
	if _, err := run(t, "nonsense"); err == nil {
		t.Error("an unknown command was accepted")
	}
	if _, err := run(t, "up", "more", "--config", config); err == nil {
		t.Error("an argument of up was accepted")
	}
	if err := os.WriteFile(config, []byte("colour = 1\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"up", "down", "status", "check"} {
		if _, err := run(t, name, "--config", config); err == nil || !strings.Contains(err.Error(), `line 1: unknown key "colour"`) {
			t.Errorf("%s: %v", name, err)
		}
	}
	if os.Geteuid() != 0 {
		config := writeConfig(t, shortDir(t))
		for _, name := range []string{"up", "down", "check"} {
			if _, err := run(t, name, "--config", config); err == nil || !strings.Contains(err.Error(), "needs root") {
				t.Errorf("%s without root: %v", name, err)
			}
		}
	}
}
