package policy_test

import (
	"encoding/json"
	"errors"
	"net/http"
	"os"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/moby/moby/api/types/container"
	"github.com/moby/moby/api/types/volume"

	"stockade/gate/decode"
	"stockade/gate/policy"
	"stockade/gate/refusal"
)

var config = policy.Config{LowPorts: []uint16{80}, BindPrefixes: []string{"/srv/"}, Runtimes: []string{"runc", "crun"}}

// create decodes a request as the gate does and applies the policy.
func create(t *testing.T, c policy.Caller, text string) (*container.CreateRequest, []policy.Bind, error) {
	t.Helper()
	var r container.CreateRequest
	if err := decode.JSON([]byte(text), &r, nil); err != nil {
		t.Fatalf("%s: %v", text, err)
	}
	binds, err := config.Create(c, &r)
	return &r, binds, err
}

// host wraps a part of HostConfig.
func host(part string) string { return `{"Image":"busybox","HostConfig":{` + part + `}}` }

// bindMount wraps options of one bind in Mounts.
func mounts(part string) string { return host(`"Mounts":[{"Target":"/t",` + part + `}]`) }

// SECURITY(T-301) SECURITY(T-302) SECURITY(T-303) SECURITY(T-304) SECURITY(T-305) SECURITY(T-306) SECURITY(T-307): each
// field in every spelling that has ever meant something. TestAllowed is the control.
func TestRefused(t *testing.T) {
	for _, tc := range []struct{ rule, body string }{
		{"privileged", host(`"Privileged":true`)},
		{"namespaces", host(`"PidMode":"host"`)},
		{"namespaces", host(`"PidMode":"container:"`)},
		{"namespaces", host(`"PidMode":"container:../1"`)},
		{"namespaces", host(`"PidMode":"Container:abc"`)},
		{"namespaces", host(`"PidMode":"container:abc\n"`)},
		{"namespaces", host(`"UTSMode":"container:abc"`)},
		{"namespaces", host(`"UsernsMode":"container:abc"`)},
		{"namespaces", host(`"CgroupnsMode":"container:abc"`)},
		{"namespaces", host(`"Cgroup":"container:abc"`)},
		{"namespaces", host(`"PidMode":"private"`)},
		{"namespaces", host(`"IpcMode":"host"`)},
		{"namespaces", host(`"IpcMode":"container:a b"`)},
		{"namespaces", host(`"IpcMode":"Host"`)},
		{"namespaces", host(`"UTSMode":"host"`)},
		{"namespaces", host(`"UsernsMode":"host"`)},
		{"namespaces", host(`"CgroupnsMode":"host"`)},
		{"namespaces", host(`"Cgroup":"container:abc"`)},
		{"namespaces", host(`"Isolation":"hyperv"`)},
		{"network-mode", host(`"NetworkMode":"host"`)},
		{"network-mode", host(`"NetworkMode":"container:/"`)},
		{"network-mode", host(`"NetworkMode":"container:host:x"`)},
		{"endpoints", `{"Image":"x","HostConfig":{"NetworkMode":"container:abc"},"NetworkingConfig":{"EndpointsConfig":{"bridge":{}}}}`},
		{"endpoints", `{"Image":"x","HostConfig":{"NetworkMode":"bridge"},"NetworkingConfig":{"EndpointsConfig":{"container:abc":{}}}}`},
		{"network-mode", host(`"NetworkMode":"ns:/proc/1/ns/net"`)},
		{"network-mode", host(`"NetworkMode":"mine"`)},
		{"endpoints", `{"Image":"x","HostConfig":{},"NetworkingConfig":{"EndpointsConfig":{"host":{}}}}`},
		{"endpoints", `{"Image":"x","HostConfig":{},"NetworkingConfig":{"EndpointsConfig":{"bridge":{},"none":{}}}}`},
		{"endpoints", `{"Image":"x","HostConfig":{"NetworkMode":"none"},"NetworkingConfig":{"EndpointsConfig":{"bridge":{}}}}`},
		{"endpoints", `{"Image":"x","NetworkingConfig":{"EndpointsConfig":{"bridge":{"IPAMConfig":{"IPv4Address":"172.30.0.1"}}}}}`},
		{"endpoints", `{"Image":"x","NetworkingConfig":{"EndpointsConfig":{"bridge":{"DriverOpts":{"com.docker.network.endpoint.sysctls":"net.ipv4.conf.IFNAME.forwarding=1"}}}}}`},
		{"endpoints", `{"Image":"x","NetworkingConfig":{"EndpointsConfig":{"bridge":{"Links":["a:b"]}}}}`},
		{"endpoints", `{"Image":"x","NetworkingConfig":{"EndpointsConfig":{"bridge":{"Aliases":["db"]}}}}`},
		{"mac-address", `{"Image":"x","NetworkingConfig":{"EndpointsConfig":{"bridge":{"MacAddress":"00:1b:21:00:00:01"}}}}`},
		{"mac-address", `{"Image":"x","NetworkingConfig":{"EndpointsConfig":{"bridge":{"MacAddress":"03:00:00:00:00:01"}}}}`},
		{"mac-address", `{"Image":"x","NetworkingConfig":{"EndpointsConfig":{"bridge":{"MacAddress":"ff:ff:ff:ff:ff:ff"}}}}`},
		{"mac-address", `{"Image":"x","NetworkingConfig":{"EndpointsConfig":{"bridge":{"MacAddress":"02:00:00:00:00:00:00:01"}}}}`},
		{"cgroup-parent", host(`"CgroupParent":"/"`)},
		{"cap-add", host(`"CapAdd":["SYS_ADMIN"]`)},
		{"cap-add", host(`"CapAdd":["cap_sys_admin"]`)},
		{"cap-add", host(`"CapAdd":["CHOWN","Sys_Ptrace"]`)},
		{"cap-add", host(`"CapAdd":["ALL"]`)},
		{"cap-add", host(`"CapAdd":["all"]`)},
		{"cap-add", host(`"CapAdd":["CAP_ALL"]`)},
		{"cap-add", host(`"CapAdd":[" CHOWN"]`)},
		{"cap-drop", host(`"CapDrop":["CHOWN\n"]`)},
		{"security-opt", host(`"SecurityOpt":["seccomp=unconfined"]`)},
		{"security-opt", host(`"SecurityOpt":["seccomp:unconfined"]`)},
		{"security-opt", host(`"SecurityOpt":["seccomp={\"defaultAction\":\"SCMP_ACT_ALLOW\"} x"]`)},
		{"security-opt", host(`"SecurityOpt":["seccomp=/etc/profile.json"]`)},
		{"security-opt", host(`"SecurityOpt":["seccomp=[]"]`)},
		{"security-opt", host(`"SecurityOpt":["seccomp="]`)},
		{"security-opt", host(`"SecurityOpt":["no-new-privileges","apparmor=unconfined"]`)},
		{"security-opt", host(`"SecurityOpt":["no-new-privileges=false"]`)},
		{"security-opt", host(`"SecurityOpt":["label:disable"]`)},
		{"security-opt", host(`"SecurityOpt":["systempaths=unconfined"]`)},
		{"masked-paths", host(`"MaskedPaths":[]`)},
		{"masked-paths", host(`"MaskedPaths":["/proc/kcore"]`)},
		{"masked-paths", host(`"ReadonlyPaths":[]`)},
		{"devices", host(`"Devices":[{"PathOnHost":"/dev/sda","PathInContainer":"/dev/sda","CgroupPermissions":"r"}]`)},
		{"devices", host(`"DeviceRequests":[{"Driver":"cdi","DeviceIDs":["vendor.com/x=all"]}]`)},
		{"devices", host(`"DeviceCgroupRules":["a *:* rwm"]`)},
		{"annotations", host(`"Annotations":{"run.oci.keep_original_groups":"1"}`)},
		{"runtime", host(`"Runtime":"/usr/bin/evil"`)},
		{"runtime", host(`"Runtime":"RUNC"`)},
		{"sysctls", host(`"Sysctls":{"kernel.core_pattern":"|/evil"}`)},
		{"sysctls", host(`"Sysctls":{"net.ipv4.ip_forward":"1"}`)},
		{"sysctls", host(`"Sysctls":{"kernel.msgmax":"1"}`)},
		{"sysctls", host(`"Sysctls":{"net.ipv4.tcp_syncookies":"1\n2"}`)},
		{"sysctls", host(`"Sysctls":{"net/ipv4/tcp_syncookies":"1"}`)},
		{"group-add", host(`"GroupAdd":["65536"]`)},
		{"group-add", host(`"GroupAdd":["a:b"]`)},
		{"umask", host(`"Umask":4095`)},
		{"log-driver", host(`"LogConfig":{"Type":"syslog"}`)},
		{"log-driver", host(`"LogConfig":{"Type":"gelf","Config":{"gelf-address":"udp://169.254.169.254:80"}}`)},
		{"log-driver", host(`"LogConfig":{"Type":"json-file","Config":{"syslog-address":"x"}}`)},
		{"log-driver", host(`"LogConfig":{"Type":"none","Config":{"max-size":"1"}}`)},
		{"resources", host(`"Memory":-1`)},
		{"resources", host(`"NanoCpus":-5`)},
		{"resources", host(`"BlkioWeight":1001`)},
		{"resources", host(`"MemorySwap":-2`)},
		{"resources", host(`"MemorySwappiness":101`)},
		{"resources", host(`"ShmSize":-1`)},
		{"resources", host(`"CpusetCpus":"0/../1"`)},
		{"resources", host(`"CpusetMems":"x"`)},
		{"realtime", host(`"CpuRealtimeRuntime":1`)},
		{"block-devices", host(`"BlkioDeviceReadBps":[{"Path":"/dev/sda","Rate":1}]`)},
		{"block-devices", host(`"BlkioWeightDevice":[null]`)},
		{"oom", host(`"OomScoreAdj":-1`)},
		{"oom", host(`"OomKillDisable":true`)},
		{"pids-limit", host(`"PidsLimit":-1`)},
		{"ulimits", host(`"Ulimits":[{"Name":"as","Hard":1,"Soft":1}]`)},
		{"ulimits", host(`"Ulimits":[{"Name":"nofile","Hard":1,"Soft":2}]`)},
		{"ulimits", host(`"Ulimits":[{"Name":"nofile","Hard":1,"Soft":-1}]`)},
		{"ulimits", host(`"Ulimits":[null]`)},
		{"windows", host(`"IOMaximumIOps":1`)},
		{"restart-policy", host(`"RestartPolicy":{"Name":"sometimes"}`)},
		{"restart-policy", host(`"RestartPolicy":{"Name":"on-failure","MaximumRetryCount":-1}`)},
		{"storage-opt", host(`"StorageOpt":{"size":"1G"}`)},
		{"links", host(`"Links":["other:x"]`)},
		{"volumes-from", host(`"VolumesFrom":["other:shared"]`)},
		{"volumes-from", host(`"VolumesFrom":["../other"]`)},
		{"volumes-from", host(`"VolumesFrom":[""]`)},
		{"volumes-from", host(`"VolumesFrom":["a:ro:b"]`)},
		{"host-port", host(`"PortBindings":{"80/tcp":[{"HostPort":"22"}]}`)},
		{"host-port", host(`"PortBindings":{"80/tcp":[{"HostPort":"079"}]}`)},
		{"host-port", host(`"PortBindings":{"80/tcp":[{"HostPort":"1000-2000"}]}`)},
		{"host-port", host(`"PortBindings":{"80/tcp":[{"HostPort":"79-81"}]}`)},
		{"host-port", host(`"PortBindings":{"80/tcp":[{"HostPort":"0-9000"}]}`)},
		{"host-port", host(`"PortBindings":{"80/tcp":[{"HostPort":"9000-8000"}]}`)},
		{"host-port", host(`"PortBindings":{"80/tcp":[{"HostPort":"65536"}]}`)},
		{"host-port", host(`"PortBindings":{"80/tcp":[{"HostPort":"+8080"}]}`)},
		{"host-port", host(`"PortBindings":{"80/tcp":[{"HostIp":"fe80::1%eth0","HostPort":"8080"}]}`)},
		{"host-port", host(`"PortBindings":{"80/icmp":[{"HostPort":"8080"}]}`)},
		{"host-port", host(`"PortBindings":{"":[{"HostPort":"8080"}]}`)},
		{"exposed-port", `{"Image":"x","ExposedPorts":{"0/tcp":{}}}`},
		{"extra-hosts", host(`"ExtraHosts":["h:host-gateway6"]`)},
		{"extra-hosts", host(`"ExtraHosts":["h\n6.6.6.6 x:1.2.3.4"]`)},
		{"dns", host(`"DnsSearch":["a\nnameserver 6.6.6.6"]`)},
		{"dns", host(`"DnsOptions":["a b"]`)},
		{"dns", host(`"Dns":[""]`)},
		{"hostname", `{"Image":"x","Hostname":"a\nb"}`},
		{"hostname", `{"Image":"x","Domainname":"../x"}`},
		{"user", `{"Image":"x","User":"4294967296"}`},
		{"user", `{"Image":"x","User":"2147483648:0"}`},
		{"user", `{"Image":"x","User":"-1"}`},
		{"user", `{"Image":"x","User":"0:99999"}`},
		{"user", `{"Image":"x","User":"a:b:c"}`},
		{"user", `{"Image":"x","User":"root\nx"}`},
		{"env", `{"Image":"x","Env":["A\u0000=1"]}`},
		{"env", `{"Image":"x","Env":["=1"]}`},
		{"env", `{"Image":"x","Env":[""]}`},
		{"arguments", `{"Image":"x","Cmd":["a\u0000b"]}`},
		{"arguments", `{"Image":"x","Healthcheck":{"Test":["CMD","\u0000"]}}`},
		{"working-dir", `{"Image":"x","WorkingDir":"relative"}`},
		{"working-dir", `{"Image":"x","WorkingDir":"/a/../b"}`},
		{"working-dir", `{"Image":"x","WorkingDir":"/proc/self/fd/8/../../.."}`},
		{"volume-path", `{"Image":"x","Volumes":{"/etc:/x":{}}}`},
		{"volume-path", `{"Image":"x","Volumes":{"/":{}}}`},
		{"stop-signal", `{"Image":"x","StopSignal":"KILL; rm"}`},
		{"health-interval", `{"Image":"x","Healthcheck":{"Interval":1000}}`},
		{"health-interval", `{"Image":"x","Healthcheck":{"Retries":-1}}`},

		{"bind", host(`"Binds":["/etc:/x:rshared"]`)},
		{"bind", host(`"Binds":["/etc:/x:slave,ro"]`)},
		{"bind", host(`"Binds":["/etc:/x:RO"]`)},
		{"bind", host(`"Binds":["/a/../etc:/x"]`)},
		{"bind", host(`"Binds":["/etc"]`)},
		{"bind", host(`"Binds":["/a:/b:/c:ro"]`)},
		{"volume-ref", host(`"Binds":["../etc:/x"]`)},
		{"volume-ref", host(`"Binds":["./x:/x"]`)},
		{"volume-ref", host(`"Binds":["a/b:/x"]`)},
		{"volume-ref", host(`"Binds":[":/x"]`)},
		{"mount-target", host(`"Binds":["/a:/"]`)},
		{"mount-target", host(`"Binds":["/a:x"]`)},
		{"mount-target", host(`"Binds":["/a:/x/../.."]`)},
		{"mount-target", host(`"Binds":["/a:/x","/b:/x/"]`)},
		{"mount-target", host(`"Binds":["/a:/t"],"Mounts":[{"Type":"tmpfs","Target":"/t"}]`)},
		{"mount-target", host(`"Binds":["/a:/t"],"Tmpfs":{"/t":""}`)},
		{"bind", mounts(`"Type":"bind","Source":"relative"`)},
		{"bind", mounts(`"Type":"bind"`)},
		{"bind", mounts(`"Type":"bind","Source":"/a\u0000b"`)},
		{"bind", mounts(`"Type":"bind","Source":"/a","BindOptions":{"Propagation":"rshared"}`)},
		{"bind", mounts(`"Type":"bind","Source":"/a","Consistency":"odd"`)},
		{"mount-type", mounts(`"Type":"","Source":"/a"`)},
		{"mount-type", mounts(`"Type":"Bind","Source":"/a"`)},
		{"mount-type", mounts(`"Type":"volume","Source":"vol","ImageOptions":{"Subpath":"x"}`)},
		{"mount-image", mounts(`"Type":"image"`)},
		{"mount-image", mounts(`"Type":"image","Source":"a\nb"`)},
		{"image-subpath", mounts(`"Type":"image","Source":"busybox","ImageOptions":{"Subpath":"../x"}`)},
		{"image-subpath", mounts(`"Type":"image","Source":"busybox","ImageOptions":{"Subpath":"/x"}`)},
		{"image-subpath", mounts(`"Type":"image","Source":"busybox","ImageOptions":{"Subpath":"a\u0000"}`)},
		{"mount-type", mounts(`"Type":"cluster","Source":"x"`)},
		{"mount-type", mounts(`"Type":"npipe","Source":"x"`)},
		{"mount-type", mounts(`"Type":"bind","Source":"/a","VolumeOptions":{}`)},
		{"mount-type", mounts(`"Type":"volume","Source":"vol","BindOptions":{"Propagation":"shared"}`)},
		{"mount-type", mounts(`"Type":"tmpfs","ImageOptions":{"Subpath":"x"}`)},
		{"volume-driver", host(`"VolumeDriver":"nfs"`)},
		{"volume-driver", mounts(`"Type":"volume","VolumeOptions":{"DriverConfig":{"Name":"local","Options":{"type":"none","o":"bind","device":"/"}}}`)},
		{"volume-driver", mounts(`"Type":"volume","VolumeOptions":{"DriverConfig":{"Name":"other"}}`)},
		{"volume-subpath", mounts(`"Type":"volume","Source":"vol","VolumeOptions":{"Subpath":"../x"}`)},
		{"volume-subpath", mounts(`"Type":"volume","Source":"vol","VolumeOptions":{"Subpath":"/x"}`)},
		{"volume-subpath", mounts(`"Type":"volume","Source":"vol","VolumeOptions":{"Subpath":"x/.."}`)},
		{"volume-subpath", mounts(`"Type":"volume","Source":"vol","VolumeOptions":{"Subpath":"."}`)},
		{"volume-subpath", mounts(`"Type":"volume","Source":"vol","VolumeOptions":{"Subpath":"a\nb"}`)},
		{"bind-readonly", mounts(`"Type":"bind","Source":"/a","BindOptions":{"ReadOnlyNonRecursive":true}`)},
		{"bind-readonly", mounts(`"Type":"bind","Source":"/a","ReadOnly":true,"BindOptions":{"ReadOnlyNonRecursive":true,"ReadOnlyForceRecursive":true}`)},
		{"bind-readonly", mounts(`"Type":"bind","Source":"/a","BindOptions":{"ReadOnlyForceRecursive":true}`)},
		{"bind-readonly", mounts(`"Type":"bind","Source":"/a","ReadOnly":true,"BindOptions":{"NonRecursive":true,"ReadOnlyForceRecursive":true}`)},
		{"volume-ref", mounts(`"Type":"volume","Source":"/etc"`)},
		{"tmpfs-options", host(`"Tmpfs":{"/t":"size=1,context=evil"}`)},
		{"tmpfs-options", host(`"Tmpfs":{"/t":"suid"}`)},
		{"tmpfs-options", mounts(`"Type":"tmpfs","TmpfsOptions":{"Options":[["dev"]]}`)},
		{"tmpfs-options", mounts(`"Type":"tmpfs","TmpfsOptions":{"SizeBytes":-1}`)},
		{"tmpfs-options", mounts(`"Type":"tmpfs","TmpfsOptions":{"Mode":2049}`)},
	} {
		_, binds, err := create(t, policy.Caller{}, tc.body)
		var r *refusal.Refusal
		if !errors.As(err, &r) {
			t.Errorf("%s: allowed, want rule %s", tc.body, tc.rule)
			continue
		}
		if r.Rule != tc.rule || r.Status != http.StatusForbidden || !strings.Contains(r.Text, "rule "+tc.rule) {
			t.Errorf("%s: rule %s status %d %q, want rule %s", tc.body, r.Rule, r.Status, r.Text, tc.rule)
		}
		if binds != nil {
			t.Errorf("%s: refused, yet with binds", tc.body)
		}
	}
}

