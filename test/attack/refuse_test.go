//go:build root

package attack

import (
	"strings"
	"testing"

	"stockade/test/harness"
)

// T-301 T-302 T-303 T-304 T-305 T-306 T-307 T-308 T-501: what would give a container more than itself, by the real
// client. Each refusal names the field, the rule and what to do instead, and leaves nothing behind.
func TestRefusalsByClient(t *testing.T) {
	s := harness.Get(t)
	before := objects(t, s)
	for _, c := range []struct{ args, field, rule string }{
		{"--privileged", "HostConfig.Privileged", "privileged"},
		{"--cap-add=ALL", "HostConfig.CapAdd", "cap-add"},
		{"--cap-add=cap_sys_admin", "HostConfig.CapAdd", "cap-add"},
		{"--cap-add=SYS_PTRACE", "HostConfig.CapAdd", "cap-add"},
		{"--security-opt=seccomp=unconfined", "HostConfig.SecurityOpt", "security-opt"},
		{"--security-opt=apparmor=unconfined", "HostConfig.SecurityOpt", "security-opt"},
		{"--security-opt=no-new-privileges=false", "HostConfig.SecurityOpt", "security-opt"},
		{"--security-opt=systempaths=unconfined", "HostConfig.MaskedPaths", "masked-paths"},
		{"--device=/dev/null", "HostConfig.Devices", "devices"},
		{"--device-cgroup-rule=a *:* rwm", "HostConfig.DeviceCgroupRules", "devices"},
		{"--gpus=all", "HostConfig.DeviceRequests", "devices"},
		{"--device-read-bps=/dev/sda:1mb", "HostConfig.BlkioDeviceReadBps", "block-devices"},
		{"--pid=host", "HostConfig.PidMode", "namespaces"},
		{"--ipc=host", "HostConfig.IpcMode", "namespaces"},
		{"--uts=host", "HostConfig.UTSMode", "namespaces"},
		{"--userns=host", "HostConfig.UsernsMode", "namespaces"},
		{"--cgroupns=host", "HostConfig.CgroupnsMode", "namespaces"},
		{"--network=host", "HostConfig.NetworkMode", "network-mode"},
		{"--network=container:../../1", "HostConfig.NetworkMode", "network-mode"},
		{"--pid=container:../../1", "HostConfig.PidMode", "namespaces"},
		{"--ipc=container:../../1", "HostConfig.IpcMode", "namespaces"},
		{"--cgroup-parent=/", "HostConfig.CgroupParent", "cgroup-parent"},
		{"--annotation=run.oci.keep_original_groups=1", "HostConfig.Annotations", "annotations"},
		{"--runtime=/usr/bin/evil", "HostConfig.Runtime", "runtime"},
		{"--sysctl=net.ipv4.ip_forward=1", "HostConfig.Sysctls", "sysctls"},
		{"--group-add=65536", "HostConfig.GroupAdd", "group-add"},
		{"--user=4294967296", "User", "user"},
		{"--user=-1", "User", "user"},
		{"--oom-score-adj=-1000", "HostConfig.OomScoreAdj", "oom"},
		{"--oom-kill-disable", "HostConfig.OomKillDisable", "oom"},
		{"--pids-limit=-1", "HostConfig.PidsLimit", "pids-limit"},
		{"--cpu-rt-runtime=1000", "HostConfig.CpuRealtimeRuntime", "realtime"},
		{"--storage-opt=size=1G", "HostConfig.StorageOpt", "storage-opt"},
		{"--log-driver=syslog", "HostConfig.LogConfig.Type", "log-driver"},
		{"--log-driver=gelf --log-opt=gelf-address=udp://169.254.169.254:80", "HostConfig.LogConfig.Type", "log-driver"},
		{"--publish=22:22", "HostConfig.PortBindings", "host-port"},
		{"--ip=10.231.0.1", "NetworkingConfig.EndpointsConfig", "endpoints"},
		{"--volumes-from=x:rshared", "HostConfig.VolumesFrom", "volumes-from"},
		{"--mac-address=00:1b:21:00:00:01", "NetworkingConfig.EndpointsConfig", "mac-address"},
		{"--link=x:y", "HostConfig.Links", "links"},
		{"--volume=/etc:/x:rshared", "HostConfig.Binds", "bind"},
		{"--mount=type=bind,src=/etc,dst=/x,bind-propagation=rshared", "HostConfig.Mounts[0].BindOptions.Propagation", "bind"},
		{"--mount=type=volume,dst=/x,volume-opt=type=none,volume-opt=o=bind,volume-opt=device=/", "HostConfig.Mounts[0].VolumeOptions.DriverConfig", "volume-driver"},
		{"--volume-driver=nfs", "HostConfig.VolumeDriver", "volume-driver"},
		{"--tmpfs=/t:suid", "HostConfig.Tmpfs", "tmpfs-options"},
		{"--workdir=/proc/self/fd/8/../..", "WorkingDir", "working-dir"},
	} {
		args := append([]string{"create"}, splitArgs(c.args)...)
		r := s.Docker(t, append(args, "busybox", "true")...)
		if r.Code == 0 || !strings.Contains(r.Stderr, c.field) || !strings.Contains(r.Stderr, "is not allowed here (rule "+c.rule+"): ") {
			t.Errorf("want field %s, rule %s and a remedy: %v", c.field, c.rule, r)
		}
		if after := objects(t, s); after != before {
			t.Fatalf("%s had an effect", c.args)
		}
	}
	r := s.Docker(t, "volume", "create", "--opt", "type=none", "--opt", "o=bind", "--opt", "device=/", "attack")
	if r.Code == 0 || !strings.Contains(r.Stderr, "(rule volume-options): ") || objects(t, s) != before {
		t.Error(r)
	}
	id := s.Must(t, "create", "--cap-drop=ALL", "--cap-add=CHOWN", "--security-opt=no-new-privileges", "--memory=64m", "--user=1000:100",
		"--group-add=33", "--pids-limit=50", "--network=none", "--log-driver=local", "--volume=attack-allowed:/x", "--tmpfs=/t:size=1m", "--workdir=/tmp", "busybox", "true")
	if objects(t, s) == before {
		t.Error("control: nothing was made")
	}
	s.Must(t, "rm", id)
	s.Must(t, "volume", "rm", "attack-allowed")
}

