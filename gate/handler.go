package gate

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"io"
	"net/http"
	"net/url"
	"strings"
	"time"

	"github.com/moby/moby/api/types/container"
	"github.com/moby/moby/api/types/registry"
	"github.com/moby/moby/api/types/volume"

	"stockade/api/scope"
	"stockade/gate/audit"
	"stockade/gate/decode"
	"stockade/gate/forward"
	"stockade/gate/policy"
	"stockade/gate/refusal"
	"stockade/gate/route"
)

// decision is a request that may go on.
type decision struct {
	match *route.Match
	query url.Values
	body  any           // typed value, nil: none
	auth  string        // X-Registry-Auth, encoded anew
	raw   bool          // the request's own body follows as an opaque stream
	binds []policy.Bind // host paths that need grants
}

// ServeHTTP takes one request from the client to the engine.
func (g *Gate) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	h := w.Header()
	h.Set("Server", g.server)
	h.Set("Api-Version", route.MaxVersion)
	h.Set("Ostype", "linux")
	rec := audit.Record{ID: audit.NewID(), Time: time.Now().UTC()}
	c, ok := r.Context().Value(clientKey{}).(*client)
	if !ok || c.err != nil || !c.caller.Known() {
		text := "the caller is unknown"
		if ok && c.err != nil {
			text = c.err.Error()
		}
		g.refuse(w, r, rec, refusal.New(http.StatusForbidden, "identity", "%s", text))
		return
	}
	rec.UID, rec.PID, rec.Tenant, rec.Admin = c.caller.UID, c.caller.PID, c.caller.Tenant, c.caller.Admin
	done := func() {}
	defer func() { done() }()
	d, err := g.decide(w, r, c, &rec, &done)
	if err != nil {
		g.refuse(w, r, rec, err)
		return
	}
	rec.Decision = audit.Allowed
	if !d.match.Quiet {
		// The record comes before any effect: without one there is none.
		if err := g.audit.Write(rec); err != nil {
			g.log.Error("request refused", "err", err)
			writeError(w, &refusal.Refusal{Status: http.StatusInternalServerError, Rule: "audit", Text: "the audit record cannot be written; nothing was done"})
			return
		}
	}
	if d.match.Stream.Upgrades() {
		done() // its body is small, and the stream may last
	}
	if err := g.carryOut(w, r, c, d); err != nil {
		g.refuse(w, r, rec, err)
	}
}

// refuse records and answers a refusal.
func (g *Gate) refuse(w http.ResponseWriter, r *http.Request, rec audit.Record, err error) {
	no := refusal.Of(err)
	rec.Decision, rec.Rule = audit.Refused, no.Rule
	if werr := g.audit.Write(rec); werr != nil {
		g.log.Error("refusal without record", "err", werr)
	}
	if no.Status >= 500 && no.Status != http.StatusNotImplemented {
		g.log.Error("request failed", "id", rec.ID, "operation", rec.Operation, "err", err)
	}
	writeError(w, no)
}

// writeError answers in Docker's shape.
func writeError(w http.ResponseWriter, no *refusal.Refusal) {
	body, err := json.Marshal(map[string]string{"message": no.Text})
	if err != nil {
		body = []byte(`{"message":"refused"}`)
	}
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(no.Status)
	_, _ = w.Write(append(body, '\n')) // the client may be gone
}

// decide reads the whole request but for opaque streams, and decides. It has no effect. done is set to what ends the
// turn of a request with a body.
func (g *Gate) decide(w http.ResponseWriter, r *http.Request, c *client, rec *audit.Record, done *func()) (*decision, error) {
	if err := g.checkHead(r); err != nil {
		return nil, err
	}
	m, err := route.Parse(r.Method, r.RequestURI)
	if m != nil {
		rec.Operation, rec.Object = m.Op, m.Name
	}
	if err != nil {
		return nil, err
	}
	if m.Role != route.Anyone {
		return nil, refusal.New(http.StatusForbidden, "role", "%s is not allowed for this caller", m.Op)
	}
	if err := checkUpgrade(r, m.Stream); err != nil {
		return nil, err
	}
	d := &decision{match: m}
	if d.query, err = decode.Query(m.Query, m.RawQuery); err != nil {
		return nil, err
	}
	if rec.Object == "" {
		rec.Object = object(d.query)
	}
	if m.Auth {
		if d.auth, err = decode.RegistryAuth(r.Header); err != nil {
			return nil, err
		}
	}
	if m.Op == "ImageCreate" {
		if err := policy.Import(d.query.Get("fromImage"), d.query.Get("fromSrc")); err != nil {
			return nil, err
		}
	}
	if d.raw = m.Stream == route.Upload && d.query.Get("fromImage") == ""; d.raw {
		return d, nil
	}
	if m.Body != nil {
		if *done, err = g.bodies.wait(r.Context(), c.caller.UID); err != nil {
			*done = func() {}
			return nil, err
		}
	}
	// A body that trickles in must not hold the request for ever.
	rc := http.NewResponseController(w)
	_ = rc.SetReadDeadline(time.Now().Add(bodyTimeout))
	if m.Body == nil {
		err = decode.Empty(m, r)
	} else {
		d.body, err = decode.Body(m, r)
	}
	_ = rc.SetReadDeadline(time.Time{})
	if err != nil {
		return nil, err
	}
	if err := g.check(c, d, rec); err != nil {
		return nil, err
	}
	return d, nil
}

