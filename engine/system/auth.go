package system

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"net/url"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"syscall"
	"time"

	"github.com/containerd/errdefs"
	"github.com/moby/moby/api/types/registry"

	"stockade/api/scope"
	"stockade/engine/httpapi"
	"stockade/internal/outbound"
)

const (
	dockerHub  = "registry-1.docker.io"
	answerSize = 1 << 20 // bytes read of a registry's answer
)

// registryClient trusts the system's authorities and the PEM files of folder ca. It follows no redirect: credentials go
// to the place that was named and nowhere else.
func registryClient(ca string, proxy outbound.Proxy) (*http.Client, error) {
	pool, err := x509.SystemCertPool()
	if err != nil {
		pool = x509.NewCertPool()
	}
	if ca != "" {
		files, err := filepath.Glob(filepath.Join(ca, "*"))
		if err != nil {
			return nil, err
		}
		for _, f := range files {
			if b, err := os.ReadFile(f); err == nil {
				pool.AppendCertsFromPEM(b)
			}
		}
	}
	dialer := &net.Dialer{Timeout: 15 * time.Second, Control: refuseMetadata}
	return &http.Client{
		Timeout: 30 * time.Second,
		Transport: &http.Transport{
			DialContext: dialer.DialContext, Proxy: proxy.Choose, ForceAttemptHTTP2: true, DisableKeepAlives: true,
			TLSClientConfig: &tls.Config{RootCAs: pool, MinVersion: tls.VersionTLS12},
		},
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}, nil
}

// refuseMetadata keeps a registry's name or realm from pointing to link-local addresses, where clouds serve machine
// credentials.
//
// SECURITY(T-403): checked on the address that is dialled, after name resolution.
func refuseMetadata(_, address string, _ syscall.RawConn) error {
	a, err := netip.ParseAddrPort(address)
	if err != nil {
		return err
	}
	if ip := a.Addr().Unmap(); ip.IsLinkLocalUnicast() || ip.IsMulticast() || ip.IsUnspecified() {
		return fmt.Errorf("address %s is not allowed for registries", ip)
	}
	return nil
}

func (s *Service) auth(w http.ResponseWriter, r *http.Request, _ scope.Scope) error {
	var a registry.AuthConfig
	if err := httpapi.ReadJSON(r, &a); err != nil {
		return err
	}
	token, err := s.login(r.Context(), a)
	if err != nil {
		return err
	}
	return httpapi.WriteJSON(w, http.StatusOK, registry.AuthResponse{Status: "Login Succeeded", IdentityToken: token})
}

var hostPattern = regexp.MustCompile(`^([a-zA-Z0-9.-]+|\[[0-9a-fA-F:]+\])(:[0-9]{1,5})?$`)

// registryHost reads a server address as clients send it.
func registryHost(address string) (string, error) {
	host := strings.TrimPrefix(strings.TrimPrefix(address, "https://"), "http://")
	host, _, _ = strings.Cut(host, "/")
	switch host {
	case "", "docker.io", "index.docker.io", dockerHub:
		return dockerHub, nil
	}
	if !hostPattern.MatchString(host) {
		return "", httpapi.NewError(errdefs.ErrInvalidArgument, "invalid registry address %q", address)
	}
	return host, nil
}

func (s *Service) login(ctx context.Context, a registry.AuthConfig) (string, error) {
	host, err := registryHost(a.ServerAddress)
	if err != nil {
		return "", err
	}
	scheme := "https"
	if slices.Contains(s.cfg.Engine.Insecure, host) {
		scheme = "http"
	}
	base := scheme + "://" + host + "/v2/"
	res, err := s.get(ctx, base, func(*http.Request) {})
	if err != nil {
		return "", err
	}
	if res.code != http.StatusUnauthorized {
		return "", verdict(base, res)
	}
	kind, params := challenge(res.challenge)
	switch kind {
	case "basic":
		res, err := s.get(ctx, base, func(r *http.Request) { r.SetBasicAuth(a.Username, a.Password) })
		if err != nil {
			return "", err
		}
		return "", verdict(base, res)
	case "bearer":
		return s.bearer(ctx, base, scheme, params, a)
	}
	return "", httpapi.NewError(errdefs.ErrUnknown, "login attempt to %s failed: unknown challenge %q", base, res.challenge)
}

