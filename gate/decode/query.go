// Package decode turns the bytes of a request into values, and values into the bytes that the engine gets.
//
// Trust: every byte comes from a client that tries to make two readers disagree. There is one reader: this package
// refuses what has more than one reading and writes anew what it read.
// Invariants: what is returned was read completely: no unknown, repeated or differently spelled name, nothing after the
// end. Failure: a refusal with status 400 that names the field.
package decode

import (
	"fmt"
	"net/url"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"unicode/utf8"

	"stockade/gate/refusal"
	"stockade/gate/route"
)

// maxParams bounds the parameters of one query.
const maxParams = 64

// Query reads a raw query by the parameters of its endpoint. Values come back in canonical form; empty ones are left
// out, as an absent parameter and an empty one mean the same to Docker.
func Query(params []route.Param, raw string) (url.Values, error) {
	out := url.Values{}
	pairs := strings.Split(raw, "&")
	if len(pairs) > maxParams {
		return nil, refusal.Decode("more than %d query parameters", maxParams)
	}
	seen := map[string]bool{}
	for _, pair := range pairs {
		if pair == "" {
			continue
		}
		// The name is compared as it is written, so that it has one spelling.
		name, escaped, _ := strings.Cut(pair, "=")
		i := slices.IndexFunc(params, func(p route.Param) bool { return p.Name == name })
		if i < 0 {
			return nil, refusal.Decode("unknown query parameter %.64q", name)
		}
		p := params[i]
		if seen[name] && p.Kind != route.Words {
			return nil, refusal.Decode("query parameter %q is given twice", name)
		}
		seen[name] = true
		if strings.ContainsAny(escaped, ";#") {
			return nil, refusal.Decode("query parameter %q: ';' and '#' must be escaped", name)
		}
		value, err := url.QueryUnescape(escaped)
		if err != nil {
			return nil, refusal.Decode("query parameter %q: invalid escape", name)
		}
		value, err = parameter(p, value)
		if err != nil {
			return nil, err
		}
		if value != "" {
			out.Add(name, value)
		}
	}
	for _, p := range params {
		if p.Need && !out.Has(p.Name) {
			return nil, wrong(p, "", "given")
		}
	}
	return out, nil
}

var (
	timeValue = regexp.MustCompile(`^-?[0-9]{1,12}(\.[0-9]{1,9})?$`)
	nameValue = regexp.MustCompile(`^/?[a-zA-Z0-9][a-zA-Z0-9_.+-]{0,254}$`)
	optValue  = regexp.MustCompile(`^[a-zA-Z0-9 ,=:%_+-]{1,256}$`)
	refValue  = regexp.MustCompile(`^[a-zA-Z0-9][a-zA-Z0-9_.:@/\[\]-]{0,511}$`)
)

// parameter checks one value and makes it canonical.
func parameter(p route.Param, value string) (string, error) {
	if strings.ContainsRune(value, 0) || !utf8.ValidString(value) {
		return "", refusal.Decode("query parameter %q is not text", p.Name)
	}
	if value == "" {
		return "", nil
	}
	switch p.Kind {
	case route.Bool:
		switch strings.ToLower(value) {
		case "1", "true", "yes", "on":
			return "1", nil
		case "0", "false", "no", "off", "none":
			return "0", nil
		}
		return "", refusal.Decode("query parameter %q: %.32q is neither true nor false", p.Name, value)
	case route.Int, route.Count:
		n, err := strconv.ParseInt(value, 10, 32)
		if err != nil || p.Kind == route.Count && n < 0 {
			return "", wrong(p, value, "a number in range")
		}
		return strconv.FormatInt(n, 10), nil
	case route.Time:
		return matching(p, value, timeValue, "seconds since 1970")
	case route.Name:
		return matching(p, value, nameValue, "a name: [a-zA-Z0-9][a-zA-Z0-9_.-]")
	case route.Ref:
		return matching(p, value, refValue, "the name of an image")
	case route.Options:
		return matching(p, value, optValue, "a list of options")
	case route.Text, route.Path, route.Words:
		return value, nil
	case route.Enum:
		if !slices.Contains(p.Values, value) {
			return "", wrong(p, value, fmt.Sprintf("one of %q", p.Values))
		}
		return value, nil
	case route.Filter:
		return filter(p, value)
	case route.Ignored:
		return "", nil
	default:
		return "", refusal.Decode("query parameter %q takes no value", p.Name)
	}
}

func matching(p route.Param, value string, re *regexp.Regexp, what string) (string, error) {
	if !re.MatchString(value) {
		return "", wrong(p, value, what)
	}
	return value, nil
}

// wrong refuses a value in the words of the parameter, which are Docker's, or in general ones.
func wrong(p route.Param, value, what string) error {
	if _, err := strconv.ParseInt(value, 10, 64); p.Wrong != "" && err == nil {
		return refusal.Decode(strings.Replace(p.Wrong, "invalid syntax", "value out of range", 1), value)
	}
	if p.Wrong != "" {
		return refusal.Decode(p.Wrong, value)
	}
	return refusal.Decode("query parameter %q: %.64q is not %s", p.Name, value, what)
}