// object names what a request without a name in its path is about.
func object(q url.Values) string {
	for _, k := range []string{"name", "container", "fromImage", "repo"} {
		if v := q.Get(k); v != "" {
			return v
		}
	}
	return ""
}

// check applies the policy to a decoded body.
//
// SECURITY(T-202): a type without a case here is refused; fields_test.go walks the fields of those that have one.
func (g *Gate) check(c *client, d *decision, rec *audit.Record) error {
	caller := policy.Caller{Root: c.caller.UID == 0, Admin: c.caller.Admin}
	switch body := d.body.(type) {
	case nil, *registry.AuthConfig, *container.ExecStartRequest:
		return nil // nothing in them is a privilege
	case *container.CreateRequest:
		if rec.Object == "" && body.Config != nil {
			rec.Object = body.Image
		}
		var err error
		d.binds, err = g.policy.Create(caller, body)
		for _, b := range d.binds {
			rec.Binds = append(rec.Binds, b.Source)
		}
		return err
	case *container.UpdateConfig:
		return g.policy.Update(caller, body)
	case *container.Config:
		return g.policy.Commit(caller, body)
	case *container.ExecCreateRequest:
		return g.policy.Exec(caller, body)
	case *volume.CreateRequest:
		rec.Object = body.Name
		return g.policy.Volume(caller, body)
	default:
		return errors.New("no policy for this body")
	}
}

// carryOut makes the grants and forwards. Errors are returned only before the client got anything.
func (g *Gate) carryOut(w http.ResponseWriter, r *http.Request, c *client, d *decision) error {
	// What was begun for a client that goes away is finished or undone, not left in between.
	ctx := r.Context()
	if d.match.Op == "ContainerCreate" || d.match.Stream.Upgrades() {
		ctx = context.WithoutCancel(ctx)
	}
	s := scope.Scope{Tenant: string(c.caller.Tenant), UID: c.caller.UID, Admin: c.caller.Admin, Version: d.match.Version}
	var err error
	if s.Grants, err = g.grantAll(ctx, c, c.caller.Tenant, d.binds); err != nil {
		return err
	}
	out, err := d.encode(r, s)
	if err != nil {
		g.dropAll(ctx, s.Grants)
		return err
	}
	if d.match.Stream.Upgrades() {
		return g.engine.Stream(ctx, w, out)
	}
	ping := d.match.Pattern == "/_ping"
	if ping {
		if resp, ok := g.pings.fresh(r.Method); ok {
			g.engine.Answer(w, resp)
			return nil
		}
	}
	resp, err := g.engine.Send(ctx, out)
	if err != nil {
		// When the engine may have seen the request, the container may exist and need them.
		if errors.Is(err, forward.ErrNotSent) {
			g.dropAll(ctx, s.Grants)
		}
		return err
	}
	defer resp.Body.Close()
	if resp.StatusCode/100 != 2 {
		g.dropAll(ctx, s.Grants)
	}
	if ping {
		if resp, err = g.pings.keep(r.Method, resp); err != nil {
			return err
		}
	}
	g.engine.Answer(w, resp)
	return nil
}

// encode writes the request anew from what was decided on.
func (d *decision) encode(r *http.Request, s scope.Scope) (*forward.Request, error) {
	out := &forward.Request{Method: d.match.Method, Target: d.match.Target(), Header: http.Header{}}
	if q := d.query.Encode(); q != "" {
		out.Target += "?" + q
	}
	// SECURITY(T-104): the header starts empty; nothing that the client sent is copied.
	s.Set(out.Header)
	if d.auth != "" {
		out.Header.Set(registry.AuthHeader, d.auth)
	}
	if d.match.Stream.Upgrades() {
		out.Upgrade, out.Key = strings.ToLower(r.Header.Get("Upgrade")), r.Header.Get("Sec-Websocket-Key")
	}
	switch {
	case d.raw:
		out.Body, out.Length = io.NopCloser(r.Body), r.ContentLength
		out.Header.Set("Content-Type", "application/x-tar")
	case d.body != nil:
		data, err := json.Marshal(d.body)
		if err != nil {
			return nil, err
		}
		out.Body, out.Length = bytes.NewReader(data), int64(len(data))
		out.Header.Set("Content-Type", "application/json")
	}
	return out, nil
}
