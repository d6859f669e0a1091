// Package grantd decides what of the host a client may bind into a container: exactly what that client can reach.
//
// A grant is made from the client's own connection: the kernel says who is at its other end. The path is opened as that
// person, without any capability, and the grant (person, path, tenant) is recorded, so that a container can start again
// when the client has gone. Each use opens the path anew as that person and shows it through a map in which the person
// is one id of the container and everybody else is nobody.
//
// Trust: gate and engine may be compromised. The gate cannot invent a caller; the engine cannot invent a grant, use
// another tenant's, or choose the map. Who has the engine can use every grant on record that names a tenant it knows.
// Invariants: no path is opened with this process's own identity on a caller's behalf; no thread that took an identity
// is used again; this process reads and writes no file but its records and /proc. A grant is durable before its answer.
// Failure: a request fails as a whole. When the pair to mountd breaks, Run ends, because a new mountd needs a new pair.
package grantd

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"

	"golang.org/x/sys/unix"

	"stockade/api/setting"
	"stockade/internal/boot"
	"stockade/internal/confine"
	"stockade/internal/seqpacket"
	"stockade/internal/userns"
	"stockade/priv/peer"
)

// Limits is what the process keeps for its whole life. records is the folder that was handed over.
func Limits(records *os.File, log *slog.Logger) confine.Spec {
	return confine.Spec{
		Process: "grantd",
		Log:     log,
		Calls: confine.Join(confine.UnixServer, confine.Namespaces, confine.Child, confine.ReadFiles, confine.WriteFiles, []confine.Calls{
			{Why: "a caller's identity on a thread of its own", Names: []string{"setgroups", "setfsuid", "setfsgid", "capset"}},
			{Why: "read that identity back", Names: []string{"getgroups", "capget"}},
			{Why: "the map's user namespace", Names: []string{"clone"}, If: []confine.Cond{{Arg: 0, Value: unix.CLONE_NEWUSER | uint64(unix.SIGCHLD)}}},
			{Why: "folders that are made get mode 0755", Names: []string{"umask"}},
		}),
		Paths: []confine.Path{
			{Why: "a missing bind source is made, as the caller could", Name: "/", Access: confine.MakeDir},
			{Why: "own descriptors, mountinfo, id maps of children", Name: "/proc", Access: confine.ReadFile | confine.ReadDir | confine.WriteFile},
			{Why: "the records", Name: fdPath(records), Access: confine.Records},
		},
	}
}

func fdPath(f *os.File) string { return fmt.Sprintf("/proc/self/fd/%d", f.Fd()) }

type server struct {
	set            setting.Grantd
	ownUID         uint32
	opener         opener
	records        *records
	mounter        mounter
	forbidden      map[node]bool
	aboveForbidden map[node]bool
}

// Run serves until ctx ends or the pair to mountd breaks.
func Run(ctx context.Context, set setting.Grantd, files boot.Files, log *slog.Logger) error {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	s, err := newServer(set, files, log, cancel)
	if err != nil {
		return fmt.Errorf("grantd: %w", err)
	}
	defer s.mounter.conn.Close()
	gate, err := files.Get("gate")
	if err != nil {
		return err
	}
	engine, err := files.Get("engine")
	if err != nil {
		return err
	}
	ended := make(chan error, 2)
	for _, l := range []peer.Listener{
		{File: gate, UID: set.GateUID, Table: s.gateTable()},
		{File: engine, UID: set.EngineUID, Table: s.engineTable()},
	} {
		go func() { ended <- l.Serve(ctx, log.With("peer_uid", l.UID)) }()
	}
	err = <-ended
	cancel(err)
	err = errors.Join(err, <-ended)
	if cause := context.Cause(ctx); errors.Is(cause, errPair) {
		err = errors.Join(err, cause)
	}
	if err != nil {
		return fmt.Errorf("grantd: %w", err)
	}
	return nil
}

// The tables are the whole of what each peer can ask.
func (s *server) gateTable() peer.Table {
	return peer.Table{"grant": peer.Handle(1, s.grant), "drop": peer.Handle(0, s.drop)}
}