func TestAllowed(t *testing.T) {
	for _, body := range []string{
		`{"Image":"x"}`,
		host(`"IpcMode":"private","CgroupnsMode":"private","NetworkMode":"none"`),
		host(`"PidMode":"container:abc","IpcMode":"container:a.b-c_d","NetworkMode":"container:/abc"`),
		`{"Image":"x","HostConfig":{"NetworkMode":"container:abc"},"NetworkingConfig":{"EndpointsConfig":{"container:abc":{"MacAddress":"02:00:00:00:00:01"}}}}`,
		host(`"SecurityOpt":["no-new-privileges:true","seccomp=builtin"]`),
		host(`"SecurityOpt":["seccomp={\"defaultAction\":\"SCMP_ACT_ALLOW\"}"]`),
		host(`"Sysctls":{"net.ipv4.ip_unprivileged_port_start":"0","net.ipv4.ping_group_range":"0 1"}`),
		host(`"PortBindings":{"80/tcp":[{"HostPort":"80"},{"HostIp":"127.0.0.1","HostPort":"8000-8010"},{"HostPort":""},{"HostPort":"0"}]}`),
		host(`"VolumesFrom":["one","/two:ro","0123456789ab:rw"]`),
		`{"Image":"x","NetworkingConfig":{"EndpointsConfig":{"bridge":{"MacAddress":"0a:00:00:00:00:01"}}}}`,
		host(`"ExtraHosts":["h:host-gateway","a:1.2.3.4","b:::1","c=[::1]"]`),
		host(`"LogConfig":{"Type":"local","Config":{"max-size":"1m"}},"Runtime":"crun","OomKillDisable":false,"OomScoreAdj":500`),
		host(`"Tmpfs":{"/t":"","/u":"rw,noexec,size=64m,mode=1777"},"Mounts":[{"Type":"tmpfs","Target":"/v","TmpfsOptions":{"SizeBytes":1,"Mode":1023,"Options":[["noexec"]]}}]`),
		host(`"Ulimits":[{"Name":"nofile","Hard":-1,"Soft":10},{"Name":"core","Hard":0,"Soft":0}],"RestartPolicy":{"Name":"on-failure","MaximumRetryCount":3}`),
		mounts(`"Type":"volume","VolumeOptions":{"NoCopy":true,"DriverConfig":{"Name":"local"}}`),
		mounts(`"Type":"volume","Source":"vol","VolumeOptions":{"Subpath":"a/b..c/d"}`),
		mounts(`"Type":"bind","Source":"/a","BindOptions":{"NonRecursive":true,"Propagation":"rprivate"}`),
		mounts(`"Type":"bind","Source":"/a","ReadOnly":true,"BindOptions":{"ReadOnlyForceRecursive":true,"Propagation":"rprivate"}`),
		mounts(`"Type":"bind","Source":"/a","ReadOnly":true,"BindOptions":{"ReadOnlyNonRecursive":true}`),
		mounts(`"Type":"image","Source":"registry.example:5000/a/b:tag@sha256:0000000000000000000000000000000000000000000000000000000000000000","ImageOptions":{"Subpath":"a/b"}`),
		`{"Image":"x","User":"1000:users","Env":["A=b","UNSET"],"WorkingDir":"/a/b","Volumes":{"/data":{}},"StopSignal":"SIGRTMIN+3","Healthcheck":{"Test":["CMD","x"],"Interval":1000000000}}`,
	} {
		if _, _, err := create(t, policy.Caller{}, body); err != nil {
			t.Errorf("%s: %v", body, err)
		}
	}
}

