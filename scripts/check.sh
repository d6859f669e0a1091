#!/bin/bash
# What "make check" does: format, vet, staticcheck, unit tests and import rules. Needs no root and no network but the
# module proxy. With a file name as argument the test events are written there.
set -uo pipefail
cd "$(dirname "$0")/.."
export GOFLAGS=-buildvcs=false CGO_ENABLED=0
failed=0
step() {
	local name=$1
	shift
	echo "== $name"
	"$@" || {
		echo "== $name: FAILED"
		echo "$name" >>"${LINT_FAILURES:-/dev/null}"
		failed=1
	}
}
format() {
	local out
	out=$(git ls-files -z '*.go' | xargs -0 gofmt -l)
	[[ -z $out ]] || {
		echo "$out"
		return 1
	}
}
step gofmt format
step vet go vet ./...
step "vet (root)" go vet -tags root ./...
step staticcheck bin/staticcheck -tags root ./...
json=${1:-$(mktemp)}
echo "== unit"
bin/gotestsum --format pkgname-and-test-fails --hide-summary=skipped --jsonfile "$json" -- -count=1 ./... || failed=1
exit $failed
