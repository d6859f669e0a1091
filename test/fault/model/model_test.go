//go:build root

package model

import (
	"fmt"
	"slices"
	"strings"
)

// Statuses of a container, as the API names them.
const (
	created = "created"
	running = "running"
	paused  = "paused"
	exited  = "exited"
)

// box is what must be true of one container.
type box struct {
	label string // unique; its first name, too
	id    string // "": never acknowledged
	name  string
	next  string // name that a rename under way gives
	job   bool   // ends by itself, with jobCode
	plan  plan

	exists  bool
	status  string
	pid     int // of a process that must be the same still; 0: not known
	memory  int64
	wanted  int64  // memory that an update under way gives
	pending string // operation whose answer never came
}

// plan is what a container is made with.
type plan struct {
	volume    string // named, or ""
	anonymous bool   // a volume without a name
	bind      bool   // a folder of the user
	port      bool   // a published port
}

// jobCode is how jobs end; boxes end with stopCode when asked to, or are killed.
const (
	jobCode  = 5
	stopCode = 7
)

// apply is what an acknowledged operation has done.
func (b *box) apply(op string) {
	switch op {
	case "create":
		b.exists, b.status = true, created
	case "start", "restart":
		b.status, b.pid = running, 0
	case "unpause":
		b.status = running
	case "stop", "kill":
		b.status, b.pid = exited, 0
	case "pause":
		b.status = paused
	case "rename":
		b.name, b.next = b.next, ""
	case "update":
		b.memory = b.wanted
	case "rm":
		b.exists = false
	}
	b.pending = ""
}

// may lists what the operation under way can have made of the status.
func (b *box) may() []string {
	list := []string{b.status}
	switch b.pending {
	case "create":
		list = []string{created}
	case "start":
		list = append(list, running, exited) // a start that fails records why
		if b.status != created {
			break
		}
	case "restart":
		list = append(list, running, exited)
	case "unpause":
		list = append(list, running)
	case "stop", "kill":
		list = append(list, running, exited) // a paused one goes on to end
	case "pause", "commit":
		list = append(list, paused)
	case "rm":
		list = append(list, exited, "removing", "dead")
	}
	if b.job && slices.Contains(list, running) {
		list = append(list, exited)
	}
	return list
}

func (b *box) String() string {
	return fmt.Sprintf("container %s (%.12s, %s, pending %q)", b.name, b.id, b.status, b.pending)
}

// seen is what the server says of a container.
type seen struct {
	ID    string `json:"Id"`
	Name  string
	State struct {
		Status   string
		Running  bool
		Paused   bool
		Pid      int
		ExitCode int
		Error    string
	}
	Config     struct{ Labels map[string]string }
	HostConfig struct{ Memory int64 }
}

// differs tells how the server's word differs from what must be; "" if it does not. mortal tells that monitors were
// killed: then what ran may have ended.
func (b *box) differs(s seen, mortal bool) string {
	var d []string
	bad := func(what string, got, want any) { d = append(d, fmt.Sprintf("%s is %v, want %v", what, got, want)) }
	if b.id != "" && s.ID != b.id {
		bad("id", s.ID, b.id)
	}
	name := strings.TrimPrefix(s.Name, "/")
	if name != b.name && (b.pending != "rename" || name != b.next) {
		bad("name", name, b.name)
	}
	if s.Config.Labels["model"] != b.label {
		bad("label", s.Config.Labels["model"], b.label)
	}
	if m := s.HostConfig.Memory; m != b.memory && (b.pending != "update" || m != b.wanted) {
		bad("memory limit", m, b.memory)
	}
	statuses := b.may()
	if mortal && (slices.Contains(statuses, running) || slices.Contains(statuses, paused)) {
		statuses = append(statuses, exited)
	}
	if !slices.Contains(statuses, s.State.Status) {
		bad("status", fmt.Sprintf("%s (%d %q)", s.State.Status, s.State.ExitCode, s.State.Error), statuses)
	}
	if s.State.Status == running && b.pid != 0 && b.pending == "" && s.State.Pid != b.pid {
		bad("process", s.State.Pid, b.pid)
	}
	if s.State.Status == exited {
		// 2: a stop right after the start finds the OCI runtime's own first process, which ends with it.
		codes := []int{stopCode, 137, 143, 2}
		if b.job {
			codes = []int{jobCode, 137}
		}
		if b.pending == "start" || b.pending == "restart" || b.pending == "rm" {
			codes = append(codes, 0, 126, 127, 128) // a failed start
		}
		if !slices.Contains(codes, s.State.ExitCode) {
			bad("exit code", fmt.Sprintf("%d %q", s.State.ExitCode, s.State.Error), codes)
		}
	}
	return strings.Join(d, "; ")
}

// thing is a volume or the name of an image: it is there, or it is not.
type thing struct {
	name    string
	exists  bool
	pending string          // "make" or "remove"
	from    string          // image: label of the container that it was committed from, or ""
	fresh   bool            // image: nobody has run it yet
	tokens  map[string]bool // volume: lines of its file; true: acknowledged
}

func (x *thing) apply(op string) { x.exists, x.pending = op == "make", "" }
