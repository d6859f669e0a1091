// Package full fills the disk of a whole server: what was acknowledged stays, errors say why, and callers can make room
// again themselves (T-801).
//
// The tests need root, to start the server on a small disk: build tag root.
//
// Trust: none is needed. Invariants: the disk is the server's alone. Failure: a failed test says what did not recover.
package full
