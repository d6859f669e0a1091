//go:build root

package model

import (
	"fmt"
	"maps"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"stockade/test/harness"
)

// settle finds out what became of operations that were not acknowledged: first that nothing was done by half, then that
// asking again brings each to its end. Afterwards everything is certain.
func (c *client) settle() {
	for _, v := range c.volumes {
		c.settleThing("volume", v, c.volumeRequest)
	}
	for _, x := range c.images {
		if x.pending == "make" && x.from != "" {
			c.settleCommit(x)
			continue
		}
		c.settleThing("image", x, c.imageRequest)
	}
	for _, b := range c.boxes {
		c.settleBox(b)
	}
	c.forget()
}

// settleCommit leaves the repetition out: a second commit would be another image. One that is there must run.
func (c *client) settleCommit(x *thing) {
	if i := slices.IndexFunc(c.boxes, func(b *box) bool { return b.label == x.from }); i >= 0 {
		c.barrier(c.boxes[i])
	}
	x.exists, x.pending = c.api.get(c.t, "/images/"+x.name+"/json", &struct{}{}), ""
}

func (c *client) settleThing(kind string, x *thing, request func(*thing, string) answer) {
	if x.pending == "" {
		return
	}
	harness.Poll(c.t, x.pending+" "+kind+" "+x.name+" again", func() (string, bool) {
		a := request(x, x.pending)
		c.note("again "+x.pending+" "+kind, x.name, a)
		return a.String(), a.outcome == acked || x.pending == "remove" && a.status == 404
	})
	x.apply(x.pending)
}

// look asks for a container, by its id if that is known.
func (c *client) look(b *box) (s seen, found bool) {
	ref := b.id
	if ref == "" {
		ref = b.name
	}
	found = c.api.get(c.t, "/containers/"+ref+"/json", &s)
	return s, found
}

// barrier waits until no operation on a container is under way: one that the gate forwarded goes on when the gate is
// killed. A container's operations take turns, and to get its own name is refused only when it is this one's turn.
func (c *client) barrier(b *box) {
	s, found := c.look(b)
	if !found {
		return
	}
	harness.Poll(c.t, "the turn at "+b.String(), func() (string, bool) {
		a := c.api.call("POST", "/containers/"+s.ID+"/rename?name="+strings.TrimPrefix(s.Name, "/"), nil)
		// It had another name until then: a rename was under way.
		if a.outcome == acked {
			s, _ = c.look(b)
			return "renamed", false
		}
		return a.String(), a.outcome == refused
	})
}

func (c *client) settleBox(b *box) {
	if b.pending == "" && !c.mortal {
		return
	}
	op := b.pending
	c.barrier(b)
	s, found := c.look(b)
	switch {
	case !found && op != "create" && op != "rm":
		c.t.Errorf("%s is lost", b)
		b.exists, b.pending = false, ""
		return
	case found:
		if d := b.differs(s, c.mortal); d != "" {
			c.t.Errorf("%s: %s", b, d)
		}
	}
	if c.mortal && found && s.State.Status == exited && (b.status == running || b.status == paused) {
		b.status, b.pid = exited, 0
	}
	if op == "" || op == "commit" {
		b.pending = ""
		return
	}
	harness.Poll(c.t, op+" again of "+b.String(), func() (string, bool) {
		a := c.request(b, op)
		c.note("again "+op, b.String(), a)
		if a.outcome == unknown {
			return a.String(), false
		}
		return a.String(), a.outcome == acked || c.done(b, op, a)
	})
	b.apply(op)
	if s, found := c.look(b); found {
		b.id = s.ID
		if op == "start" || op == "restart" { // whether it was done before or just now
			b.status = s.State.Status
		}
	}
}

// done tells whether a refusal says that an operation has been carried out already.
func (c *client) done(b *box, op string, a answer) bool {
	text := string(a.body)
	switch op {
	case "create":
		return a.status == 409 && strings.Contains(text, "already in use")
	case "rename":
		return strings.Contains(text, "same name")
	case "pause":
		return strings.Contains(text, "already paused") || strings.Contains(text, "is not running")
	case "unpause":
		return strings.Contains(text, "is not paused") || strings.Contains(text, "is not running")
	case "kill":
		return strings.Contains(text, "is not running")
	case "rm":
		return a.status == 404
	case "start": // paused: it had been started
		return strings.Contains(text, "paused")
	}
	return false
}

