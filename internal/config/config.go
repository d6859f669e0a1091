// Package config is the administrator's configuration: /etc/stockade/stockade.toml, decoded strictly over built-in
// defaults.
//
// Trust: the file is the administrator's; Load refuses one that anybody but root can change.
// Invariants: a Config from Load is complete and checked; nothing in it is secret.
// Failure: an unknown key, a wrong type or a value out of range is an error that names the line or the key.
package config

import (
	"errors"
	"fmt"
	"io"
	"maps"
	"net/netip"
	"net/url"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"

	"github.com/pelletier/go-toml/v2"
	"golang.org/x/sys/unix"

	"stockade/api/setting"
)

// Path is where the configuration is looked for when none is named. It need not exist.
const Path = "/etc/stockade/stockade.toml"

// Config is the whole configuration. Every key may be left out.
type Config struct {
	Data           string                    `toml:"data"`          // state on disk; default /var/lib/stockade
	Run            string                    `toml:"run"`           // volatile state and sockets; default /run/stockade
	Bin            string                    `toml:"bin"`           // folder of stockade-*; default: that of the running program
	Group          string                    `toml:"group"`         // whose members may use the API socket; default stockade
	AdminGroup     string                    `toml:"admin_group"`   // whose members may do what policy keeps for administrators; default: nobody but root
	CgroupParent   string                    `toml:"cgroup_parent"` // one path component; default stk
	ABI32          bool                      `toml:"abi32"`         // containers may make 32-bit system calls; default false
	LowPorts       []uint16                  `toml:"low_ports"`     // host ports below 1024 that may be published; default 80 and 443
	BindPrefixes   []string                  `toml:"bind_prefixes"` // root's own bind mounts lie beneath these
	IDs            IDs                       `toml:"ids"`
	Network        Network                   `toml:"network"`
	Runtimes       map[string]string         `toml:"runtimes"`        // name → absolute path of an OCI runtime; default: runc in Bin
	RuntimeOptions map[string]RuntimeOptions `toml:"runtime_options"` // by name
	Limits         Limits                    `toml:"limits"`
	Registries     Registries                `toml:"registries"`
	StopSeconds    int                       `toml:"stop_seconds"` // how long the engine may take to stop its containers; default 20
}

// IDs is the range of host ids of containers; Count 0 takes the range that /etc/subuid gives to stockade-engine.
type IDs struct {
	First uint32 `toml:"first"`
	Count uint32 `toml:"count"`
}

// Network is what netd may touch.
type Network struct {
	Prefix string `toml:"prefix"` // of every link and nftables table; default stk
	Pool   string `toml:"pool"`   // IPv4 prefix of the default bridge; default 172.30.0.0/16
}

// RuntimeOptions say how an OCI runtime differs from runc.
type RuntimeOptions struct {
	Args        []string `toml:"args"`         // global arguments, before the command
	OwnCommands bool     `toml:"own_commands"` // it starts, enters and deletes containers by its own commands; default false
	OwnUserns   bool     `toml:"own_userns"`   // it makes user namespaces itself, with the ids it is told; default false
}

// Limits hold what names no limit of its own.
type Limits struct {
	Memory    int `toml:"memory"`           // percent of the host's memory that all containers together may have, 100: no limit; default 90
	Container int `toml:"container_memory"` // the same for one that names no limit; less, so that it runs out of memory alone; default 80
	Pids      int `toml:"pids"`             // percent of the host's process ids that all containers together may have, 100: no limit; default 75
	LogMiB    int `toml:"log_mib"`          // size of the json-file log of a container that names no max-size, 0: no limit; default 512
}

// Registries says how image registries are reached.
type Registries struct {
	Insecure   []string `toml:"insecure"`    // host[:port] without TLS
	CA         string   `toml:"ca"`          // folder of PEM files trusted besides the system's
	HTTPProxy  string   `toml:"http_proxy"`  // URL of a proxy to registries without TLS; nothing is taken from the environment
	HTTPSProxy string   `toml:"https_proxy"` // and to those with TLS
	NoProxy    []string `toml:"no_proxy"`    // hosts, domains, addresses and prefixes that are reached directly
}

// Ghost is the range for ids that are nobody's in a bind mount: no process ever has one, and no container range may
// overlap it.
var Ghost = setting.IDRange{First: 1 << 31, Count: 1<<31 - 65536}

