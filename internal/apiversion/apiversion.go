// Package apiversion names the versions of the Engine API that the server speaks.
package apiversion

const (
	Min = "1.40" // oldest
	Max = "1.57" // newest: that of github.com/moby/moby/api's types
)
