// Package fault breaks a whole server: it kills each of its processes, and all of them together, at random moments of
// other work, and takes it down. Afterwards nothing that was acknowledged is lost and nothing is left over (T-702, T-801).
//
// Moments are chosen by a seed that a failed test prints; STOCKADE_FAULT_SEED repeats it. No test expects a kill to meet
// one certain step: what must hold afterwards holds whichever it met.
//
// The tests need root, to start the server and to kill its processes: build tag root.
//
// Trust: none is needed. Invariants: tests remove what they made and do not depend on their order.
// Failure: a failed test says what was lost or left, and the seed.
package fault
