//go:build root

package model

import (
	"fmt"
	"math/rand/v2"
	"os"
	"slices"
	"strings"
	"testing"

	"stockade/internal/failpoint"
	"stockade/test/harness"
)

// scenario meets a failpoint with an operation on a fresh object.
type scenario struct {
	point  string // "": the engine is killed when the operation is acknowledged
	prep   string // operations before, which are acknowledged
	op     string // the operation that meets it
	nth    int    // 0: the first hit
	in     string // process, where the failpoint does not tell
	action failpoint.Action
	slow   string // another failpoint, where it takes long
}

// scenarios has each failpoint at least once. Operations: those of a box; write (an exec), commit; volume and image with
// make or remove.
var scenarios = slices.Concat(
	each("", "create", "container.create.layer", "container.create.volumes", "container.create.recorded", "store.record.write",
		"store.record.beside", "store.record.renamed", "runtime.layer.made", "grantd.record.written", "grantd.record.renamed"),
	each("create", "start", "container.start.record", "container.start.recorded", "store.record.write", "store.record.beside",
		"store.record.renamed", "runtime.slot.monitor", "runtime.start.slot", "runtime.start.recorded", "runtime.start.overlay",
		"runtime.start.created", "runtime.start.fifo", "runtime.start.state", "runtime.start.stated", "mountd.cloned", "mountd.bound",
		"grantd.use.opened", "netd.records.written", "netd.attach.recorded", "netd.attach.ruled", "netd.attach.linked",
		"netd.publish.recorded", "cgroupd.make", "cgroupd.made", "cgroupd.attach", "shim.create", "shim.created", "shim.begun"),
	each("create start", "stop", "container.exit.record", "container.exit.released", "container.exit.recorded", "runtime.release.begin",
		"runtime.drop.begin", "runtime.drop.detached", "runtime.drop.cgroup", "runtime.drop.bundle", "netd.forget.recorded",
		"netd.forget.ruled", "netd.reap.link", "cgroupd.remove", "shim.exit.record", "shim.exit.recorded"),
	each("create start", "kill", "container.exit.record", "container.exit.recorded"),
	each("create start", "restart", "container.exit.released", "runtime.start.state", "runtime.start.stated", "runtime.drop.begin"),
	each("create start", "pause", "container.pause.frozen", "container.pause.recorded", "cgroupd.freeze"),
	each("create start pause", "unpause", "container.pause.frozen", "container.pause.recorded"),
	each("create start", "rename", "container.rename.record", "container.rename.recorded", "store.record.renamed"),
	each("create start", "update", "container.update.recorded", "container.update.applied"),
	each("create start", "rm", "container.remove.begin", "container.remove.released", "container.remove.volumes",
		"container.remove.recorded", "store.record.deleted", "runtime.layer.trashed", "grantd.record.removed"),
	each("create start", "commit", "container.commit.frozen", "container.commit.done", "image.save.record", "image.save.recorded",
		"image.layer.moved", "image.layer.recorded"),
	each("create start commit", "image remove", "image.drop.recorded", "image.collect.record", "image.collect.moved"),
	each("", "image make", "image.save.record", "image.save.recorded"),
	each("image make", "image remove", "image.save.recorded"),
	each("", "volume make", "volume.create.folder", "volume.create.recorded"),
	each("volume make", "volume remove", "volume.remove.record", "volume.remove.recorded"),
	helpers("helper.request"), helpers("helper.answer"),
	failing("", "create", "container.create.layer", "container.create.volumes", "store.record.write", "store.record.beside",
		"store.record.renamed", "runtime.layer.made"),
	failing("create", "start", "store.record.write", "store.record.renamed", "runtime.start.overlay", "runtime.start.created", "runtime.start.state"),
	failing("create start", "rename", "store.record.write", "store.record.renamed"),
	each("", "create", ""), each("create", "start", ""), each("create start", "stop", ""), each("create start", "restart", ""),
	each("create start", "pause", ""), each("create start pause", "unpause", ""), each("create start", "rename", ""),
	each("create start", "update", ""), each("create start", "rm", ""), each("create start", "commit", ""), each("", "image make", ""),
	each("image make", "image remove", ""), each("", "volume make", ""), each("volume make", "volume remove", ""),
	// All is given back before the next step is taken.
	[]scenario{{point: "runtime.drop.bundle", prep: "create start", op: "stop", action: failpoint.Kill, slow: "container.exit.released"}},
	// The slot of the first run is still being given back when the engine dies.
	[]scenario{{point: "runtime.drop.begin", prep: "create start", op: "restart", action: failpoint.Delay}},
	failing("create start", "update", "store.record.renamed"),
	failing("create start", "pause", "store.record.renamed"),
	failing("create start", "rm", "container.remove.begin"),
	failing("create start", "commit", "image.save.record"),
)

