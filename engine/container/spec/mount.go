package spec

import (
	"fmt"
	"path"
	"path/filepath"
	"regexp"
	"slices"
	"strings"

	"github.com/containerd/errdefs"
	"github.com/docker/go-units"
	"github.com/moby/moby/api/types/container"
	"github.com/moby/moby/api/types/mount"
	specs "github.com/opencontainers/runtime-spec/specs-go"

	"stockade/api/scope"
	"stockade/engine/httpapi"
	"stockade/engine/runtime"
)

// Mount is one mount point of a container as it is recorded.
type Mount struct {
	Type         mount.Type        `json:"type"`
	Name         string            `json:"name,omitempty"` // of a volume; "" before an anonymous one is made
	Source       string            `json:"source,omitempty"`
	Destination  string            `json:"destination"`
	Driver       string            `json:"driver,omitempty"`
	Mode         string            `json:"mode,omitempty"`
	RW           bool              `json:"rw"`
	Propagation  mount.Propagation `json:"propagation,omitempty"`
	Store        string            `json:"store,omitempty"`  // store name of the volume
	Image        string            `json:"image,omitempty"`  // id of the image that is shown
	Layers       []string          `json:"layers,omitempty"` // its layers: store names, top first
	Subpath      string            `json:"subpath,omitempty"`
	Grant        string            `json:"grant,omitempty"`
	GrantUID     *uint32           `json:"grantUid,omitempty"` // whose rights the grant is; nil: not known, so nobody else's
	NonRecursive bool              `json:"nonRecursive,omitempty"`
	SubRW        bool              `json:"subRw,omitempty"` // what is mounted in a read-only bind stays writable
	NoCopy       bool              `json:"noCopy,omitempty"`
	Anonymous    bool              `json:"anonymous,omitempty"`
	Options      []string          `json:"options,omitempty"`
	Labels       map[string]string `json:"labels,omitempty"`
	DriverOpts   map[string]string `json:"driverOpts,omitempty"`
}

var volumeName = regexp.MustCompile(`^[a-zA-Z0-9][a-zA-Z0-9_.-]+$`)

var propagations = []string{"private", "rprivate", "slave", "rslave", "shared", "rshared"}

// maxMounts bounds what is shown in a container, an image's own volumes included.
//
// SECURITY(T-305): each is a folder on disk, a mount and some comparisons with all others.
const maxMounts = 256

// Mounts reads Binds, Mounts and Volumes, in this order of precedence after inherited ones. Each bind needs its grant.
func Mounts(c *container.Config, hc *container.HostConfig, grants []scope.Grant, inherited []Mount) ([]Mount, error) {
	if n := len(hc.Binds) + len(hc.Mounts) + len(hc.Tmpfs) + len(inherited) + len(c.Volumes); n > maxMounts {
		return nil, invalid("%d mounts and volumes are more than %d", n, maxMounts)
	}
	var out []Mount
	add := func(m Mount) error {
		m.Destination = path.Clean(m.Destination)
		if !path.IsAbs(m.Destination) {
			return invalid("invalid mount config for type %q: invalid mount path: '%s' mount path must be absolute", m.Type, m.Destination)
		}
		if m.Destination == "/" {
			return invalid("invalid specification: destination can't be '/'")
		}
		if slices.ContainsFunc(out, func(o Mount) bool { return o.Destination == m.Destination }) {
			return invalid("Duplicate mount point: %s", m.Destination)
		}
		if m.Type == mount.TypeBind {
			g, err := grantFor(m.Source, grants)
			if err != nil {
				return err
			}
			m.Grant, m.GrantUID, m.Source = g.ID, &g.UID, path.Clean(m.Source)
		}
		out = append(out, m)
		return nil
	}
	for _, raw := range hc.Binds {
		m, err := ParseBind(raw)
		if err != nil {
			return nil, err
		}
		if err := add(m); err != nil {
			return nil, err
		}
	}
	for _, cfg := range hc.Mounts {
		m, err := parseMount(cfg)
		if err != nil {
			return nil, err
		}
		if err := add(m); err != nil {
			return nil, err
		}
	}
	for dest, opts := range hc.Tmpfs {
		if !path.IsAbs(dest) {
			return nil, invalid("invalid mount path: '%s' mount path must be absolute", dest)
		}
		if _, err := tmpfsOptions(strings.Split(opts, ",")); err != nil {
			return nil, err
		}
		if slices.ContainsFunc(out, func(o Mount) bool { return o.Destination == path.Clean(dest) }) {
			return nil, invalid("Duplicate mount point: %s", dest)
		}
	}
	taken := func(dest string) bool {
		_, tmp := hc.Tmpfs[dest]
		return tmp || slices.ContainsFunc(out, func(o Mount) bool { return o.Destination == dest })
	}
	for _, m := range inherited {
		if !taken(m.Destination) {
			out = append(out, m)
		}
	}
	var anonymous []string
	for dest := range c.Volumes {
		anonymous = append(anonymous, dest)
	}
	slices.Sort(anonymous)
	for _, dest := range anonymous {
		if taken(path.Clean(dest)) {
			continue
		}
		if err := add(Mount{Type: mount.TypeVolume, Destination: dest, RW: true, Driver: "local", Anonymous: true}); err != nil {
			return nil, err
		}
	}
	slices.SortStableFunc(out, func(a, b Mount) int { return depth(a.Destination) - depth(b.Destination) })
	return out, nil
}

