package host

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/moby/sys/mountinfo"
)

// CgroupRoot is where control groups are mounted.
const CgroupRoot = "/sys/fs/cgroup"

// Cgroups is the layout of the host's control groups.
type Cgroups struct {
	V2          bool     // the unified hierarchy alone, mounted at CgroupRoot
	Unified     string   // mount point of cgroup2 on a hybrid host, or empty
	Hierarchies []string // v1: mount points of the hierarchies with controllers
}

func (c Cgroups) String() string {
	switch {
	case c.V2:
		return "version 2"
	case c.Unified != "":
		return fmt.Sprintf("version 1, %d hierarchies, and an extra version 2 (hybrid)", len(c.Hierarchies))
	default:
		return fmt.Sprintf("version 1, %d hierarchies", len(c.Hierarchies))
	}
}

// ReadCgroups finds the layout.
func ReadCgroups() (Cgroups, error) {
	f, err := os.Open("/proc/self/mountinfo")
	if err != nil {
		return Cgroups{}, err
	}
	defer f.Close()
	infos, err := mountinfo.GetMountsFromReader(f, func(i *mountinfo.Info) (bool, bool) {
		return i.FSType != "cgroup" && i.FSType != "cgroup2", false
	})
	if err != nil {
		return Cgroups{}, err
	}
	return cgroupLayout(infos)
}

func cgroupLayout(infos []*mountinfo.Info) (Cgroups, error) {
	var c Cgroups
	seen := map[string]bool{}
	for _, i := range infos {
		switch {
		case i.FSType == "cgroup2" && i.Mountpoint == CgroupRoot:
			c.V2 = true
		case i.FSType == "cgroup2" && filepath.Dir(i.Mountpoint) == CgroupRoot:
			c.Unified = i.Mountpoint
		case i.FSType == "cgroup" && filepath.Dir(i.Mountpoint) == CgroupRoot && !slices.ContainsFunc(strings.Split(i.VFSOptions, ","), func(o string) bool { return strings.HasPrefix(o, "name=") }):
			if id := fmt.Sprint(i.Major, ":", i.Minor); !seen[id] {
				seen[id] = true
				c.Hierarchies = append(c.Hierarchies, i.Mountpoint)
			}
		}
	}
	if c.V2 {
		c.Hierarchies = nil
	}
	if !c.V2 && !slices.ContainsFunc(c.Hierarchies, func(p string) bool { return slices.Contains(strings.Split(filepath.Base(p), ","), "pids") }) {
		return c, errors.New("neither cgroup2 nor a cgroup v1 hierarchy with the pids controller is mounted beneath " + CgroupRoot)
	}
	return c, nil
}
