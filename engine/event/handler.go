package event

import (
	"encoding/json"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/containerd/errdefs"
	"github.com/distribution/reference"
	"github.com/moby/moby/api/types"
	"github.com/moby/moby/api/types/events"

	"stockade/api/scope"
	"stockade/engine/httpapi"
)

// Register adds this package's routes.
func (b *Bus) Register(rt *httpapi.Router) { rt.Handle("GET /events", b.stream) }

var terms = []string{"type", "event", "action", "container", "image", "volume", "network", "label", "scope", "daemon",
	"plugin", "node", "service", "secret", "config"}

func (b *Bus) stream(w http.ResponseWriter, r *http.Request, s scope.Scope) error {
	q := r.URL.Query()
	since, err := timestamp("since", q.Get("since"))
	if err != nil {
		return err
	}
	until, err := timestamp("until", q.Get("until"))
	if err != nil {
		return err
	}
	if until != 0 && until < since {
		return httpapi.NewError(errdefs.ErrInvalidArgument, "`since` time (%s) cannot be after `until` time (%s)", q.Get("since"), q.Get("until"))
	}
	f, err := httpapi.ParseFilters(q.Get("filters"), terms...)
	if err != nil {
		return err
	}
	keep := func(m events.Message) bool {
		// Images were announced as created from API 1.46 on.
		if m.Type == events.ImageEventType && m.Action == events.ActionCreate && httpapi.VersionLess(s.Version, "1.46") {
			return false
		}
		return matches(f, m)
	}

	past := until != 0 && until < b.now().UnixNano()
	var end <-chan time.Time
	if until != 0 && !past {
		t := time.NewTimer(time.Duration(until - b.now().UnixNano()))
		defer t.Stop()
		end = t.C
	}

	contentType := types.MediaTypeJSONLines
	if httpapi.VersionLess(s.Version, "1.52") {
		contentType = types.MediaTypeJSON
	}
	seq := false
	for _, known := range []string{types.MediaTypeNDJSON, types.MediaTypeJSONLines, types.MediaTypeJSONSequence} {
		if strings.Contains(r.Header.Get("Accept"), known) {
			contentType, seq = known, known == types.MediaTypeJSONSequence
			break
		}
	}
	w.Header().Set("Content-Type", contentType)
	w.WriteHeader(http.StatusOK)

	rc := http.NewResponseController(w)
	if err := rc.Flush(); err != nil {
		return err
	}
	old, sub := b.subscribe(s.Tenant, since, until, keep, func() { _ = rc.SetWriteDeadline(time.Unix(1, 0)) })
	defer b.unsubscribe(sub)
	send := func(m events.Message) error {
		line, err := encode(m, s.Version)
		if err != nil {
			return err
		}
		if seq {
			line = append([]byte{0x1e}, line...)
		}
		if _, err := w.Write(append(line, '\n')); err != nil {
			return err
		}
		return rc.Flush()
	}
	for _, m := range old {
		if err := send(m); err != nil {
			return err
		}
	}
	if past {
		return nil
	}
	for {
		select {
		case m, ok := <-sub.ch:
			if !ok {
				return httpapi.NewError(errdefs.ErrResourceExhausted, "events: client does not read")
			}
			if err := send(m); err != nil {
				return err
			}
		case <-end:
			return nil
		case <-r.Context().Done():
			return nil
		}
	}
}

// encode adds the fields that API versions before 1.52 had beside Actor.
func encode(m events.Message, version string) ([]byte, error) {
	legacy := struct {
		Status string `json:"status,omitempty"`
		ID     string `json:"id,omitempty"`
		From   string `json:"from,omitempty"`
		events.Message
	}{Message: m}
	if !httpapi.VersionLess(version, "1.52") {
		return json.Marshal(m)
	}
	switch m.Type {
	case events.ContainerEventType:
		legacy.Status, legacy.ID, legacy.From = string(m.Action), m.Actor.ID, m.Actor.Attributes["image"]
	case events.ImageEventType:
		legacy.Status, legacy.ID = string(m.Action), m.Actor.ID
	}
	return json.Marshal(legacy)
}

func matches(f httpapi.Filters, m events.Message) bool {
	for _, t := range []string{"event", "action"} {
		ok := f.Exact(t, string(m.Action))
		// These actions carry details after a colon ("exec_start: sh -c true"): the bare word stands for all.
		if slices.ContainsFunc(f[t], func(v string) bool { return v == "health_status" || v == "exec_create" || v == "exec_start" }) {
			ok = f.Prefix(t, string(m.Action))
		}
		if !ok {
			return false
		}
	}
	if !f.Exact("type", string(m.Type)) || !f.Exact("scope", m.Scope) || !f.Labels("label", m.Actor.Attributes) {
		return false
	}
	for _, t := range []string{"daemon", "container", "plugin", "volume", "network", "node", "service", "secret", "config"} {
		if f.Has(t) && (string(m.Type) != t || !f.Prefix(t, m.Actor.ID, m.Actor.Attributes["name"])) {
			// A network's events name the container that came or went.
			if t != "container" || m.Actor.Attributes["container"] == "" || !f.Prefix(t, m.Actor.Attributes["container"]) {
				return false
			}
		}
	}
	image := m.Actor.Attributes["image"]
	if m.Type == events.ImageEventType {
		image = m.Actor.Attributes["name"]
	}
	return f.Exact("image", m.Actor.ID, image, untagged(m.Actor.ID), untagged(image))
}

func untagged(image string) string {
	ref, err := reference.ParseNormalizedNamed(image)
	if err != nil {
		return image
	}
	return reference.FamiliarName(ref)
}

// timestamp reads Unix seconds with an optional fraction, as Unix nanoseconds; "" is 0.
func timestamp(field, v string) (int64, error) {
	if v == "" || v == "0" {
		return 0, nil
	}
	bad := func() (int64, error) {
		return 0, httpapi.NewError(errdefs.ErrInvalidArgument, "invalid value for '%s': %q is no time in Unix seconds", field, v)
	}
	whole, fraction, _ := strings.Cut(v, ".")
	sec, err := strconv.ParseInt(whole, 10, 64)
	if err != nil || sec < 0 || sec > 1<<33 || len(fraction) > 9 {
		return bad()
	}
	nano := int64(0)
	if fraction != "" {
		n, err := strconv.ParseUint((fraction + "000000000")[:9], 10, 32)
		if err != nil {
			return bad()
		}
		nano = int64(n)
	}
	return sec*int64(time.Second) + nano, nil
}