func (s *Service) bearer(ctx context.Context, base, scheme string, params map[string]string, a registry.AuthConfig) (string, error) {
	realm, err := url.Parse(params["realm"])
	// SECURITY(T-403): a registry reached with TLS must not have the password sent in the clear.
	if err != nil || realm.Host == "" || realm.User != nil || realm.Scheme != "https" && realm.Scheme != scheme {
		return "", httpapi.NewError(errdefs.ErrPermissionDenied, "login attempt to %s failed: realm %q is not allowed", base, params["realm"])
	}
	q := realm.Query()
	for key, value := range map[string]string{"service": params["service"], "account": a.Username, "client_id": "docker"} {
		if value != "" {
			q.Set(key, value)
		}
	}
	q.Set("offline_token", "true")
	realm.RawQuery = q.Encode()
	res, err := s.get(ctx, realm.String(), func(r *http.Request) {
		if a.IdentityToken == "" {
			r.SetBasicAuth(a.Username, a.Password)
			return
		}
		form := url.Values{"grant_type": {"refresh_token"}, "refresh_token": {a.IdentityToken}, "service": {params["service"]}, "client_id": {"docker"}}
		r.Method, r.Body = http.MethodPost, io.NopCloser(strings.NewReader(form.Encode()))
		r.Header.Set("Content-Type", "application/x-www-form-urlencoded")
	})
	if err != nil {
		return "", err
	}
	if res.code != http.StatusOK {
		return "", verdict(base, res)
	}
	var t struct {
		Token   string `json:"token"`
		Access  string `json:"access_token"`
		Refresh string `json:"refresh_token"`
	}
	if err := json.Unmarshal(res.body, &t); err != nil {
		return "", fmt.Errorf("read the token of %s: %w", base, err)
	}
	if t.Token == "" {
		t.Token = t.Access
	}
	res, err = s.get(ctx, base, func(r *http.Request) { r.Header.Set("Authorization", "Bearer "+t.Token) })
	if err != nil {
		return "", err
	}
	return t.Refresh, verdict(base, res)
}

type answer struct {
	code      int
	challenge string
	body      []byte
}

func (s *Service) get(ctx context.Context, target string, change func(*http.Request)) (answer, error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, target, nil)
	if err != nil {
		return answer{}, err
	}
	req.Header.Set("User-Agent", "stockade/"+s.cfg.Engine.Version)
	change(req)
	res, err := s.client.Do(req)
	if err != nil {
		var u *url.Error
		if errors.As(err, &u) {
			u.URL, _, _ = strings.Cut(u.URL, "?") // the account's name stays out of messages
		}
		return answer{}, err
	}
	defer res.Body.Close()
	body, err := io.ReadAll(io.LimitReader(res.Body, answerSize))
	return answer{code: res.StatusCode, challenge: res.Header.Get("Www-Authenticate"), body: body}, err
}

func verdict(base string, res answer) error {
	switch res.code {
	case http.StatusOK:
		return nil
	case http.StatusUnauthorized, http.StatusForbidden:
		return httpapi.NewError(errdefs.ErrUnauthenticated, "Get %q: unauthorized: incorrect username or password", base)
	}
	return httpapi.NewError(errdefs.ErrUnknown, "login attempt to %s failed with status: %d %s", base, res.code, http.StatusText(res.code))
}

var paramPattern = regexp.MustCompile(`([a-zA-Z_]+)="([^"]*)"`)

// challenge reads a WWW-Authenticate header with one challenge.
func challenge(header string) (string, map[string]string) {
	kind, rest, _ := strings.Cut(header, " ")
	params := map[string]string{}
	for _, m := range paramPattern.FindAllStringSubmatch(rest, -1) {
		params[strings.ToLower(m[1])] = m[2]
	}
	return strings.ToLower(kind), params
}
