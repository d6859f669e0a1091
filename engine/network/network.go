// Package network answers for the networks that exist without being made, bridge and none, and lends the addresses of
// the default bridge.
//
// Trust: requests come from the gate. Invariants: each tenant sees networks with ids of its own and only its own
// containers in them; an address is lent to one endpoint at a time.
// Failure: user-defined networks are refused by name (501), never ignored.
package network

import (
	"crypto/rand"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/containerd/errdefs"
	"github.com/google/renameio/v2"
	api "github.com/moby/moby/api/types/network"

	"stockade/api/scope"
	"stockade/engine/httpapi"
)

// Names of the networks.
const (
	Bridge = "bridge"
	None   = "none"
)

// Containers is what this package needs of package container.
type Containers interface {
	// Endpoints returns the tenant's running containers in a network by container id.
	Endpoints(tenant, network string) map[string]api.EndpointResource
}

// Service answers. Use New.
type Service struct {
	addresses  *Addresses
	containers Containers
	secret     []byte // ids are derived from it
	created    time.Time
}

// New reads the secret that ids are derived from, or makes it at the first start. data is the engine's folder.
func New(data string, addresses *Addresses, containers Containers) (*Service, error) {
	path := filepath.Join(data, "network-seed")
	secret, err := os.ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) || err == nil && len(secret) != sha256.Size {
		secret = make([]byte, sha256.Size)
		rand.Read(secret) // never fails
		err = renameio.WriteFile(path, secret, 0o600)
	}
	if err != nil {
		return nil, fmt.Errorf("seed of network ids: %w", err)
	}
	info, err := os.Stat(path)
	if err != nil {
		return nil, fmt.Errorf("seed of network ids: %w", err)
	}
	return &Service{addresses: addresses, containers: containers, secret: secret, created: info.ModTime().UTC()}, nil
}

// ID returns the id of a tenant's network, 64 hex digits, the same after every start.
func (s *Service) ID(tenant, name string) string {
	h := sha256.New()
	h.Write(s.secret)
	h.Write([]byte(tenant + "\x00" + name))
	return hex.EncodeToString(h.Sum(nil))
}

// Bridge describes a tenant's default bridge.
func (s *Service) Bridge(tenant string) (id, name, gateway string, bits int) {
	return s.ID(tenant, Bridge), Bridge, s.addresses.Gateway().String(), s.addresses.Pool().Bits()
}

// Resolve finds the name of a tenant's network by name, id or unique beginning of an id. "default" is the bridge.
func (s *Service) Resolve(tenant, ref string) (string, error) {
	if ref == "default" {
		return Bridge, nil
	}
	var found []string
	for _, name := range []string{Bridge, None} {
		if ref == name {
			return name, nil
		}
		if ref != "" && strings.HasPrefix(s.ID(tenant, name), ref) {
			found = append(found, name)
		}
	}
	switch len(found) {
	case 1:
		return found[0], nil
	case 0:
		return "", httpapi.NewError(errdefs.ErrNotFound, "network %s not found", ref)
	}
	return "", httpapi.NewError(errdefs.ErrInvalidArgument, "network %s is ambiguous (%d matches found on ID prefix)", ref, len(found))
}

// Register adds this package's routes.
func (s *Service) Register(rt *httpapi.Router) {
	rt.Handle("GET /networks", s.list)
	rt.Handle("GET /networks/{id}", s.inspect)
	rt.Handle("DELETE /networks/{id}", s.remove)
	rt.Handle("POST /networks/create", s.create)
	rt.Handle("POST /networks/prune", s.prune)
	rt.Handle("POST /networks/{id}/connect", s.change)
	rt.Handle("POST /networks/{id}/disconnect", s.change)
}