// verify compares everything with the model. All clients are settled.
func verify(clients []*client) {
	c := clients[0]
	t := c.t
	t.Helper()
	var list []struct {
		ID    string `json:"Id"`
		Names []string
	}
	c.api.get(t, "/containers/json?all=1", &list)
	got, want := []string{}, []string{}
	ids := []string{}
	for _, e := range list {
		got = append(got, fmt.Sprintf("%s %s", e.ID, strings.Join(e.Names, ",")))
		ids = append(ids, e.ID)
	}
	for _, c := range clients {
		for _, b := range c.boxes {
			want = append(want, b.id+" /"+b.name)
			c.verifyBox(b)
		}
	}
	differ(c, "containers", got, want)

	var volumes struct{ Volumes []struct{ Name string } }
	c.api.get(t, "/volumes", &volumes)
	got, want = []string{}, []string{}
	for _, v := range volumes.Volumes {
		if strings.HasPrefix(v.Name, "stkt") { // the others have no name of ours
			got = append(got, v.Name)
		}
	}
	for _, c := range clients {
		for _, v := range c.volumes {
			want = append(want, v.name)
			c.verifyVolume(v)
		}
	}
	differ(c, "volumes", got, want)

	var images []struct{ RepoTags []string }
	c.api.get(t, "/images/json", &images)
	got, want = []string{}, []string{}
	for _, i := range images {
		for _, name := range i.RepoTags {
			if strings.HasPrefix(name, "model/") {
				got = append(got, name)
			}
		}
	}
	for _, c := range clients {
		for _, x := range c.images {
			if x.exists {
				want = append(want, x.name)
			}
			if x.exists && x.fresh {
				c.runImage(x)
			}
		}
		c.forget()
	}
	differ(c, "names of images", got, want)

	// On disk: a container has its record, its writable layer and its folder, and nothing else has.
	engine := filepath.Join(harness.Data, "engine")
	for _, folder := range []string{"store/rw", "containers", "records"} {
		harness.Poll(t, "what is in "+folder, func() (string, bool) {
			var there []string
			for _, name := range names(c, filepath.Join(engine, folder)) {
				if id, ok := strings.CutSuffix(name, ".json"); ok || folder != "records" {
					there = append(there, id)
				}
			}
			d := difference(there, ids)
			return d, d == ""
		})
	}
	harness.Poll(t, "the folders of volumes", func() (string, bool) {
		n := len(names(c, filepath.Join(engine, "store/volumes")))
		return fmt.Sprintf("%d folders, %d volumes", n, len(volumes.Volumes)), n == len(volumes.Volumes)
	})
	harness.Poll(t, "the trash to be emptied", func() (string, bool) {
		list := names(c, filepath.Join(engine, "store/trash"))
		return fmt.Sprint(list), len(list) == 0
	})
}

func names(c *client, folder string) (list []string) {
	entries, err := os.ReadDir(folder)
	if err != nil {
		c.t.Fatal(err)
	}
	for _, e := range entries {
		list = append(list, e.Name())
	}
	return list
}

func differ(c *client, what string, got, want []string) {
	c.t.Helper()
	if d := difference(got, want); d != "" {
		c.t.Errorf("%s: %s", what, d)
	}
}

// difference tells what is in one list only; a name that is there twice counts as one.
func difference(got, want []string) string {
	var d []string
	got, want = slices.Sorted(slices.Values(got)), slices.Sorted(slices.Values(want))
	for i, g := range got {
		if i > 0 && got[i-1] == g {
			d = append(d, "twice "+g)
		} else if !slices.Contains(want, g) {
			d = append(d, "not expected "+g)
		}
	}
	for _, w := range want {
		if !slices.Contains(got, w) {
			d = append(d, "missing "+w)
		}
	}
	return strings.Join(d, "; ")
}

func (c *client) verifyBox(b *box) {
	s, found := c.look(b)
	if !found {
		c.t.Errorf("%s is lost", b)
		return
	}
	if b.job && b.status == running { // it ends by itself
		harness.Poll(c.t, "the end of "+b.String(), func() (string, bool) {
			s, found = c.look(b)
			return fmt.Sprint(s.State), !found || s.State.Status == exited
		})
		b.status, b.pid = exited, 0
	}
	if d := b.differs(s, false); d != "" {
		c.t.Errorf("%s: %s", b, d)
	}
	if b.status != running && b.status != paused || !s.State.Running {
		return
	}
	b.pid = s.State.Pid
	// The kernel's view is the record's.
	harness.Poll(c.t, "the control group of "+b.String(), func() (string, bool) {
		state, limit := frozen(b.pid), memoryLimit(b.pid)
		text := fmt.Sprintf("frozen: %v, memory limit: %d; want %v, %d", state, limit, b.status == paused, b.memory)
		return text, state == (b.status == paused) && (b.memory == 0 || limit == b.memory)
	})
}

// group reads a file of a process's control group: of a v1 controller, or of the unified hierarchy.
func group(pid int, controller, v1, v2 string) string {
	data, _ := os.ReadFile(fmt.Sprintf("/proc/%d/cgroup", pid))
	file := ""
	for line := range strings.Lines(string(data)) {
		f := strings.SplitN(strings.TrimSpace(line), ":", 3)
		switch {
		case len(f) == 3 && f[1] == controller:
			file = filepath.Join("/sys/fs/cgroup", controller, f[2], v1)
		case len(f) == 3 && f[0] == "0" && file == "":
			file = filepath.Join("/sys/fs/cgroup", f[2], v2)
		}
	}
	data, _ = os.ReadFile(file)
	return strings.TrimSpace(string(data))
}

