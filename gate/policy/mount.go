package policy

import (
	"fmt"
	"path"
	"regexp"
	"slices"
	"strings"

	"github.com/moby/moby/api/types/container"
	"github.com/moby/moby/api/types/mount"

	"stockade/gate/refusal"
)

var (
	volumeName  = regexp.MustCompile(`^[a-zA-Z0-9][a-zA-Z0-9_.-]{1,127}$`)
	volumesFrom = regexp.MustCompile(`^/?[a-zA-Z0-9][a-zA-Z0-9_.-]{0,254}(:(ro|rw|z|Z))?$`)
	tmpfsOpt    = regexp.MustCompile(`^((size|nr_inodes)=[0-9]{1,15}[kKmMgG%]?|mode=[0-7]{1,4}|(uid|gid)=[0-9]{1,5}|rw|ro|exec|noexec|nosuid|nodev|noatime|relatime|nodiratime)$`)
)

// mountRules describe what mounts checks, in one place, as binds, volumes and tmpfs come in two spellings each.
var mountRules = []rule{
	{id: "bind", threat: "T-301", fields: []string{"HostConfig.Binds", "HostConfig.Mounts.Source", "HostConfig.Mounts.BindOptions.Propagation", "HostConfig.Mounts.Consistency"},
		remedy: "use SOURCE:TARGET[:ro] with absolute paths and private propagation"},
	{id: "bind-root", threat: "T-701", fields: []string{"HostConfig.Binds", "HostConfig.Mounts.Source"},
		remedy: "root may bind only folders that the administrator listed; bind it as the user who owns it"},
	{id: "mount-target", threat: "T-301", fields: []string{"HostConfig.Binds", "HostConfig.Mounts.Target", "HostConfig.Tmpfs"},
		remedy: "use an absolute path without '..' other than /, once"},
	{id: "mount-type", threat: "T-301", fields: []string{"HostConfig.Mounts.Type", "HostConfig.Mounts.ClusterOptions"},
		remedy: "use type bind, volume, tmpfs or image, with the options of that type"},
	{id: "mount-image", threat: "T-301", fields: []string{"HostConfig.Mounts.Source"},
		remedy: "name an image of yours: it is shown read-only"},
	{id: "bind-readonly", threat: "T-301", fields: []string{"HostConfig.Mounts.BindOptions.ReadOnlyNonRecursive", "HostConfig.Mounts.BindOptions.ReadOnlyForceRecursive"},
		remedy: "bind-recursive=readonly and writable need readonly: one makes all that is mounted in the bind read-only, too, as is the default here, the other leaves it writable"},
	{id: "volume-driver", threat: "T-301", fields: []string{"HostConfig.VolumeDriver", "HostConfig.Mounts.VolumeOptions.DriverConfig", "HostConfig.Mounts.VolumeOptions.DriverConfig.Name", "HostConfig.Mounts.VolumeOptions.DriverConfig.Options"},
		remedy: "use the driver local without options"},
	{id: "volume-subpath", threat: "T-301", fields: []string{"HostConfig.Mounts.VolumeOptions.Subpath"},
		remedy: "use a relative path within the volume, without '..'"},
	{id: "image-subpath", threat: "T-301", fields: []string{"HostConfig.Mounts.ImageOptions.Subpath"},
		remedy: "use a relative path within the image, without '..'"},
	{id: "volume-ref", threat: "T-301", fields: []string{"HostConfig.Binds", "HostConfig.Mounts.Source"},
		remedy: "use a volume name [a-zA-Z0-9][a-zA-Z0-9_.-] or an absolute path"},
	{id: "volumes-from", threat: "T-301", fields: []string{"HostConfig.VolumesFrom"},
		remedy: "use the name or id of a container of yours, with :ro or :rw; folders of the host come along only for the user who bound them"},
	{id: "tmpfs-options", threat: "T-301", fields: []string{"HostConfig.Tmpfs", "HostConfig.Mounts.TmpfsOptions.SizeBytes", "HostConfig.Mounts.TmpfsOptions.Mode", "HostConfig.Mounts.TmpfsOptions.Options"},
		remedy: "use size, mode, uid, gid, nr_inodes, ro, exec, noexec, nosuid, nodev"},
}

// broken makes the refusal of a mount rule.
func broken(id, field, value string) error {
	i := slices.IndexFunc(mountRules, func(r rule) bool { return r.id == id })
	return refusal.Policy(id, field, value, mountRules[i].remedy)
}

