// Package container is the container part of the Engine API: records, life cycle, processes, streams, logs.
//
// It decides what a container's state is and tells the runtime what to do; images, volumes, networks and events are
// reached through the small interfaces in depend.go.
//
// Trust: requests come from the gate, which has applied policy; image configurations, output and exit codes are hostile.
// Invariants: each container belongs to one tenant and is found by its requests only; names are unique within a tenant;
// a change is on disk before it is acknowledged; a container's start, end and removal never overlap.
// Failure: what fails half-way is undone at once or by Reconcile at the next start.
package container
