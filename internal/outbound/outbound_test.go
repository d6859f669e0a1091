package outbound

import (
	"net/http"
	"testing"

	"stockade/api/setting"
)

func TestChoose(t *testing.T) {
	t.Setenv("HTTPS_PROXY", "http://environment.example:1") // means nothing
	p := New(setting.Proxy{HTTP: "http://plain.example:3128", HTTPS: "http://tls.example", No: "direct.example,10.0.0.0/8"})
	for target, want := range map[string]string{
		"https://registry.example/v2/":   "http://tls.example",
		"http://registry.example/v2/":    "http://plain.example:3128",
		"https://direct.example/v2/":     "",
		"https://a.direct.example/v2/":   "",
		"https://10.1.2.3/v2/":           "",
		"https://192.0.2.1/v2/":          "http://tls.example",
		"https://169.254.169.254/latest": "error",
		"https://[fd00:ec2::254]/latest": "error",
		"http://0.0.0.0:5000/":           "error",
		"http://127.0.0.1:5000/":         "", // never by a proxy
	} {
		req, err := http.NewRequest(http.MethodGet, target, nil)
		if err != nil {
			t.Fatal(err)
		}
		got := ""
		if via, err := p.Choose(req); err != nil {
			got = "error"
		} else if via != nil {
			got = via.String()
		}
		if got != want {
			t.Errorf("%s: %q, want %q", target, got, want)
		}
		if via, err := (Proxy{}).Choose(req); via != nil || err != nil {
			t.Errorf("%s without settings: %v, %v", target, via, err)
		}
	}
	for address, want := range map[string]bool{"plain.example:3128": true, "tls.example:80": true, "tls.example:443": false, "registry.example:443": false} {
		if p.Is(address) != want {
			t.Errorf("%s is a proxy: %v", address, !want)
		}
	}
}