func frozen(pid int) bool {
	state := group(pid, "freezer", "freezer.state", "cgroup.freeze")
	return state == "FROZEN" || state == "FREEZING" || state == "1"
}

func memoryLimit(pid int) int64 {
	n, _ := strconv.ParseInt(group(pid, "memory", "memory.limit_in_bytes", "memory.max"), 10, 64)
	return n
}

// verifyVolume compares a volume's file with what was written: acknowledged lines are there, others may be.
func (c *client) verifyVolume(v *thing) {
	var s struct{ Labels map[string]string }
	if !c.api.get(c.t, "/volumes/"+v.name, &s) || s.Labels["model"] != v.name {
		c.t.Errorf("volume %s is lost, or its labels: %v", v.name, s.Labels)
		return
	}
	if len(v.tokens) == 0 {
		return
	}
	files, err := filepath.Glob(filepath.Join(harness.Data, "engine/store/volumes/*/data", v.name))
	if err != nil || len(files) > 1 {
		c.t.Errorf("files of volume %s: %q %v", v.name, files, err)
		return
	}
	var lines []string
	for _, f := range files {
		data, err := os.ReadFile(f)
		if err != nil {
			c.t.Error(err)
		}
		lines = strings.Fields(string(data))
	}
	want := slices.DeleteFunc(slices.Collect(maps.Keys(v.tokens)), func(token string) bool {
		return !v.tokens[token] && !slices.Contains(lines, token)
	})
	differ(c, "lines of volume "+v.name, lines, want)
}

// runImage runs a container of an image and looks for what was committed.
func (c *client) runImage(x *thing) {
	x.fresh = false
	script := "true"
	if x.from != "" {
		script = "grep -qx " + x.from + " /mark"
	}
	name := c.next()
	var made struct {
		ID string `json:"Id"`
	}
	a := c.api.call("POST", "/containers/create?name="+name, map[string]any{"Image": x.name, "Entrypoint": []string{}, "Cmd": []string{"sh", "-c", script}})
	if a.outcome != acked || !a.into(c.t, &made) {
		c.t.Errorf("container of image %s: %s", x.name, a)
		return
	}
	if a := c.api.call("POST", "/containers/"+made.ID+"/start", nil); a.outcome != acked {
		c.t.Errorf("start of image %s: %s", x.name, a)
	}
	var end struct{ StatusCode int }
	if a := c.api.call("POST", "/containers/"+made.ID+"/wait", nil); a.outcome != acked || !a.into(c.t, &end) || end.StatusCode != 0 {
		c.t.Errorf("image %s does not have what was committed: %s", x.name, a)
	}
	if a := c.api.call("DELETE", "/containers/"+made.ID+"?force=1&v=1", nil); a.outcome != acked {
		c.t.Errorf("remove container of image %s: %s", x.name, a)
	}
}

// clear removes everything, each with one request that must be acknowledged.
func clear(clients []*client) {
	c := clients[0]
	must := func(path string) {
		c.t.Helper()
		if a := c.api.call("DELETE", path, nil); a.outcome != acked {
			c.t.Errorf("DELETE %s: %s", path, a)
		}
	}
	for _, c := range clients {
		for _, b := range c.boxes {
			must("/containers/" + b.id + "?force=1&v=1")
		}
		for _, v := range c.volumes {
			must("/volumes/" + v.name)
		}
		for _, x := range c.images {
			must("/images/" + x.name + "?force=1")
		}
		c.boxes, c.volumes, c.images = nil, nil, nil
	}
	// What operations that were never acknowledged have made: volumes without a name, images without one.
	var volumes struct{ Volumes []struct{ Name string } }
	c.api.get(c.t, "/volumes", &volumes)
	for _, v := range volumes.Volumes {
		must("/volumes/" + v.Name)
	}
	filters := url.Values{"filters": {`{"dangling":["true"]}`}}
	if a := c.api.call("POST", "/images/prune?"+filters.Encode(), nil); a.outcome != acked {
		c.t.Errorf("prune images: %s", a)
	}
}

// removeAll removes whatever there is but the demonstration images, after a failure.
func removeAll(all []*client) {
	c := all[0]
	var list []struct {
		ID string `json:"Id"`
	}
	c.api.get(c.t, "/containers/json?all=1", &list)
	for _, e := range list {
		c.j.add("remove %s: %s", e.ID, c.api.call("DELETE", "/containers/"+e.ID+"?force=1&v=1", nil))
	}
	var images []struct{ RepoTags []string }
	c.api.get(c.t, "/images/json", &images)
	for _, i := range images {
		for _, name := range i.RepoTags {
			if strings.HasPrefix(name, "model/") {
				c.j.add("remove %s: %s", name, c.api.call("DELETE", "/images/"+name+"?force=1", nil))
			}
		}
	}
	for _, c := range all {
		c.boxes, c.volumes, c.images = nil, nil, nil
	}
	clear(all)
}
