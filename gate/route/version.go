package route

import (
	"net/http"
	"strconv"
	"strings"

	"stockade/gate/refusal"
	"stockade/internal/apiversion"
)

// The API versions that clients may name.
const (
	MinVersion = apiversion.Min
	MaxVersion = apiversion.Max
)

// parseVersion tells whether a first segment is a version, such as v1.51, and returns it.
func parseVersion(segment string) (string, bool) {
	v, ok := strings.CutPrefix(segment, "v")
	if !ok {
		return "", false
	}
	major, minor, ok := strings.Cut(v, ".")
	if !ok || !number(major) || !number(minor) {
		return "", false
	}
	return v, true
}

func number(s string) bool {
	if s == "" || len(s) > 4 || len(s) > 1 && s[0] == '0' {
		return false
	}
	for i := range len(s) {
		if s[i] < '0' || s[i] > '9' {
			return false
		}
	}
	return true
}

// checkVersion answers as Docker does, for clients read these texts.
func checkVersion(v string) error {
	switch {
	case VersionLess(v, MinVersion):
		return refusal.New(http.StatusBadRequest, "version", "client version %s is too old. Minimum supported API version is %s, please upgrade your client to a newer version", v, MinVersion)
	case VersionLess(MaxVersion, v):
		return refusal.New(http.StatusBadRequest, "version", "client version %s is too new. Maximum supported API version is %s", v, MaxVersion)
	}
	return nil
}

// VersionLess compares two versions that parseVersion or this package made.
func VersionLess(a, b string) bool {
	am, an := parts(a)
	bm, bn := parts(b)
	return am < bm || am == bm && an < bn
}

func parts(v string) (major, minor int) {
	a, b, _ := strings.Cut(v, ".")
	major, _ = strconv.Atoi(a)
	minor, _ = strconv.Atoi(b)
	return major, minor
}
