// Package compat compares Stockade with Docker's own daemon: it plays the same calls of the docker command and of the API
// against both and compares status, exit code, output and the shape of JSON, with what differs from run to run masked.
//
// What may differ is listed in rows.go, each row with its reason. A difference that is not listed fails the test, and so
// does a row that nothing matches any more: the list only shrinks, or grows by a visible decision.
// docs/compatibility.md is made from it.
//
// Trust: none is needed; both servers are private to the test. Invariants: both get the same calls in the same order, by
// the same API version. Failure: a call that cannot be made at all fails its scenario.
package compat

import (
	"fmt"
	"slices"
	"strings"
)

// Peer is a daemon of Docker's to compare with.
type Peer struct {
	Name    string
	Version string // of the API, of all calls: the newest that the peer and Stockade both speak
	Own     []Row  // the differences that exist from this peer only
}

// The peers.
var (
	Newest = Peer{"dockerd 29", "1.56", knownNewest}    // "make peer" builds it
	Debian = Peer{"dockerd 20.10", "1.41", knownDebian} // package docker.io
)

// Rows are all differences that exist from the peer.
func (p Peer) Rows() []Row { return slices.Concat(known, p.Own) }

// Scenario is a short sequence of calls. In its steps {n} stands for the scenario's own name, which is a valid name of a
// container, a volume and an image, and {x} for what an earlier step kept as x.
type Scenario struct {
	Name  string
	Steps []Step
}

// Step is one call: of the docker command, or of the API.
type Step struct {
	Args   []string // of the docker command
	Method string   // of the API, with Path and Body
	Path   string   // without the version
	Body   string
	Type   string // of the body
	Input  []byte // standard input of the command, or a body that is not JSON
	Hijack bool   // asks to upgrade the connection and sends Input over it
	WS     bool   // asks for a WebSocket and sends Input as one message
	Times  int    // how many connections ask for the same; Input goes over the first; 0: one

	keep    string
	kept    func(string) string
	until   string
	sorted  bool
	values  []string
	skipOut bool
}

// Docker is a call of the docker command. Words are split at spaces; single quotes keep them together.
func docker(line string) Step { return Step{Args: split(line)} }

func call(method, path, body string) Step {
	s := Step{Method: method, Path: path, Body: body}
	if body != "" {
		s.Type = "application/json"
	}
	return s
}

func get(path string) Step        { return call("GET", path, "") }
func head(path string) Step       { return call("HEAD", path, "") }
func del(path string) Step        { return call("DELETE", path, "") }
func post(path, body string) Step { return call("POST", path, body) }

// with gives the step its standard input, or an archive as its body.
func (s Step) with(input []byte) Step {
	s.Input = input
	if s.Method != "" {
		s.Type = "application/x-tar"
	}
	return s
}

// hijacked asks for an upgraded connection, sends input and reads until the end.
func (s Step) hijacked(input string) Step {
	s.Hijack, s.Input = true, []byte(input)
	return s
}

// webSocket asks for a WebSocket, sends input as one message and reads messages until the end.
func (s Step) webSocket(input string) Step {
	s.WS, s.Input = true, []byte(input)
	return s
}

// times makes count connections with the request at once, before any input is sent.
func (s Step) times(count int) Step {
	s.Times = count
	return s
}

// typed gives the body another content type.
func (s Step) typed(kind string) Step {
	s.Type = kind
	return s
}

// keeping keeps for later steps what choose makes of the command's output.
func (s Step) keeping(name string, choose func(string) string) Step {
	s.keep, s.kept = name, choose
	return s
}

// as keeps the command's output, or the answer's Id, for later steps.
func (s Step) as(name string) Step {
	s.keep = name
	return s
}

// becomes repeats the call until its output or body contains text.
func (s Step) becomes(text string) Step {
	s.until = text
	return s
}

// anyOrder compares the sorted lines of the output.
func (s Step) anyOrder() Step {
	s.sorted = true
	return s
}

// same compares the values at the paths, too, not only their types.
func (s Step) same(paths ...string) Step {
	s.values = paths
	return s
}

// noOutput leaves the output out of the comparison: numbers that are never twice the same.
func (s Step) noOutput() Step {
	s.skipOut = true
	return s
}

// String names the step.
func (s Step) String() string {
	if s.Method == "" {
		return "docker " + strings.Join(s.Args, " ")
	}
	text := s.Method + " " + s.Path
	if s.Body != "" {
		text += " " + s.Body
	}
	if s.WS {
		text += " (WebSocket)"
	}
	return text
}

// Names returns a different name for each of the steps.
func (sc Scenario) Names() []string {
	seen := map[string]int{}
	names := make([]string, 0, len(sc.Steps))
	for _, s := range sc.Steps {
		name := s.String()
		seen[name]++
		if n := seen[name]; n > 1 {
			name = fmt.Sprintf("%s (%d)", name, n)
		}
		names = append(names, name)
	}
	return names
}

// Fill puts the values of {names} into the step.
func (s Step) Fill(vars map[string]string) Step {
	var pairs []string
	for name, value := range vars {
		pairs = append(pairs, "{"+name+"}", value)
	}
	r := strings.NewReplacer(pairs...)
	args := make([]string, 0, len(s.Args))
	for _, a := range s.Args {
		args = append(args, r.Replace(a))
	}
	s.Args, s.Path, s.Body = args, r.Replace(s.Path), r.Replace(s.Body)
	return s
}

// inURL encodes what scenarios write plainly, the JSON of filters first of all.
var inURL = strings.NewReplacer(" ", "%20", `"`, "%22", "{", "%7B", "}", "%7D")

// Target is the request's target in a version of the API. A path that begins with // has no version, or its own.
func (s Step) Target(version string) string {
	path, own := strings.CutPrefix(s.Path, "//")
	if own {
		return inURL.Replace("/" + path)
	}
	return inURL.Replace("/v" + version + s.Path)
}

func split(line string) []string {
	var words []string
	var word strings.Builder
	quoted, open := false, false
	for _, c := range line {
		switch {
		case c == '\'':
			quoted, open = !quoted, true
		case c == ' ' && !quoted:
			if open {
				words = append(words, word.String())
			}
			word.Reset()
			open = false
		default:
			word.WriteRune(c)
			open = true
		}
	}
	if open {
		words = append(words, word.String())
	}
	return words
}

// All are the scenarios.
func All() []Scenario {
	var all []Scenario
	for _, part := range [][]Scenario{
		containerScenarios(), inspectScenarios(), listScenarios(), streamScenarios(), controlScenarios(), errorScenarios(),
		imageScenarios(), volumeScenarios(), systemScenarios(), fileScenarios(), bodyScenarios(),
		optionScenarios(), pruneScenarios(),
	} {
		all = append(all, part...)
	}
	return all
}
