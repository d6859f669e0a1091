package cgroupd

import (
	"context"
	"errors"
	"os"
	"strings"
	"time"

	"stockade/api/helper"
	"stockade/internal/failpoint"
	"stockade/priv/peer"
)

// freezeLimit bounds how long a group may take to stop; a process in uninterruptible sleep can hold it up for ever.
const freezeLimit = 5 * time.Second

// freezePoll is the pause between looks at the state.
const freezePoll = time.Millisecond

// freezer gives the file that freezes, its values, and how to see that all stand still.
func (s *Server) freezer() (h *hierarchy, file, on, off string, err error) {
	if h = s.tree.by["freezer"]; h == nil {
		return nil, "", "", "", peer.Errorf(helper.Invalid, "this host has no freezer")
	}
	if s.set.V2 {
		return h, "/cgroup.freeze", "1", "0", nil
	}
	return h, "/freezer.state", "FROZEN", "THAWED", nil
}

func (s *Server) freeze(ctx context.Context, q helper.CgroupID, _ []*os.File) (helper.None, []*os.File, error) {
	none := helper.None{}
	id, err := s.existing(q.ID)
	if err != nil {
		return none, nil, err
	}
	h, file, on, off, err := s.freezer()
	if err != nil {
		return none, nil, err
	}
	deadline := time.Now().Add(freezeLimit)
	for round := 0; ; round++ {
		// v1 can stay at FREEZING when processes fork or move meanwhile: writing again looks at all of them anew.
		if round%20 == 0 {
			if err := h.write(string(id)+file, on); err != nil {
				return none, nil, errors.Join(err, h.write(string(id)+file, off))
			}
		}
		failpoint.Hit("cgroupd.freeze")
		frozen, err := s.frozen(id)
		if frozen {
			return none, nil, nil
		}
		if err == nil && time.Now().After(deadline) {
			err = peer.Errorf(helper.Conflict, "control group %s did not freeze within %s", id, freezeLimit)
		}
		if err == nil {
			err = ctx.Err()
		}
		if err != nil {
			return none, nil, errors.Join(err, h.write(string(id)+file, off))
		}
		time.Sleep(freezePoll)
	}
}

func (s *Server) thaw(_ context.Context, q helper.CgroupID, _ []*os.File) (helper.None, []*os.File, error) {
	id, err := s.existing(q.ID)
	if err != nil {
		return helper.None{}, nil, err
	}
	h, file, _, off, err := s.freezer()
	if err != nil {
		return helper.None{}, nil, err
	}
	return helper.None{}, nil, h.write(string(id)+file, off)
}

// frozen tells whether every process of the group stands still.
func (s *Server) frozen(id groupID) (bool, error) {
	h := s.tree.by["freezer"]
	if h == nil {
		return false, nil
	}
	if s.set.V2 {
		text, err := h.read(string(id) + "/cgroup.events")
		return strings.Contains("\n"+text+"\n", "\nfrozen 1\n"), err
	}
	text, err := h.read(string(id) + "/freezer.state")
	return text == "FROZEN", err
}
