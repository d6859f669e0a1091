#!/bin/bash
# What "make test" does: all suites one after the other, a failed test once more, and a last line with the sum.
#   test.sh all | unit | root | e2e | attack | fault | compat
# compat, the comparison with Docker's daemon, is no part of all: it needs that daemon ("make peer", or docker.io) and iptables.
set -uo pipefail
cd "$(dirname "$0")/.."
suites=("${1:-all}")
[[ ${suites[0]} == all ]] && suites=(unit root e2e attack fault)
if ((EUID != 0)) && [[ ${suites[*]} != unit ]]; then
	echo "test.sh: needs root: it makes namespaces, mounts and users; \"make check\" does without" >&2
	exit 2
fi
export GOFLAGS=-buildvcs=false CGO_ENABLED=0
scripts/packages.sh test && scripts/users.sh && scripts/tools.sh test && make --no-print-directory build || exit 1

out=$(mktemp -d)
trap 'rm -rf "$out"' EXIT
export LINT_FAILURES=$out/lint
failed=0
# Whole-server and root suites run their packages one by one: they share the kernel's names.
suite() { # name, packages…
	local name=$1
	shift
	if (($# == 0)); then
		echo "== $name: no packages"
		return
	fi
	echo "== $name"
	bin/gotestsum --format pkgname-and-test-fails --hide-summary=skipped --jsonfile "$out/$name.json" \
		--rerun-fails=1 --rerun-fails-max-failures=5 --packages "$*" -- -count=1 -p 1 -timeout 30m -tags root || failed=1
}
for s in "${suites[@]}"; do
	case $s in
	unit) scripts/check.sh "$out/unit.json" || failed=1 ;;
	root)
		mapfile -t dirs < <(git grep -lE '^//go:build .*\broot\b' -- '*_test.go' | grep -v '^test/' | xargs -r -n1 dirname | sort -u | sed 's#^#./#')
		suite root "${dirs[@]}"
		;;
	e2e | attack | fault | compat)
		mapfile -t dirs < <(go list -tags root "./test/$s/..." 2>/dev/null)
		suite "$s" "${dirs[@]}"
		;;
	*) echo "test.sh: unknown suite $s" >&2 && exit 2 ;;
	esac
done
go run ./scripts/testsum -lint "$LINT_FAILURES" "$out"/*.json | tee "$out/sum" || failed=1
tail -n 1 "$out/sum" >bin/test-counts
exit $failed
