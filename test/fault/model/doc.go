// Package model compares a whole server that keeps crashing with a model of what it has acknowledged (T-801).
//
// Several clients make, change and remove containers, volumes and images while processes are killed, at random moments
// and at named failpoints (package internal/failpoint). What a client was told stays true: nothing acknowledged is lost,
// nothing removed comes back, a container outlives everything but its own monitor. What a client was not told may or may
// not have happened, but not by half, and asking once more brings it to its end. When all is removed, nothing is left.
//
// STOCKADE_FAULT_SEED repeats a run as far as chance allows, STOCKADE_ROUNDS makes it longer.
//
// The tests need root, to start the server and to kill its processes: build tag root.
//
// Trust: none is needed. Invariants: clients touch their own objects only, so each knows what must be.
// Failure: the seed, the journal of operations and crashes, and each difference.
package model
