// Package spec turns what a client asked for and what an image says into what the runtime gets: the merged
// configuration, the OCI process and mounts, limits, ports and the files of /etc.
//
// Trust: the request passed the gate's policy; image configurations and everything below a container's root are hostile.
// Invariants: nothing here starts a process or changes a file; annotations and labels never reach the OCI spec;
// what is not understood is refused.
// Failure: errors are of class ErrInvalidArgument with Docker's text unless a package says otherwise.
package spec

import (
	"github.com/containerd/errdefs"

	"stockade/engine/httpapi"
)

func invalid(format string, a ...any) error {
	return httpapi.NewError(errdefs.ErrInvalidArgument, format, a...)
}
