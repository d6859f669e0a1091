// Package attack attacks a whole server the way docs/threats.md says that it will be attacked: as an outsider, as an
// ordinary user of the API, as hostile code in a container, with hostile images, and as the server's own gate or engine
// after somebody took it over.
//
// Each test names the threat that it tries, looks at the effect and not only at the answer, and has a control: the same
// attack where the protection is not in its way, so that a test that passes means something.
//
// The tests need root, to start the server and to be the other users: build tag root.
//
// Trust: none is needed. Invariants: tests remove what they made and do not depend on their order.
// Failure: a failed test says which attack worked, or which control did not.
package attack
