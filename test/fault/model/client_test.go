//go:build root

package model

import (
	"fmt"
	"math/rand/v2"
	"net/url"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"stockade/test/harness"
)

// client makes, changes and removes objects that are its own.
type client struct {
	t       testing.TB
	s       *harness.Server
	api     *api
	j       *journal
	name    string
	random  *rand.Rand
	count   int
	mortal  bool // monitors are being killed
	boxes   []*box
	volumes []*thing
	images  []*thing
	acks    map[string]int
}

func newClient(t testing.TB, s *harness.Server, j *journal, name string, random *rand.Rand) *client {
	return &client{t: t, s: s, api: newAPI(t, s), j: j, name: name, random: random, acks: map[string]int{}}
}

func (c *client) next() string {
	c.count++
	return fmt.Sprintf("%s-%d", c.name, c.count)
}

// note writes an answer down and returns what it means.
func (c *client) note(op, what string, a answer) outcome {
	c.j.add("%s: %s %s: %s", c.name, op, what, a)
	if a.outcome == acked {
		c.acks[op]++
	}
	return a.outcome
}

// bindFolder is a folder of the user that containers show.
func bindFolder(s *harness.Server) string { return filepath.Join(s.User.Home, "stkt-bind") }

// request is an operation on a container as the API has it.
func (c *client) request(b *box, op string) answer {
	ref := b.id
	if ref == "" {
		ref = b.name
	}
	do := func(method, path string) answer { return c.api.call(method, "/containers/"+ref+path, nil) }
	switch op {
	case "create":
		return c.api.call("POST", "/containers/create?name="+b.name, c.config(b))
	case "start", "pause", "unpause", "kill":
		return do("POST", "/"+op)
	case "stop", "restart":
		return do("POST", "/"+op+"?t=1")
	case "rename":
		return do("POST", "/rename?name="+b.next)
	case "update":
		return c.api.call("POST", "/containers/"+ref+"/update", map[string]any{"Memory": b.wanted, "MemorySwap": -1})
	case "rm":
		return do("DELETE", "?force=1&v=1")
	}
	panic(op)
}

func (c *client) config(b *box) map[string]any {
	// The mark is for images that are committed; the end of the script is for whoever asks the container to stop.
	script := fmt.Sprintf("trap 'exit %d' TERM; echo %s >/mark; while :; do sleep 1000 & wait $!; done", stopCode, b.label)
	if b.job {
		script = fmt.Sprintf("exit %d", jobCode)
	}
	host := map[string]any{}
	config := map[string]any{
		"Image": "busybox", "Cmd": []string{"sh", "-c", script}, "Labels": map[string]string{"model": b.label}, "HostConfig": host,
	}
	binds := []string{}
	if b.plan.volume != "" {
		binds = append(binds, b.plan.volume+":/v")
	}
	if b.plan.bind {
		binds = append(binds, bindFolder(c.s)+":/b")
	}
	host["Binds"] = binds
	if b.plan.anonymous {
		config["Volumes"] = map[string]any{"/anonymous": map[string]any{}}
	}
	if b.plan.port {
		config["ExposedPorts"] = map[string]any{"80/tcp": map[string]any{}}
		host["PortBindings"] = map[string]any{"80/tcp": []map[string]string{{"HostIp": "127.0.0.1", "HostPort": ""}}}
	}
	return config
}

// act carries one operation on a container out, once.
func (c *client) act(b *box, op string) outcome {
	switch op {
	case "rename":
		b.next = c.next()
	case "update":
		b.wanted = int64(32+c.count%64) << 20
		c.count++
	}
	a := c.request(b, op)
	out := c.note(op, b.String(), a)
	switch out {
	case acked:
		if op == "create" {
			var made struct {
				ID string `json:"Id"`
			}
			if a.into(c.t, &made) {
				b.id = made.ID
			}
		}
		b.apply(op)
	case unknown:
		b.pending = op
	case refused:
		if !c.mortal {
			c.t.Errorf("%s of %s: %s", op, b, a)
		}
		b.pending = op // the end of the round finds out
	}
	return out
}

func (c *client) box(p plan, job bool) *box {
	label := c.next()
	b := &box{label: label, name: label, plan: p, job: job}
	c.boxes = append(c.boxes, b)
	return b
}

// exec runs a command in a container and tells whether it is known to have ended well.
func (c *client) exec(b *box, script string) outcome {
	a := c.api.call("POST", "/containers/"+b.id+"/exec", map[string]any{"Cmd": []string{"sh", "-c", script}, "AttachStdout": true, "AttachStderr": true})
	if a.outcome != acked {
		return c.note("exec create", b.String(), a)
	}
	var made struct {
		ID string `json:"Id"`
	}
	if !a.into(c.t, &made) {
		return unknown
	}
	if a = c.api.call("POST", "/exec/"+made.ID+"/start", map[string]any{"Detach": false}); a.outcome != acked {
		return c.note("exec start", b.String(), a)
	}
	var end struct {
		Running  bool
		ExitCode *int
	}
	a = c.api.call("GET", "/exec/"+made.ID+"/json", nil)
	if a.outcome == acked && a.into(c.t, &end) && (end.ExitCode == nil || *end.ExitCode != 0) {
		a.outcome = unknown
	} else if a.outcome == refused { // the engine was killed and knows of no exec any more
		a.outcome = unknown
	}
	return c.note("exec", b.String(), a)
}

