package compat

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"mime"
	"slices"
	"strings"
)

// Answer is how one server answered a step.
type Answer struct {
	Code   int // exit code, or HTTP status
	Stdout string
	Stderr string
	Type   string // content type of an HTTP answer
	Body   []byte
	Places map[string]string // the server's own paths → what they are called here
}

// Compare tells what differs, one readable line each; the peer's side first.
func Compare(s Step, peer, ours Answer) []string {
	if s.Method == "" {
		return compareCommand(s, peer, ours)
	}
	var diffs []string
	if peer.Code != ours.Code {
		diffs = append(diffs, fmt.Sprintf("status %d, ours %d", peer.Code, ours.Code))
	}
	if (peer.Code < 400) != (ours.Code < 400) {
		return diffs // an answer and an error message have nothing in common
	}
	if p, o := mediaType(peer.Type), mediaType(ours.Type); p != o {
		diffs = append(diffs, fmt.Sprintf("type %q, ours %q", p, o))
	}
	pv, perr := values(peer)
	ov, oerr := values(ours)
	if perr != nil || oerr != nil {
		if p, o := peer.text(s), ours.text(s); p != o && !s.skipOut {
			diffs = append(diffs, fmt.Sprintf("body %q, ours %q", p, o))
		}
		return diffs
	}
	diffs = append(diffs, compareShapes(pv, ov)...)
	paths := s.values
	if peer.Code >= 400 && ours.Code >= 400 {
		paths = []string{".message"}
	}
	for _, path := range paths {
		p, o := Mask(at(pv, path), peer.Places), Mask(at(ov, path), ours.Places)
		if p != o {
			diffs = append(diffs, fmt.Sprintf("value %s %s, ours %s", path, p, o))
		}
	}
	return diffs
}

func compareCommand(s Step, peer, ours Answer) []string {
	var diffs []string
	if peer.Code != ours.Code {
		diffs = append(diffs, fmt.Sprintf("exit code %d, ours %d", peer.Code, ours.Code))
	}
	if s.skipOut {
		return diffs
	}
	for _, o := range []struct{ name, peer, ours string }{{"stdout", peer.Stdout, ours.Stdout}, {"stderr", peer.Stderr, ours.Stderr}} {
		p, q := MaskOutput(o.peer, peer.Places), MaskOutput(o.ours, ours.Places)
		if s.sorted {
			p, q = sortLines(p), sortLines(q)
		}
		if p != q {
			diffs = append(diffs, fmt.Sprintf("%s %q, ours %q", o.name, p, q))
		}
	}
	return diffs
}

func sortLines(text string) string {
	lines := strings.Split(text, "\n")
	slices.Sort(lines)
	return strings.Join(lines, "\n")
}

func mediaType(header string) string {
	t, _, err := mime.ParseMediaType(header)
	if err != nil {
		return header
	}
	return t
}

func (a Answer) text(s Step) string {
	text := Mask(string(a.Body), a.Places)
	if s.sorted {
		text = sortLines(text)
	}
	return text
}

// values are the JSON values of a body: one, or those of a stream.
func values(a Answer) ([]any, error) {
	if mediaType(a.Type) != "application/json" {
		return nil, errors.New("not JSON")
	}
	dec := json.NewDecoder(bytes.NewReader(a.Body))
	var all []any
	for {
		var v any
		err := dec.Decode(&v)
		if errors.Is(err, io.EOF) {
			return all, nil
		}
		if err != nil {
			return nil, err
		}
		all = append(all, v)
	}
}

// shape is what types stand at a path: "string", "number|null".
type shape map[string]string

func shapes(vs []any) shape {
	found := map[string]map[string]bool{}
	var walk func(path string, v any)
	walk = func(path string, v any) {
		kind := "string"
		switch v := v.(type) {
		case nil:
			kind = "null"
		case bool:
			kind = "bool"
		case float64:
			kind = "number"
		case []any:
			kind = "array"
			for _, e := range v {
				walk(path+"[]", e)
			}
		case map[string]any:
			kind = "object"
			for k, e := range v {
				walk(path+"."+Mask(k, nil), e)
			}
		}
		if found[path] == nil {
			found[path] = map[string]bool{}
		}
		found[path][kind] = true
	}
	for _, v := range vs {
		walk("", v)
	}
	s := shape{}
	for path, kinds := range found {
		var names []string
		for k := range kinds {
			names = append(names, k)
		}
		slices.Sort(names)
		s[path] = strings.Join(names, "|")
	}
	return s
}

func compareShapes(peer, ours []any) []string {
	p, o := shapes(peer), shapes(ours)
	all := shape{}
	for _, s := range []shape{p, o} {
		for path := range s {
			all[path] = ""
		}
	}
	var diffs []string
	for path := range all {
		if p[path] == o[path] {
			continue
		}
		// What is beneath something that one side lacks, or that is empty there, is no difference of its own.
		if up := parent(path); path != "" && (!within(p, up) || !within(o, up)) {
			continue
		}
		name := path
		if name == "" {
			name = "."
		}
		diffs = append(diffs, fmt.Sprintf("field %s %s, ours %s", name, orMissing(p[path]), orMissing(o[path])))
	}
	slices.Sort(diffs)
	return diffs
}

func within(s shape, path string) bool {
	kind, ok := s[path]
	return ok && (strings.Contains(kind, "object") || strings.Contains(kind, "array"))
}

func parent(path string) string {
	if p, ok := strings.CutSuffix(path, "[]"); ok {
		return p
	}
	if i := strings.LastIndexByte(path, '.'); i >= 0 {
		return path[:i]
	}
	return ""
}

func orMissing(kind string) string {
	if kind == "" {
		return "missing"
	}
	return kind
}

// at is the JSON of what stands at a path like .State.Status or .Mounts[0].Type in each of the values.
func at(vs []any, path string) string {
	var found []string
	for _, v := range vs {
		for _, key := range strings.FieldsFunc(strings.ReplaceAll(path, "[", ".["), func(c rune) bool { return c == '.' }) {
			switch u := v.(type) {
			case map[string]any:
				v = u[key]
			case []any:
				var i int
				if _, err := fmt.Sscanf(key, "[%d]", &i); err != nil || i >= len(u) {
					v = nil
				} else {
					v = u[i]
				}
			default:
				v = nil
			}
		}
		text, err := json.Marshal(v)
		if err != nil {
			text = []byte(err.Error())
		}
		found = append(found, string(text))
	}
	return strings.Join(found, " ")
}
