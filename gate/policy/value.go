package policy

import (
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"
)

// quote shows a client's value in a message, cut to a readable length.
func quote(v string) string { return fmt.Sprintf("%.80q", v) }

func sortedKeys[V any](m map[string]V) []string { return slices.Sorted(maps.Keys(m)) }

func isTrue(field string, v bool) (string, string) {
	if v {
		return field, "true"
	}
	return "", ""
}

// isSet refuses any value but the empty one.
func isSet(field, v string) (string, string) {
	if v != "" {
		return field, quote(v)
	}
	return "", ""
}

// oneOf allows only these values.
func oneOf(field, v string, allowed ...string) (string, string) {
	if !slices.Contains(allowed, v) {
		return field, quote(v)
	}
	return "", ""
}

// within allows only numbers from min to max.
func within(field string, v, min, max int64) (string, string) {
	if v < min || v > max {
		return field, strconv.FormatInt(v, 10)
	}
	return "", ""
}

// first returns the first offending field.
func first(pairs ...[2]string) (string, string) {
	for _, p := range pairs {
		if p[0] != "" {
			return p[0], p[1]
		}
	}
	return "", ""
}

func pair(field, value string) [2]string { return [2]string{field, value} }

// capName returns the canonical form of a capability's name.
func capName(name string) string {
	n := strings.ToUpper(name)
	if n == "ALL" || strings.HasPrefix(n, "CAP_") {
		return n
	}
	return "CAP_" + n
}