// write appends a line to the file of a container's volume.
func (c *client) write(b *box) outcome {
	i := slices.IndexFunc(c.volumes, func(v *thing) bool { return v.name == b.plan.volume })
	if i < 0 {
		return c.exec(b, "true")
	}
	v, token := c.volumes[i], c.next()
	out := c.exec(b, fmt.Sprintf("echo %s >>/v/%s", token, v.name))
	if out == refused && !c.mortal {
		c.t.Errorf("exec in %s was refused", b)
	}
	v.tokens[token] = out == acked
	return out
}

// request of a volume.
func (c *client) volumeRequest(v *thing, op string) answer {
	if op == "make" {
		return c.api.call("POST", "/volumes/create", map[string]any{"Name": v.name, "Labels": map[string]string{"model": v.name}})
	}
	return c.api.call("DELETE", "/volumes/"+v.name, nil)
}

// imageRequest of an image's name. It is made by a commit, or as one more name of busybox.
func (c *client) imageRequest(x *thing, op string) answer {
	repo, tag, _ := strings.Cut(x.name, ":")
	q := url.Values{"repo": {repo}, "tag": {tag}}
	switch {
	case op == "remove":
		return c.api.call("DELETE", "/images/"+x.name+"?force=1", nil)
	case x.from == "":
		return c.api.call("POST", "/images/busybox/tag?"+q.Encode(), nil)
	}
	i := slices.IndexFunc(c.boxes, func(b *box) bool { return b.label == x.from })
	q.Set("container", c.boxes[i].id)
	return c.api.call("POST", "/commit?"+q.Encode(), map[string]any{})
}

// do carries one operation on a volume or an image out, once.
func (c *client) do(kind string, x *thing, op string, request func(*thing, string) answer) outcome {
	a := request(x, op)
	out := c.note(op+" "+kind, x.name, a)
	switch {
	case out == acked:
		x.apply(op)
	case out == refused && !c.mortal:
		c.t.Errorf("%s %s %s: %s", op, kind, x.name, a)
		x.pending = op
	default:
		x.pending = op
	}
	return out
}

func (c *client) volume() *thing {
	v := &thing{name: c.next(), tokens: map[string]bool{}}
	c.volumes = append(c.volumes, v)
	return v
}

func (c *client) image(from string) *thing {
	x := &thing{name: "model/" + c.next() + ":latest", from: from, fresh: true}
	c.images = append(c.images, x)
	return x
}

func (c *client) commit(b *box) outcome {
	// What the image is known by must be there.
	if out := c.exec(b, "until [ -s /mark ]; do usleep 10000; done"); out != acked {
		return out
	}
	out := c.do("image", c.image(b.label), "make", c.imageRequest)
	if out != acked {
		b.pending = "commit" // it may stand still for the moment
	}
	return out
}

// used tells whether a container refers to a volume, or to be made one does.
func (c *client) used(v *thing) bool {
	return slices.ContainsFunc(c.boxes, func(b *box) bool { return b.plan.volume == v.name })
}

func pick[T any](r *rand.Rand, list []T) T { return list[r.IntN(len(list))] }

// step carries out one operation that must be possible, of a random kind on a random object of those whose state is known.
func (c *client) step() {
	var free []*box
	for _, b := range c.boxes {
		if b.pending == "" && b.exists {
			free = append(free, b)
		}
	}
	if len(free) == 0 || len(c.boxes) < 4 && c.random.IntN(4) == 0 {
		c.stepCreate()
		return
	}
	if c.random.IntN(6) == 0 {
		c.stepThing()
		return
	}
	b := pick(c.random, free)
	ops := []string{"rename", "update", "rm"}
	switch {
	case b.job && b.status == running: // perhaps it has ended
		ops = []string{"rm", "rename"}
	case b.status == created, b.status == exited:
		ops = append(ops, "start", "start", "start", "start")
	case b.status == running:
		ops = append(ops, "stop", "kill", "restart", "restart", "pause", "exec", "exec", "commit")
	case b.status == paused:
		ops = append(ops, "unpause", "unpause", "unpause", "stop")
	}
	switch op := pick(c.random, ops); op {
	case "exec":
		c.write(b)
	case "commit":
		c.commit(b)
	default:
		c.act(b, op)
		c.forget()
	}
}

func (c *client) stepCreate() {
	p := plan{anonymous: c.random.IntN(4) == 0, bind: c.random.IntN(4) == 0, port: c.random.IntN(3) == 0}
	for _, v := range c.volumes {
		if v.exists && v.pending == "" && c.random.IntN(2) == 0 {
			p.volume = v.name
		}
	}
	b := c.box(p, c.random.IntN(5) == 0)
	if c.act(b, "create") == acked && c.random.IntN(3) > 0 {
		c.act(b, "start")
	}
}

func (c *client) stepThing() {
	switch c.random.IntN(3) {
	case 0:
		for _, v := range c.volumes {
			if v.pending == "" && !c.used(v) {
				c.do("volume", v, "remove", c.volumeRequest)
				c.forget()
				return
			}
		}
		c.do("volume", c.volume(), "make", c.volumeRequest)
	case 1:
		c.do("image", c.image(""), "make", c.imageRequest)
	case 2:
		for _, x := range c.images {
			if x.pending == "" {
				c.do("image", x, "remove", c.imageRequest)
				c.forget()
				return
			}
		}
	}
}

// forget drops what is known to be gone.
func (c *client) forget() {
	c.boxes = slices.DeleteFunc(c.boxes, func(b *box) bool { return !b.exists && b.pending == "" })
	gone := func(x *thing) bool { return !x.exists && x.pending == "" }
	c.volumes, c.images = slices.DeleteFunc(c.volumes, gone), slices.DeleteFunc(c.images, gone)
}
