// Package runtime runs containers: id ranges, id-mapped root file systems, cgroups, endpoints, the OCI runtime and one
// shim per container. It knows nothing of images, names or the API.
//
// Trust: what comes from inside a container (output, exit, its mounts) is hostile; what shims say is believed as far as
// it concerns their own container.
// Invariants: an id range belongs to one running container and those that joined it; nothing on disk is ever chowned; what Start made is
// undone by Release or, after a crash, by Reconcile.
// Failure: a start that fails leaves nothing.
package runtime
