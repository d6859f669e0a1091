package image

import (
	"encoding/json"
	"net/http"
	"sync"
	"time"

	"github.com/moby/moby/api/types/jsonstream"

	"stockade/engine/httpapi"
)

// progressEvery is the least time between two progress lines of one layer.
const progressEvery = 100 * time.Millisecond

// line is one message of a progress stream; Text is the form of the error that older clients read.
type line struct {
	jsonstream.Message
	Text string `json:"error,omitempty"`
}

// stream writes progress lines; it may be used by several goroutines. Lines after a failed write are dropped: the
// request's context ends then, too.
type stream struct {
	mu    sync.Mutex
	w     http.ResponseWriter
	begun bool
}

func newStream(w http.ResponseWriter) *stream { return &stream{w: w} }

func (s *stream) send(l line) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if !s.begun {
		s.begun = true
		s.w.Header().Set("Content-Type", "application/json")
		s.w.WriteHeader(http.StatusOK)
	}
	if err := json.NewEncoder(s.w).Encode(l); err != nil {
		return
	}
	_ = http.NewResponseController(s.w).Flush()
}

// status sends a plain line, or one that belongs to a layer.
func (s *stream) status(id, text string) {
	s.send(line{Message: jsonstream.Message{ID: id, Status: text}})
}

// step sends a layer's line that has progress, which may be empty.
func (s *stream) step(id, text string, current, total int64) {
	s.send(line{Message: jsonstream.Message{ID: id, Status: text, Progress: &jsonstream.Progress{Current: current, Total: total}}})
}

// text sends what the client prints as it is.
func (s *stream) text(t string) { s.send(line{Message: jsonstream.Message{Stream: t}}) }

// fail ends the stream with an error: as the status of the answer as long as there is none yet, else as its last line.
func (s *stream) fail(err error) error {
	if err == nil {
		return nil
	}
	s.mu.Lock()
	begun := s.begun
	s.mu.Unlock()
	if !begun {
		return err
	}
	s.send(line{Message: jsonstream.Message{Error: &jsonstream.Error{Code: httpapi.Status(err), Message: err.Error()}}, Text: err.Error()})
	return nil
}
