package policy

import (
	"bytes"
	"encoding/json"
	"strings"
)

// maxProfile is the largest seccomp profile that a client may send; Docker's own has 14 KiB.
const maxProfile = 256 << 10

// securityOpt returns the one spelling of a security option, or "" for one that is not allowed.
//
// SECURITY(T-502): a profile goes on as JSON; the engine allows only what the default profile allows, too.
func securityOpt(o string) string {
	switch o {
	case "no-new-privileges", "no-new-privileges:true", "no-new-privileges=true":
		return "no-new-privileges"
	case "seccomp=builtin", "seccomp:builtin":
		return "seccomp=builtin"
	}
	profile, ok := strings.CutPrefix(o, "seccomp=")
	if !ok {
		profile, ok = strings.CutPrefix(o, "seccomp:")
	}
	if !ok || len(profile) > maxProfile || !strings.HasPrefix(strings.TrimSpace(profile), "{") {
		return ""
	}
	var compact bytes.Buffer
	if json.Compact(&compact, []byte(profile)) != nil {
		return ""
	}
	return "seccomp=" + compact.String()
}