func TestCanonical(t *testing.T) {
	got, binds, err := create(t, policy.Caller{}, `{"Image":"x","HostConfig":{
		"Binds":["/data//a/:/x:ro","vol:/y","/b:/z:z"],
		"Mounts":[{"Type":"bind","Source":"/c/","Target":"/w","BindOptions":{"CreateMountpoint":true}},{"Type":"bind","Source":"/d","Target":"/v","ReadOnly":true}],
		"CapAdd":["chown","CAP_KILL"],"CapDrop":["all","net_raw"],"SecurityOpt":["no-new-privileges:true","seccomp:{ \"syscalls\": null }"],
		"PidsLimit":0,"MemorySwappiness":-1,"ContainerIDFile":"/x"},
		"NetworkingConfig":{"EndpointsConfig":{"default":{"NetworkID":"n","IPAddress":"172.30.0.9","GwPriority":3}}}}`)
	if err != nil {
		t.Fatal(err)
	}
	wantBinds := []policy.Bind{{Source: "/data/a", ReadOnly: true, Create: true}, {Source: "/b", Create: true}, {Source: "/c", Create: true}, {Source: "/d", ReadOnly: true}}
	if d := cmp.Diff(wantBinds, binds); d != "" {
		t.Errorf("binds (-want +got):\n%s", d)
	}
	h := got.HostConfig
	if d := cmp.Diff([]string{"/data/a:/x:ro", "vol:/y", "/b:/z:z"}, h.Binds); d != "" {
		t.Errorf("Binds (-want +got):\n%s", d)
	}
	if h.Mounts[0].Source != "/c" || h.PidsLimit != nil || h.MemorySwappiness != nil || h.ContainerIDFile != "" {
		t.Errorf("not canonical: %+v", h)
	}
	if d := cmp.Diff([][]string{{"CAP_CHOWN", "CAP_KILL"}, {"ALL", "CAP_NET_RAW"}, {"no-new-privileges", `seccomp={"syscalls":null}`}}, [][]string{h.CapAdd, h.CapDrop, h.SecurityOpt}); d != "" {
		t.Errorf("names (-want +got):\n%s", d)
	}
	e := got.NetworkingConfig.EndpointsConfig["default"]
	if e.NetworkID != "" || e.IPAddress.IsValid() || e.GwPriority != 3 {
		t.Errorf("endpoint not cleared: %+v", e)
	}
}

