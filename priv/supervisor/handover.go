package supervisor

import (
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"golang.org/x/sys/unix"

	"stockade/api/setting"
	"stockade/host"
	"stockade/internal/config"
	"stockade/internal/version"
)

// named is a descriptor with the name that the receiver knows it by.
type named struct {
	name string
	file *os.File
}

// maxGrants is how many bind mounts one caller may have granted.
const maxGrants = 4096

// handover returns a process's settings and descriptors.
func (s *Supervisor) handover(name string, pair *os.File) (any, []named) {
	ids := s.ids()
	engine := ids.EngineUID
	listener := func(n string) *os.File { return s.files["listen-"+n] }
	switch name {
	case "mountd":
		return setting.Mountd{EngineUID: engine, Store: setting.IDRange{First: ids.Sub.First, Count: setting.BlockSize}},
			[]named{{"engine", listener("mountd")}, {"grantd", pair}, {"store", s.files["store"]}, {"userns", s.files["userns"]}}
	case "grantd":
		return setting.Grantd{
				GateUID:      s.users["gate"].UID,
				EngineUID:    engine,
				APISockets:   []string{s.path("docker.sock")},
				Sub:          ids.Sub,
				Ghost:        config.Ghost,
				RootPrefixes: s.cfg.BindPrefixes,
				Forbidden:    []string{s.cfg.Data, s.data("engine"), s.cfg.Run},
				MaxGrants:    maxGrants,
			}, []named{{"gate", listener("grantd-gate")}, {"engine", listener("grantd-engine")}, {"mountd", pair},
				{"userns", s.files["userns"]}, {"records", s.files["grantd-records"]}}
	case "netd":
		return setting.Netd{EngineUID: engine, Prefix: s.cfg.Network.Prefix, Pool: s.cfg.Network.Pool, LowPorts: s.cfg.LowPorts},
			[]named{{"engine", listener("netd")}, {"userns", s.files["userns"]}, {"records", s.files["netd-records"]}}
	case "cgroupd":
		return setting.Cgroupd{EngineUID: engine, Parent: s.cfg.CgroupParent, Root: host.CgroupRoot, V2: s.cgroups.V2, Sub: ids.Sub},
			[]named{{"engine", listener("cgroupd")}}
	case "engine":
		return setting.Engine{
			Data:           s.data("engine"),
			Run:            s.path("engine"),
			MountdSocket:   s.path("priv", "mountd.sock"),
			GrantdSocket:   s.path("priv", "grantd-engine.sock"),
			NetdSocket:     s.path("priv", "netd.sock"),
			CgroupdSocket:  s.path("priv", "cgroupd.sock"),
			ShimPath:       filepath.Join(s.cfg.Bin, "stockade-shim"),
			UnpackPath:     filepath.Join(s.cfg.Bin, "stockade-unpack"),
			InitPath:       s.initPath(),
			Runtimes:       s.cfg.Runtimes,
			RuntimeOptions: runtimeOptions(s.cfg.RuntimeOptions),
			IDs:            ids,
			Pool:           s.cfg.Network.Pool,
			CgroupV2:       s.cgroups.V2,
			Insecure:       s.cfg.Registries.Insecure,
			RegistryCA:     s.cfg.Registries.CA,
			Proxy:          setting.Proxy{HTTP: s.cfg.Registries.HTTPProxy, HTTPS: s.cfg.Registries.HTTPSProxy, No: strings.Join(s.cfg.Registries.NoProxy, ",")},
			ABI32:          s.cfg.ABI32,
			NofileHard:     nofileHard(),
			Memory:         memoryShare(s.cfg.Limits.Container),
			LogSize:        int64(s.cfg.Limits.LogMiB) << 20,
			Version:        version.Version,
			GitCommit:      version.Commit,
			Built:          version.Built,
		}, []named{{"api", listener("engine")}}
	case "gate":
		return setting.Gate{
			EngineSocket: s.path("engine.sock"),
			GrantdSocket: s.path("priv", "grantd-gate.sock"),
			AdminGID:     s.admin,
			LowPorts:     s.cfg.LowPorts,
			BindPrefixes: s.cfg.BindPrefixes,
			Runtimes:     slices.Sorted(maps.Keys(s.cfg.Runtimes)),
			Containers:   ids.Sub,
			Version:      version.Version,
		}, []named{{"api", listener("gate")}, {"audit", s.files["audit"]}}
	}
	return nil, nil
}

// initPath is the static init for containers that ask for one, if it is installed.
func (s *Supervisor) initPath() string {
	path := filepath.Join(s.cfg.Bin, "stockade-init")
	if _, err := os.Stat(path); err != nil {
		return ""
	}
	return path
}

func nofileHard() uint64 {
	var l unix.Rlimit
	if err := unix.Getrlimit(unix.RLIMIT_NOFILE, &l); err != nil {
		return 1024
	}
	return l.Max
}

func runtimeOptions(of map[string]config.RuntimeOptions) map[string]setting.RuntimeOptions {
	out := map[string]setting.RuntimeOptions{}
	for name, o := range of {
		out[name] = setting.RuntimeOptions(o)
	}
	return out
}
