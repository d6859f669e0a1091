package main

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
)

// bareName is the side of the OCI runtime without any server.
const bareName = "runc"

// bare runs the image's root file system by the OCI runtime alone, with the configuration that "runc spec" makes: no
// network, no layers, no log, nothing to clean up.
type bare struct{ runc, dir string }

func newBare(ctx context.Context, bin string) (*bare, error) {
	runc, err := filepath.Abs(filepath.Join(bin, "runc"))
	if err != nil {
		return nil, err
	}
	r := &bare{runc: runc, dir: "/var/lib/" + prefix + "-bare"}
	if err := os.MkdirAll(filepath.Join(r.dir, "rootfs"), 0o755); err != nil {
		return nil, err
	}
	if err := unpackImage(filepath.Join(r.dir, "rootfs")); err != nil {
		return nil, err
	}
	cmd := exec.CommandContext(ctx, runc, "spec")
	cmd.Dir = r.dir
	if out, err := cmd.CombinedOutput(); err != nil {
		return nil, fmt.Errorf("runc spec: %w: %s", err, out)
	}
	file := filepath.Join(r.dir, "config.json")
	data, err := os.ReadFile(file)
	if err != nil {
		return nil, err
	}
	var c map[string]any
	if err := json.Unmarshal(data, &c); err != nil {
		return nil, err
	}
	process := c["process"].(map[string]any)
	process["args"], process["terminal"] = []string{"true"}, false
	delete(process, "rlimits")
	c["linux"].(map[string]any)["cgroupsPath"] = "/" + prefix + "-bare/c"
	if data, err = json.Marshal(c); err != nil {
		return nil, err
	}
	return r, os.WriteFile(file, data, 0o600)
}

func (r *bare) run(ctx context.Context) error {
	cmd := exec.CommandContext(ctx, r.runc, "--root", filepath.Join(ourRun, "bare"), "run", "--bundle", r.dir, prefix)
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("runc run: %w: %s", err, out)
	}
	return nil
}

func (r *bare) end() error { return removeTree(r.dir) }
