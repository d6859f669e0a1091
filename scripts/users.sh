#!/bin/bash
# Makes the system users, the group and the range of subordinate ids that Stockade runs with. Does nothing twice.
#   users.sh        users stockade-*, group stockade, subordinate ids of stockade-engine
#   users.sh demo   also the ordinary users of "make run": stockade-demo (in the group), stockade-outsider (not)
set -euo pipefail
first=1879048192 # 0x70000000: above what systemd and useradd hand out, below the ids kept for "everybody else"
count=33554432   # 512 blocks of 65536 ids: the store's and 511 running containers
getent group stockade >/dev/null || groupadd --system stockade
for name in gate engine mountd grantd netd cgroupd; do
	getent group "stockade-$name" >/dev/null || groupadd --system "stockade-$name"
	getent passwd "stockade-$name" >/dev/null ||
		useradd --system --gid "stockade-$name" --no-create-home --home-dir /nonexistent --shell /usr/sbin/nologin "stockade-$name"
done
for file in /etc/subuid /etc/subgid; do
	touch "$file"
	grep -q '^stockade-engine:' "$file" || echo "stockade-engine:$first:$count" >>"$file"
done
if [[ ${1:-} == demo ]]; then
	getent passwd stockade-demo >/dev/null || useradd --create-home --shell /bin/bash stockade-demo
	getent passwd stockade-outsider >/dev/null || useradd --create-home --shell /bin/bash stockade-outsider
	id -nG stockade-demo | tr ' ' '\n' | grep -qx stockade || usermod -aG stockade stockade-demo
fi
