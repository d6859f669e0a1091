package decode

import "stockade/gate/route"

// legacy lists what clients send although the API's types no longer have it: by operation, the newest API version in
// which the field may occur ("" for any), and what may be dropped.
var legacy = map[string][]struct {
	path  string
	until string
	drop  Drop
}{
	"ContainerCreate": {
		{"MacAddress", "1.51", WhenEmpty},                 // docker CLI before 25, docker-py; belongs into EndpointsConfig since 1.44
		{"Runtime", "", WhenEmpty},                        // docker-py
		{"HostConfig.KernelMemory", "1.41", WhenEmpty},    // docker CLI before 23, docker-java
		{"HostConfig.KernelMemoryTCP", "1.41", WhenEmpty}, // docker CLI before 23
		{"HostConfig.Capabilities", "1.40", WhenEmpty},    // docker CLI 19.03
		{"HostConfig.DiskQuota", "", WhenEmpty},           // docker-java
	},
	"ContainerExec": {
		{"Detach", "", Always},    // docker CLI before 29; ExecStart says it again
		{"Container", "", Always}, // docker-py; the path names the container
	},
	"SystemAuth": {
		{"email", "", Always}, // docker-py
	},
}

// legacyFields selects what is legacy for one request.
func legacyFields(op, version string) Legacy {
	out := Legacy{}
	for _, l := range legacy[op] {
		if l.until == "" || version != "" && !route.VersionLess(l.until, version) {
			out[l.path] = l.drop
		}
	}
	return out
}
