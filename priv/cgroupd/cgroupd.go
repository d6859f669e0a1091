// Package cgroupd writes the control groups of containers, for an engine that may not.
//
// It makes one group per container beneath our own parent in each hierarchy, sets its limits, moves processes of the
// engine's id range into it, and reads its counters. On cgroup v1 it runs as uid 0 without any capability, because v1
// lets only uid 0 move another user's process; on v2 it is the owner of the subtree.
//
// Trust: the engine may be compromised. Group names are single path components of a small alphabet, opened beneath a
// descriptor of our parent without following anything; limits are numbers; a process is moved only when its descriptor
// proves which one it is and all its uids belong to the engine (THREATS.md T-704).
//
// Invariants: nothing outside of <hierarchy>/<Parent>/<id> is written. A change of limits happens entirely or not at
// all. No state is kept in memory, so a restart at any point loses nothing.
//
// Failure: a controller or file that the host does not have is reported in Skipped; everything else is an error.
//
// The package has a writer of its own rather than github.com/opencontainers/cgroups: that one wants to make parents,
// to speak to systemd and to write devices, all by path names, and none of it fits a writer that holds descriptors only.
package cgroupd

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"slices"
	"sync"

	"golang.org/x/sys/unix"

	"stockade/api/helper"
	"stockade/api/setting"
	"stockade/internal/boot"
	"stockade/internal/confine"
	"stockade/internal/failpoint"
	"stockade/priv/peer"
)

// maxGroups keeps the answer of "list" within one message.
const maxGroups = 900

// maxPids is the most processes that "pids" answers.
const maxPids = 4096

// Server carries out requests.
type Server struct {
	set  setting.Cgroupd
	tree tree
	mu   sync.Mutex // orders create, set and remove
	log  *slog.Logger
}

// New opens the hierarchies. At least one must have our parent.
func New(set setting.Cgroupd, log *slog.Logger) (*Server, error) {
	if set.EngineUID == 0 || set.Sub.Contains(0) {
		return nil, errors.New("the engine's ids must not include uid 0")
	}
	t, err := openTree(set)
	if err != nil {
		return nil, err
	}
	return &Server{set: set, tree: t, log: log}, nil
}

// Close closes the hierarchies.
func (s *Server) Close() { s.tree.close() }

// Limits is what the process keeps once New has opened the hierarchies. SECURITY(T-704): as uid 0 it owns the host's
// files, so Landlock leaves it our subtrees to write and /proc to read.
func (s *Server) Limits() confine.Spec {
	spec := confine.Spec{
		Process: "cgroupd",
		Log:     s.log,
		Calls: confine.Join(confine.UnixServer, confine.ReadFiles, []confine.Calls{
			{Why: "make and remove groups", Names: []string{"mkdirat", "unlinkat"}},
			{Why: "does a process still live", Names: []string{"poll", "ppoll"}},
		}),
		Paths: []confine.Path{{Why: "uids of processes, what a pidfd refers to", Name: "/proc", Access: confine.ReadFile}},
	}
	for _, h := range s.tree.all {
		spec.Paths = append(spec.Paths, confine.Path{Why: "our groups", Name: h.path,
			Access: confine.ReadFile | confine.ReadDir | confine.WriteFile | confine.MakeDir | confine.RemoveDir})
	}
	return spec
}

// Table is what the engine may ask.
func (s *Server) Table() peer.Table {
	return peer.Table{
		"create": peer.Handle(0, s.create),
		"set":    peer.Handle(0, s.setLimits),
		"attach": peer.Handle(1, s.attach),
		"remove": peer.Handle(0, s.remove),
		"stat":   peer.Handle(0, s.stat),
		"freeze": peer.Handle(0, s.freeze),
		"thaw":   peer.Handle(0, s.thaw),
		"kill":   peer.Handle(0, s.kill),
		"pids":   peer.Handle(0, s.pids),
		"list":   peer.Handle(0, s.list),
	}
}

// Run is the whole process: it opens the hierarchies, gives up everything else, and serves the engine until ctx ends.
func Run(ctx context.Context, set setting.Cgroupd, files boot.Files, log *slog.Logger) error {
	unix.Umask(0o022) // groups are for everybody to look at: OCI runtimes do
	listener, err := files.Get("engine")
	if err != nil {
		return err
	}
	s, err := New(set, log)
	if err != nil {
		return fmt.Errorf("cgroupd: %w", err)
	}
	defer s.Close()
	if err := confine.Process(s.Limits()); err != nil {
		return err
	}
	return peer.Listener{File: listener, UID: set.EngineUID, Table: s.Table()}.Serve(ctx, log)
}

