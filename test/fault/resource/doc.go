// Package resource takes from a whole server what it lives on: inodes, descriptors, memory, places for connections, and
// clients that read. What was acknowledged stays, errors say why, others are served, and the server is as before once it
// has again what it needs (T-801).
//
// Each test has a control that shows that the fault was real: the kernel's own count of it. Bounds are bytes and counts,
// never times; the one on processor time is a share of what went by.
//
// The tests need root, to start the server on a small disk and to take from its processes: build tag root.
//
// Trust: none is needed. Invariants: tests remove what they made and do not depend on their order.
// Failure: a failed test says what was lost, left or not bounded.
package resource
