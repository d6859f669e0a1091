package spec

import (
	"encoding/json"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/docker/go-units"
	"github.com/google/go-cmp/cmp"
	dockerspec "github.com/moby/docker-image-spec/specs-go/v1"
	"github.com/moby/moby/api/types/container"
	"github.com/moby/moby/api/types/mount"
	specs "github.com/opencontainers/runtime-spec/specs-go"

	"stockade/api/helper"
	"stockade/api/scope"
	"stockade/engine/runtime"
)

func TestMergeCommand(t *testing.T) {
	for _, c := range []struct {
		name                     string
		entry, cmd               []string // the client's
		imageEntry, imageCmd     []string
		wantPath, wantArgs, fail string
	}{
		{"all from the image", nil, nil, []string{"e"}, []string{"c"}, "e", "c", ""},
		{"command over the image's", nil, []string{"x"}, []string{"e"}, []string{"c"}, "e", "x", ""},
		{"entrypoint hides the image's command", []string{"x"}, nil, []string{"e"}, []string{"c"}, "x", "", ""},
		{"both", []string{"x"}, []string{"y", "z"}, []string{"e"}, []string{"c"}, "x", "y z", ""},
		{"emptied entrypoint", []string{""}, []string{"y"}, []string{"e"}, []string{"c"}, "y", "", ""},
		{"empty list keeps the image's command only", []string{}, nil, []string{"e"}, []string{"c"}, "c", "", ""},
		{"nothing at all", nil, nil, nil, nil, "", "", "no command specified"},
		{"emptied without a command", []string{""}, nil, []string{"e"}, nil, "", "", "no command specified"},
	} {
		t.Run(c.name, func(t *testing.T) {
			img := &dockerspec.DockerOCIImageConfig{}
			img.Entrypoint, img.Cmd = c.imageEntry, c.imageCmd
			cfg := &container.Config{Entrypoint: c.entry, Cmd: c.cmd}
			if err := Merge(cfg, img); err != nil || c.fail != "" {
				if err == nil || err.Error() != c.fail {
					t.Errorf("error %v, want %q", err, c.fail)
				}
				return
			}
			path, args := Command(cfg)
			if path != c.wantPath || strings.Join(args, " ") != c.wantArgs {
				t.Errorf("%s %v", path, args)
			}
		})
	}
}

func TestMergeRest(t *testing.T) {
	img := &dockerspec.DockerOCIImageConfig{}
	img.Cmd = []string{"c"}
	img.Env = []string{"A=image", "B=image"}
	img.Labels = map[string]string{"a": "image", "b": "image"}
	img.Volumes = map[string]struct{}{"/v": {}}
	img.ExposedPorts = map[string]struct{}{"80/tcp": {}}
	img.User, img.WorkingDir, img.StopSignal = "app", "/app/./x", "SIGINT"
	img.Healthcheck = &dockerspec.HealthcheckConfig{Test: []string{"CMD", "t"}, Retries: 5}
	cfg := &container.Config{
		Env: []string{"A=client", "C"}, Labels: map[string]string{"a": "client"}, Healthcheck: &container.HealthConfig{Retries: 2},
	}
	if err := Merge(cfg, img); err != nil {
		t.Fatal(err)
	}
	got, err := json.Marshal(cfg)
	if err != nil {
		t.Fatal(err)
	}
	want := `{"Hostname":"","Domainname":"","User":"app","AttachStdin":false,"AttachStdout":false,"AttachStderr":false,` +
		`"ExposedPorts":{"80/tcp":{}},"Tty":false,"OpenStdin":false,"StdinOnce":false,"Env":["A=client","C","B=image"],"Cmd":["c"],` +
		`"Healthcheck":{"Test":["CMD","t"],"Retries":2},"Image":"","Volumes":{"/v":{}},"WorkingDir":"/app/x","Entrypoint":null,` +
		`"Labels":{"a":"client","b":"image"},"StopSignal":"SIGINT"}`
	if diff := cmp.Diff(want, string(got)); diff != "" {
		t.Error(diff)
	}
	if img.Labels["a"] != "image" {
		t.Error("the image's labels were changed")
	}
	for _, bad := range []container.Config{
		{Cmd: []string{"c"}, WorkingDir: "rel"}, {Cmd: []string{"c"}, Env: []string{"=x"}}, {Cmd: []string{"c"}, Env: []string{"a\x00b=c"}},
	} {
		if err := Merge(&bad, nil); err == nil {
			t.Errorf("%+v was accepted", bad)
		}
	}
}

func TestEnvironment(t *testing.T) {
	for _, c := range []struct {
		name string
		cfg  container.Config
		home string
		want []string
	}{
		{"plain", container.Config{Hostname: "h"}, "/root", []string{DefaultPath, "HOSTNAME=h", "HOME=/root"}},
		{"tty", container.Config{Hostname: "h", Tty: true}, "", []string{DefaultPath, "HOSTNAME=h", "TERM=xterm", "HOME=/"}},
		{"replaced", container.Config{Hostname: "h", Env: []string{"PATH=/x", "HOME=/y", "HOSTNAME"}}, "/root", []string{"PATH=/x", "HOME=/y"}},
	} {
		if diff := cmp.Diff(c.want, Environment(&c.cfg, c.home)); diff != "" {
			t.Errorf("%s: %s", c.name, diff)
		}
	}
}

