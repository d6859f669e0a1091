#!/bin/bash
# What "make stop" does: takes the server of "make run" down, containers too.
set -euo pipefail
if ((EUID != 0)); then
	echo "make stop: needs root" >&2
	exit 2
fi
stockade=/usr/local/libexec/stockade/stockade
if [[ ! -x $stockade || ! -e /run/stockade ]]; then
	echo "no server of make run is there"
	exit 0
fi
exec "$stockade" down
