// Package version holds the version of this build, set by the linker.
package version

// Set with -ldflags -X.
var (
	Version = "dev"
	Commit  = "unknown"
	Built   = "" // time of the commit, not of the build: a build is the same whenever it is made
)
