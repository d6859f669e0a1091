// Package scope holds what the gate adds to each request that it forwards to the engine: whose request it is and which
// grants were made for it. The headers exist on the engine's private socket only; the gate drops every header that a
// client sends but a short list.
//
// Trust: the engine believes them because only the gate's uid can open its socket.
package scope

import (
	"encoding/json"
	"fmt"
	"net/http"
	"strconv"
)

// Header names on the engine's private socket.
const (
	HeaderTenant  = "Stockade-Tenant"  // tenant.ID of the caller
	HeaderCaller  = "Stockade-Caller"  // host uid, decimal
	HeaderAdmin   = "Stockade-Admin"   // "1" for an administrator
	HeaderVersion = "Stockade-Version" // negotiated API version, for example 1.51
	HeaderGrants  = "Stockade-Grants"  // JSON []Grant, create requests only
)

// Scope is whose request it is. The zero value is nobody and is refused by From.
type Scope struct {
	Tenant  string
	UID     uint32
	Admin   bool
	Version string // API version of the request
	Grants  []Grant
}

// Grant ties one bind of a create request to grantd's record.
type Grant struct {
	Source string `json:"source"` // host path as it stands in the request (Binds or Mounts)
	ID     string `json:"id"`
	Dir    bool   `json:"dir"`
	UID    uint32 `json:"uid"`
}

// Set writes the scope into the header of a forwarded request.
func (s Scope) Set(h http.Header) {
	h.Set(HeaderTenant, s.Tenant)
	h.Set(HeaderCaller, strconv.FormatUint(uint64(s.UID), 10))
	if s.Admin {
		h.Set(HeaderAdmin, "1")
	}
	h.Set(HeaderVersion, s.Version)
	if len(s.Grants) > 0 {
		b, err := json.Marshal(s.Grants)
		if err != nil {
			panic(err) // plain strings and numbers cannot fail
		}
		h.Set(HeaderGrants, string(b))
	}
}

// From reads the scope of a forwarded request; a request without one is an error.
func From(h http.Header) (Scope, error) {
	s := Scope{Tenant: h.Get(HeaderTenant), Admin: h.Get(HeaderAdmin) == "1", Version: h.Get(HeaderVersion)}
	if s.Tenant == "" {
		return Scope{}, fmt.Errorf("request without %s", HeaderTenant)
	}
	uid, err := strconv.ParseUint(h.Get(HeaderCaller), 10, 32)
	if err != nil {
		return Scope{}, fmt.Errorf("%s: %w", HeaderCaller, err)
	}
	s.UID = uint32(uid)
	if g := h.Get(HeaderGrants); g != "" {
		if err := json.Unmarshal([]byte(g), &s.Grants); err != nil {
			return Scope{}, fmt.Errorf("%s: %w", HeaderGrants, err)
		}
	}
	return s, nil
}