// Default returns the built-in configuration.
func Default() Config {
	return Config{
		Data:         "/var/lib/stockade",
		Run:          "/run/stockade",
		Group:        "stockade",
		CgroupParent: "stk",
		LowPorts:     []uint16{80, 443},
		BindPrefixes: []string{"/home", "/srv", "/mnt", "/media", "/opt"},
		Limits:       Limits{Memory: 90, Container: 80, Pids: 75, LogMiB: 512},
		Network:      Network{Prefix: "stk", Pool: "172.30.0.0/16"},
		StopSeconds:  20,
	}
}

// Load reads the configuration from path. An empty path means Path, which may be missing.
func Load(path string) (Config, error) {
	optional := path == ""
	if optional {
		path = Path
	}
	f, err := os.Open(path)
	if optional && errors.Is(err, os.ErrNotExist) {
		c := Default()
		return c, c.complete()
	}
	if err != nil {
		return Config{}, fmt.Errorf("open configuration: %w", err)
	}
	defer f.Close()
	var st unix.Stat_t
	if err := unix.Fstat(int(f.Fd()), &st); err != nil {
		return Config{}, fmt.Errorf("stat configuration: %w", err)
	}
	if st.Mode&0o022 != 0 || (st.Uid != 0 && int(st.Uid) != os.Geteuid()) {
		return Config{}, fmt.Errorf("configuration %s can be changed by others than root: chown root and chmod go-w it", path)
	}
	c, err := Parse(f)
	if err != nil {
		return Config{}, fmt.Errorf("configuration %s: %w", path, err)
	}
	return c, nil
}

// Parse decodes and checks a configuration.
func Parse(r io.Reader) (Config, error) {
	c := Default()
	err := toml.NewDecoder(r).DisallowUnknownFields().Decode(&c)
	var unknown *toml.StrictMissingError
	var wrong *toml.DecodeError
	switch {
	case errors.As(err, &unknown):
		var errs []error
		for i := range unknown.Errors {
			line, _ := unknown.Errors[i].Position()
			errs = append(errs, fmt.Errorf("line %d: unknown key %q", line, strings.Join(unknown.Errors[i].Key(), ".")))
		}
		return Config{}, errors.Join(errs...)
	case errors.As(err, &wrong):
		line, column := wrong.Position()
		return Config{}, fmt.Errorf("line %d, column %d: %w", line, column, err)
	case err != nil:
		return Config{}, err
	}
	return c, c.complete()
}

var (
	prefixPattern = regexp.MustCompile(`^[a-z]{1,6}$`)
	parentPattern = regexp.MustCompile(`^[a-z0-9][a-z0-9_-]{0,62}$`)
	namePattern   = regexp.MustCompile(`^[a-zA-Z0-9][a-zA-Z0-9_.-]{0,62}$`)
)

// systemFolders can be made no bind prefix, nor can what lies beneath them: root's binds there would be the host.
var systemFolders = []string{"/bin", "/boot", "/dev", "/etc", "/lib", "/lib32", "/lib64", "/proc", "/root", "/run", "/sbin", "/sys", "/usr", "/var/lib", "/var/run"}

