#!/bin/bash
# Installs the Debian packages that are missing. "packages.sh test" adds what only the tests and comparisons need.
set -euo pipefail
want=(busybox-static nftables iproute2 libseccomp-dev gcc libc6-dev pkg-config util-linux make git ca-certificates curl)
if [[ ${1:-} == test ]]; then
	want+=(docker.io docker-registry iptables acl libcap2-bin crun)
fi
missing=()
for p in "${want[@]}"; do
	dpkg-query -W -f '${db:Status-Status}\n' "$p" 2>/dev/null | grep -qx installed || missing+=("$p")
done
((${#missing[@]})) || exit 0
echo "packages: installing ${missing[*]}"
export DEBIAN_FRONTEND=noninteractive RUNLEVEL=1
# No service of these packages may start by itself: the Docker daemon is only a peer to compare with.
policy=/usr/sbin/policy-rc.d
if [[ ! -e $policy ]]; then
	printf '#!/bin/sh\nexit 101\n' >"$policy"
	chmod 755 "$policy"
	trap 'rm -f "$policy"' EXIT
fi
apt-get update -qq
apt-get install -y -qq --no-install-recommends "${missing[@]}" >/dev/null
