package compat

import (
	"regexp"
	"strings"
)

// masks are applied in this order.
var masks = []struct {
	re *regexp.Regexp
	to string
}{
	{regexp.MustCompile(`\b[0-9a-f]{64}\b`), "<id>"},
	{regexp.MustCompile(`\b[0-9]{4}-[0-9]{2}-[0-9]{2}[T ][0-9]{2}:[0-9]{2}:[0-9]{2}(\.[0-9]+)?( ?(Z|[+-][0-9]{2}:?[0-9]{2}))?( UTC)?`), "<time>"},
	{regexp.MustCompile(`\b([0-9a-f]{2}:){5}[0-9a-f]{2}\b`), "<mac>"},
	{regexp.MustCompile(`\b[0-9a-f]{12}\b`), "<id>"},
	{regexp.MustCompile(`\b([0-9]{1,3}\.){3}[0-9]{1,3}\b`), "<ip>"},
	{regexp.MustCompile(`(?i)\b(less than a second|about an? (minute|hour)|[0-9]+ (seconds?|minutes?|hours?|days?|weeks?|months?|years?))( ago)?\b`), "<ago>"},
	{regexp.MustCompile(`\b[0-9]+(\.[0-9]+)?(e\+[0-9]+)? ?([kMG]i?B|B)\b`), "<size>"},
	{regexp.MustCompile(`"execDuration":"[0-9]+"`), `"execDuration":"<time>"`},
	{regexp.MustCompile(`prefix: [0-9a-f]+\b`), "prefix: <prefix>"},
	{regexp.MustCompile(`\b1[0-9]{9}(\.?[0-9]{9})?\b`), "<unix>"},
}

// Mask replaces what differs from run to run: ids, times, addresses, sizes, and the places of one server's files.
func Mask(text string, places map[string]string) string {
	for place, name := range places {
		text = strings.ReplaceAll(text, place, name)
	}
	for _, m := range masks {
		text = m.re.ReplaceAllString(text, m.to)
	}
	return text
}

var (
	runs    = regexp.MustCompile(` {2,}`)
	trailer = regexp.MustCompile(`(?m) +$`)
)

// MaskOutput is Mask for the output of a command, whose columns are as wide as what is in them.
func MaskOutput(text string, places map[string]string) string {
	return trailer.ReplaceAllString(runs.ReplaceAllString(Mask(text, places), " "), "")
}
