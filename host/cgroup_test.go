package host

import (
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/moby/sys/mountinfo"
)

func TestCgroupLayout(t *testing.T) {
	v1 := func(minor int, name, options string) *mountinfo.Info {
		return &mountinfo.Info{Minor: minor, FSType: "cgroup", Mountpoint: CgroupRoot + "/" + name, VFSOptions: options}
	}
	v2 := func(at string) *mountinfo.Info { return &mountinfo.Info{FSType: "cgroup2", Mountpoint: at} }
	for _, tc := range []struct {
		name  string
		infos []*mountinfo.Info
		want  Cgroups
		ok    bool
	}{
		{"nothing", nil, Cgroups{}, false},
		{"v2", []*mountinfo.Info{v2(CgroupRoot)}, Cgroups{V2: true}, true},
		{"v1", []*mountinfo.Info{v1(1, "pids", "rw,pids"), v1(2, "cpu,cpuacct", "rw,cpu,cpuacct"), v1(3, "systemd", "rw,xattr,name=systemd")},
			Cgroups{Hierarchies: []string{CgroupRoot + "/pids", CgroupRoot + "/cpu,cpuacct"}}, true},
		{"hybrid", []*mountinfo.Info{v1(1, "pids", "rw,pids"), v2(CgroupRoot + "/unified")},
			Cgroups{Unified: CgroupRoot + "/unified", Hierarchies: []string{CgroupRoot + "/pids"}}, true},
		{"mounted twice", []*mountinfo.Info{v1(1, "pids", "rw,pids"), v1(1, "pids", "rw,pids")}, Cgroups{Hierarchies: []string{CgroupRoot + "/pids"}}, true},
		{"v1 without pids", []*mountinfo.Info{v1(1, "memory", "rw,memory")}, Cgroups{Hierarchies: []string{CgroupRoot + "/memory"}}, false},
		{"v2 elsewhere", []*mountinfo.Info{v2("/mnt")}, Cgroups{}, false},
	} {
		t.Run(tc.name, func(t *testing.T) {
			got, err := cgroupLayout(tc.infos)
			if (err == nil) != tc.ok {
				t.Fatalf("got %v", err)
			}
			if diff := cmp.Diff(tc.want, got); diff != "" {
				t.Errorf("(-want +got):\n%s", diff)
			}
		})
	}
}