func depth(p string) int { return strings.Count(p, "/") }

// grantFor finds the grant of a source. SECURITY(T-301): a bind without one does not exist.
func grantFor(source string, grants []scope.Grant) (scope.Grant, error) {
	for _, g := range grants {
		if g.Source == source || path.Clean(g.Source) == path.Clean(source) {
			return g, nil
		}
	}
	return scope.Grant{}, httpapi.NewError(errdefs.ErrPermissionDenied, "bind source %q was not granted", source)
}

// ParseBind reads one entry of Binds: [source:]destination[:options].
func ParseBind(raw string) (Mount, error) {
	parts := strings.Split(raw, ":")
	if len(parts) > 3 || parts[0] == "" {
		return Mount{}, invalid("invalid volume specification: '%s'", raw)
	}
	m := Mount{RW: true}
	mode := ""
	switch len(parts) {
	case 1:
		m.Destination = parts[0]
	case 2:
		if parts[1] != "" && validMode(parts[1]) == nil && !strings.HasPrefix(parts[1], "/") {
			m.Destination, mode = parts[0], parts[1]
		} else {
			m.Source, m.Destination = parts[0], parts[1]
		}
	case 3:
		m.Source, m.Destination, mode = parts[0], parts[1], parts[2]
	}
	if m.Destination == "" {
		return Mount{}, invalid("invalid volume specification: '%s'", raw)
	}
	if err := validMode(mode); err != nil {
		return Mount{}, err
	}
	m.Mode = mode
	for o := range strings.SplitSeq(mode, ",") {
		switch {
		case o == "ro":
			m.RW = false
		case o == "nocopy":
			m.NoCopy = true
		case slices.Contains(propagations, o):
			m.Propagation = mount.Propagation(o)
		}
	}
	switch {
	case m.Source == "":
		m.Type, m.Driver, m.Anonymous = mount.TypeVolume, "local", true
	case path.IsAbs(m.Source):
		if m.NoCopy {
			return Mount{}, invalid("invalid volume specification: '%s'", raw)
		}
		m.Type = mount.TypeBind
	default:
		if !volumeName.MatchString(m.Source) {
			return Mount{}, invalid("%q includes invalid characters for a local volume name, only \"[a-zA-Z0-9][a-zA-Z0-9_.-]\" are allowed. If you intended to pass a host directory, use absolute path", m.Source)
		}
		m.Type, m.Name, m.Driver, m.Source = mount.TypeVolume, m.Source, "local", ""
	}
	if m.Type == mount.TypeVolume && m.Mode == "" {
		m.Mode = "z" // what Docker shows
	}
	return m, checkPropagation(&m)
}

// validMode checks an option list: each kind at most once.
func validMode(mode string) error {
	if mode == "" {
		return nil
	}
	var rw, label, prop, cp, consistency int
	for o := range strings.SplitSeq(mode, ",") {
		switch {
		case o == "rw" || o == "ro":
			rw++
		case o == "z" || o == "Z":
			label++
		case o == "nocopy":
			cp++
		case o == "consistent" || o == "cached" || o == "delegated" || o == "default":
			consistency++
		case slices.Contains(propagations, o):
			prop++
		default:
			return invalid("invalid mode: %s", mode)
		}
	}
	if rw > 1 || label > 1 || prop > 1 || cp > 1 || consistency > 1 {
		return invalid("invalid mode: %s", mode)
	}
	return nil
}

// checkPropagation sets the default. A mount here lives in the container's own mount namespace, so nothing propagates.
func checkPropagation(m *Mount) error {
	if m.Type != mount.TypeBind {
		if m.Propagation != "" {
			return invalid("invalid mode: %s", m.Mode)
		}
		return nil
	}
	switch m.Propagation {
	case "", mount.PropagationRPrivate, mount.PropagationPrivate:
		m.Propagation = mount.PropagationRPrivate
		return nil
	}
	return invalid("mount propagation %q is not supported", m.Propagation)
}

