//go:build root

package image

import (
	"encoding/pem"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"

	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"stockade/api/setting"
	"stockade/internal/outbound"
)

// TestPullThroughProxy holds that the administrator's proxy is asked for a registry's name, and TLS goes through it.
func TestPullThroughProxy(t *testing.T) {
	f := newRegistry(t, true) // its certificate is for example.com
	f.put(ocispec.MediaTypeImageManifest, "latest", f.manifest(sampleImage(t, "x", tarOf(t, "f", "x"))))
	dir := t.TempDir()
	cert := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: f.Certificate().Raw})
	if err := os.WriteFile(filepath.Join(dir, "ca.pem"), cert, 0o600); err != nil {
		t.Fatal(err)
	}
	var asked atomic.Int64
	proxy := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.Method != http.MethodConnect || r.Host != "example.com:443" {
			http.Error(w, "odd", http.StatusBadRequest)
			return
		}
		asked.Add(1)
		to, err := net.Dial("tcp", f.host())
		if err != nil {
			t.Error(err)
			return
		}
		defer to.Close()
		from, _, err := http.NewResponseController(w).Hijack()
		if err != nil {
			t.Error(err)
			return
		}
		defer from.Close()
		if _, err := io.WriteString(from, "HTTP/1.1 200 OK\r\n\r\n"); err != nil {
			t.Error(err)
			return
		}
		go func() { _, _ = io.Copy(to, from); to.Close() }()
		_, _ = io.Copy(from, to)
	}))
	defer proxy.Close()
	s := serve(t, func(c *Config) {
		c.RegistryCA, c.Proxy = dir, outbound.New(setting.Proxy{HTTPS: proxy.URL})
	})
	pull := func(ref string) string {
		return s.as("a", "POST", "/images/create?fromImage="+ref+"&tag=latest", nil, nil).Body.String()
	}
	if out := pull("example.com/app"); !strings.Contains(out, "Downloaded newer image") || asked.Load() == 0 {
		t.Errorf("asked %d times: %s", asked.Load(), out)
	}
	before := asked.Load()
	// SECURITY(T-403): nor does a proxy connect to metadata services for us.
	if out := pull("169.254.169.254/app"); !strings.Contains(out, "not allowed") || asked.Load() != before {
		t.Errorf("metadata service: %s", out)
	}
}