func TestRootAndAdministrators(t *testing.T) {
	root := policy.Caller{Root: true, Admin: true}
	for body, rule := range map[string]string{
		host(`"Binds":["/etc:/x"]`):               "bind-root",
		host(`"Binds":["/srvx:/x"]`):              "bind-root",
		mounts(`"Type":"bind","Source":"/"`):      "bind-root",
		host(`"Binds":["/srv:/x"]`):               "",
		mounts(`"Type":"bind","Source":"/srv/a"`): "",
		host(`"Privileged":true`):                 "privileged",
		host(`"PidMode":"host"`):                  "namespaces",
		host(`"PidsLimit":-1`):                    "",
	} {
		_, _, err := create(t, root, body)
		if got := rule; err != nil && refusal.Of(err).Rule != got || err == nil && got != "" {
			t.Errorf("%s: %v, want rule %q", body, err, rule)
		}
	}
	if _, _, err := create(t, policy.Caller{Admin: true}, host(`"Binds":["/home/me:/x"]`)); err != nil {
		t.Errorf("a bind of an administrator who is not root: %v", err)
	}
}

// SECURITY(T-203) SECURITY(T-308): every other way to get what a creation would not give.
func TestOtherRequests(t *testing.T) {
	for _, tc := range []struct {
		name, rule string
		err        error
	}{
		{"no configuration", "decode", func() error { _, err := config.Create(policy.Caller{}, &container.CreateRequest{}); return err }()},
		{"exec", "", config.Exec(policy.Caller{}, &container.ExecCreateRequest{Cmd: []string{"ls"}, User: "root", Env: []string{"A=1"}})},
		{"exec privileged", "exec-privileged", config.Exec(policy.Caller{Root: true, Admin: true}, &container.ExecCreateRequest{Privileged: true})},
		{"exec user", "exec-user", config.Exec(policy.Caller{}, &container.ExecCreateRequest{User: "70000"})},
		{"exec env", "exec-env", config.Exec(policy.Caller{}, &container.ExecCreateRequest{Env: []string{"\x00"}})},
		{"exec folder", "exec-arguments", config.Exec(policy.Caller{}, &container.ExecCreateRequest{WorkingDir: "/../x"})},
		{"update", "", config.Update(policy.Caller{}, &container.UpdateConfig{Resources: container.Resources{Memory: 1000}})},
		{"update of devices", "devices", config.Update(policy.Caller{Root: true, Admin: true}, &container.UpdateConfig{Resources: container.Resources{Devices: []container.DeviceMapping{{PathOnHost: "/dev/sda"}}}})},
		{"update of the cgroup", "cgroup-parent", config.Update(policy.Caller{}, &container.UpdateConfig{Resources: container.Resources{CgroupParent: "/"}})},
		{"update to no limit", "pids-limit", config.Update(policy.Caller{}, &container.UpdateConfig{Resources: container.Resources{PidsLimit: new(int64(0))}})},
		{"update to no limit by an administrator", "", config.Update(policy.Caller{Admin: true}, &container.UpdateConfig{Resources: container.Resources{PidsLimit: new(int64(0))}})},
		{"update of the OOM killer", "oom", config.Update(policy.Caller{}, &container.UpdateConfig{Resources: container.Resources{OomKillDisable: new(true)}})},
		{"volume", "", config.Volume(policy.Caller{}, &volume.CreateRequest{Name: "vv", Driver: "local", Labels: map[string]string{"a": "b"}})},
		{"volume mount(8)", "volume-options", config.Volume(policy.Caller{}, &volume.CreateRequest{Driver: "local", DriverOpts: map[string]string{"type": "none", "o": "bind", "device": "/"}})},
		{"volume driver", "volume-options", config.Volume(policy.Caller{}, &volume.CreateRequest{Driver: "nfs"})},
		{"cluster volume", "volume-options", config.Volume(policy.Caller{}, &volume.CreateRequest{ClusterVolumeSpec: &volume.ClusterVolumeSpec{}})},
		{"volume name", "volume-name", config.Volume(policy.Caller{}, &volume.CreateRequest{Name: "../x"})},
		{"commit", "", config.Commit(policy.Caller{}, nil)},
		{"commit user", "user", config.Commit(policy.Caller{}, &container.Config{User: "4294967296"})},
		{"import", "", policy.Import("", "-")},
		{"pull", "", policy.Import("busybox", "")},
		{"import of a URL", "import-url", policy.Import("", "http://169.254.169.254/")},
		{"import of both", "decode", policy.Import("busybox", "-")},
		{"import of nothing", "decode", policy.Import("", "")},
	} {
		if tc.err == nil && tc.rule == "" {
			continue
		}
		if tc.err == nil || refusal.Of(tc.err).Rule != tc.rule {
			t.Errorf("%s: %v, want rule %q", tc.name, tc.err, tc.rule)
		}
	}
}

// Every rule must be able to refuse something, and no two rules share an identifier.
func TestRulesAreNamedOnce(t *testing.T) {
	seen := map[string]bool{}
	for _, r := range policy.Rules() {
		if seen[r.ID] || r.Remedy == "" || !strings.HasPrefix(r.Threat, "T-") || len(r.Fields) == 0 {
			t.Errorf("rule %+v", r)
		}
		seen[r.ID] = true
	}
}

// What docker run sends must pass unchanged in meaning.
func TestRealClients(t *testing.T) {
	for _, name := range []string{"docker-28.2.2-run.json", "docker-29.9.3-run.json"} {
		data, err := os.ReadFile("testdata/" + name)
		if err != nil {
			t.Fatal(err)
		}
		got, binds, err := create(t, policy.Caller{}, string(data))
		if err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		if len(binds) != 2 || got.Config.Healthcheck == nil || got.HostConfig.Memory != 10485760 {
			t.Errorf("%s: %+v, binds %v", name, got, binds)
		}
		again, err := json.Marshal(got)
		if err != nil {
			t.Fatal(err)
		}
		if _, _, err := create(t, policy.Caller{}, string(again)); err != nil {
			t.Errorf("%s: our own encoding is refused: %v", name, err)
		}
	}
}