func parseMount(cfg mount.Mount) (Mount, error) {
	bad := func(format string, a ...any) error {
		return invalid("invalid mount config for type %q: %s", cfg.Type, fmt.Sprintf(format, a...))
	}
	if cfg.Target == "" {
		return Mount{}, bad("field Target must not be empty")
	}
	m := Mount{Type: cfg.Type, Destination: cfg.Target, RW: !cfg.ReadOnly}
	switch cfg.Type {
	case mount.TypeBind:
		if cfg.Source == "" {
			return Mount{}, bad("field Source must not be empty")
		}
		if !path.IsAbs(cfg.Source) {
			return Mount{}, bad("invalid mount path: '%s' mount path must be absolute", cfg.Source)
		}
		m.Source = cfg.Source
		if o := cfg.BindOptions; o != nil {
			if (o.ReadOnlyNonRecursive || o.ReadOnlyForceRecursive) && !cfg.ReadOnly || o.ReadOnlyNonRecursive && o.ReadOnlyForceRecursive {
				return Mount{}, bad("mount options conflict")
			}
			m.Propagation, m.NonRecursive, m.SubRW = o.Propagation, o.NonRecursive, o.ReadOnlyNonRecursive
		}
		return m, checkPropagation(&m)
	case mount.TypeVolume:
		m.Name, m.Driver, m.Mode = cfg.Source, "local", "z"
		m.Anonymous = cfg.Source == ""
		if cfg.Source != "" && !volumeName.MatchString(cfg.Source) {
			return Mount{}, bad("%q includes invalid characters for a local volume name, only \"[a-zA-Z0-9][a-zA-Z0-9_.-]\" are allowed", cfg.Source)
		}
		if o := cfg.VolumeOptions; o != nil {
			m.NoCopy, m.Labels, m.Subpath = o.NoCopy, o.Labels, o.Subpath
			if o.DriverConfig != nil {
				if n := o.DriverConfig.Name; n != "" && n != "local" {
					return Mount{}, bad("volume driver %q is not available", n)
				}
				m.DriverOpts = o.DriverConfig.Options
			}
		}
		if m.Subpath != "" && !filepath.IsLocal(m.Subpath) {
			return Mount{}, bad("subpath must be a relative path within the volume")
		}
		return m, nil
	case mount.TypeImage:
		if cfg.Source == "" {
			return Mount{}, bad("field Source must not be empty")
		}
		// Read-only whatever the client says, as Docker's.
		m.Name, m.RW, m.Propagation = cfg.Source, false, mount.PropagationRPrivate
		if cfg.ImageOptions != nil {
			m.Subpath = cfg.ImageOptions.Subpath
		}
		if m.Subpath != "" && !filepath.IsLocal(m.Subpath) {
			return Mount{}, bad("subpath must be a relative path within the image")
		}
		return m, nil
	case mount.TypeTmpfs:
		if cfg.Source != "" {
			return Mount{}, bad("field Source must not be specified")
		}
		opts, err := tmpfsFromMount(cfg)
		if err != nil {
			return Mount{}, err
		}
		m.Options = opts
		return m, nil
	}
	return Mount{}, bad("mount type unknown")
}

func tmpfsFromMount(cfg mount.Mount) ([]string, error) {
	var opts []string
	if cfg.ReadOnly {
		opts = append(opts, "ro")
	}
	if o := cfg.TmpfsOptions; o != nil {
		if o.SizeBytes > 0 {
			opts = append(opts, fmt.Sprintf("size=%d", o.SizeBytes))
		}
		if o.Mode != 0 {
			opts = append(opts, fmt.Sprintf("mode=%o", o.Mode))
		}
		for _, kv := range o.Options {
			switch len(kv) {
			case 1:
				opts = append(opts, kv[0])
			case 2:
				opts = append(opts, kv[0]+"="+kv[1])
			default:
				return nil, invalid("invalid option array length %d for tmpfs", len(kv))
			}
		}
	}
	return tmpfsOptions(opts)
}

var tmpfsFlags = []string{
	"ro", "rw", "exec", "noexec", "suid", "nosuid", "dev", "nodev", "sync", "async", "dirsync", "atime", "noatime",
	"diratime", "nodiratime", "relatime", "norelatime", "strictatime", "nostrictatime", "mand", "nomand", "remount",
}

