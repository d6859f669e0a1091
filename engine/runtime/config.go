package runtime

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"

	specs "github.com/opencontainers/runtime-spec/specs-go"

	"stockade/engine/shim"
)

// ociVersion is one that every supported runtime knows.
const ociVersion = "1.0.2"

// initTarget is where --init shows the engine's init, as Docker does.
const initTarget = "/sbin/docker-init"

// writeConfig writes the OCI configuration of a container into its bundle.
func (r *Runtime) writeConfig(t *task, s Spec) error {
	spec := *s.OCI
	spec.Version = ociVersion
	// SECURITY(T-303): annotations select behaviour of some runtimes, hooks run programs; neither is ever passed on.
	spec.Annotations, spec.Hooks = nil, nil
	root := specs.Root{Path: filepath.Join(t.slot.bundle, rootDir)}
	if s.OCI.Root != nil {
		root.Readonly = s.OCI.Root.Readonly
	}
	spec.Root = &root

	process := *s.OCI.Process
	process.User = specs.User{UID: s.User.UID, GID: s.User.GID, AdditionalGids: s.User.Additional, Umask: s.OCI.Process.User.Umask}
	process.Terminal = s.TTY
	mounts := slices.Clone(s.OCI.Mounts)
	if s.Init {
		if r.cfg.InitPath == "" {
			return fmt.Errorf("--init: this server has no init program")
		}
		process.Args = append([]string{initTarget, "--"}, process.Args...)
		mounts = append(mounts, bind(initTarget, r.cfg.InitPath, true))
	}
	spec.Process = &process

	linux := specs.Linux{}
	if s.OCI.Linux != nil {
		linux = *s.OCI.Linux
	}
	linux.Resources, linux.CgroupsPath, linux.Devices = nil, "", nil
	linux.UIDMappings, linux.GIDMappings = nil, nil
	// SECURITY(T-302): every namespace is the container's own. By descriptor: the runtime opens them while we live.
	linux.Namespaces = []specs.LinuxNamespace{
		{Type: specs.UserNamespace, Path: fmt.Sprintf("/proc/%d/fd/%d", os.Getpid(), t.slot.user.Fd())},
		{Type: specs.NetworkNamespace, Path: fmt.Sprintf("/proc/%d/fd/%d", os.Getpid(), t.slot.net.Fd())},
		{Type: specs.PIDNamespace}, {Type: specs.IPCNamespace}, {Type: specs.UTSNamespace},
		{Type: specs.MountNamespace}, {Type: specs.CgroupNamespace},
	}
	if r.cfg.CgroupV2 {
		mounts = append(mounts, specs.Mount{Destination: "/sys/fs/cgroup", Type: "cgroup", Source: "cgroup", Options: []string{"nosuid", "noexec", "nodev", "relatime", "ro"}})
	}
	for i, m := range s.Mounts {
		source := m.File
		if m.Volume != "" || m.Grant != "" || m.Layers != nil {
			source = r.volumePath(t.slot, i)
		}
		mounts = append(mounts, bind(m.Target, source, m.RO))
	}
	files, err := r.writeFiles(t, s)
	if err != nil {
		return err
	}
	mounts = append(mounts, files...)
	// A mount point comes after what it lies in.
	slices.SortStableFunc(mounts, func(a, b specs.Mount) int { return depth(a.Destination) - depth(b.Destination) })
	spec.Mounts, spec.Linux = mounts, &linux
	return writeJSON(filepath.Join(t.slot.bundle, shim.ConfigFile), spec)
}

func depth(path string) int { return strings.Count(filepath.Clean(path), "/") }

func bind(target, source string, ro bool) specs.Mount {
	m := specs.Mount{Destination: target, Source: source, Type: "bind", Options: []string{"rbind", "rprivate"}}
	if ro {
		m.Options = append(m.Options, "ro")
	}
	return m
}

// writeFiles makes the files that the engine shows in /etc, owned by the container's root.
func (r *Runtime) writeFiles(t *task, s Spec) ([]specs.Mount, error) {
	address := ""
	if e := t.Endpoint(); e != nil {
		address = e.Address
	}
	contents := map[string][]byte{"hostname": s.Files.Hostname, "resolv.conf": s.Files.Resolv}
	if s.Files.Hosts != nil {
		contents["hosts"] = s.Files.Hosts(address)
	}
	var mounts []specs.Mount
	for _, name := range []string{"hostname", "hosts", "resolv.conf"} {
		data := contents[name]
		target := "/etc/" + name
		if data == nil || slices.ContainsFunc(s.Mounts, func(m Mount) bool { return filepath.Clean(m.Target) == target }) {
			continue
		}
		path := filepath.Join(t.slot.bundle, name)
		if err := os.WriteFile(path, data, 0o644); err != nil {
			return nil, err
		}
		if err := os.Chmod(path, 0o644); err != nil {
			return nil, err
		}
		root := int(base(t.slot.block))
		if err := os.Chown(path, root, root); err != nil {
			return nil, err
		}
		mounts = append(mounts, bind(target, path, false))
	}
	return mounts, nil
}
