package decode

import (
	"encoding/json"
	"slices"
	"strings"

	"stockade/gate/refusal"
	"stockade/gate/route"
)

// filter reads the JSON of a filters parameter in either of its forms, {"term":{"value":true}} and
// {"term":["value"]}, and writes the first.
func filter(p route.Param, value string) (string, error) {
	out := map[string]map[string]bool{}
	add := func(term string, values map[string]bool) error {
		if !slices.Contains(p.Values, term) {
			return refusal.Decode("invalid filter '%.64s'", term)
		}
		for v, on := range values {
			if !on {
				return refusal.Decode("filter %q: the value %.64q must be true", term, v)
			}
		}
		out[term] = values
		return nil
	}
	var raw map[string]json.RawMessage
	if err := JSON([]byte(value), &raw, nil); err != nil {
		return "", refusal.Decode("invalid filter")
	}
	for term, text := range raw {
		values := map[string]bool{}
		if strings.HasPrefix(strings.TrimSpace(string(text)), "[") {
			var list []string
			if err := JSON(text, &list, nil); err != nil {
				return "", refusal.Decode("invalid filter")
			}
			for _, v := range list {
				values[v] = true
			}
		} else if err := JSON(text, &values, nil); err != nil {
			return "", refusal.Decode("invalid filter")
		}
		if err := add(term, values); err != nil {
			return "", err
		}
	}
	if len(out) == 0 {
		return "", nil
	}
	b, err := json.Marshal(out)
	return string(b), err
}