func (s *Service) view(tenant, name string) api.Network {
	n := api.Network{
		Name: name, ID: s.ID(tenant, name), Created: s.created, Scope: "local", Driver: "null",
		IPAM:    api.IPAM{Driver: "default", Config: []api.IPAMConfig{}},
		Options: map[string]string{}, Labels: map[string]string{},
	}
	if name == Bridge {
		n.Driver, n.EnableIPv4 = "bridge", true
		n.IPAM.Config = []api.IPAMConfig{{Subnet: s.addresses.Pool(), Gateway: s.addresses.Gateway()}}
		n.Options["com.docker.network.bridge.default_bridge"] = "true"
		n.Options["com.docker.network.bridge.enable_icc"] = "true"
		n.Options["com.docker.network.bridge.enable_ip_masquerade"] = "true"
	}
	return n
}

func (s *Service) list(w http.ResponseWriter, r *http.Request, sc scope.Scope) error {
	f, err := httpapi.ParseFilters(r.URL.Query().Get("filters"), "name", "id", "driver", "scope", "type", "label", "dangling")
	if err != nil {
		return err
	}
	dangling, err := f.Bool("dangling", false)
	if err != nil {
		return err
	}
	if slices.ContainsFunc(f["type"], func(t string) bool { return t != "builtin" && t != "custom" }) {
		return httpapi.NewError(errdefs.ErrInvalidArgument, "invalid value for filter 'type': must be 'builtin' or 'custom'")
	}
	out := []api.Summary{}
	for _, name := range []string{Bridge, None} {
		n := s.view(sc.Tenant, name)
		// Networks that exist by themselves never dangle.
		if dangling || !f.Match("name", n.Name) || !f.Prefix("id", n.ID) || !f.Exact("driver", n.Driver) ||
			!f.Exact("scope", n.Scope) || !f.Exact("type", "builtin") || !f.Labels("label", n.Labels) {
			continue
		}
		out = append(out, api.Summary{Network: n})
	}
	return httpapi.WriteJSON(w, http.StatusOK, out)
}

func (s *Service) inspect(w http.ResponseWriter, r *http.Request, sc scope.Scope) error {
	name, err := s.Resolve(sc.Tenant, r.PathValue("id"))
	if err != nil {
		return err
	}
	if sc := r.URL.Query().Get("scope"); sc != "" && sc != "local" {
		return httpapi.NewError(errdefs.ErrNotFound, "network %s not found", r.PathValue("id"))
	}
	out := api.Inspect{Network: s.view(sc.Tenant, name), Containers: s.containers.Endpoints(sc.Tenant, name)}
	if out.Containers == nil {
		out.Containers = map[string]api.EndpointResource{}
	}
	return httpapi.WriteJSON(w, http.StatusOK, out)
}

func (s *Service) remove(_ http.ResponseWriter, r *http.Request, sc scope.Scope) error {
	name, err := s.Resolve(sc.Tenant, r.PathValue("id"))
	if err != nil {
		return err
	}
	return httpapi.NewError(errdefs.ErrPermissionDenied, "%s is a pre-defined network and cannot be removed", name)
}

func (s *Service) create(_ http.ResponseWriter, r *http.Request, _ scope.Scope) error {
	var req struct{ Name string }
	if err := httpapi.ReadJSON(r, &req); err != nil {
		return err
	}
	switch req.Name {
	case Bridge, None, "host", "default":
		return httpapi.NewError(errdefs.ErrPermissionDenied, "operation is not permitted on predefined %s network", req.Name)
	}
	return httpapi.NewError(errdefs.ErrNotImplemented, "user-defined networks are not supported by this server")
}

// prune is complete: the networks that there are must stay.
func (s *Service) prune(w http.ResponseWriter, r *http.Request, _ scope.Scope) error {
	f, err := httpapi.ParseFilters(r.URL.Query().Get("filters"), "label", "label!", "until")
	if err != nil {
		return err
	}
	if _, err := f.Until(time.Now()); err != nil {
		return err
	}
	return httpapi.WriteJSON(w, http.StatusOK, struct{ NetworksDeleted []string }{})
}

func (s *Service) change(_ http.ResponseWriter, r *http.Request, sc scope.Scope) error {
	if _, err := s.Resolve(sc.Tenant, r.PathValue("id")); err != nil {
		return err
	}
	return httpapi.NewError(errdefs.ErrNotImplemented, "connecting containers to further networks is not supported by this server")
}
