package decode

import (
	"bytes"
	"encoding"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"reflect"
	"strings"
	"unicode/utf8"

	"stockade/gate/refusal"
)

// Limits of a JSON body.
const (
	MaxBody  = 4 << 20 // bytes
	maxDepth = 32
)

// Legacy names fields, by their path in the JSON, that well-known clients send although the type does not have them.
// Their value is dropped.
type Legacy map[string]Drop

// Drop says which values of a legacy field may be dropped.
type Drop int

// The zero value drops nothing.
const (
	Never     Drop = iota
	WhenEmpty      // null, false, 0, "", [] or {}: a value would ask for something
	Always         // no value changes what happens
)

// JSON reads exactly one JSON value into v, a pointer.
//
// SECURITY(T-201): encoding/json merges repeated objects, ignores case (also ſ for s) and unknown names. So the text
// is first walked along v's type; only what has a single reading reaches encoding/json.
func JSON(data []byte, v any, legacy Legacy) error {
	if !utf8.Valid(data) {
		return refusal.Decode("the JSON is not valid UTF-8")
	}
	w := walker{dec: json.NewDecoder(bytes.NewReader(data)), legacy: legacy}
	w.dec.UseNumber()
	if err := w.value(reflect.TypeOf(v).Elem(), "", 0); err != nil {
		return err
	}
	if _, err := w.dec.Token(); !errors.Is(err, io.EOF) {
		return refusal.Decode("unexpected content after JSON")
	}
	// Docker's own words, for users look them up.
	if err := json.Unmarshal(data, v); err != nil {
		return refusal.Decode("invalid JSON: %.300s", err)
	}
	if w.unfit != "" {
		return refusal.Decode("field %q: a JSON object does not fit", w.unfit)
	}
	return nil
}

type walker struct {
	dec    *json.Decoder
	legacy Legacy
	unfit  string // path of an object whose type takes none
}

var (
	jsonUnmarshaler = reflect.TypeFor[json.Unmarshaler]()
	textUnmarshaler = reflect.TypeFor[encoding.TextUnmarshaler]()
)

// value walks one JSON value that will be decoded into type t; a nil t takes anything.
func (w *walker) value(t reflect.Type, path string, depth int) error {
	if depth > maxDepth {
		return refusal.Decode("field %q: nested deeper than %d", path, maxDepth)
	}
	token, err := w.dec.Token()
	if err != nil {
		return syntaxError(err)
	}
	delim, ok := token.(json.Delim)
	if !ok {
		return nil // a scalar: encoding/json checks that it fits
	}
	for t != nil && t.Kind() == reflect.Pointer {
		t = t.Elem()
	}
	if t != nil && (reflect.PointerTo(t).Implements(jsonUnmarshaler) || reflect.PointerTo(t).Implements(textUnmarshaler)) {
		t = nil
	}
	if delim == '{' {
		if err := w.object(t, path, depth); err != nil {
			return err
		}
	} else {
		var elem reflect.Type
		if t != nil && (t.Kind() == reflect.Slice || t.Kind() == reflect.Array) {
			elem = t.Elem()
		}
		n := 0
		for ; w.dec.More(); n++ {
			if err := w.value(elem, fmt.Sprintf("%s[%d]", path, n), depth+1); err != nil {
				return err
			}
		}
		// encoding/json drops what an array has no room for.
		if t != nil && t.Kind() == reflect.Array && n != t.Len() {
			return refusal.Decode("field %q: %d elements instead of %d", path, n, t.Len())
		}
	}
	if _, err := w.dec.Token(); err != nil {
		return syntaxError(err)
	}
	return nil
}

// object walks the members of an object whose opening brace was read.
func (w *walker) object(t reflect.Type, path string, depth int) error {
	var fields map[string]reflect.Type
	var elem, key reflect.Type
	switch {
	case t == nil:
	case t.Kind() == reflect.Struct:
		fields = Fields(t)
	case t.Kind() == reflect.Map:
		elem, key = t.Elem(), t.Key()
	case w.unfit == "":
		// Nothing is known of its members; encoding/json refuses it, or this package does.
		w.unfit = path
		if path == "" {
			w.unfit = "."
		}
	}
	seen := map[string]bool{}
	for w.dec.More() {
		token, err := w.dec.Token()
		if err != nil {
			return syntaxError(err)
		}
		name, ok := token.(string)
		if !ok {
			return refusal.Decode("field %q: a member without a name", path)
		}
		at := join(path, name)
		canonical, err := canonicalKey(key, name)
		if err != nil {
			return refusal.Decode("invalid JSON: %.300s", err)
		}
		if seen[canonical] {
			return refusal.Decode("field %q is given twice", at)
		}
		seen[canonical] = true
		next := elem
		if fields != nil {
			if next, ok = fields[name]; !ok {
				if err := w.unknown(fields, name, at); err != nil {
					return err
				}
				continue
			}
		}
		if err := w.value(next, at, depth+1); err != nil {
			return err
		}
	}
	return nil
}

// unknown consumes the value of a field that the type does not have, if it is a legacy one.
func (w *walker) unknown(fields map[string]reflect.Type, name, path string) error {
	for known := range fields {
		// encoding/json would take a differently spelled name for the known one.
		if strings.EqualFold(known, name) {
			return refusal.Decode("unknown field %q: it is written %q", path, known)
		}
	}
	drop := w.legacy[path]
	if drop == Never {
		return refusal.Decode("unknown field %q", path)
	}
	var raw json.RawMessage
	if err := w.dec.Decode(&raw); err != nil {
		return syntaxError(err)
	}
	if drop == WhenEmpty {
		switch string(bytes.TrimSpace(raw)) {
		case "null", "false", "0", `""`, "[]", "{}":
		default:
			return refusal.Decode("field %q is obsolete and may only be empty", path)
		}
	}
	return nil
}

// canonicalKey returns the one spelling of a map's key, so that 80/tcp and 80/TCP count as the same.
func canonicalKey(t reflect.Type, name string) (string, error) {
	if t == nil || !reflect.PointerTo(t).Implements(textUnmarshaler) {
		return name, nil
	}
	v := reflect.New(t).Interface()
	if err := v.(encoding.TextUnmarshaler).UnmarshalText([]byte(name)); err != nil {
		return "", err
	}
	m, ok := v.(encoding.TextMarshaler)
	if !ok {
		return name, nil
	}
	text, err := m.MarshalText()
	return string(text), err
}

// Fields returns the JSON names of a struct's fields as encoding/json sees them, with embedded structs flattened.
func Fields(t reflect.Type) map[string]reflect.Type {
	out := map[string]reflect.Type{}
	for i := range t.NumField() {
		f := t.Field(i)
		name, _, _ := strings.Cut(f.Tag.Get("json"), ",")
		if name == "-" || !f.IsExported() && !f.Anonymous {
			continue
		}
		ft := f.Type
		if f.Anonymous && name == "" {
			if ft.Kind() == reflect.Pointer {
				ft = ft.Elem()
			}
			if ft.Kind() == reflect.Struct {
				for n, inner := range Fields(ft) {
					if _, outer := out[n]; !outer {
						out[n] = inner
					}
				}
				continue
			}
		}
		if name == "" {
			name = f.Name
		}
		out[name] = f.Type
	}
	return out
}

func join(path, name string) string {
	if path == "" {
		return name
	}
	return path + "." + name
}

func syntaxError(err error) error {
	var r *refusal.Refusal
	if errors.As(err, &r) {
		return err
	}
	if errors.Is(err, io.EOF) {
		err = io.ErrUnexpectedEOF
	}
	return refusal.Decode("invalid JSON: %.300s", err)
}