// mounts checks everything that is mounted and returns the binds. Sources of binds become clean paths.
//
// SECURITY(T-301): Binds and Mounts pass through the same functions (CVE-2026-6406).
func (s *subject) mounts() ([]Bind, error) {
	var binds []Bind
	targets := map[string]bool{}
	if d := s.host.VolumeDriver; d != "" && d != "local" {
		return nil, broken("volume-driver", "HostConfig.VolumeDriver", quote(d))
	}
	for i, from := range s.host.VolumesFrom {
		if !volumesFrom.MatchString(from) {
			return nil, broken("volumes-from", fmt.Sprintf("HostConfig.VolumesFrom[%d]", i), quote(from))
		}
	}
	for i, text := range s.host.Binds {
		b, canonical, err := s.bind(text, fmt.Sprintf("HostConfig.Binds[%d]", i), targets)
		if err != nil {
			return nil, err
		}
		s.host.Binds[i] = canonical
		if b != nil {
			binds = append(binds, *b)
		}
	}
	for i := range s.host.Mounts {
		b, err := s.mount(&s.host.Mounts[i], fmt.Sprintf("HostConfig.Mounts[%d]", i), targets)
		if err != nil {
			return nil, err
		}
		if b != nil {
			binds = append(binds, *b)
		}
	}
	for _, t := range sortedKeys(s.host.Tmpfs) {
		if err := once("HostConfig.Tmpfs", t, targets); err != nil {
			return nil, err
		}
		if err := tmpfsOptions("HostConfig.Tmpfs", strings.Split(s.host.Tmpfs[t], ",")); err != nil {
			return nil, err
		}
	}
	return binds, nil
}

// once checks a mount point and that nothing else is mounted there.
func once(field, t string, targets map[string]bool) error {
	if !target(t) || targets[path.Clean(t)] {
		return broken("mount-target", field, quote(t))
	}
	targets[path.Clean(t)] = true
	return nil
}

// bind reads SOURCE:TARGET[:OPTIONS]; a source that is no path is the name of a volume.
func (s *subject) bind(text, field string, targets map[string]bool) (*Bind, string, error) {
	parts := strings.Split(text, ":")
	if len(parts) < 2 || len(parts) > 3 {
		return nil, "", broken("bind", field, quote(text))
	}
	source, to := parts[0], parts[1]
	b := Bind{Source: source, Create: true}
	if len(parts) == 3 {
		for o := range strings.SplitSeq(parts[2], ",") {
			switch o {
			case "ro":
				b.ReadOnly = true
			case "rw", "z", "Z", "nocopy", "private", "rprivate", "consistent", "cached", "delegated":
			default:
				return nil, "", broken("bind", field, quote(text))
			}
		}
	}
	if err := once(field, to, targets); err != nil {
		return nil, "", err
	}
	if !strings.HasPrefix(source, "/") {
		if !volumeName.MatchString(source) {
			return nil, "", broken("volume-ref", field, quote(source))
		}
		return nil, text, nil
	}
	var err error
	if b.Source, err = s.source(source, field); err != nil {
		return nil, "", err
	}
	parts[0] = b.Source
	return &b, strings.Join(parts, ":"), nil
}

// source checks the host path of a bind and makes it clean.
func (s *subject) source(p, field string) (string, error) {
	if !plainPath(p) || len(p) > 4095 {
		return "", broken("bind", field, quote(p))
	}
	clean := path.Clean(p)
	if s.caller.Root && !slices.ContainsFunc(s.cfg.BindPrefixes, func(prefix string) bool { return beneath(clean, path.Clean(prefix)) }) {
		return "", broken("bind-root", field, quote(p))
	}
	return clean, nil
}

func beneath(p, prefix string) bool {
	return p == prefix || strings.HasPrefix(p, strings.TrimSuffix(prefix, "/")+"/")
}

