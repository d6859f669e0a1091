//go:build root

package e2e

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"math/big"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"syscall"
	"testing"
	"time"

	"github.com/opencontainers/go-digest"

	"stockade/test/harness"
)

// Who may use the locked registry.
const (
	registryUser     = "e2e"
	registryPassword = "e2e-secret"
	// registryHash is bcrypt of the password, the only kind that the registry takes.
	registryHash = "$2y$05$abcdefghijklmnopqrstuuXhuQfUCIGXEofofqdBR6RB.MmW6ruHS"
)

// registriesDir holds the registries' files; trustedCA is the folder that the server is told to trust.
var (
	registriesDir = "/var/lib/" + harness.Prefix + "-registry"
	trustedCA     = registriesDir + "/ca"
)

// registry is a docker-registry on loopback.
type registry struct {
	host   string // address:port, as in image names
	locked bool   // with TLS and a password
	cmd    *exec.Cmd
}

// plain serves everybody without TLS, and the server is told so; locked has a certificate of our own authority and
// wants a password.
var plain, locked registry

func startRegistries() error {
	if err := os.RemoveAll(registriesDir); err != nil {
		return err
	}
	if err := os.MkdirAll(trustedCA, 0o755); err != nil {
		return err
	}
	if err := writeCertificates(); err != nil {
		return err
	}
	if err := os.WriteFile(filepath.Join(registriesDir, "htpasswd"), []byte(registryUser+":"+registryHash+"\n"), 0o600); err != nil {
		return err
	}
	locked.locked = true
	return errors.Join(plain.start("plain", ""), locked.start("locked", fmt.Sprintf(
		"  tls: {certificate: %[1]s/cert.pem, key: %[1]s/key.pem}\nauth: {htpasswd: {realm: e2e, path: %[1]s/htpasswd}}\n", registriesDir)))
}

func stopRegistries() {
	for _, r := range []registry{plain, locked} {
		if r.cmd != nil {
			_ = r.cmd.Process.Kill()
			_ = r.cmd.Wait()
		}
	}
	_ = os.RemoveAll(registriesDir)
}

func (r *registry) start(name, settings string) error {
	host, err := freeAddress()
	if err != nil {
		return err
	}
	r.host = host
	dir := filepath.Join(registriesDir, name)
	text := fmt.Sprintf("version: 0.1\nlog: {level: error}\nstorage: {filesystem: {rootdirectory: %s}}\nhttp:\n  addr: %s\n%s", dir, host, settings)
	if err := os.WriteFile(dir+".yml", []byte(text), 0o600); err != nil {
		return err
	}
	r.cmd = exec.Command("docker-registry", "serve", dir+".yml")
	r.cmd.Stderr = os.Stderr
	r.cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	if err := r.cmd.Start(); err != nil {
		r.cmd = nil
		return err
	}
	for deadline := time.Now().Add(harness.Patience); ; time.Sleep(20 * time.Millisecond) {
		conn, err := net.Dial("tcp", host)
		if err == nil {
			return conn.Close()
		}
		if time.Now().After(deadline) {
			return fmt.Errorf("registry: %w", err)
		}
	}
}

// freeAddress is an address on loopback where nobody listens.
func freeAddress() (string, error) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return "", err
	}
	return l.Addr().String(), l.Close()
}

// writeCertificates makes an authority and the locked registry's certificate.
func writeCertificates() error {
	caKey, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return err
	}
	ca := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "e2e authority"}, NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(24 * time.Hour),
		IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign,
	}
	caDER, err := x509.CreateCertificate(rand.Reader, ca, ca, caKey.Public(), caKey)
	if err != nil {
		return err
	}
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return err
	}
	leaf := &x509.Certificate{
		SerialNumber: big.NewInt(2), Subject: pkix.Name{CommonName: "registry"}, NotBefore: ca.NotBefore, NotAfter: ca.NotAfter,
		IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)}, KeyUsage: x509.KeyUsageDigitalSignature, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth},
	}
	der, err := x509.CreateCertificate(rand.Reader, leaf, ca, key.Public(), caKey)
	if err != nil {
		return err
	}
	keyDER, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		return err
	}
	write := func(name, kind string, data []byte, mode os.FileMode) error {
		return os.WriteFile(name, pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: data}), mode)
	}
	return errors.Join(write(trustedCA+"/e2e.pem", "CERTIFICATE", caDER, 0o644),
		write(registriesDir+"/cert.pem", "CERTIFICATE", der, 0o644), write(registriesDir+"/key.pem", "PRIVATE KEY", keyDER, 0o600))
}

// send makes one request of the registry, with the password if it has one.
func (r registry) send(t testing.TB, method, url, contentType string, body []byte, status int) *http.Response {
	t.Helper()
	if url[0] == '/' {
		scheme := "http://"
		if r.locked {
			scheme = "https://"
		}
		url = scheme + r.host + url
	}
	req, err := http.NewRequestWithContext(harness.Context(t), method, url, bytes.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	if contentType != "" {
		req.Header.Set("Content-Type", contentType)
	}
	transport := &http.Transport{DisableKeepAlives: true}
	if r.locked {
		req.SetBasicAuth(registryUser, registryPassword)
		pool := x509.NewCertPool()
		authority, err := os.ReadFile(trustedCA + "/e2e.pem")
		if err != nil {
			t.Fatal(err)
		}
		pool.AppendCertsFromPEM(authority)
		transport.TLSClientConfig = &tls.Config{RootCAs: pool}
	}
	resp, err := (&http.Client{Transport: transport}).Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	if answer, err := io.ReadAll(resp.Body); err != nil || resp.StatusCode != status {
		t.Fatalf("%s %s: %s: %s (%v)", method, url, resp.Status, answer, err)
	}
	return resp
}

// blob uploads a blob.
func (r registry) blob(t testing.TB, repo string, data []byte) {
	t.Helper()
	at := r.send(t, "POST", "/v2/"+repo+"/blobs/uploads/", "", nil, http.StatusAccepted).Header.Get("Location")
	r.send(t, "PUT", at+"&digest="+digest.FromBytes(data).String(), "application/octet-stream", data, http.StatusCreated)
}

// manifest uploads a manifest or index under a tag or its own digest.
func (r registry) manifest(t testing.TB, repo, reference, mediaType string, data []byte) digest.Digest {
	t.Helper()
	sum := digest.FromBytes(data)
	if reference == "" {
		reference = sum.String()
	}
	r.send(t, "PUT", "/v2/"+repo+"/manifests/"+reference, mediaType, data, http.StatusCreated)
	return sum
}
