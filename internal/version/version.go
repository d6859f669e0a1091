// Package version holds the version of this build, set by the linker.
package version

// Set with -ldflags -X.
var (
	Version = "dev"
	Commit  = "unknown"
)
