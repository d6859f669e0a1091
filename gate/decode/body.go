package decode

import (
	"encoding/base64"
	"encoding/json"
	"errors"
	"io"
	"mime"
	"net/http"
	"strings"

	"github.com/moby/moby/api/types/registry"

	"stockade/gate/refusal"
	"stockade/gate/route"
)

// Body reads the JSON body of an endpoint into the type of its row. Where an absent body says nothing it yields nil, and
// where it means an empty object, the zero value.
//
// SECURITY(T-201): whether there is a body is told by reading, not by Content-Length (CVE-2024-41110).
func Body(m *route.Match, r *http.Request) (any, error) {
	data, err := read(r.Body, MaxBody)
	if err != nil {
		return nil, err
	}
	if len(data) == 0 {
		if m.NoBody {
			return nil, nil
		}
		if m.ZeroBody {
			return m.Body(), nil
		}
		return nil, refusal.Decode("invalid JSON: %s", io.EOF)
	}
	if err := jsonType(r.Header); err != nil {
		return nil, err
	}
	v := m.Body()
	if err := JSON(data, v, legacyFields(m.Op, m.Version)); err != nil {
		return nil, err
	}
	return v, nil
}

// Empty makes sure that a request has no body. Some clients send an empty object, which says nothing.
func Empty(m *route.Match, r *http.Request) error {
	if data, err := read(r.Body, 16); err == nil {
		switch strings.TrimSpace(string(data)) {
		case "", "{}", "null":
			return nil
		}
	}
	if m.Op == "ContainerStart" {
		return refusal.Decode("starting container with non-empty request body was deprecated since API v1.22 and removed in v1.24")
	}
	return refusal.Decode("this endpoint takes no body")
}

// RegistryAuth reads the X-Registry-Auth header and encodes it anew; an absent or empty one yields "".
func RegistryAuth(h http.Header) (string, error) {
	values := h.Values(registry.AuthHeader)
	if len(values) == 0 || values[0] == "" && len(values) == 1 {
		return "", nil
	}
	if len(values) > 1 {
		return "", refusal.Decode("the header %s is given twice", registry.AuthHeader)
	}
	data, err := base64.RawURLEncoding.Strict().DecodeString(strings.TrimRight(values[0], "="))
	if err != nil {
		return "", refusal.Decode("the header %s is not base64url", registry.AuthHeader)
	}
	var auth registry.AuthConfig
	if err := JSON(data, &auth, legacyFields("SystemAuth", "")); err != nil {
		return "", refusal.Decode("the header %s: %s", registry.AuthHeader, err)
	}
	out, err := json.Marshal(auth)
	if err != nil {
		return "", err
	}
	return base64.URLEncoding.EncodeToString(out), nil
}

// jsonType accepts application/json in UTF-8 and nothing else.
func jsonType(h http.Header) error {
	values := h.Values("Content-Type")
	if len(values) > 1 {
		return refusal.Decode("the header Content-Type is given twice")
	}
	kind, params, err := mime.ParseMediaType(h.Get("Content-Type"))
	if err != nil {
		return refusal.Decode("malformed Content-Type header (%.64s): %s", h.Get("Content-Type"), err)
	}
	if kind != "application/json" {
		return otherType(values[0])
	}
	for name, value := range params {
		if name != "charset" || !strings.EqualFold(value, "utf-8") {
			return otherType(values[0])
		}
	}
	return nil
}

func otherType(value string) error {
	return refusal.Decode("unsupported Content-Type header (%.64s): must be 'application/json'", value)
}

func read(body io.Reader, limit int64) ([]byte, error) {
	data, err := io.ReadAll(io.LimitReader(body, limit+1))
	if err != nil {
		var tooLarge *http.MaxBytesError
		if errors.As(err, &tooLarge) {
			return nil, refusal.New(http.StatusRequestEntityTooLarge, "decode", "the body is too large")
		}
		return nil, refusal.Decode("the body cannot be read to its end")
	}
	if int64(len(data)) > limit {
		return nil, refusal.New(http.StatusRequestEntityTooLarge, "decode", "the body is larger than %d bytes", limit)
	}
	return data, nil
}
