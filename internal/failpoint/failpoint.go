// Package failpoint marks the steps between which a crash matters, so that a test can make a process end, fail or wait at
// exactly one of them.
//
// Programs that are shipped have none of it: without the build tag failpoint, Hit and Fail are empty and compiled away,
// names included, which TestShippedPrograms holds. With the tag, a process maps the file "failpoints" that lies beside its
// own program when it starts, before it gives up any right; that file says what to do at which step.
//
// Trust: the file belongs to root and processes have it for reading only, so only the test that started the server decides.
// Invariants: each name of Names stands in the code exactly once.
// Failure: without the file, a program built with the tag is as any other.
package failpoint

// Action is what happens at a failpoint.
type Action uint32

// The actions.
const (
	None  Action = iota
	Kill         // the process kills itself
	Error        // Fail returns an error; at Hit nothing happens
	Delay        // the step takes 300 ms longer
)

// FileName is the file of the armed failpoints, in the folder of the programs.
const FileName = "failpoints"

// Size is how long that file is: a slot of four 32-bit words for each name, in the order of Names.
const Size = 4096

// Words of a slot. The action is written last and read first.
const (
	WordAction = iota
	WordNth    // which hit of a process counts, from 1 on
	WordPID    // the process, as the host numbers it; 0: each
	WordEpoch  // counts how often the slot was armed: hits begin anew
	SlotWords
)

// Names are all failpoints: what has just been done, or is about to be, when a process is there.
var Names = []string{
	// engine/container: records
	"container.create.layer",    // the writable layer is made
	"container.create.volumes",  // and the volumes, the record is not
	"container.create.recorded", // the record is on disk, nobody knows of it
	"container.start.record",    // runs, is not recorded
	"container.start.recorded",  // runs, is recorded, is not acknowledged
	"container.exit.record",     // ended, is not recorded
	"container.exit.recorded",   // the end is recorded, nothing is given back
	"container.exit.released",   // all is given back, nobody was told
	"container.remove.begin",    // the removal is decided
	"container.remove.released", // what ran is given back
	"container.remove.volumes",  // volumes are free, the record is there
	"container.remove.recorded", // the record is gone, the layer is there
	"container.rename.record",   // the new name is reserved
	"container.rename.recorded", // and on disk
	"container.update.recorded", // new limits are on disk
	"container.update.applied",  // and in force
	"container.pause.frozen",    // stands still or goes on, is not recorded
	"container.pause.recorded",  // and is recorded
	"container.commit.frozen",   // stands still while its changes are read
	"container.commit.done",     // the image is made, the container goes on again
	"store.record.write",        // nothing is written
	"store.record.beside",       // beside the former record
	"store.record.renamed",      // in its place, perhaps not on disk
	"store.record.deleted",      // the record is gone, its state's file is there
	// engine/runtime
	"runtime.slot.monitor",   // a slot's monitor waits, its control group is not made
	"runtime.start.slot",     // a slot was taken, nothing tells for whom
	"runtime.start.recorded", // the bundle tells for whom
	"runtime.start.overlay",  // all is mounted
	"runtime.start.created",  // the OCI runtime made it
	"runtime.start.fifo",     // it is about to begin
	"runtime.start.state",    // it began, the bundle does not tell
	"runtime.start.stated",   // the bundle tells
	"runtime.release.begin",  // an ended container gives back what it had
	"runtime.drop.begin",     // a slot is being given back
	"runtime.drop.detached",  // off the network
	"runtime.drop.cgroup",    // without a control group
	"runtime.drop.bundle",    // without a bundle
	"runtime.layer.made",     // a writable layer's folder, not its parts
	"runtime.layer.trashed",  // set aside to be removed
	// engine/volume
	"volume.create.folder",   // the folder is made
	"volume.create.recorded", // and the record
	"volume.remove.record",   // still all there
	"volume.remove.recorded", // the folder has no record
	// engine/image
	"image.save.record",    // before records and roots are written
	"image.save.recorded",  // on disk, not in memory
	"image.drop.recorded",  // gone from disk, not from memory
	"image.layer.moved",    // a finished layer has no record
	"image.layer.recorded", // and has one
	"image.collect.record", // an unused layer has no record any more
	"image.collect.moved",  // and is set aside
	// engine/shim/monitor
	"shim.create",        // about to run the OCI runtime
	"shim.created",       // the first process waits
	"shim.begun",         // the first process was let go
	"shim.exit.record",   // it ended, the file does not tell
	"shim.exit.recorded", // the file tells, nobody was told
	// helpers: each request of each of them
	"helper.request", // before its effect
	"helper.answer",  // after it
	// priv/mountd
	"mountd.cloned", // some of the folders are cloned
	"mountd.bound",  // a bind is cloned
	// priv/grantd
	"grantd.record.written", // beside its place
	"grantd.record.renamed", // in its place, perhaps not on disk
	"grantd.record.removed", // a grant's file is gone
	"grantd.use.opened",     // opened as the person who granted it
	// priv/netd
	"netd.records.written",  // beside their place
	"netd.attach.recorded",  // an endpoint without rules and link
	"netd.attach.ruled",     // without a link
	"netd.attach.linked",    // with all
	"netd.publish.recorded", // ports without rules
	"netd.forget.recorded",  // rules and link without a record
	"netd.forget.ruled",     // a link without rules
	"netd.reap.link",        // a link is about to be removed
	// priv/cgroupd
	"cgroupd.make",   // a group is in some hierarchies
	"cgroupd.made",   // in all of them, without limits
	"cgroupd.attach", // a process is in some hierarchies' group
	"cgroupd.remove", // a group is gone from some hierarchies
	"cgroupd.freeze", // freezing is asked for
}
