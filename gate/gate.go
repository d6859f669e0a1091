// Package gate is the process that faces clients: it knows who asks, reads the request into one value, decides on that
// value, records the decision and forwards its own encoding of the value to the engine.
//
// Trust: clients may be anybody who can open the socket; their bytes are hostile. The kernel's word on who they are is
// believed. The engine may be compromised: it can lie in answers and no more.
// Invariants: nothing of a request reaches the engine before the request was decided on and recorded; no byte of it
// does but opaque streams after that; a bind has a grant made with the client's own connection.
// Failure: whatever cannot be decided or recorded is refused. The process has no capability; when it ends, clients'
// connections end and nothing else.
package gate

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"net/url"
	"os"
	"time"

	"stockade/api/setting"
	"stockade/gate/audit"
	"stockade/gate/forward"
	"stockade/gate/identity"
	"stockade/gate/policy"
	"stockade/internal/seqpacket"
)

// Limits of connections and heads.
//
// SECURITY(T-102): heads that are large, slow or never end. There is no listener but the Unix socket, so no TLS.
// SECURITY(T-801): see limiter and turns.
const (
	maxConns       = 2048
	maxConnsPerUID = 512
	maxBodies      = 16 // decoded at once per uid
	maxHeader      = 64 << 10
	headTimeout    = 10 * time.Second
	bodyTimeout    = 30 * time.Second // for a whole JSON body
	idleTimeout    = 5 * time.Minute
)

// Config is what the process needs.
type Config struct {
	Settings setting.Gate
	API      *os.File // listening Unix socket
	Audit    *os.File // opened for appending
	Log      *slog.Logger
}

// Gate handles requests.
type Gate struct {
	identity identity.Rules
	policy   policy.Config
	audit    *audit.Log
	engine   *forward.Engine
	grants   grantor
	bodies   *turns
	pings    pings
	hosts    []string // values of Host besides the fixed ones
	server   string   // value of the Server header
	log      *slog.Logger
}

// New makes a Gate from its settings.
func New(s setting.Gate, log *audit.Log, logger *slog.Logger) *Gate {
	return &Gate{
		identity: identity.Rules{AdminGID: s.AdminGID, Containers: s.Containers},
		policy:   policy.Config{LowPorts: s.LowPorts, BindPrefixes: s.BindPrefixes, Runtimes: s.Runtimes},
		audit:    log,
		engine:   forward.New(s.EngineSocket, logger),
		grants:   grantd{seqpacket.NewClient(s.GrantdSocket)},
		bodies:   newTurns(maxBodies),
		server:   "Stockade/" + s.Version,
		log:      logger,
	}
}

// Run serves until ctx ends.
func Run(ctx context.Context, c Config) error {
	l, err := net.FileListener(c.API)
	if err != nil {
		return fmt.Errorf("api socket: %w", err)
	}
	c.API.Close()
	unix, ok := l.(*net.UnixListener)
	if !ok {
		l.Close()
		return errors.New("api socket: not a Unix socket")
	}
	unix.SetUnlinkOnClose(false) // it is the supervisor's
	return New(c.Settings, audit.New(c.Audit), c.Log).Serve(ctx, unix)
}

// Serve serves the connections of l until ctx ends.
func (g *Gate) Serve(ctx context.Context, l *net.UnixListener) error {
	g.hosts = append(g.hosts, url.PathEscape(l.Addr().String()), fmt.Sprintf("%x", l.Addr().String()))
	var protocols http.Protocols
	protocols.SetHTTP1(true) // SECURITY(T-205): neither HTTP/2 nor h2c
	s := &http.Server{
		Handler:           g,
		Protocols:         &protocols,
		ReadHeaderTimeout: headTimeout,
		IdleTimeout:       idleTimeout,
		MaxHeaderBytes:    maxHeader,
		ConnContext:       g.connContext,
		ErrorLog:          slog.NewLogLogger(g.log.Handler(), slog.LevelDebug),
		// OPTIONS * is answered by nobody but the handler.
		DisableGeneralOptionsHandler: true,
	}
	stop := context.AfterFunc(ctx, func() {
		drain, cancel := context.WithTimeout(context.WithoutCancel(ctx), time.Second)
		defer cancel()
		_ = s.Shutdown(drain)
		_ = s.Close()
	})
	defer stop()
	err := s.Serve(newLimiter(l, maxConns, maxConnsPerUID, openFiles, g.log))
	if errors.Is(err, http.ErrServerClosed) && ctx.Err() != nil {
		return nil
	}
	return fmt.Errorf("serve: %w", err)
}

// client is the connection of a request and who is at its end.
type client struct {
	conn   *net.UnixConn
	caller identity.Caller
	err    error
}

type clientKey struct{}

// connContext reads the identity once per connection.
func (g *Gate) connContext(ctx context.Context, conn net.Conn) context.Context {
	c := &client{err: errors.New("not a Unix socket")}
	if limited, ok := conn.(*limitedConn); ok {
		c.conn = limited.UnixConn
		c.caller, c.err = g.identity.Of(c.conn)
	}
	return context.WithValue(ctx, clientKey{}, c)
}
