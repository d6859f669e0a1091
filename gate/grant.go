package gate

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"os"

	"golang.org/x/sys/unix"

	"stockade/api/helper"
	"stockade/api/scope"
	"stockade/gate/identity"
	"stockade/gate/policy"
	"stockade/gate/refusal"
	"stockade/internal/seqpacket"
)

// grantor makes and drops grants for host paths.
type grantor interface {
	grant(ctx context.Context, conn *net.UnixConn, g helper.Grant) (helper.GrantDone, error)
	drop(ctx context.Context, ids []string) error
}

// grantd is the helper that decides about paths with the caller's own rights.
type grantd struct{ c *seqpacket.Client }

func (g grantd) grant(ctx context.Context, conn *net.UnixConn, q helper.Grant) (helper.GrantDone, error) {
	file, err := duplicate(conn)
	if err != nil {
		return helper.GrantDone{}, err
	}
	defer file.Close()
	done, fds, err := seqpacket.Call[helper.Grant, helper.GrantDone](ctx, g.c, "grant", q, file)
	seqpacket.CloseAll(fds)
	return done, err
}

func (g grantd) drop(ctx context.Context, ids []string) error {
	_, fds, err := seqpacket.Call[helper.Drop, helper.None](ctx, g.c, "drop", helper.Drop{IDs: ids})
	seqpacket.CloseAll(fds)
	return err
}

// duplicate makes a descriptor of the connection to pass on. (UnixConn.File would later switch the connection that
// both share to blocking mode.)
func duplicate(conn *net.UnixConn) (*os.File, error) {
	raw, err := conn.SyscallConn()
	if err != nil {
		return nil, err
	}
	n := -1
	var derr error
	if err := raw.Control(func(fd uintptr) { n, derr = unix.FcntlInt(fd, unix.F_DUPFD_CLOEXEC, 0) }); err != nil {
		return nil, err
	}
	if derr != nil {
		return nil, fmt.Errorf("duplicate connection: %w", derr)
	}
	return os.NewFile(uintptr(n), "client"), nil
}

// grantAll asks for one grant per source; none stays if one is refused.
//
// SECURITY(T-701): the caller is told by the connection that is passed, not by anything that the gate says.
func (g *Gate) grantAll(ctx context.Context, c *client, tenant identity.Tenant, binds []policy.Bind) ([]scope.Grant, error) {
	var grants []scope.Grant
	for _, b := range merge(binds) {
		done, err := g.grants.grant(ctx, c.conn, helper.Grant{Path: b.Source, RO: b.ReadOnly, SubRW: b.SubWritable, Create: b.Create, Tenant: string(tenant)})
		if err != nil {
			g.dropAll(ctx, grants)
			return nil, grantRefusal(b.Source, err)
		}
		grants = append(grants, scope.Grant{Source: b.Source, ID: done.ID, Dir: done.Dir, UID: done.UID})
	}
	return grants, nil
}

// merge joins binds of the same source into one that serves all of them.
func merge(binds []policy.Bind) []policy.Bind {
	var out []policy.Bind
	at := map[string]int{}
	for _, b := range binds {
		i, ok := at[b.Source]
		if !ok {
			at[b.Source] = len(out)
			out = append(out, b)
			continue
		}
		out[i].ReadOnly = out[i].ReadOnly && b.ReadOnly
		out[i].SubWritable = out[i].SubWritable || b.SubWritable
		out[i].Create = out[i].Create || b.Create
	}
	return out
}

// dropAll ends grants that no container uses. It goes on when the client is gone.
func (g *Gate) dropAll(ctx context.Context, grants []scope.Grant) {
	if len(grants) == 0 {
		return
	}
	ids := make([]string, len(grants))
	for i, gr := range grants {
		ids[i] = gr.ID
	}
	if err := g.grants.drop(context.WithoutCancel(ctx), ids); err != nil {
		g.log.Warn("drop grants", "ids", ids, "err", err)
	}
}

// grantRefusal makes grantd's answer one for the client.
func grantRefusal(source string, err error) error {
	var herr *seqpacket.Error
	if !errors.As(err, &herr) {
		return errors.Join(refusal.New(http.StatusServiceUnavailable, "grant", "bind of %s: the grant service is not available; try again", source), err)
	}
	switch herr.Class {
	case helper.NotFound:
		return refusal.New(http.StatusBadRequest, "grant", "invalid mount config for type \"bind\": bind source path does not exist: %s", source)
	case helper.Invalid:
		return refusal.New(http.StatusBadRequest, "grant", "bind of %s: %s", source, herr.Text)
	case helper.Denied:
		return refusal.New(http.StatusForbidden, "grant", "bind of %s is not allowed here (rule grant): %s", source, herr.Text)
	case helper.Conflict, helper.Exhausted:
		return refusal.New(http.StatusConflict, "grant", "bind of %s: %s", source, herr.Text)
	default:
		return errors.Join(refusal.New(http.StatusInternalServerError, "grant", "bind of %s: the grant service failed", source), err)
	}
}
