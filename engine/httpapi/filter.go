package httpapi

import (
	"encoding/json"
	"regexp"
	"slices"
	"sort"
	"strconv"
	"strings"
	"time"

	"github.com/containerd/errdefs"
)

// Filters is the "filters" query parameter of list, prune and events requests: term → values. A term that is absent
// matches everything.
type Filters map[string][]string

// ParseFilters reads either form of the parameter, {"term":["value"]} and {"term":{"value":true}}, and refuses terms
// that are not among accepted.
func ParseFilters(raw string, accepted ...string) (Filters, error) {
	f := Filters{}
	if raw == "" {
		return f, nil
	}
	var sets map[string]map[string]bool
	var lists map[string][]string
	if err := json.Unmarshal([]byte(raw), &sets); err == nil {
		for term, set := range sets {
			f[term] = []string{}
			for value, on := range set {
				if on {
					f[term] = append(f[term], value)
				}
			}
			sort.Strings(f[term])
		}
	} else if err := json.Unmarshal([]byte(raw), &lists); err == nil {
		for term, list := range lists {
			f[term] = list
		}
	} else {
		return nil, NewError(errdefs.ErrInvalidArgument, "invalid filter")
	}
	for term := range f {
		if !slices.Contains(accepted, term) {
			return nil, NewError(errdefs.ErrInvalidArgument, "invalid filter '%s'", term)
		}
	}
	return f, nil
}

// Has tells whether the term has at least one value.
func (f Filters) Has(term string) bool { return len(f[term]) > 0 }

// Exact tells whether one of the term's values is one of these.
func (f Filters) Exact(term string, is ...string) bool {
	return !f.Has(term) || slices.ContainsFunc(f[term], func(v string) bool { return slices.Contains(is, v) })
}

// Prefix tells whether one of the term's values begins one of these.
func (f Filters) Prefix(term string, is ...string) bool {
	return !f.Has(term) || slices.ContainsFunc(f[term], func(v string) bool {
		return slices.ContainsFunc(is, func(s string) bool { return strings.HasPrefix(s, v) })
	})
}

// Match tells whether one of the term's values, as a regular expression, occurs in one of these. A value that is no
// expression matches only itself.
func (f Filters) Match(term string, is ...string) bool {
	if f.Exact(term, is...) {
		return true
	}
	return slices.ContainsFunc(f[term], func(v string) bool {
		re, err := regexp.Compile(v)
		return err == nil && slices.ContainsFunc(is, re.MatchString)
	})
}

// Labels tells whether all of the term's values, each "key" or "key=value", hold for labels.
func (f Filters) Labels(term string, labels map[string]string) bool {
	for _, want := range f[term] {
		key, value, both := strings.Cut(want, "=")
		if has, ok := labels[key]; !ok || both && has != value {
			return false
		}
	}
	return true
}

// AnyLabel tells whether one of the term's values holds for labels; an absent term does not ("label!" of prune).
func (f Filters) AnyLabel(term string, labels map[string]string) bool {
	return slices.ContainsFunc(f[term], func(want string) bool {
		return Filters{term: {want}}.Labels(term, labels)
	})
}

// Bool reads a term with one boolean value; without values it is the default.
func (f Filters) Bool(term string, byDefault bool) (bool, error) {
	switch values := f[term]; len(values) {
	case 0:
		return byDefault, nil
	case 1:
		if b, err := strconv.ParseBool(values[0]); err == nil {
			return b, nil
		}
	}
	return false, NewError(errdefs.ErrInvalidArgument, "invalid filter '%s=%s'", term, f[term])
}

// Until reads the term "until": seconds since 1970, a duration before now, or a date. Absent, it is no time.
func (f Filters) Until(now time.Time) (time.Time, error) {
	switch len(f["until"]) {
	case 0:
		return time.Time{}, nil
	case 1:
	default:
		return time.Time{}, NewError(errdefs.ErrInvalidArgument, "more than one until filter specified")
	}
	v := f["until"][0]
	if d, err := time.ParseDuration(v); err == nil {
		return now.Add(-d), nil
	}
	for _, layout := range []string{time.RFC3339Nano, "2006-01-02T15:04:05", "2006-01-02T15:04", "2006-01-02"} {
		if t, err := time.ParseInLocation(layout, v, time.Local); err == nil {
			return t, nil
		}
	}
	if sec, err := strconv.ParseFloat(v, 64); err == nil && strings.Trim(v, "0123456789.") == "" {
		return time.Unix(0, int64(sec*1e9)), nil
	}
	sec, _, _ := strings.Cut(v, ".")
	return time.Time{}, NewError(errdefs.ErrInvalidArgument, "failed to parse value as time or duration: invalid seconds %q: invalid syntax", sec)
}

// VersionLess compares API versions such as 1.44; what is no version counts as the newest.
func VersionLess(version, than string) bool {
	a, errA := minor(version)
	b, errB := minor(than)
	return errA == nil && errB == nil && a < b
}

func minor(version string) (int, error) {
	major, rest, _ := strings.Cut(version, ".")
	m, err := strconv.Atoi(major)
	if err != nil {
		return 0, err
	}
	n, err := strconv.Atoi(rest)
	return m*1000 + n, err
}