func (s *server) engineTable() peer.Table {
	return peer.Table{"use": peer.Handle(0, s.use), "drop": peer.Handle(0, s.drop), "list": peer.Handle(0, s.list)}
}

func newServer(set setting.Grantd, files boot.Files, log *slog.Logger, broken func(error)) (*server, error) {
	s := &server{set: set, ownUID: uint32(os.Getuid()), opener: opener{busy: map[uint32]int{}},
		forbidden: map[node]bool{}, aboveForbidden: map[node]bool{}}
	if err := checkSettings(set); err != nil {
		return nil, err
	}
	unix.Umask(0o022)
	for _, f := range set.Forbidden {
		if err := s.forbid(f); err != nil {
			return nil, fmt.Errorf("forbidden folder %s: %w", f, err)
		}
	}
	folder, err := files.Get("records")
	if err != nil {
		return nil, err
	}
	root, err := os.OpenRoot(fdPath(folder))
	if err != nil {
		return nil, fmt.Errorf("records: %w", err)
	}
	if s.records, err = load(root, set.MaxGrants, log); err != nil {
		return nil, err
	}
	u, err := files.Get("userns")
	if err != nil {
		return nil, err
	}
	if _, err := userns.Identify(u, unix.CLONE_NEWUSER); err != nil {
		return nil, fmt.Errorf("userns: %w", err)
	}
	pair, err := files.Get("mountd")
	if err != nil {
		return nil, err
	}
	fd, err := unix.FcntlInt(pair.Fd(), unix.F_DUPFD_CLOEXEC, 0)
	if err != nil {
		return nil, fmt.Errorf("pair: %w", err)
	}
	pair.Close() // so that mountd sees when this process gives up
	conn, err := seqpacket.New(fd)
	if err != nil {
		return nil, fmt.Errorf("pair: %w", err)
	}
	if err := seqpacket.Greet(conn); err != nil {
		conn.Close()
		return nil, fmt.Errorf("greet mountd: %w", err)
	}
	s.mounter.conn, s.mounter.broken = conn, broken
	return s, nil
}

// checkSettings refuses a configuration in which an id could stand for two things.
func checkSettings(set setting.Grantd) error {
	end := func(r setting.IDRange) uint64 { return uint64(r.First) + uint64(r.Count) }
	switch {
	case set.GateUID == 0 || set.EngineUID == 0 || set.GateUID == set.EngineUID:
		return errors.New("settings: gate and engine need user ids of their own")
	case len(set.APISockets) == 0:
		return errors.New("settings: no API socket")
	case set.Sub.First == 0 || set.Sub.Count < 2*setting.BlockSize || set.Sub.Count%setting.BlockSize != 0:
		return errors.New("settings: the containers' id range needs whole blocks, at least two")
	case set.Ghost.First == 0 || set.Ghost.Count < setting.BlockSize || end(set.Ghost) > 1<<32-1 || end(set.Sub) > 1<<32-1:
		return errors.New("settings: the ghost range is empty or too large")
	case uint64(set.Ghost.First) < end(set.Sub) && uint64(set.Sub.First) < end(set.Ghost):
		return errors.New("settings: the ghost range overlaps the containers'")
	case set.Ghost.Contains(set.EngineUID) || set.Ghost.Contains(set.GateUID) || set.Sub.Contains(set.EngineUID) || set.Sub.Contains(set.GateUID):
		return errors.New("settings: a range holds the server's own user ids")
	}
	return nil
}

// forbid remembers one folder of the server and what lies above it.
func (s *server) forbid(folder string) error {
	fd, err := openat2(unix.AT_FDCWD, folder, &unix.OpenHow{Flags: unix.O_PATH | unix.O_DIRECTORY | unix.O_CLOEXEC})
	if err != nil {
		return err
	}
	f := os.NewFile(uintptr(fd), folder)
	defer f.Close()
	real, err := realPath(f)
	if err != nil {
		return err
	}
	for i, p := range ancestors(real) {
		n, err := nodeAt(p)
		if err != nil {
			return err
		}
		if i == 0 {
			s.forbidden[n] = true
		} else {
			s.aboveForbidden[n] = true
		}
	}
	return nil
}