func TestCapabilities(t *testing.T) {
	less := without(DefaultCapabilities, []string{"CAP_CHOWN"})
	for _, c := range []struct {
		name      string
		add, drop []string
		want      []string
		fail      bool
	}{
		{"default", nil, nil, DefaultCapabilities, false},
		{"drop one, any spelling", nil, []string{"chown"}, less, false},
		{"add one", []string{"cap_net_admin"}, nil, append(slices.Clone(DefaultCapabilities), "CAP_NET_ADMIN"), false},
		{"add what is there", []string{"KILL"}, nil, DefaultCapabilities, false},
		{"drop all", nil, []string{"all"}, nil, false},
		{"drop all, add one", []string{"KILL"}, []string{"ALL"}, []string{"CAP_KILL"}, false},
		{"add all, drop one", []string{"ALL"}, []string{"SYS_ADMIN"}, without(allCapabilities(), []string{"CAP_SYS_ADMIN"}), false},
		{"unknown", []string{"SYS_NOPE"}, nil, nil, true},
		{"unknown drop", nil, []string{"NOPE"}, nil, true},
	} {
		got, err := Capabilities(c.add, c.drop, false)
		if (err != nil) != c.fail {
			t.Errorf("%s: %v", c.name, err)
		}
		if diff := cmp.Diff(c.want, got); diff != "" {
			t.Errorf("%s: %s", c.name, diff)
		}
	}
	user := ociCapabilities(DefaultCapabilities, 1000)
	if user.Effective != nil || user.Permitted != nil || user.Inheritable != nil || user.Ambient != nil || user.Bounding == nil {
		t.Errorf("another user than root: %+v", user)
	}
}

// allows tells whether a filter lets a system call through without looking at its arguments.
func allows(f *specs.LinuxSeccomp, name string) bool {
	return slices.ContainsFunc(f.Syscalls, func(s specs.LinuxSyscall) bool {
		return s.Action == specs.ActAllow && len(s.Args) == 0 && slices.Contains(s.Names, name)
	})
}

func TestSeccomp(t *testing.T) {
	f, err := Seccomp(DefaultCapabilities)
	if err != nil {
		t.Fatal(err)
	}
	if f.DefaultAction == specs.ActAllow {
		t.Error("allows by default")
	}
	for name, want := range map[string]bool{
		"read": true, "chroot": true, "mount": false, "bpf": false, "perf_event_open": false, "keyctl": false, "io_uring_setup": false,
		"unshare": false, "userfaultfd": false, "init_module": false,
	} {
		if got := allows(f, name); got != want {
			t.Errorf("%s allowed: %v", name, got)
		}
	}
	more, err := Seccomp(append(slices.Clone(DefaultCapabilities), "CAP_SYS_ADMIN"))
	if err != nil {
		t.Fatal(err)
	}
	if !allows(more, "mount") || allows(f, "mount") {
		t.Error("the filter does not follow the capabilities")
	}
	if again, err := Seccomp(DefaultCapabilities); err != nil || again != f {
		t.Error("the filter is made twice")
	}
	if len(f.Architectures) < 2 {
		t.Errorf("architectures: %v", f.Architectures)
	}
}

func TestSecurityOpt(t *testing.T) {
	for _, c := range []struct {
		opts []string
		want security
		fail bool
	}{
		{nil, security{}, false},
		{[]string{"no-new-privileges"}, security{noNewPrivileges: true}, false},
		{[]string{"no-new-privileges:true"}, security{noNewPrivileges: true}, false},
		{[]string{"no-new-privileges=false"}, security{}, false},
		{[]string{"no-new-privileges=perhaps"}, security{}, true},
		{[]string{"seccomp=unconfined", "label=disable"}, security{seccomp: "unconfined"}, false},
		{[]string{"writable-cgroups=true"}, security{}, true},
		{[]string{"nonsense"}, security{}, true},
	} {
		got, err := parseSecurity(c.opts)
		if (err != nil) != c.fail || err == nil && got != c.want {
			t.Errorf("%v: %+v, %v", c.opts, got, err)
		}
	}
}

