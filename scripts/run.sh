#!/bin/bash
# What "make run" does: installs what is missing, builds, starts the server under its supervisor and shows it. Can be
# repeated; asks nothing. "make stop" ends the server.
set -euo pipefail
cd "$(dirname "$0")/.."
if ((EUID != 0)); then
	echo "make run: needs root: the launcher makes users, a user namespace and mounts, and gives each process its own user" >&2
	exit 2
fi
libexec=/usr/local/libexec/stockade
log=/var/log/stockade.log
socket=/run/stockade/docker.sock
say() { printf '\n\033[1m== %s\033[0m\n' "$*"; }

say "packages, users, build"
scripts/packages.sh
scripts/users.sh demo
if "$libexec/stockade" status >/dev/null 2>&1; then
	echo "stopping the server that runs already"
	"$libexec/stockade" down
fi
# A client: the machine's own, or the newest one built from source.
client=$(command -v docker || true)
if [[ -z $client ]]; then
	scripts/tools.sh test
	client=$PWD/bin/docker29
fi
make --no-print-directory install
install -m 0755 "$client" "$libexec/docker"

say "start (log: $log)"
setsid nohup "$libexec/stockade" up >"$log" 2>&1 </dev/null &
if ! "$libexec/stockade" status --wait 60s >/dev/null; then
	tail -n 40 "$log" >&2
	exit 1
fi

as() { # user, command…
	local user=$1
	shift
	runuser -u "$user" -- env -i PATH="$PATH" HOME="$(getent passwd "$user" | cut -d: -f6)" DOCKER_HOST="unix://$socket" "$@"
}
d() { as stockade-demo "$libexec/docker" "$@"; }
refused() { # what, command…: it must fail
	local what=$1 out
	shift
	if out=$("$@" 2>&1); then
		echo "NOT refused: $what: $out" >&2
		exit 1
	fi
	printf 'refused: %s\n         %s\n' "$what" "$(grep -m1 -iE 'denied|error|cannot' <<<"$out" || tail -n1 <<<"$out")"
}

say "an ordinary user, stockade-demo, loads an image and runs containers"
go run ./scripts/demoimage | d load
d run --rm busybox sh -c 'echo "I am $(id -un) in here"; head -n1 /proc/self/uid_map'
d rm -f demo-web >/dev/null 2>&1 || true
d run -d --name demo-web -p 127.0.0.1:8088:8080 stockade/demo >/dev/null
for _ in $(seq 100); do
	curl -fsS --max-time 5 http://127.0.0.1:8088/ 2>/dev/null && break
	sleep 0.1
done
curl -fsS --max-time 5 http://127.0.0.1:8088/ >/dev/null
d ps

say "what classic attacks do here"
echo "control: the caller's own file through -v /:/host: $(d run --rm -v /:/host busybox sh -c 'echo mine >/host/home/stockade-demo/demo && cat /host/home/stockade-demo/demo'), on the host of $(stat -c %U /home/stockade-demo/demo)"
install -m 0600 /dev/null /root/.stockade-demo-secret
echo secret >/root/.stockade-demo-secret
refused "read root's file through -v /:/host" d run --rm -v /:/host busybox cat /host/root/.stockade-demo-secret
refused "write to /etc through -v /:/host" d run --rm -v /:/host busybox sh -c 'echo x > /host/etc/stockade-demo'
refused "read /etc/shadow through -v /:/host" d run --rm -v /:/host busybox cat /host/etc/shadow
refused "--privileged" d run --rm --privileged busybox true
refused "a user outside of the group" as stockade-outsider "$libexec/docker" ps
rm -f /root/.stockade-demo-secret
[[ ! -e /etc/stockade-demo ]]

say "the processes, as the kernel shows them"
"$libexec/stockade" status

say "done"
cat <<EOF
The server runs; members of the group stockade use it:
  export DOCKER_HOST=unix://$socket
  docker ps                                (as root, or as stockade-demo: runuser -u stockade-demo -- …)
  curl http://127.0.0.1:8088/              (the demo container)
  stockade status                          (its processes and their capabilities)
Stop it with: make stop
EOF
