// Package e2e uses a whole server through the real docker clients, of two major versions, as an ordinary user: what a
// person sees of images, containers, volumes, networks and the server itself.
//
// The tests need root, to start the server and to look at it from the host: build tag root.
//
// Trust: none is needed. Invariants: a test makes names of its own and removes what it made, so that the tests do not
// depend on their order. Failure: a failed test prints the command, its exit code and its output.
package e2e
