// Package policy decides whether a decoded request may go on. It is a pure function of the request, the caller and the
// administrator's settings.
//
// Trust: values were decoded strictly by package decode, so each has one reading; their contents are hostile.
// Invariants: what is not explicitly allowed is refused; every field of every request type is classified in
// testdata/fields.txt as checked by a rule, harmless or refused, which a test holds against the API's own types. An
// administrator's containers are confined like all others: the rules marked admin are the only ones that give way.
// Failure: the first broken rule is a refusal that names field, value, rule and remedy.
package policy

import (
	"fmt"
	"slices"
	"strings"

	"github.com/moby/moby/api/types/container"
	"github.com/moby/moby/api/types/volume"

	"stockade/gate/refusal"
)

// Config is what the administrator decides. The zero value allows the least.
type Config struct {
	LowPorts     []uint16 // host ports below 1024 that may be published
	BindPrefixes []string // where binds of uid 0 may begin; others are held by their own rights
	Runtimes     []string // names of OCI runtimes
}

// Caller is what policy needs to know of who asks. The zero value is an ordinary user.
type Caller struct {
	Root  bool // uid 0, whose own rights limit nothing
	Admin bool
}

// Bind is a host path that a container wants; grantd decides about it with the caller's own rights.
type Bind struct {
	Source   string // absolute and clean, as it stands in the request after Create
	ReadOnly bool
	// SubWritable: what is mounted beneath a read-only bind stays writable.
	SubWritable bool
	Create      bool // make a missing folder
}

// Create checks a container and makes its values canonical. It returns the host paths that need a grant.
func (c Config) Create(caller Caller, r *container.CreateRequest) ([]Bind, error) {
	if r.Config == nil {
		return nil, refusal.Decode("config cannot be empty in order to create a container")
	}
	if r.HostConfig == nil {
		r.HostConfig = &container.HostConfig{}
	}
	s := &subject{cfg: c, caller: caller, config: r.Config, host: r.HostConfig, net: r.NetworkingConfig}
	if err := check(s, configRules, hostRules); err != nil {
		return nil, err
	}
	binds, err := s.mounts()
	if err != nil {
		return nil, err
	}
	canonical(r)
	return binds, nil
}

// Update checks new limits of a container by the rules of its creation (CVE-2026-44848 class) and makes them canonical.
func (c Config) Update(caller Caller, r *container.UpdateConfig) error {
	h := &container.HostConfig{Resources: r.Resources, RestartPolicy: r.RestartPolicy}
	if err := check(&subject{cfg: c, caller: caller, host: h}, hostRules); err != nil {
		return err
	}
	if p := r.PidsLimit; p != nil && *p == 0 { // unlimited here, unlike in creation
		return check(&subject{cfg: c, caller: caller, host: &container.HostConfig{Resources: container.Resources{PidsLimit: new(int64(-1))}}}, resourceRules)
	}
	canonical(&container.CreateRequest{HostConfig: h})
	r.Resources = h.Resources
	return nil
}

// Commit checks the configuration of an image made from a container; nil is none.
func (c Config) Commit(caller Caller, r *container.Config) error {
	if r == nil {
		return nil
	}
	return check(&subject{cfg: c, caller: caller, config: r}, configRules)
}

// Exec checks a further process of a container.
func (c Config) Exec(caller Caller, r *container.ExecCreateRequest) error {
	return check(&subject{cfg: c, caller: caller, exec: r}, execRules)
}

// Volume checks a new volume.
func (c Config) Volume(caller Caller, r *volume.CreateRequest) error {
	return check(&subject{cfg: c, caller: caller, volume: r}, volumeRules)
}

// Import checks where an image comes from: a registry's name, or the request's body.
//
// SECURITY(T-308): the server fetches no URL that a client chooses.
func Import(fromImage, fromSrc string) error {
	switch {
	case fromImage != "" && fromSrc != "":
		return refusal.Decode("fromImage and fromSrc exclude each other")
	case fromImage == "" && fromSrc == "":
		return refusal.Decode("fromImage or fromSrc is needed")
	case fromSrc != "" && fromSrc != "-":
		return refusal.Policy("import-url", "fromSrc", fmt.Sprintf("%.80q", fromSrc), "download the file and send it: docker import FILE")
	}
	return nil
}

// subject is what the rules look at; parts that the request does not have are nil.
type subject struct {
	cfg    Config
	caller Caller
	config *container.Config
	host   *container.HostConfig
	net    *networking
	exec   *container.ExecCreateRequest
	volume *volume.CreateRequest
}

// rule is one row of the policy.
type rule struct {
	id     string // stands in messages, audit records and documents
	threat string // of THREATS.md
	fields []string
	remedy string
	admin  bool   // administrators may
	docker string // Docker's words for the same refusal, before the value; "" if it has none
	// bad returns the offending field and its value, or "" as the field if the rule holds.
	bad func(s *subject) (field, value string)
}

func check(s *subject, sets ...[]rule) error {
	for _, r := range slices.Concat(sets...) {
		if r.admin && s.caller.Admin {
			continue
		}
		if field, value := r.bad(s); field != "" {
			return r.refuse(field, value)
		}
	}
	return nil
}

func (r rule) refuse(field, value string) error {
	err := refusal.Policy(r.id, field, value, r.remedy)
	if r.docker == "" {
		return err
	}
	said := *refusal.Of(err)
	said.Text = r.docker + strings.Trim(value, `"`) + ": " + said.Text
	return &said
}

// Rule describes one rule for documents.
type Rule struct {
	ID, Threat, Remedy string
	Fields             []string
	Admin              bool // gives way for administrators
}

// Rules lists all rules, in the order in which they are checked.
func Rules() []Rule {
	var out []Rule
	for _, r := range slices.Concat(configRules, hostRules, mountRules, execRules, volumeRules) {
		out = append(out, Rule{ID: r.id, Threat: r.threat, Remedy: r.remedy, Fields: r.fields, Admin: r.admin})
	}
	return append(out, Rule{ID: "import-url", Threat: "T-308", Fields: []string{"ImageCreate?fromSrc"},
		Remedy: "download the file and send it: docker import FILE"})
}