// complete fills in what depends on other keys and checks every value.
func (c *Config) complete() error {
	if c.Bin == "" {
		self, err := os.Executable()
		if err != nil {
			return fmt.Errorf("find my own folder: %w", err)
		}
		c.Bin = filepath.Dir(self)
	}
	if len(c.Runtimes) == 0 {
		c.Runtimes = map[string]string{"runc": filepath.Join(c.Bin, "runc")}
	}
	if c.IDs.Count == 0 {
		// A missing entry is reported by the check of the host, with what to do.
		c.IDs, _ = subIDs("/etc/subuid")
	}
	var errs []error
	bad := func(key, format string, a ...any) { errs = append(errs, fmt.Errorf(key+": "+format, a...)) }
	for key, path := range map[string]string{"data": c.Data, "run": c.Run, "bin": c.Bin} {
		if !clean(path) || path == "/" {
			bad(key, "%q is not an absolute, clean path", path)
		}
	}
	if len(c.Run) > 70 {
		bad("run", "longer than 70 bytes: socket paths beneath it would not fit")
	}
	if c.Group == "" || c.Group == "root" {
		bad("group", "%q cannot be the group of the API socket", c.Group)
	}
	if !parentPattern.MatchString(c.CgroupParent) {
		bad("cgroup_parent", "%q is not like %s", c.CgroupParent, parentPattern)
	}
	if !prefixPattern.MatchString(c.Network.Prefix) {
		bad("network.prefix", "%q is not 1 to 6 letters a-z", c.Network.Prefix)
	}
	if p, err := netip.ParsePrefix(c.Network.Pool); err != nil || !p.Addr().Is4() || p != p.Masked() || p.Bits() < 8 || p.Bits() > 28 || !p.Addr().IsPrivate() {
		bad("network.pool", "%q is not a private IPv4 prefix between /8 and /28", c.Network.Pool)
	}
	for _, port := range c.LowPorts {
		if port == 0 || port > 1023 {
			bad("low_ports", "%d is not between 1 and 1023", port)
		}
	}
	for _, p := range c.BindPrefixes {
		if !clean(p) || p == "/" {
			bad("bind_prefixes", "%q is not an absolute, clean path below /", p)
		} else if i := slices.IndexFunc(systemFolders, func(s string) bool { return beneath(p, s) || beneath(s, p) }); i >= 0 {
			bad("bind_prefixes", "%q meets the system folder %s", p, systemFolders[i])
		} else if beneath(c.Data, p) || beneath(c.Run, p) || beneath(p, c.Data) || beneath(p, c.Run) {
			bad("bind_prefixes", "%q meets the data or run folder", p)
		}
	}
	for _, name := range slices.Sorted(maps.Keys(c.Runtimes)) {
		if !namePattern.MatchString(name) || !clean(c.Runtimes[name]) {
			bad("runtimes", "%s = %q is not a name and an absolute, clean path", name, c.Runtimes[name])
		}
	}
	for _, name := range slices.Sorted(maps.Keys(c.RuntimeOptions)) {
		if c.Runtimes[name] == "" {
			bad("runtime_options", "there is no runtime %s", name)
		}
		if slices.ContainsFunc(c.RuntimeOptions[name].Args, func(a string) bool { return !strings.HasPrefix(a, "-") || strings.ContainsRune(a, 0) }) {
			bad("runtime_options", "%s: an argument does not begin with -", name)
		}
	}
	if c.Registries.CA != "" && !clean(c.Registries.CA) {
		bad("registries.ca", "%q is not an absolute, clean path", c.Registries.CA)
	}
	for key, percent := range map[string]int{"limits.memory": c.Limits.Memory, "limits.container_memory": c.Limits.Container, "limits.pids": c.Limits.Pids} {
		if percent < 1 || percent > 100 {
			bad(key, "%d is not between 1 and 100", percent)
		}
	}
	if c.Limits.LogMiB < 0 || c.Limits.LogMiB > 1<<20 {
		bad("limits.log_mib", "%d is not between 0 and %d", c.Limits.LogMiB, 1<<20)
	}
	for key, text := range map[string]string{"registries.http_proxy": c.Registries.HTTPProxy, "registries.https_proxy": c.Registries.HTTPSProxy} {
		u, err := url.Parse(text)
		if text != "" && (err != nil || !slices.Contains([]string{"http", "https", "socks5"}, u.Scheme) || u.Hostname() == "" || u.User != nil) {
			bad(key, "%q is not the URL of a proxy (http, https or socks5, without a password)", text)
		}
	}
	if slices.ContainsFunc(c.Registries.NoProxy, func(h string) bool { return h == "" || strings.ContainsAny(h, ", ") }) {
		bad("registries.no_proxy", "%q are not names or addresses", c.Registries.NoProxy)
	}
	if c.StopSeconds < 1 || c.StopSeconds > 600 {
		bad("stop_seconds", "%d is not between 1 and 600", c.StopSeconds)
	}
	if c.IDs.Count != 0 {
		if err := c.IDs.check(); err != nil {
			bad("ids", "%w", err)
		}
	}
	return errors.Join(errs...)
}

// check tells what is wrong with a range.
func (r IDs) check() error {
	end := uint64(r.First) + uint64(r.Count)
	switch {
	case r.First < 65536:
		return fmt.Errorf("first is %d: ids below 65536 belong to people and services", r.First)
	case r.Count%setting.BlockSize != 0 || r.Count < 2*setting.BlockSize:
		return fmt.Errorf("count is %d: it must be a multiple of %d, at least two of them", r.Count, setting.BlockSize)
	case end > uint64(Ghost.First):
		return fmt.Errorf("the range ends at %d: ids from %d on are kept for bind mounts", end, Ghost.First)
	}
	return nil
}

// Range returns the range in the form of the settings.
func (r IDs) Range() setting.IDRange { return setting.IDRange{First: r.First, Count: r.Count} }

func clean(path string) bool { return filepath.IsAbs(path) && filepath.Clean(path) == path }

func beneath(path, folder string) bool { return path == folder || strings.HasPrefix(path, folder+"/") }
