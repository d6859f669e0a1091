package route

import (
	"net/http"
	"net/url"
	"regexp"
	"strings"

	"stockade/gate/refusal"
)

// The alphabets of names in paths.
var (
	objectName = regexp.MustCompile(`^[a-zA-Z0-9][a-zA-Z0-9_.-]{0,254}$`)
	imageName  = regexp.MustCompile(`^[a-zA-Z0-9][a-zA-Z0-9_.:@/-]{0,511}$`)
)

// parseName unescapes and checks the segments that stand for the pattern's {name}.
//
// A name that no object can have does not exist: the answer is Docker's 404, as clients try one kind after the other.
func (r *Route) parseName(segments []string) (string, error) {
	if segments == nil {
		return "", nil
	}
	name, err := url.PathUnescape(strings.Join(segments, "/"))
	if err != nil {
		return "", refusal.Decode("the path contains an invalid escape")
	}
	kind, _, _ := strings.Cut(r.Pattern[1:], "/")
	ok := objectName.MatchString(name)
	if kind == "images" || kind == "distribution" || kind == "plugins" {
		ok = imageName.MatchString(name) && wholeSegments(name)
	}
	if ok {
		return name, nil
	}
	return "", r.noObject(name)
}

// noObject is Docker's answer for a name that does not exist.
func (r *Route) noObject(name string) error {
	kind, _, _ := strings.Cut(r.Pattern[1:], "/")
	text := "no such object: " + name
	switch kind {
	case "containers":
		text = "No such container: " + name
	case "images":
		text = "No such image: " + name
	case "exec":
		text = "No such exec instance: " + name
	case "volumes":
		text = "get " + name + ": no such volume"
	case "plugins":
		text = "plugin \"" + name + "\" not found"
	case "networks":
		text = "network " + name + " not found"
	}
	return refusal.New(http.StatusNotFound, "no-object", "%s", text)
}

func wholeSegments(name string) bool {
	for s := range strings.SplitSeq(name, "/") {
		if s == "" || s == "." || s == ".." {
			return false
		}
	}
	return true
}