func TestLookup(t *testing.T) {
	u := Users{
		Passwd: []byte("root:x:0:0:root:/root:/bin/sh\napp:x:1000:1001::/home/app:\n1000:x:55:55::/trap:\nhuge:x:4294967296:0::/:\nbig:x:70000:0::/:\n"),
		Group:  []byte("root:x:0:\nwheel:x:10:root,app\nbig:x:99999:root2\nstaff:x:50:\n"),
	}
	for _, c := range []struct {
		name, spec string
		add        []string
		want       Account
		fail       bool
	}{
		{"default", "", nil, Account{User: runtime.User{Additional: []uint32{0, 10}}, Home: "/root"}, false},
		{"by name", "app", nil, Account{User: runtime.User{UID: 1000, GID: 1001, Additional: []uint32{1001, 10}}, Home: "/home/app"}, false},
		{"number without a line", "1234", nil, Account{User: runtime.User{UID: 1234, Additional: []uint32{0}}}, false},
		{"number and group", "1234:staff", nil, Account{User: runtime.User{UID: 1234, GID: 50, Additional: []uint32{50}}}, false},
		{"additional groups", "1234", []string{"staff", "77"}, Account{User: runtime.User{UID: 1234, Additional: []uint32{0, 50, 77}}}, false},
		{"number that is somebody's name, too", "1000", nil, Account{User: runtime.User{UID: 1000, GID: 1001, Additional: []uint32{1001, 10}}, Home: "/home/app"}, false},
		{"unknown name", "nobody", nil, Account{}, true},
		{"unknown group", "app:nope", nil, Account{}, true},
		{"first id outside", "65536", nil, Account{}, true},
		{"2^31", "2147483648", nil, Account{}, true},
		{"2^32 wraps to root", "4294967296", nil, Account{}, true},
		{"2^64", "18446744073709551616", nil, Account{}, true},
		{"group outside", "0:65536", nil, Account{}, true},
		{"additional group outside", "0", []string{"65536"}, Account{}, true},
		{"line with an id outside", "big", nil, Account{}, true},
		{"negative", "-1", nil, Account{}, true},
	} {
		t.Run(c.name, func(t *testing.T) {
			got, err := u.Lookup(c.spec, c.add)
			if (err != nil) != c.fail {
				t.Fatalf("%+v, %v", got, err)
			}
			slices.Sort(got.Additional)
			slices.Sort(c.want.Additional)
			if diff := cmp.Diff(c.want, got); diff != "" {
				t.Error(diff)
			}
		})
	}
}

