#!/bin/bash
# Builds the pinned tools of tools/*/go.mod into bin/, only those that are missing.
#   tools.sh run    the OCI runtime
#   tools.sh check  gotestsum, staticcheck
#   tools.sh test   all, with the Docker client of the newest major version and a second OCI runtime
#   tools.sh peer   a Docker daemon of that version with its containerd, into bin/peer/: only measurements use it
set -euo pipefail
cd "$(dirname "$0")/.."
root=$PWD
mkdir -p bin
export GOFLAGS=-buildvcs=false
build() { # module folder, output, arguments of go build…
	local mod=$1 out=$root/bin/$2
	shift 2
	[[ -x $out ]] && return 0
	echo "tools: building $out"
	(cd "tools/$mod" && go build -trimpath -o "$out" "$@")
}
runc() {
	# Static, with seccomp; without runc's default libpathrs, which is a Rust library.
	CGO_ENABLED=1 build runc runc -tags seccomp -ldflags '-s -w -X main.version=1.5.2 -extldflags -static' github.com/opencontainers/runc
}
check() {
	CGO_ENABLED=0 build check gotestsum gotest.tools/gotestsum
	CGO_ENABLED=0 build check staticcheck honnef.co/go/tools/cmd/staticcheck
}
docker() {
	# The client has no go.mod, so the compiler would take it for Go 1.16: -lang says otherwise.
	CGO_ENABLED=0 build docker docker29 -gcflags 'github.com/docker/cli/...=-lang=go1.26' -tags osusergo,netgo \
		-ldflags '-s -w -X github.com/docker/cli/cli/version.Version=29.9.3' github.com/docker/cli/cmd/docker
}
peer() {
	local moby=2.0.0-beta.24 containerd=2.4.2
	# Upstream's build tags, less snapshotters that need headers or modules which few hosts have. The daemon's version is
	# that of the module; both look for the OCI runtime, the shim and the proxy in PATH.
	mkdir -p bin/peer
	local tags=netgo,osusergo,static_build,nri_no_wasm,exclude_graphdriver_btrfs,exclude_graphdriver_zfs
	CGO_ENABLED=0 build peer/moby peer/dockerd -tags "$tags" -ldflags "-s -w -X github.com/moby/moby/v2/dockerversion.Version=$moby" \
		github.com/moby/moby/v2/cmd/dockerd
	CGO_ENABLED=0 build peer/moby peer/docker-proxy -ldflags '-s -w' github.com/moby/moby/v2/cmd/docker-proxy
	tags=urfave_cli_no_docs,no_btrfs,no_devmapper,no_zfs,static_build
	CGO_ENABLED=0 build peer/containerd peer/containerd -tags "$tags" -ldflags "-s -w -X github.com/containerd/containerd/v2/version.Version=$containerd" \
		github.com/containerd/containerd/v2/cmd/containerd
	CGO_ENABLED=0 build peer/containerd peer/containerd-shim-runc-v2 -tags "$tags,no_grpc" -ldflags '-s -w' \
		github.com/containerd/containerd/v2/cmd/containerd-shim-runc-v2
	ln -sfn ../runc bin/peer/runc
}
crun() {
	# A second OCI runtime, for tests of --runtime only: the distribution's.
	install -m 0755 scripts/crun.sh "$root/bin/crun"
}
case ${1:-test} in
run) runc ;;
check) check ;;
test) runc && check && docker && crun ;;
peer) runc && docker && peer ;;
*) echo "usage: tools.sh [run|check|test|peer]" >&2 && exit 2 ;;
esac
