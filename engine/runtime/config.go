package runtime

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"

	specs "github.com/opencontainers/runtime-spec/specs-go"

	"stockade/api/setting"
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
	// SECURITY(T-302): every namespace is the container's own, or one that joinSlot took from a container of its owner's.
	linux.Namespaces = []specs.LinuxNamespace{
		namespace(specs.UserNamespace, t.slot.user), namespace(specs.NetworkNamespace, t.slot.net),
		namespace(specs.PIDNamespace, t.slot.pid), namespace(specs.IPCNamespace, t.slot.ipc),
		{Type: specs.UTSNamespace}, {Type: specs.MountNamespace}, {Type: specs.CgroupNamespace},
	}
	if t.options().OwnUserns {
		// A child of U with the container's map, as slot.user is.
		ids := []specs.LinuxIDMapping{{HostID: base(t.slot.block), Size: setting.BlockSize}}
		linux.Namespaces[0], linux.UIDMappings, linux.GIDMappings = specs.LinuxNamespace{Type: specs.UserNamespace}, ids, ids
	}
	if t.slot.shm != nil && !s.mountsAt("/dev/shm") {
		shm := bind("/dev/shm", filepath.Join(t.slot.bundle, shmDir), false)
		shm.Options = append(shm.Options, "nosuid", "noexec", "nodev")
		mounts = append(mounts, shm)
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

// namespace is one that the runtime makes, or joins when there is a file of it. By descriptor: it opens it while we live.
func namespace(kind specs.LinuxNamespaceType, f *os.File) specs.LinuxNamespace {
	ns := specs.LinuxNamespace{Type: kind}
	if f != nil {
		ns.Path = fmt.Sprintf("/proc/%d/fd/%d", os.Getpid(), f.Fd())
	}
	return ns
}

// mountsAt tells whether something else is asked for at a place.
func (s Spec) mountsAt(target string) bool {
	return slices.ContainsFunc(s.Mounts, func(m Mount) bool { return filepath.Clean(m.Target) == target }) ||
		slices.ContainsFunc(s.OCI.Mounts, func(m specs.Mount) bool { return filepath.Clean(m.Destination) == target })
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
		if contents[name] == nil && t.slot.files == "" {
			continue
		}
		target := "/etc/" + name
		path := filepath.Join(t.slot.bundle, name)
		if err := t.writeFile(name, path, contents[name]); err != nil {
			return nil, err
		}
		if slices.ContainsFunc(s.Mounts, func(m Mount) bool { return filepath.Clean(m.Target) == target }) {
			continue // what joins this container's network shows it all the same
		}
		mounts = append(mounts, bind(target, path, false))
	}
	return mounts, nil
}

// writeFile makes one of the files. With another container's network it is that one's, under a second name.
func (t *task) writeFile(name, path string, data []byte) error {
	if from := t.slot.files; from != "" {
		return os.Link(filepath.Join(from, name), path)
	}
	root := int(base(t.slot.block))
	return errors.Join(os.WriteFile(path, data, 0o644), os.Chmod(path, 0o644), os.Chown(path, root, root))
}
