// Package route is the one table of the Engine API's endpoints, and the way from a request line to a row of it.
//
// It decides what exists: method, path, version; what each endpoint takes: query parameters, body, streams; and what
// is not implemented, with the reason.
// Trust: the request line comes from a client and may lie in every byte. It is parsed from its raw form, once.
// Invariants: a path has exactly one reading: no empty, "." or ".." segment, no percent-encoding in a word of the API,
// names unescaped once and of their own alphabet. Names leave as one escaped segment each.
// Failure: an unknown path is 404, an unreadable one 400, an endpoint without implementation 501.
package route

import (
	"net/http"
	"net/url"
	"strings"

	"stockade/gate/refusal"
)

// Kind is the type of a query parameter.
type Kind int

// The kinds. The zero value is none and refuses every value.
const (
	Bool    Kind = iota + 1
	Int          // signed 32 bits
	Count        // 0…2^31-1
	Time         // seconds since 1970 with optional fraction
	Name         // name of a container or volume
	Ref          // name of an image, repository or tag, without control characters
	Text         // any text without control characters
	Path         // path in a container
	Options      // command-line options of ps
	Words        // Text, may be repeated
	Enum         // one of Values
	Filter       // JSON of filters; Values are the terms
	Ignored      // sent by well-known clients, dropped
)

// Param is one query parameter of an endpoint.
type Param struct {
	Name   string
	Kind   Kind
	Values []string
	Wrong  string // what a refusal says of a wrong value, a format; empty: a general text
	Need   bool   // an absent or empty value is wrong, too
}

// Stream says what an endpoint carries besides typed values.
type Stream int

// The streams.
const (
	None      Stream = iota // body and query only; the answer may stream
	Upload                  // the request's body is opaque and goes on after the decision
	Upgrade                 // the connection becomes a stream in both directions after the decision
	WebSocket               // likewise, in frames of RFC 6455
)

// Upgrades tells whether the connection becomes a stream in both directions.
func (s Stream) Upgrades() bool { return s == Upgrade || s == WebSocket }

// Role is who may use an endpoint. The zero value is nobody.
type Role int

// The roles.
const (
	Nobody Role = iota
	Anyone      // every caller with a tenant
)

// Route is one endpoint.
type Route struct {
	Method   string
	Pattern  string // words and {names}; {name...} may span segments
	Op       string // operation id of the Engine API
	Role     Role
	Query    []Param
	Body     func() any // makes a pointer to the body's type; nil: no JSON body
	NoBody   bool       // the JSON body may be absent
	ZeroBody bool       // an absent JSON body means {}
	Stream   Stream
	Auth     bool   // takes X-Registry-Auth
	Quiet    bool   // reads nothing and changes nothing: no audit record
	Missing  string // why it is not implemented; empty: it is
	Absent   bool   // of a missing one: no such object exists, so its name is not found; clients ask one kind after the other
}

// Match is a request line that was understood.
type Match struct {
	*Route
	Version  string // API version: the client's, or the newest
	Name     string // value of the pattern's {name}; empty: it has none
	RawQuery string // to be decoded by the parameters of the row
}

// Target returns the canonical path for the engine: no version, the name as one escaped segment.
func (m *Match) Target() string {
	words := strings.Split(m.Pattern, "/")
	for i, w := range words {
		if strings.HasPrefix(w, "{") {
			words[i] = url.PathEscape(m.Name)
		}
	}
	return strings.Join(words, "/")
}

// Parse reads a request line. An endpoint that is not implemented comes back together with its refusal.
//
// SECURITY(T-201): the raw request target is the only input; net/http's own idea of the path is not used.
func Parse(method, target string) (*Match, error) {
	path, query, _ := strings.Cut(target, "?")
	segments, err := split(path)
	if err != nil {
		return nil, err
	}
	version := MaxVersion
	if v, ok := parseVersion(segments[0]); ok {
		if err := checkVersion(v); err != nil {
			return nil, err
		}
		version = v
		if segments = segments[1:]; len(segments) == 0 {
			return nil, notFound()
		}
	}
	for i := range table {
		r := &table[i]
		name, ok := r.match(segments)
		if !ok {
			continue
		}
		if r.Method != method {
			continue
		}
		m := &Match{Route: r, Version: version, RawQuery: query}
		if m.Name, err = r.parseName(name); err != nil {
			return nil, err
		}
		if r.Absent {
			return m, r.noObject(m.Name)
		}
		if r.Missing != "" {
			return m, refusal.New(http.StatusNotImplemented, "not-implemented", "%s %s is not implemented by this server: %s", r.Method, r.Pattern, r.Missing)
		}
		return m, nil
	}
	return nil, notFound()
}

// notFound is what Docker answers to an unknown method, too.
func notFound() error {
	return refusal.New(http.StatusNotFound, "no-route", "page not found")
}

// split cuts a path into raw segments.
func split(path string) ([]string, error) {
	if !strings.HasPrefix(path, "/") {
		return nil, refusal.Decode("the request target must be a path")
	}
	segments := strings.Split(path[1:], "/")
	for _, s := range segments {
		for i := range len(s) {
			if s[i] <= ' ' || s[i] >= 0x7f || s[i] == '\\' || s[i] == ';' || s[i] == '#' {
				return nil, refusal.Decode("the path contains a byte that must be escaped")
			}
		}
		if plain, err := url.PathUnescape(s); err != nil || plain == "." || plain == ".." {
			return nil, refusal.Decode("the path contains a segment that cannot be part of a name")
		}
	}
	if len(segments) == 1 && segments[0] == "" {
		return nil, notFound()
	}
	return segments, nil
}

// match compares raw segments with the pattern; a word matches only when it is written literally.
func (r *Route) match(segments []string) (name []string, ok bool) {
	words := strings.Split(r.Pattern[1:], "/")
	long := -1
	for i, w := range words {
		if strings.HasSuffix(w, "...}") {
			long = i
		}
	}
	extra := len(segments) - len(words)
	if extra < 0 || extra > 0 && long < 0 {
		return nil, false
	}
	for i, j := 0, 0; i < len(words); i++ {
		switch {
		case i == long:
			name = segments[j : j+extra+1]
			j += extra + 1
		case strings.HasPrefix(words[i], "{"):
			name = segments[j : j+1]
			j++
		case words[i] != segments[j]:
			return nil, false
		default:
			j++
		}
	}
	return name, true
}

// All returns the table.
func All() []Route { return table }
