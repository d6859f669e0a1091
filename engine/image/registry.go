package image

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"time"

	"github.com/containerd/containerd/v2/core/remotes"
	"github.com/containerd/containerd/v2/core/remotes/docker"
	remoteerrors "github.com/containerd/containerd/v2/core/remotes/errors"
	"github.com/containerd/errdefs"
	"github.com/distribution/reference"
	"github.com/moby/moby/api/types/registry"
	"golang.org/x/net/publicsuffix"

	"stockade/engine/httpapi"
	"stockade/internal/outbound"
)

// maxRedirects is how often a registry may send us elsewhere for one blob.
const maxRedirects = 5

// errRefused is wrapped by what we refuse to do for a registry.
var errRefused = errors.New("refused")

// remote is one registry for one pull. Connections and tokens are not shared between pulls, hence not between tenants.
type remote struct {
	host      string // host[:port] of its API
	plain     bool   // without TLS
	proxy     outbound.Proxy
	transport *http.Transport
	resolver  remotes.Resolver
}

// parseAuth reads X-Registry-Auth: base64url, with or without padding, of a JSON object.
func parseAuth(header string) (registry.AuthConfig, error) {
	var auth registry.AuthConfig
	if header == "" {
		return auth, nil
	}
	data, err := base64.RawURLEncoding.DecodeString(strings.TrimRight(header, "="))
	if err == nil && len(data) > 0 {
		err = json.Unmarshal(data, &auth)
	}
	if err != nil {
		// The cause could quote the secret.
		return auth, httpapi.NewError(errdefs.ErrInvalidArgument, "invalid X-Registry-Auth header")
	}
	return auth, nil
}

// remote prepares talking to the registry of a name.
func (s *Store) remote(named reference.Named, auth registry.AuthConfig) (*remote, error) {
	host, err := docker.DefaultHost(reference.Domain(named))
	if err != nil {
		return nil, err
	}
	roots, err := trusted(s.cfg.RegistryCA)
	if err != nil {
		return nil, err
	}
	rm := &remote{host: host, proxy: s.cfg.Proxy, plain: s.insecure(reference.Domain(named))}
	rm.transport = &http.Transport{
		DialContext:            rm.dial,
		Proxy:                  s.cfg.Proxy.Choose,
		TLSClientConfig:        &tls.Config{RootCAs: roots, MinVersion: tls.VersionTLS12},
		TLSHandshakeTimeout:    15 * time.Second,
		ResponseHeaderTimeout:  time.Minute,
		MaxResponseHeaderBytes: 64 << 10,
		ForceAttemptHTTP2:      true,
	}
	authorizer := docker.NewDockerAuthorizer(
		docker.WithAuthClient(&http.Client{Transport: &tokenGuard{rm}, CheckRedirect: noRedirect, Timeout: time.Minute}),
		docker.WithAuthCreds(func(challenger string) (string, string, error) {
			// SECURITY(T-403): CVE-2020-15157: only the registry itself may ask for the tenant's credentials, no host that it
			// redirects to.
			if challenger != host {
				return "", "", nil
			}
			if auth.IdentityToken != "" {
				return "", auth.IdentityToken, nil
			}
			return auth.Username, auth.Password, nil
		}))
	scheme := "https"
	if rm.plain {
		scheme = "http"
	}
	rm.resolver = docker.NewResolver(docker.ResolverOptions{
		Headers: http.Header{"User-Agent": {"stockade"}},
		Hosts: func(string) ([]docker.RegistryHost, error) {
			return []docker.RegistryHost{{
				Client:       &http.Client{Transport: rm.transport, CheckRedirect: rm.redirect},
				Authorizer:   authorizer,
				Host:         host,
				Scheme:       scheme,
				Path:         "/v2",
				Capabilities: docker.HostCapabilityPull | docker.HostCapabilityResolve,
			}}, nil
		},
	})
	return rm, nil
}

func (rm *remote) close() { rm.transport.CloseIdleConnections() }

// insecure tells whether the administrator allows a registry without TLS.
func (s *Store) insecure(domain string) bool {
	host, _, err := net.SplitHostPort(domain)
	return slices.Contains(s.cfg.Insecure, domain) || err == nil && slices.Contains(s.cfg.Insecure, host)
}

// trusted is the system's certificate authorities and those in a folder.
func trusted(dir string) (*x509.CertPool, error) {
	pool, err := x509.SystemCertPool()
	if err != nil {
		return nil, fmt.Errorf("certificate authorities: %w", err)
	}
	if dir == "" {
		return pool, nil
	}
	names, err := os.ReadDir(dir)
	if err != nil {
		return nil, fmt.Errorf("registry certificate authorities: %w", err)
	}
	for _, n := range names {
		if ext := filepath.Ext(n.Name()); ext != ".pem" && ext != ".crt" {
			continue
		}
		data, err := os.ReadFile(filepath.Join(dir, n.Name()))
		if err != nil {
			return nil, fmt.Errorf("registry certificate authorities: %w", err)
		}
		if !pool.AppendCertsFromPEM(data) {
			return nil, fmt.Errorf("registry certificate authorities: no certificate in %s", n.Name())
		}
	}
	return pool, nil
}