func (s *Server) create(_ context.Context, q helper.CgroupCreate, _ []*os.File) (helper.SetDone, []*os.File, error) {
	id, err := parseID(q.ID)
	if err != nil {
		return helper.SetDone{}, nil, err
	}
	if err := checkLimits(q.Limits); err != nil {
		return helper.SetDone{}, nil, err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	ids, err := s.tree.groups()
	if err != nil {
		return helper.SetDone{}, nil, err
	}
	if len(ids) >= maxGroups && !slices.Contains(ids, string(id)) {
		return helper.SetDone{}, nil, peer.Errorf(helper.Exhausted, "there are %d control groups already", len(ids))
	}
	fresh, err := s.tree.make(id)
	if err != nil {
		return helper.SetDone{}, nil, err
	}
	failpoint.Hit("cgroupd.made")
	skipped, err := s.tree.limit(id, q.Limits)
	if err != nil && fresh {
		err = errors.Join(err, s.tree.remove(id))
	}
	return helper.SetDone{Skipped: skipped}, nil, err
}

func (s *Server) setLimits(_ context.Context, q helper.CgroupSet, _ []*os.File) (helper.SetDone, []*os.File, error) {
	id, err := s.existing(q.ID)
	if err != nil {
		return helper.SetDone{}, nil, err
	}
	if err := checkLimits(q.Limits); err != nil {
		return helper.SetDone{}, nil, err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	skipped, err := s.tree.limit(id, q.Limits)
	return helper.SetDone{Skipped: skipped}, nil, err
}

func (s *Server) remove(_ context.Context, q helper.CgroupID, _ []*os.File) (helper.None, []*os.File, error) {
	id, err := parseID(q.ID)
	if err != nil {
		return helper.None{}, nil, err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	return helper.None{}, nil, s.tree.remove(id)
}

func (s *Server) kill(_ context.Context, q helper.CgroupID, _ []*os.File) (helper.None, []*os.File, error) {
	id, err := s.existing(q.ID)
	if err != nil {
		return helper.None{}, nil, err
	}
	if !s.set.V2 {
		return helper.None{}, nil, peer.Errorf(helper.Invalid, "cgroup v1 cannot kill a group; the engine signals its own processes")
	}
	err = s.tree.all[0].write(string(id)+"/cgroup.kill", "1")
	if errors.Is(err, unix.ENOENT) {
		err = peer.Errorf(helper.Invalid, "this kernel has no cgroup.kill (Linux 5.14)")
	}
	return helper.None{}, nil, err
}

func (s *Server) pids(_ context.Context, q helper.CgroupID, _ []*os.File) (helper.CgroupPids, []*os.File, error) {
	id, err := s.existing(q.ID)
	if err != nil {
		return helper.CgroupPids{}, nil, err
	}
	text, err := s.tree.all[0].read(string(id) + "/cgroup.procs")
	if err != nil {
		return helper.CgroupPids{}, nil, err
	}
	pids, err := parsePids(text)
	if err != nil {
		return helper.CgroupPids{}, nil, err
	}
	return helper.CgroupPids{Pids: pids}, nil, nil
}

func (s *Server) list(context.Context, helper.None, []*os.File) (helper.CgroupList, []*os.File, error) {
	ids, err := s.tree.groups()
	return helper.CgroupList{IDs: ids}, nil, err
}

// existing parses an id and refuses one that has no group.
func (s *Server) existing(text string) (groupID, error) {
	id, err := parseID(text)
	if err != nil {
		return "", err
	}
	ok, err := s.tree.has(id)
	if err != nil {
		return "", err
	}
	if !ok {
		return "", peer.Errorf(helper.NotFound, "no control group %s", id)
	}
	return id, nil
}

// classed gives a kernel error the class that tells the engine what it means.
func classed(err error, format string, a ...any) error {
	if err == nil {
		return nil
	}
	what := fmt.Sprintf(format, a...)
	switch {
	case errors.Is(err, unix.EBUSY):
		return peer.Errorf(helper.Conflict, "%s: in use", what)
	case errors.Is(err, unix.EINVAL), errors.Is(err, unix.ERANGE):
		return peer.Errorf(helper.Invalid, "%s: the kernel refuses the value", what)
	case errors.Is(err, unix.ESRCH):
		return peer.Errorf(helper.NotFound, "%s: no such process", what)
	case errors.Is(err, unix.ENOSPC):
		return peer.Errorf(helper.Exhausted, "%s: no space", what)
	}
	return fmt.Errorf("%s: %w", what, err)
}