func each(prep, op string, points ...string) (list []scenario) {
	for _, p := range points {
		list = append(list, scenario{point: p, prep: prep, op: op, action: failpoint.Kill})
	}
	return list
}

func failing(prep, op string, points ...string) []scenario {
	list := each(prep, op, points...)
	for i := range list {
		list[i].action = failpoint.Error
	}
	return list
}

// helpers ends each helper at the requests of a start and of an end, and grantd at a new grant.
func helpers(point string) (list []scenario) {
	for _, x := range []struct {
		in, prep, op string
		hits         int
	}{
		{"mountd", "create", "start", 1}, {"grantd", "", "create", 1}, {"grantd", "create", "start", 1}, {"netd", "create", "start", 2},
		{"netd", "create start", "stop", 1}, {"cgroupd", "create", "start", 2}, {"cgroupd", "create start", "stop", 2},
		{"cgroupd", "create start pause", "unpause", 1},
	} {
		for n := range x.hits {
			list = append(list, scenario{point: point, prep: x.prep, op: x.op, nth: n + 1, in: x.in, action: failpoint.Kill})
		}
	}
	return list
}

func (x scenario) String() string {
	return strings.TrimSpace(fmt.Sprintf("%s %s %s %d %d %s", x.point, x.in, x.op, x.nth, x.action, x.slow))
}

// TestFailpoints is T-801: it meets each failpoint with an operation that is known to hit it.
func TestFailpoints(t *testing.T) {
	for _, name := range failpoint.Names {
		if !slices.ContainsFunc(scenarios, func(x scenario) bool { return x.point == name }) {
			t.Errorf("no scenario has %s", name)
		}
	}
	k, seed, end := begin(t)
	c := newClient(t, k.s, k.j, "stktf", rand.New(rand.NewPCG(seed, 0)))
	only := os.Getenv("STOCKADE_FAILPOINT")
	for _, x := range scenarios {
		if strings.Contains(x.String(), only) {
			k.part(t, x.String(), []*client{c}, func() { k.play(c, x) })
		}
	}
	end()
}

// play has one scenario happen and compares everything with the model.
func (k *crasher) play(c *client, x scenario) {
	b := c.box(plan{anonymous: true, bind: true, port: true}, false)
	do := func(op string) outcome {
		what, which, _ := strings.Cut(op, " ")
		switch {
		case what == "image" && which == "make":
			return c.do("image", c.image(""), which, c.imageRequest)
		case what == "image":
			return c.do("image", c.images[0], which, c.imageRequest)
		case what == "volume" && which == "make":
			return c.do("volume", c.volume(), which, c.volumeRequest)
		case what == "volume":
			return c.do("volume", c.volumes[0], which, c.volumeRequest)
		case op == "commit":
			return c.commit(b)
		}
		return c.act(b, op)
	}
	for _, op := range steps(x.prep) {
		// A process that waits for a busy disk cannot be frozen, for example; settling leaves a commit out.
		harness.Poll(k.t, op+" before "+x.String(), func() (string, bool) {
			if do(op) == acked {
				return "", true
			}
			c.settle()
			return "not acknowledged", op != "commit"
		})
	}
	process := x.in
	if process == "" {
		process = home(x.point)
	}
	c.mortal = mortal(x.point)
	if x.slow != "" {
		k.arm(x.slow, process, failpoint.Delay, 1)
	}
	if x.point == "" {
		do(x.op)
		k.kill("engine")
	} else {
		from := k.logged(x.point)
		k.arm(x.point, process, x.action, max(1, x.nth))
		do(x.op)
		harness.Poll(k.t, "failpoint "+x.point+" to be hit", func() (string, bool) { return "", k.logged(x.point) > from })
	}
	if x.action == failpoint.Error && x.op == "rename" && b.pending == "rename" {
		// It was told that it did not happen: the name is free, also after the next start.
		taker := c.box(plan{}, false)
		taker.name, b.next, b.pending = b.next, "", ""
		c.act(taker, "create")
	}
	if x.action == failpoint.Delay {
		k.kill(process)
	}
	k.heal()
	if x.action == failpoint.Error { // what the engine remembers is what it finds again
		c.settle()
		verify([]*client{c})
		k.kill("engine")
		k.heal()
	}
	c.settle()
	c.mortal = false
	verify([]*client{c})
	clear([]*client{c})
}

// steps are the operations of a list; those of things are two words.
func steps(list string) (ops []string) {
	words := strings.Fields(list)
	for i := 0; i < len(words); i++ {
		if words[i] == "image" || words[i] == "volume" {
			i++
			ops = append(ops, words[i-1]+" "+words[i])
			continue
		}
		ops = append(ops, words[i])
	}
	return ops
}

// logged counts how often a failpoint was met.
func (k *crasher) logged(name string) int {
	data, err := os.ReadFile(harness.Log)
	if err != nil {
		k.t.Fatal(err)
	}
	return strings.Count(string(data), "failpoint "+name+":")
}