// redirect decides whether a registry may send us to another address.
//
// SECURITY(T-403): never from TLS to plain text, and never with the credentials.
func (rm *remote) redirect(req *http.Request, via []*http.Request) error {
	if len(via) > maxRedirects {
		return fmt.Errorf("more than %d redirects: %w", maxRedirects, errRefused)
	}
	if req.URL.Scheme != "https" && !(rm.plain && req.URL.Scheme == "http") {
		return fmt.Errorf("redirect to %s://%s: %w", req.URL.Scheme, req.URL.Host, errRefused)
	}
	if req.URL.Host != via[0].URL.Host || req.URL.Scheme != via[0].URL.Scheme {
		req.Header.Del("Authorization")
	}
	return nil
}

func noRedirect(*http.Request, []*http.Request) error {
	return fmt.Errorf("redirect of a token request: %w", errRefused)
}

// tokenGuard passes requests for tokens. SECURITY(T-403): credentials go to the registry's own domain only, over TLS.
type tokenGuard struct{ rm *remote }

// RoundTrip implements http.RoundTripper.
func (g *tokenGuard) RoundTrip(req *http.Request) (*http.Response, error) {
	if req.URL.Scheme != "https" && !(g.rm.plain && req.URL.Scheme == "http") {
		return nil, fmt.Errorf("token server %s://%s: %w", req.URL.Scheme, req.URL.Host, errRefused)
	}
	secret := req.Header.Get("Authorization") != "" || req.Method != http.MethodGet
	if secret && !related(hostname(g.rm.host), req.URL.Hostname()) {
		return nil, fmt.Errorf("credentials for %s to token server %s: %w", g.rm.host, req.URL.Host, errRefused)
	}
	return g.rm.transport.RoundTrip(req)
}

// related tells whether two hosts are the same or belong to the same registrable domain.
func related(a, b string) bool {
	a, b = strings.ToLower(a), strings.ToLower(b)
	if a == b {
		return true
	}
	if net.ParseIP(a) != nil || net.ParseIP(b) != nil {
		return false
	}
	da, errA := publicsuffix.EffectiveTLDPlusOne(a)
	db, errB := publicsuffix.EffectiveTLDPlusOne(b)
	return errA == nil && errB == nil && da == db
}

func hostname(hostport string) string {
	if h, _, err := net.SplitHostPort(hostport); err == nil {
		return h
	}
	return strings.Trim(hostport, "[]")
}

// dial connects to a registry, or to where it sends us.
//
// SECURITY(T-403): not to metadata services, nor to this host's own unless the image's name says so. The address that
// the connection really uses is checked, so that a changing DNS answer does not help.
func (rm *remote) dial(ctx context.Context, network, address string) (net.Conn, error) {
	own := hostname(address) == hostname(rm.host) || rm.proxy.Is(address)
	d := net.Dialer{Timeout: 30 * time.Second, Control: func(_, to string, _ syscall.RawConn) error {
		ap, err := netip.ParseAddrPort(to)
		if err != nil {
			return err
		}
		ip := ap.Addr().Unmap().WithZone("")
		if outbound.Local(ip) && !(own && ip.IsLoopback()) {
			return fmt.Errorf("connection to %s: %w", ip, errRefused)
		}
		return nil
	}}
	return d.DialContext(ctx, network, address)
}

// pullError gives a registry's refusal Docker's words.
func pullError(named reference.Named, err error) error {
	denied := func(cause string) error {
		return httpapi.NewError(errdefs.ErrNotFound, "pull access denied for %s, repository does not exist or may require 'docker login': denied: %s",
			reference.FamiliarName(named), cause)
	}
	var known *httpapi.Error
	var status remoteerrors.ErrUnexpectedStatus
	switch {
	case errors.As(err, &known):
		return err
	case errors.Is(err, docker.ErrInvalidAuthorization):
		return denied("requested access to the resource is denied")
	case errors.As(err, &status) && (status.StatusCode == http.StatusUnauthorized || status.StatusCode == http.StatusForbidden):
		return denied("requested access to the resource is denied")
	case errors.As(err, &status) && status.StatusCode == http.StatusTooManyRequests:
		return httpapi.NewError(errdefs.ErrUnavailable, "toomanyrequests: %s refuses more requests for now", reference.Domain(named))
	case errdefs.IsNotFound(err):
		return httpapi.NewError(errdefs.ErrNotFound, "manifest for %s not found: manifest unknown: manifest unknown", reference.FamiliarString(named))
	case errors.Is(err, errRefused):
		return httpapi.NewError(errdefs.ErrPermissionDenied, "pull %s: %v", reference.FamiliarString(named), err)
	}
	if strings.HasPrefix(err.Error(), "failed to do request") {
		return fmt.Errorf("failed to resolve reference %q: %w", named.String(), err)
	}
	return fmt.Errorf("pull %s: %w", reference.FamiliarString(named), err)
}