// mount checks one entry of Mounts.
func (s *subject) mount(m *mount.Mount, field string, targets map[string]bool) (*Bind, error) {
	if err := once(field+".Target", m.Target, targets); err != nil {
		return nil, err
	}
	// Options of another type than the mount's own would be decided by whoever reads them first.
	foreign := m.ClusterOptions != nil || m.ImageOptions != nil && m.Type != mount.TypeImage ||
		m.BindOptions != nil && m.Type != mount.TypeBind || m.VolumeOptions != nil && m.Type != mount.TypeVolume ||
		m.TmpfsOptions != nil && m.Type != mount.TypeTmpfs
	if foreign {
		return nil, broken("mount-type", field, quote(string(m.Type)+" with options of another type"))
	}
	switch m.Consistency {
	case "", mount.ConsistencyFull, mount.ConsistencyCached, mount.ConsistencyDelegated, mount.ConsistencyDefault:
	default:
		return nil, broken("bind", field+".Consistency", quote(string(m.Consistency)))
	}
	switch m.Type {
	case mount.TypeBind:
		b := &Bind{ReadOnly: m.ReadOnly}
		if o := m.BindOptions; o != nil {
			if o.Propagation != "" && o.Propagation != mount.PropagationPrivate && o.Propagation != mount.PropagationRPrivate {
				return nil, broken("bind", field+".BindOptions.Propagation", quote(string(o.Propagation)))
			}
			if o.ReadOnlyNonRecursive && (!m.ReadOnly || o.ReadOnlyForceRecursive) {
				return nil, broken("bind-readonly", field+".BindOptions.ReadOnlyNonRecursive", "true without a read-only bind")
			}
			if o.ReadOnlyForceRecursive && (!m.ReadOnly || o.NonRecursive) {
				return nil, broken("bind-readonly", field+".BindOptions.ReadOnlyForceRecursive", "true without a recursive read-only bind")
			}
			b.Create, b.SubWritable = o.CreateMountpoint, o.ReadOnlyNonRecursive
		}
		clean, err := s.source(m.Source, field+".Source")
		if err != nil {
			return nil, err
		}
		m.Source, b.Source = clean, clean
		return b, nil
	case mount.TypeVolume:
		return nil, volumeMount(m, field)
	case mount.TypeImage:
		if m.Source == "" || len(m.Source) > 1024 || controlRe.MatchString(m.Source) {
			return nil, broken("mount-image", field+".Source", quote(m.Source))
		}
		if o := m.ImageOptions; o != nil && badSubpath(o.Subpath) {
			return nil, broken("image-subpath", field+".ImageOptions.Subpath", quote(o.Subpath))
		}
		return nil, nil
	case mount.TypeTmpfs:
		if m.Source != "" {
			return nil, broken("tmpfs-options", field+".Source", quote(m.Source))
		}
		o := m.TmpfsOptions
		if o == nil {
			return nil, nil
		}
		if o.SizeBytes < 0 || o.Mode&^0o1777 != 0 {
			return nil, broken("tmpfs-options", field+".TmpfsOptions", fmt.Sprintf("size %d, mode %o", o.SizeBytes, uint32(o.Mode)))
		}
		var options []string
		for _, kv := range o.Options {
			options = append(options, strings.Join(kv, "="))
		}
		return nil, tmpfsOptions(field+".TmpfsOptions.Options", options)
	default:
		return nil, broken("mount-type", field+".Type", quote(string(m.Type)))
	}
}

func volumeMount(m *mount.Mount, field string) error {
	if m.Source != "" && !volumeName.MatchString(m.Source) {
		return broken("volume-ref", field+".Source", quote(m.Source))
	}
	o := m.VolumeOptions
	if o == nil {
		return nil
	}
	if badSubpath(o.Subpath) {
		return broken("volume-subpath", field+".VolumeOptions.Subpath", quote(o.Subpath))
	}
	if d := o.DriverConfig; d != nil && (d.Name != "" && d.Name != "local" || len(d.Options) > 0) {
		return broken("volume-driver", field+".VolumeOptions.DriverConfig", quote(d.Name))
	}
	return nil
}

// badSubpath tells whether a path could only be meant for something outside.
//
// SECURITY(T-301): the engine resolves it beneath the volume or the image only, whatever it is.
func badSubpath(p string) bool {
	return p != "" && (len(p) > 4095 || !plainPath("/"+p) || strings.HasPrefix(p, "/") || path.Clean(p) == ".")
}

func tmpfsOptions(field string, options []string) error {
	for _, o := range options {
		if o != "" && !tmpfsOpt.MatchString(o) {
			return broken("tmpfs-options", field, quote(o))
		}
	}
	return nil
}

// canonical rewrites what has several spellings, after it was checked, so that the engine sees one.
func canonical(r *container.CreateRequest) {
	h := r.HostConfig
	for i, c := range h.CapAdd {
		h.CapAdd[i] = capName(c)
	}
	for i, c := range h.CapDrop {
		h.CapDrop[i] = capName(c)
	}
	for i, o := range h.SecurityOpt {
		h.SecurityOpt[i] = securityOpt(o)
	}
	if p := h.PidsLimit; p != nil && *p == 0 { // Docker's CLI sends 0 for "not given"
		h.PidsLimit = nil
	}
	if m := h.MemorySwappiness; m != nil && *m == -1 { // likewise
		h.MemorySwappiness = nil
	}
	h.ContainerIDFile = "" // the client's own file
	if r.NetworkingConfig != nil {
		for name, e := range r.NetworkingConfig.EndpointsConfig {
			r.NetworkingConfig.EndpointsConfig[name] = clearEndpoint(e)
		}
	}
}