// SECURITY(T-401): the files are looked for beneath the root, wherever its links point.
func TestReadUsersStaysInside(t *testing.T) {
	outside := filepath.Join(t.TempDir(), "secret")
	if err := os.WriteFile(outside, []byte("secret:x:0:0::/:\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	root := t.TempDir()
	if err := os.Mkdir(filepath.Join(root, "etc"), 0o755); err != nil {
		t.Fatal(err)
	}
	for _, target := range []string{outside, "../../../../../../../.." + outside, "/proc/self/root" + outside} {
		link := filepath.Join(root, "etc", "passwd")
		os.Remove(link)
		if err := os.Symlink(target, link); err != nil {
			t.Fatal(err)
		}
		u, err := ReadUsers(root)
		if err == nil && len(u.Passwd) > 0 {
			t.Errorf("%s: read %q", target, u.Passwd)
		}
	}
	// A control: a link that stays inside is followed.
	os.Remove(filepath.Join(root, "etc", "passwd"))
	if err := os.WriteFile(filepath.Join(root, "real"), []byte("x:x:1:1::/:\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink("/real", filepath.Join(root, "etc", "passwd")); err != nil {
		t.Fatal(err)
	}
	if u, err := ReadUsers(root); err != nil || len(u.Passwd) == 0 {
		t.Errorf("%q, %v", u.Passwd, err)
	}
}

func TestParseBind(t *testing.T) {
	for _, c := range []struct {
		raw  string
		want Mount
		fail bool
	}{
		{"/a:/b", Mount{Type: mount.TypeBind, Source: "/a", Destination: "/b", RW: true, Propagation: "rprivate"}, false},
		{"/a:/b:ro", Mount{Type: mount.TypeBind, Source: "/a", Destination: "/b", Mode: "ro", Propagation: "rprivate"}, false},
		{"/a:/b:ro,Z", Mount{Type: mount.TypeBind, Source: "/a", Destination: "/b", Mode: "ro,Z", Propagation: "rprivate"}, false},
		{"data:/b", Mount{Type: mount.TypeVolume, Name: "data", Destination: "/b", Driver: "local", Mode: "z", RW: true}, false},
		{"data:/b:nocopy", Mount{Type: mount.TypeVolume, Name: "data", Destination: "/b", Driver: "local", Mode: "nocopy", RW: true, NoCopy: true}, false},
		{"/b", Mount{Type: mount.TypeVolume, Destination: "/b", Driver: "local", Mode: "z", RW: true, Anonymous: true}, false},
		{"/a:/b:rshared", Mount{}, true},
		{"/a:/b:ro,rw", Mount{}, true},
		{"/a:/b:bogus", Mount{}, true},
		{"/a:/b:nocopy", Mount{}, true},
		{"a/../b:/c", Mount{}, true},
		{"../b:/c", Mount{}, true},
		{":/b", Mount{}, true},
		{"/a:", Mount{}, true},
		{"/a:/b:ro:x", Mount{}, true},
		{"", Mount{}, true},
	} {
		got, err := ParseBind(c.raw)
		if (err != nil) != c.fail {
			t.Errorf("%q: %+v, %v", c.raw, got, err)
			continue
		}
		if diff := cmp.Diff(c.want, got); err == nil && diff != "" {
			t.Errorf("%q: %s", c.raw, diff)
		}
	}
}

func TestMounts(t *testing.T) {
	grants := []scope.Grant{{Source: "/srv/a", ID: "g1"}}
	for _, c := range []struct {
		name string
		cfg  container.Config
		hc   container.HostConfig
		want []string
		fail string
	}{
		{"sorted by depth", container.Config{Volumes: map[string]struct{}{"/x": {}}}, container.HostConfig{Binds: []string{"/srv/a:/x/y"}}, []string{"volume /x ", "bind /x/y g1"}, ""},
		{"volume of the image is covered", container.Config{Volumes: map[string]struct{}{"/x/": {}}}, container.HostConfig{Binds: []string{"/srv/a:/x"}}, []string{"bind /x g1"}, ""},
		{"unclean source", container.Config{}, container.HostConfig{Binds: []string{"/srv/./a/:/x"}}, []string{"bind /x g1"}, ""},
		{"not granted", container.Config{}, container.HostConfig{Binds: []string{"/srv:/x"}}, nil, `bind source "/srv" was not granted`},
		{"not granted in Mounts", container.Config{}, container.HostConfig{Mounts: []mount.Mount{{Type: "bind", Source: "/srv/a/..", Target: "/x"}}}, nil, `bind source "/srv/a/.." was not granted`},
		{"twice", container.Config{}, container.HostConfig{Binds: []string{"/srv/a:/x", "data:/x/"}}, nil, "Duplicate mount point: /x"},
		{"root", container.Config{}, container.HostConfig{Binds: []string{"/srv/a:/"}}, nil, "invalid specification: destination can't be '/'"},
		{"relative", container.Config{}, container.HostConfig{Mounts: []mount.Mount{{Type: "volume", Target: "x"}}}, nil, `invalid mount config for type "volume": invalid mount path: 'x' mount path must be absolute`},
		{"subpath out", container.Config{}, container.HostConfig{Mounts: []mount.Mount{{Type: "volume", Source: "data", Target: "/x", VolumeOptions: &mount.VolumeOptions{Subpath: "a/../../b"}}}}, nil, `invalid mount config for type "volume": subpath must be a relative path within the volume`},
		{"other types", container.Config{}, container.HostConfig{Mounts: []mount.Mount{{Type: "npipe", Source: "a", Target: "/x"}}}, nil, `invalid mount config for type "npipe": mount type unknown`},
		{"tmpfs", container.Config{}, container.HostConfig{Tmpfs: map[string]string{"/t": "context=x"}}, nil, `invalid tmpfs option ["context=x"]`},
	} {
		t.Run(c.name, func(t *testing.T) {
			got, err := Mounts(&c.cfg, &c.hc, grants, nil)
			if err != nil || c.fail != "" {
				if err == nil || err.Error() != c.fail {
					t.Errorf("%v, want %q", err, c.fail)
				}
				return
			}
			var short []string
			for _, m := range got {
				short = append(short, string(m.Type)+" "+m.Destination+" "+m.Grant)
			}
			if diff := cmp.Diff(c.want, short); diff != "" {
				t.Error(diff)
			}
		})
	}
}

func TestTmpfsOptions(t *testing.T) {
	for _, c := range []struct{ in, want string }{
		{"", "noexec,nosuid,nodev"},
		{"rw,size=64k,mode=1777", "noexec,nosuid,nodev,rw,size=64k,mode=1777"},
		{"exec", "nosuid,nodev,exec"},
		{"size=50%", "noexec,nosuid,nodev,size=50%"},
		{"bind", ""}, {"uid=x", ""}, {"lowerdir=/", ""}, {"size=", ""},
	} {
		got, err := tmpfsOptions(strings.Split(c.in, ","))
		if strings.Join(got, ",") != c.want || (err != nil) != (c.want == "") {
			t.Errorf("%q: %v, %v", c.in, got, err)
		}
	}
}

func TestPorts(t *testing.T) {
	for _, c := range []struct {
		name, bindings string
		all            bool
		want           []helper.Port
		fail           bool
	}{
		{"none", `{}`, false, nil, false},
		{"fixed", `{"80/tcp":[{"HostPort":"8080"}]}`, false, []helper.Port{{Proto: "tcp", HostIP: "0.0.0.0", HostPort: 8080, Container: 80}}, false},
		{"range", `{"80/tcp":[{"HostIp":"127.0.0.1","HostPort":"8000-8010"}]}`, false, []helper.Port{{Proto: "tcp", HostIP: "127.0.0.1", HostPort: 8000, HostEnd: 8010, Container: 80}}, false},
		{"ephemeral", `{"53/udp":[{"HostPort":""}],"54/udp":null}`, false, []helper.Port{{Proto: "udp", HostIP: "0.0.0.0", Container: 53}, {Proto: "udp", HostIP: "0.0.0.0", Container: 54}}, false},
		{"all exposed", `{"80/tcp":[{"HostPort":"8080"}]}`, true, []helper.Port{{Proto: "tcp", HostIP: "0.0.0.0", HostPort: 8080, Container: 80}, {Proto: "tcp", HostIP: "0.0.0.0", Container: 443}}, false},
		{"sctp", `{"80/sctp":[{"HostPort":"8080"}]}`, false, nil, true},
		{"IPv6", `{"80/tcp":[{"HostIp":"::1","HostPort":"8080"}]}`, false, nil, true},
		{"port zero inside", `{"0/tcp":[{"HostPort":"8080"}]}`, false, nil, true},
		{"no port", `{"80/tcp":[{"HostPort":"http"}]}`, false, nil, true},
		{"backwards", `{"80/tcp":[{"HostPort":"9-8"}]}`, false, nil, true},
		{"too big", `{"80/tcp":[{"HostPort":"65536"}]}`, false, nil, true},
	} {
		t.Run(c.name, func(t *testing.T) {
			hc := container.HostConfig{PublishAllPorts: c.all}
			if err := json.Unmarshal([]byte(c.bindings), &hc.PortBindings); err != nil {
				t.Fatal(err)
			}
			var cfg container.Config
			if err := json.Unmarshal([]byte(`{"80/tcp":{},"443/tcp":{}}`), &cfg.ExposedPorts); err != nil {
				t.Fatal(err)
			}
			got, err := Ports(&cfg, &hc)
			if (err != nil) != c.fail {
				t.Fatal(err)
			}
			if diff := cmp.Diff(c.want, got); diff != "" {
				t.Error(diff)
			}
		})
	}
}

func TestResolv(t *testing.T) {
	host := "# a comment\nnameserver 127.0.0.53\nnameserver 192.0.2.1\nnameserver fe80::1\nsearch example.org lan\noptions ndots:2\n"
	for _, c := range []struct {
		name, host string
		hc         container.HostConfig
		want       string
	}{
		{"host's", host, container.HostConfig{}, "nameserver 192.0.2.1\nsearch example.org lan\noptions ndots:2\n"},
		{"only loopback", "nameserver 127.0.0.1\n", container.HostConfig{}, "nameserver 8.8.8.8\nnameserver 8.8.4.4\n"},
		{"asked", host, container.HostConfig{DNS: []netip.Addr{netip.MustParseAddr("198.51.100.7")}, DNSSearch: []string{"."}, DNSOptions: []string{"rotate"}}, "nameserver 198.51.100.7\noptions rotate\n"},
	} {
		if got := string(Resolv([]byte(c.host), &c.hc)); got != c.want {
			t.Errorf("%s: %q", c.name, got)
		}
	}
	for _, hc := range []container.HostConfig{
		{DNSSearch: []string{"a\nnameserver 6.6.6.6"}}, {DNSOptions: []string{"a b"}}, {ExtraHosts: []string{"a b:1.2.3.4"}},
		{ExtraHosts: []string{"a:1.2.3.4\n"}}, {ExtraHosts: []string{"a"}},
	} {
		if err := CheckNames(&container.Config{}, &hc); err == nil {
			t.Errorf("%+v was accepted", hc)
		}
	}
}

func TestHosts(t *testing.T) {
	cfg := &container.Config{Hostname: "web", Domainname: "example.org"}
	hc := &container.HostConfig{ExtraHosts: []string{"db:192.0.2.5", "host.docker.internal:host-gateway", "six=[2001:db8::1]"}}
	if err := CheckNames(cfg, hc); err != nil {
		t.Fatal(err)
	}
	got := string(Hosts(cfg, hc, "172.30.0.1")("172.30.0.9"))
	want := "192.0.2.5\tdb\n172.30.0.1\thost.docker.internal\n2001:db8::1\tsix\n172.30.0.9\tweb.example.org web\n"
	if !strings.HasSuffix(got, want) || !strings.HasPrefix(got, "127.0.0.1\tlocalhost\n") {
		t.Error(got)
	}
}

func TestLimits(t *testing.T) {
	minus, ten, zero := int64(-5), int64(10), int64(0)
	for _, c := range []struct {
		name string
		in   container.Resources
		want helper.Limits
	}{
		{"none", container.Resources{}, helper.Limits{Pids: defaultPids}},
		{"swap is twice the memory", container.Resources{Memory: 64 << 20}, helper.Limits{Memory: 64 << 20, MemorySwap: 128 << 20, Pids: defaultPids}},
		{"unlimited swap", container.Resources{Memory: 64 << 20, MemorySwap: -1}, helper.Limits{Memory: 64 << 20, MemorySwap: -1, Pids: defaultPids}},
		{"one and a half processors", container.Resources{NanoCPUs: 1.5e9}, helper.Limits{CPUQuota: 150000, CPUPeriod: 100000, Pids: defaultPids}},
		{"shares", container.Resources{CPUShares: 1}, helper.Limits{CPUShares: 2, Pids: defaultPids}},
		{"processes", container.Resources{PidsLimit: &ten}, helper.Limits{Pids: 10}},
		{"unlimited processes", container.Resources{PidsLimit: &minus}, helper.Limits{Pids: -1}},
		{"processes not named", container.Resources{PidsLimit: &zero}, helper.Limits{Pids: defaultPids}},
	} {
		r := c.in
		AdaptResources(&r)
		if diff := cmp.Diff(c.want, Limits(&r)); diff != "" {
			t.Errorf("%s: %s", c.name, diff)
		}
	}
}

func TestCheckResources(t *testing.T) {
	swappy := int64(101)
	for _, c := range []struct {
		in   container.Resources
		want string
	}{
		{container.Resources{}, ""},
		{container.Resources{Memory: 1 << 20}, "Minimum memory limit allowed is 6MB"},
		{container.Resources{Memory: -1}, "Minimum memory limit allowed is 6MB"},
		{container.Resources{Memory: 8 << 20, MemorySwap: 7 << 20}, "Minimum memoryswap limit should be larger than memory limit, see usage"},
		{container.Resources{MemorySwap: 7 << 20}, "You should always set the Memory limit when using Memoryswap limit, see usage"},
		{container.Resources{MemorySwappiness: &swappy}, "invalid value: 101, valid memory swappiness range is 0-100"},
		{container.Resources{NanoCPUs: 1, CPUQuota: 5000}, "Conflicting options: Nano CPUs and CPU Quota cannot both be set."},
		{container.Resources{CPUPeriod: 10}, "CPU cfs period can not be less than 1ms (i.e. 1000) or larger than 1s (i.e. 1000000)"},
		{container.Resources{BlkioWeight: 5}, "range of blkio weight is from 10 to 1000"},
		{container.Resources{CpusetCpus: "0; rm"}, "Invalid value 0; rm for cpuset cpus"},
	} {
		got := ""
		if err := CheckResources(&c.in); err != nil {
			got = err.Error()
		}
		if got != c.want {
			t.Errorf("%+v: %q", c.in, got)
		}
	}
}

func TestRlimits(t *testing.T) {
	got, err := rlimits(&container.Resources{Ulimits: []*units.Ulimit{{Name: "nofile", Soft: 5000, Hard: 1 << 20}, {Name: "core", Soft: 0, Hard: -1}}}, 4096)
	if err != nil {
		t.Fatal(err)
	}
	want := []specs.POSIXRlimit{{Type: "RLIMIT_NOFILE", Soft: 4096, Hard: 4096}, {Type: "RLIMIT_CORE", Soft: 0, Hard: ^uint64(0)}}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
	if _, err := rlimits(&container.Resources{Ulimits: []*units.Ulimit{{Name: "bogus"}}}, 0); err == nil {
		t.Error("an unknown limit was accepted")
	}
}

func TestLogOf(t *testing.T) {
	for _, c := range []struct {
		lc   container.LogConfig
		want runtime.Log
		fail bool
	}{
		{container.LogConfig{}, runtime.Log{Driver: "json-file", MaxFile: 1}, false},
		{container.LogConfig{Type: "json-file", Config: map[string]string{"max-size": "10m", "max-file": "3"}}, runtime.Log{Driver: "json-file", MaxSize: 10e6, MaxFile: 3}, false},
		{container.LogConfig{Type: "local"}, runtime.Log{Driver: "local", MaxSize: 20 << 20, MaxFile: 5}, false},
		{container.LogConfig{Type: "none"}, runtime.Log{Driver: "none", MaxFile: 1}, false},
		{container.LogConfig{Type: "json-file", Config: map[string]string{"max-file": "3"}}, runtime.Log{}, true},
		{container.LogConfig{Type: "json-file", Config: map[string]string{"syslog-address": "x"}}, runtime.Log{}, true},
		{container.LogConfig{Type: "gelf"}, runtime.Log{}, true},
	} {
		got, err := LogOf(c.lc)
		if (err != nil) != c.fail {
			t.Errorf("%+v: %v", c.lc, err)
		}
		if diff := cmp.Diff(c.want, got); err == nil && diff != "" {
			t.Errorf("%+v: %s", c.lc, diff)
		}
	}
}

// T-502: counters of heat are hidden for each CPU that has them.
func TestThermal(t *testing.T) {
	dir := t.TempDir()
	for _, name := range []string{"cpu0/thermal_throttle", "cpu11/thermal_throttle", "cpu2/cache", "cpufreq/thermal_throttle"} {
		if err := os.MkdirAll(dir+"/"+name, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	want := []string{dir + "/cpu0/thermal_throttle", dir + "/cpu11/thermal_throttle"}
	if diff := cmp.Diff(want, thermal(dir)); diff != "" {
		t.Error(diff)
	}
	for _, path := range []string{"/proc/interrupts", "/sys/devices/virtual/powercap", "/proc/acpi", "/proc/asound", "/proc/scsi", "/proc/kcore", "/proc/keys", "/proc/timer_list", "/proc/sched_debug", "/sys/firmware"} {
		if !slices.Contains(DefaultMasked, path) {
			t.Errorf("%s is not hidden", path)
		}
	}
}

// T-305: a log that names no size has the server's.
func TestDefaultLogSize(t *testing.T) {
	for _, c := range []struct {
		lc    container.LogConfig
		limit int64
		size  int64
		files int
	}{
		{container.LogConfig{}, 1 << 20, 1 << 19, 2},
		{container.LogConfig{}, 0, 0, 1},
		{container.LogConfig{Config: map[string]string{"max-size": "0"}}, 1 << 20, 1 << 19, 2},
		{container.LogConfig{Config: map[string]string{"max-size": "5m"}}, 1 << 20, 5e6, 1},
		{container.LogConfig{Type: "local"}, 1 << 20, 20 << 20, 5},
		{container.LogConfig{Type: "none"}, 1 << 20, 0, 1},
	} {
		s, err := Build(Input{Config: &container.Config{Cmd: []string{"sh"}}, HostConfig: &container.HostConfig{LogConfig: c.lc}, LogSize: c.limit})
		if err != nil || s.Log.MaxSize != c.size || s.Log.MaxFile != c.files {
			t.Errorf("%+v: %+v %v", c, s, err)
		}
	}
}

// T-305: a container that names no memory has the server's limit, and one that does its own.
func TestDefaultMemory(t *testing.T) {
	for own, want := range map[int64]int64{0: 1 << 30, 8 << 20: 8 << 20, 2 << 30: 2 << 30} {
		s, err := Build(Input{Config: &container.Config{Cmd: []string{"sh"}}, HostConfig: &container.HostConfig{Resources: container.Resources{Memory: own}}, Memory: 1 << 30})
		if err != nil || s.Limits.Memory != want {
			t.Errorf("%d: %+v %v", own, s, err)
		}
	}
}

// T-305: an image or a caller cannot ask for any number of volumes.
func TestManyMounts(t *testing.T) {
	for n, fails := range map[int]bool{maxMounts: false, maxMounts + 1: true, 200000: true} {
		c := &container.Config{Volumes: map[string]struct{}{}}
		for i := range n {
			c.Volumes[fmt.Sprintf("/v%d", i)] = struct{}{}
		}
		if _, err := Mounts(c, &container.HostConfig{}, nil, nil); (err != nil) != fails {
			t.Errorf("%d: %v", n, err)
		}
	}
}

// TestBuild checks the whole specification of an ordinary container, field by field.
func TestBuild(t *testing.T) {
	in := Input{
		ID: "id", Tenant: "alice", Layers: []string{"b", "a"}, Gateway: "172.30.0.1", NofileHard: 4096, LogPath: "/log",
		Config: &container.Config{Hostname: "h", Cmd: []string{"sh"}, Tty: true, OpenStdin: true, Labels: map[string]string{"io.kubernetes.x": "y"}, OnBuild: []string{"RUN x"}},
		HostConfig: &container.HostConfig{
			Annotations: map[string]string{"run.oci.x": "y"}, OomScoreAdj: -500, MaskedPaths: DefaultMasked, ReadonlyPaths: DefaultReadonly,
			Tmpfs: map[string]string{"/t": "size=1m"}, Sysctls: map[string]string{"net.core.somaxconn": "10"}, Runtime: "runc",
		},
		Mounts:  []Mount{{Type: "bind", Destination: "/b", Grant: "g1"}, {Type: "volume", Destination: "/v", RW: true, Store: "s", Subpath: "p"}},
		Account: Account{User: runtime.User{UID: 5, GID: 6, Additional: []uint32{6}}, Home: "/home/x"},
	}
	s, err := Build(in)
	if err != nil {
		t.Fatal(err)
	}
	filter := s.OCI.Linux.Seccomp
	if filter == nil {
		t.Error("no seccomp filter")
	}
	s.OCI.Linux.Seccomp = nil
	hosts := s.Files.Hosts
	s.Files.Hosts = nil
	if hosts == nil {
		t.Error("no hosts")
	}
	zero := 0
	want := &runtime.Spec{
		ID: "id", Tenant: "alice", Layers: []string{"b", "a"}, User: in.Account.User, TTY: true, Stdin: true,
		Mounts:  []runtime.Mount{{Target: "/b", RO: true, Grant: "g1", Recursive: true}, {Target: "/v", Volume: "s", Subpath: "p"}},
		Network: &runtime.Network{},
		Limits:  helper.Limits{Pids: defaultPids},
		Log:     runtime.Log{Driver: "json-file", MaxFile: 1, FilePath: "/log"},
		Files:   runtime.Files{Hostname: []byte("h\n"), Resolv: []byte("nameserver 8.8.8.8\nnameserver 8.8.4.4\n")},
		OCI: &specs.Spec{
			Version: specs.Version, Hostname: "h", Root: &specs.Root{},
			Process: &specs.Process{
				Terminal: true, User: specs.User{UID: 5, GID: 6, AdditionalGids: []uint32{6}}, Args: []string{"sh"}, Cwd: "/",
				Env:          []string{DefaultPath, "HOSTNAME=h", "TERM=xterm", "HOME=/home/x"},
				Capabilities: &specs.LinuxCapabilities{Bounding: DefaultCapabilities}, OOMScoreAdj: &zero,
				Rlimits: []specs.POSIXRlimit{{Type: "RLIMIT_NOFILE", Hard: 4096, Soft: 1024}},
			},
			Linux: &specs.Linux{
				Sysctl:      map[string]string{"net.core.somaxconn": "10", "net.ipv4.ip_unprivileged_port_start": "0", "net.ipv4.ping_group_range": "0 65535"},
				MaskedPaths: DefaultMasked, ReadonlyPaths: DefaultReadonly,
			},
			Mounts: []specs.Mount{
				{Destination: "/proc", Type: "proc", Source: "proc", Options: []string{"nosuid", "noexec", "nodev"}},
				{Destination: "/dev", Type: "tmpfs", Source: "tmpfs", Options: []string{"nosuid", "strictatime", "mode=755", "size=65536k"}},
				{Destination: "/dev/pts", Type: "devpts", Source: "devpts", Options: []string{"nosuid", "noexec", "newinstance", "ptmxmode=0666", "mode=0620", "gid=5"}},
				{Destination: "/sys", Type: "sysfs", Source: "sysfs", Options: []string{"nosuid", "noexec", "nodev", "ro"}},
				{Destination: "/dev/mqueue", Type: "mqueue", Source: "mqueue", Options: []string{"nosuid", "noexec", "nodev"}},
				{Destination: "/dev/shm", Type: "tmpfs", Source: "shm", Options: []string{"nosuid", "noexec", "nodev", "mode=1777", "size=67108864"}},
				{Destination: "/t", Type: "tmpfs", Source: "tmpfs", Options: []string{"noexec", "nosuid", "nodev", "size=1m"}},
			},
		},
	}
	if diff := cmp.Diff(want, s); diff != "" {
		t.Error(diff)
	}
	// SECURITY(T-303)
	if s.OCI.Annotations != nil {
		t.Error("annotations reached the runtime")
	}
}

func TestBuildVariants(t *testing.T) {
	yes := true
	build := func(f func(*Input)) (*runtime.Spec, error) {
		in := Input{Config: &container.Config{Cmd: []string{"x"}}, HostConfig: &container.HostConfig{}}
		f(&in)
		return Build(in)
	}
	if s, err := build(func(i *Input) { i.NoNetwork = true }); err != nil || s.Network != nil || len(s.OCI.Linux.Sysctl) != 0 {
		t.Errorf("none: %+v, %v", s, err)
	}
	if s, err := build(func(i *Input) { i.HostConfig.Privileged = true }); err != nil || s.OCI.Linux.Seccomp != nil || !slices.Contains(s.OCI.Process.Capabilities.Effective, "CAP_SYS_ADMIN") {
		t.Errorf("privileged: %v", err)
	}
	if _, err := build(func(i *Input) { i.HostConfig.Init = &yes }); err == nil {
		t.Error("init without an init program")
	}
	if s, err := build(func(i *Input) { i.HostConfig.Init, i.HasInit = &yes, true }); err != nil || !s.Init {
		t.Errorf("init: %v", err)
	}
	if s, err := build(func(i *Input) { i.HostConfig.Runtime = "runsc" }); err != nil || s.Runtime != "runsc" {
		t.Errorf("runtime: %v", err)
	}
	if s, err := build(func(i *Input) {
		i.HostConfig.SecurityOpt = []string{"no-new-privileges"}
		i.HostConfig.ReadonlyRootfs = true
	}); err != nil || !s.OCI.Process.NoNewPrivileges || !s.OCI.Root.Readonly {
		t.Errorf("hardened: %v", err)
	}
}

// SECURITY(T-502): the 32-bit entries of the kernel are closed unless the administrator opens them.
func TestNativeABIOnly(t *testing.T) {
	full, err := Seccomp(DefaultCapabilities)
	if err != nil {
		t.Fatal(err)
	}
	if got := closeABI32(full, false); len(got.Architectures) != 1 || got.Architectures[0] != full.Architectures[0] {
		t.Errorf("architectures %v, want the native one of %v", got.Architectures, full.Architectures)
	}
	if got := closeABI32(full, true); len(got.Architectures) != len(full.Architectures) {
		t.Errorf("control: architectures %v, want all of %v", got.Architectures, full.Architectures)
	}
}