// splitArgs splits where another option begins.
func splitArgs(text string) []string {
	parts := strings.Split(text, " --")
	for i := range parts[1:] {
		parts[i+1] = "--" + parts[i+1]
	}
	return parts
}

// T-301 T-302 T-303 T-304 T-305 T-306 T-307: spellings that the client would not send.
func TestRefusalsByAPI(t *testing.T) {
	s := harness.Get(t)
	before := objects(t, s)
	for _, c := range []struct{ body, field, rule string }{
		{`"HostConfig":{"Binds":["/a/../etc:/x"]}`, "HostConfig.Binds", "bind"},
		{`"HostConfig":{"Binds":["../etc:/x"]}`, "HostConfig.Binds", "volume-ref"},
		{`"HostConfig":{"Binds":["/etc:/"]}`, "HostConfig.Binds", "mount-target"},
		{`"HostConfig":{"Mounts":[{"Type":"Bind","Source":"/etc","Target":"/x"}]}`, "HostConfig.Mounts[0].Type", "mount-type"},
		{`"HostConfig":{"Mounts":[{"Type":"volume","Source":"/etc","Target":"/x"}]}`, "HostConfig.Mounts[0].Source", "volume-ref"},
		{`"HostConfig":{"Mounts":[{"Type":"npipe","Source":"x","Target":"/x"}]}`, "HostConfig.Mounts[0].Type", "mount-type"},
		{`"HostConfig":{"Mounts":[{"Type":"image","Source":"busybox","Target":"/x","ImageOptions":{"Subpath":"../x"}}]}`, "HostConfig.Mounts[0].ImageOptions.Subpath", "image-subpath"},
		{`"HostConfig":{"Mounts":[{"Type":"volume","Source":"v1","Target":"/x","VolumeOptions":{"Subpath":"../x"}}]}`, "HostConfig.Mounts[0].VolumeOptions.Subpath", "volume-subpath"},
		{`"HostConfig":{"Mounts":[{"Type":"volume","Source":"v1","Target":"/x","VolumeOptions":{"DriverConfig":{"Name":"local","Options":{"type":"nfs","o":"addr=10.0.0.1","device":":/"}}}}]}`, "HostConfig.Mounts[0].VolumeOptions.DriverConfig", "volume-driver"},
		{`"HostConfig":{"MaskedPaths":[]}`, "HostConfig.MaskedPaths", "masked-paths"},
		{`"HostConfig":{"ReadonlyPaths":[]}`, "HostConfig.ReadonlyPaths", "masked-paths"},
		{`"HostConfig":{"SecurityOpt":["seccomp:unconfined"]}`, "HostConfig.SecurityOpt", "security-opt"},
		{`"HostConfig":{"SecurityOpt":["seccomp=/etc/profile.json"]}`, "HostConfig.SecurityOpt", "security-opt"},
		{`"HostConfig":{"CapAdd":["all"]}`, "HostConfig.CapAdd", "cap-add"},
		{`"HostConfig":{"NetworkMode":"ns:/proc/1/ns/net"}`, "HostConfig.NetworkMode", "network-mode"},
		{`"NetworkingConfig":{"EndpointsConfig":{"host":{}}}`, "NetworkingConfig.EndpointsConfig", "endpoints"},
		{`"NetworkingConfig":{"EndpointsConfig":{"bridge":{"DriverOpts":{"com.docker.network.endpoint.sysctls":"net.ipv4.conf.IFNAME.forwarding=1"}}}}`, "NetworkingConfig.EndpointsConfig.bridge.DriverOpts", "endpoints"},
		{`"HostConfig":{"DeviceRequests":[{"Driver":"cdi","DeviceIDs":["vendor.com/x=all"]}]}`, "HostConfig.DeviceRequests", "devices"},
		{`"HostConfig":{"Memory":-1}`, "HostConfig.Memory", "resources"},
		{`"HostConfig":{"Ulimits":[{"Name":"nofile","Hard":1,"Soft":-1}]}`, "HostConfig.Ulimits", "ulimits"},
		{`"HostConfig":{"PortBindings":{"80/tcp":[{"HostPort":"079"}]}}`, "HostConfig.PortBindings", "host-port"},
		{`"HostConfig":{"PortBindings":{"80/tcp":[{"HostPort":"1000-2000"}]}}`, "HostConfig.PortBindings", "host-port"},
		{`"HostConfig":{"ExtraHosts":["h\n6.6.6.6 x:1.2.3.4"]}`, "HostConfig.ExtraHosts", "extra-hosts"},
		{`"HostConfig":{"LogConfig":{"Type":"json-file","Config":{"syslog-address":"x"}}}`, "HostConfig.LogConfig.Config", "log-driver"},
		{`"Hostname":"a\nb"`, "Hostname", "hostname"},
		{`"Env":["A\u0000=1"]`, "Env", "env"},
		{`"Volumes":{"/etc:/x":{}}`, "Volumes", "volume-path"},
		{`"Healthcheck":{"Test":["CMD","true"],"Interval":1000}`, "Healthcheck.Interval", "health-interval"},
	} {
		r := s.API(t, s.User, "POST", "/v1.51/containers/create", `{"Image":"busybox",`+c.body+`}`)
		if r.Status != 403 || !strings.Contains(r.Body, c.field) || !strings.Contains(r.Body, "is not allowed here (rule "+c.rule+"): ") {
			t.Errorf("%s: want field %s, rule %s and a remedy: %d %s", c.body, c.field, c.rule, r.Status, r.Body)
		}
		if after := objects(t, s); after != before {
			t.Fatalf("%s had an effect", c.body)
		}
	}
	r := s.API(t, s.User, "POST", "/v1.51/containers/create", `{"Image":"busybox","HostConfig":{"Memory":16777216,"MaskedPaths":null}}`)
	if r.Status != 201 {
		t.Fatalf("control: %+v", r)
	}
	s.Must(t, "rm", field(t, r.Body, "Id"))
}
