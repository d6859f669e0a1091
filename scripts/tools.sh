#!/bin/bash
# Builds the pinned tools of tools/*/go.mod into bin/, only those that are missing.
#   tools.sh run    the OCI runtime
#   tools.sh check  gotestsum, staticcheck
#   tools.sh test   all, with the Docker client of the newest major version
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
case ${1:-test} in
run) runc ;;
check) check ;;
test) runc && check && docker ;;
*) echo "usage: tools.sh [run|check|test]" >&2 && exit 2 ;;
esac
