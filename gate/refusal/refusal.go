// Package refusal is the gate's "no": an HTTP status, a text that tells the client what to do, and the rule behind it.
//
// Trust: none; it only carries values. Invariants: a Refusal never has a status below 400. Failure: none.
package refusal

import (
	"errors"
	"fmt"
	"net/http"
)

// Refusal is why a request goes no further. Its text is sent to the client as it is.
type Refusal struct {
	Status int    // HTTP status
	Rule   string // identifier of the rule for the audit record, such as "privileged" or "decode"
	Text   string
}

func (r *Refusal) Error() string { return r.Text }

// Decode is a request that is not exactly one request of the API: 400.
func Decode(format string, a ...any) error {
	return &Refusal{Status: http.StatusBadRequest, Rule: "decode", Text: fmt.Sprintf(format, a...)}
}

// Policy is a request that a rule forbids: 403, naming field, value, rule and remedy.
func Policy(rule, field, value, remedy string) error {
	text := field + " is not allowed here"
	if value != "" {
		text = fmt.Sprintf("%s: %s is not allowed here", field, value)
	}
	return &Refusal{Status: http.StatusForbidden, Rule: rule, Text: fmt.Sprintf("%s (rule %s): %s", text, rule, remedy)}
}

// New makes a refusal with any other status.
func New(status int, rule, format string, a ...any) error {
	return &Refusal{Status: status, Rule: rule, Text: fmt.Sprintf(format, a...)}
}

// Of returns the refusal within err; any other error is the server's own: 500, without its text.
func Of(err error) *Refusal {
	var r *Refusal
	if errors.As(err, &r) {
		return r
	}
	return &Refusal{Status: http.StatusInternalServerError, Rule: "internal", Text: "the gate could not decide on this request; its log says why"}
}
