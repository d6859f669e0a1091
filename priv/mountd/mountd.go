// Package mountd makes id-mapped, detached mounts: the one process with CAP_SYS_ADMIN, and the one thing it does.
//
// It decides which folder may be shown through which id map. The engine names folders of its store and brings a map
// that must belong to U; grantd, over a socket pair that nobody else holds, brings an open file and a map of its own.
// A request "show this file through that map" from the engine would give it root's files; it does not exist.
//
// Trust: the engine may be compromised: names, maps and descriptors are checked against the kernel's word. grantd is
// trusted to have opened the file with its caller's rights, but what it sends is checked for kind all the same.
// Invariants: nothing is ever attached; every mount is nodev and private, layers are read-only, binds nosuid; a store
// folder and every id that its map shows lie in the store's range. mountd keeps no state.
// Failure: a request fails as a whole and leaves no mount. When grantd's end of the pair closes, Run ends, because a
// new grantd needs a new pair.
package mountd

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"

	"golang.org/x/sys/unix"

	"stockade/api/helper"
	"stockade/api/setting"
	"stockade/internal/boot"
	"stockade/internal/confine"
	"stockade/internal/seqpacket"
	"stockade/internal/userns"
	"stockade/priv/peer"
)

// Limits is what the process keeps for its whole life.
func Limits(log *slog.Logger) confine.Spec {
	return confine.Spec{
		Process: "mountd",
		Log:     log,
		Calls: confine.Join(confine.UnixServer, confine.Namespaces, confine.Child, []confine.Calls{
			{Why: "open store folders beneath the store, and the map of a child", Names: []string{"openat2"}},
			{Why: "detached, id-mapped clones", Names: []string{"open_tree", "mount_setattr"}},
			{Why: "a child that enters the engine's map, so that /proc shows it", Names: []string{"setns"}, If: []confine.Cond{{Arg: 1, Value: unix.CLONE_NEWUSER}}},
			{Why: "start of that child", Names: []string{"clone"}, If: []confine.Cond{{Arg: 0, Value: uint64(unix.SIGCHLD)}}},
		}),
		// O_PATH needs no Landlock right, so the contents of all files stay out of reach, the store's included.
		Paths: []confine.Path{{Why: "the map of a child", Name: "/proc", Access: confine.ReadFile}},
	}
}

// errPair ends the process; any other end of the context is a wanted one.
var errPair = errors.New("the socket pair to grantd is closed")

type server struct {
	store   *os.File
	owners  setting.IDRange
	u       userns.ID
	initial userns.ID
}

// Run serves until ctx ends or the pair to grantd breaks.
func Run(ctx context.Context, set setting.Mountd, files boot.Files, log *slog.Logger) error {
	s, err := newServer(set, files)
	if err != nil {
		return err
	}
	listener, err := files.Get("engine")
	if err != nil {
		return err
	}
	pair, err := pairOf(files)
	if err != nil {
		return err
	}
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	go func() {
		peer.ServeConn(ctx, pair, s.grantdTable(), log.With("peer", "grantd"))
		cancel(errPair)
	}()
	engine := peer.Listener{File: listener, UID: set.EngineUID, Table: s.engineTable()}
	if err := engine.Serve(ctx, log.With("peer", "engine")); err != nil {
		return fmt.Errorf("mountd: %w", err)
	}
	if errors.Is(context.Cause(ctx), errPair) {
		return fmt.Errorf("mountd: %w", errPair)
	}
	return nil
}

func newServer(set setting.Mountd, files boot.Files) (*server, error) {
	if set.EngineUID == 0 || set.Store.First == 0 || set.Store.Count == 0 {
		return nil, errors.New("mountd: settings without engine or store range")
	}
	s := &server{owners: set.Store}
	var err error
	if s.store, err = files.Get("store"); err != nil {
		return nil, err
	}
	u, err := files.Get("userns")
	if err != nil {
		return nil, err
	}
	if s.u, err = userns.Identify(u, unix.CLONE_NEWUSER); err != nil {
		return nil, fmt.Errorf("userns: %w", err)
	}
	parent, err := userns.Parent(u)
	if err != nil {
		return nil, fmt.Errorf("parent of U: %w", err)
	}
	defer parent.Close()
	if s.initial, err = userns.Identify(parent, unix.CLONE_NEWUSER); err != nil {
		return nil, fmt.Errorf("parent of U: %w", err)
	}
	return s, nil
}

func pairOf(files boot.Files) (*seqpacket.Conn, error) {
	file, err := files.Get("grantd")
	if err != nil {
		return nil, err
	}
	fd, err := unix.FcntlInt(file.Fd(), unix.F_DUPFD_CLOEXEC, 0)
	if err != nil {
		return nil, fmt.Errorf("pair: %w", err)
	}
	file.Close() // so that the other end sees when this process gives up
	return seqpacket.New(fd)
}

// The tables are the whole of what each peer can ask.
func (s *server) engineTable() peer.Table { return peer.Table{"clone": peer.Handle(1, s.clone)} }
func (s *server) grantdTable() peer.Table { return peer.Table{"bind": peer.Handle(2, s.bind)} }

// detached clones the mount that f lies on, rooted at f, and id-maps it.
func detached(f, ns *os.File, attr uint64) (*os.File, error) {
	fd, err := unix.OpenTree(int(f.Fd()), "", unix.OPEN_TREE_CLONE|unix.OPEN_TREE_CLOEXEC|unix.AT_EMPTY_PATH)
	if err != nil {
		return nil, fmt.Errorf("open_tree: %w", err)
	}
	mount := os.NewFile(uintptr(fd), "mount")
	err = unix.MountSetattr(fd, "", unix.AT_EMPTY_PATH, &unix.MountAttr{
		Attr_set:    attr | unix.MOUNT_ATTR_IDMAP | unix.MOUNT_ATTR_NODEV,
		Propagation: unix.MS_PRIVATE,
		Userns_fd:   uint64(ns.Fd()),
	})
	if err != nil {
		mount.Close()
		// EINVAL: the file system lacks it. EPERM: the mount is id-mapped already.
		if errors.Is(err, unix.EINVAL) || errors.Is(err, unix.EPERM) {
			return nil, peer.Errorf(helper.Invalid, "the kernel cannot id-map this file system")
		}
		return nil, fmt.Errorf("mount_setattr: %w", err)
	}
	return mount, nil
}
