// Package fstest tries mountd and grantd as the confined processes that they are, with real sockets, user namespaces
// and mounts: the normal path, and what a compromised engine or gate may try. All of it needs root (build tag root).
package fstest
