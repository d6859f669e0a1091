#!/bin/sh
# The tests' second OCI runtime. crun of Debian 12 refuses a host that has control groups of version 1 and an empty tree of version 2; it gets a mount
# namespace in which that tree is hidden.
exec unshare --mount --propagation private sh -c 'mount -t tmpfs -o mode=755 none /sys/fs/cgroup/unified && exec /usr/bin/crun "$@"' crun "$@"