// tmpfsOptions puts asked options over the safe defaults and refuses what tmpfs does not know (SECURITY T-301).
func tmpfsOptions(asked []string) ([]string, error) {
	opts := []string{"noexec", "nosuid", "nodev"}
	for _, o := range asked {
		if o == "" {
			continue
		}
		key, value, hasValue := strings.Cut(o, "=")
		switch {
		case hasValue && slices.Contains([]string{"mode", "uid", "gid", "nr_inodes", "nr_blocks"}, key):
			if !isNumber(strings.TrimRight(value, "kKmMgG")) {
				return nil, invalid("invalid tmpfs option %q", o)
			}
		case hasValue && key == "size":
			if _, err := units.RAMInBytes(value); err != nil && !strings.HasSuffix(value, "%") {
				return nil, invalid("invalid tmpfs option %q", o)
			}
		case !hasValue && (slices.Contains(tmpfsFlags, o) || slices.Contains(propagations, o)):
			if slices.Contains(propagations, o) {
				continue
			}
			not := "no" + o
			if strings.HasPrefix(o, "no") {
				not = strings.TrimPrefix(o, "no")
			}
			opts = slices.DeleteFunc(opts, func(have string) bool { return have == not })
		default:
			return nil, invalid("invalid tmpfs option [%q]", o)
		}
		if !slices.Contains(opts, o) {
			opts = append(opts, o)
		}
	}
	return opts, nil
}

// DefaultShm is the size of /dev/shm unless another is asked for.
const DefaultShm = 64 << 20

// ociMounts returns the file systems that need no source.
func ociMounts(hc *container.HostConfig, mounts []Mount) ([]specs.Mount, error) {
	sys := []string{"nosuid", "noexec", "nodev"}
	if !hc.Privileged {
		sys = append(sys, "ro")
	}
	out := []specs.Mount{
		{Destination: "/proc", Type: "proc", Source: "proc", Options: []string{"nosuid", "noexec", "nodev"}},
		{Destination: "/dev", Type: "tmpfs", Source: "tmpfs", Options: []string{"nosuid", "strictatime", "mode=755", "size=65536k"}},
		{Destination: "/dev/pts", Type: "devpts", Source: "devpts", Options: []string{"nosuid", "noexec", "newinstance", "ptmxmode=0666", "mode=0620", "gid=5"}},
		{Destination: "/sys", Type: "sysfs", Source: "sysfs", Options: sys},
		{Destination: "/dev/mqueue", Type: "mqueue", Source: "mqueue", Options: []string{"nosuid", "noexec", "nodev"}},
	}
	user := func(dest string) bool {
		_, tmp := hc.Tmpfs[dest]
		return tmp || slices.ContainsFunc(mounts, func(m Mount) bool { return m.Destination == dest })
	}
	if !hc.IpcMode.IsNone() && !hc.IpcMode.IsContainer() && !user("/dev/shm") {
		size := hc.ShmSize
		if size <= 0 {
			size = DefaultShm
		}
		out = append(out, specs.Mount{Destination: "/dev/shm", Type: "tmpfs", Source: "shm", Options: []string{
			"nosuid", "noexec", "nodev", "mode=1777", fmt.Sprintf("size=%d", size)}})
	}
	var tmpfs []specs.Mount
	for dest, o := range hc.Tmpfs {
		opts, err := tmpfsOptions(strings.Split(o, ","))
		if err != nil {
			return nil, err
		}
		tmpfs = append(tmpfs, specs.Mount{Destination: path.Clean(dest), Type: "tmpfs", Source: "tmpfs", Options: opts})
	}
	for _, m := range mounts {
		if m.Type == mount.TypeTmpfs {
			tmpfs = append(tmpfs, specs.Mount{Destination: m.Destination, Type: "tmpfs", Source: "tmpfs", Options: m.Options})
		}
	}
	slices.SortFunc(tmpfs, func(a, b specs.Mount) int {
		if d := depth(a.Destination) - depth(b.Destination); d != 0 {
			return d
		}
		return strings.Compare(a.Destination, b.Destination)
	})
	return append(out, tmpfs...), nil
}

// RuntimeMounts are the volumes and grants for the runtime.
func RuntimeMounts(mounts []Mount) []runtime.Mount {
	var out []runtime.Mount
	for _, m := range mounts {
		switch m.Type {
		case mount.TypeBind:
			out = append(out, runtime.Mount{Target: m.Destination, RO: !m.RW, Grant: m.Grant, Recursive: !m.NonRecursive, SubRW: m.SubRW})
		case mount.TypeVolume:
			out = append(out, runtime.Mount{Target: m.Destination, RO: !m.RW, Volume: m.Store, Subpath: m.Subpath})
		case mount.TypeImage:
			// Not nil, even for an image without any layer.
			layers := append([]string{}, m.Layers...)
			out = append(out, runtime.Mount{Target: m.Destination, RO: true, Layers: layers, Subpath: m.Subpath})
		}
	}
	return out
}
