// Package audit writes one record per decision, before the decision takes effect.
//
// It is not logging: records have a type, and a request whose record cannot be written is refused.
// Trust: objects and rules come from decoded requests and are encoded as JSON; no header, body or environment, which
// may hold secrets, ever reaches a record.
// Invariants: a record is one line in one write to a file opened for appending. Room for the next records is kept on the
// disk, so that a full one does not stop the requests that would make room. Failure: Write returns the error.
package audit

import (
	"crypto/rand"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"stockade/gate/identity"
)

// Decision is the outcome of a request.
type Decision string

// The decisions.
const (
	Allowed Decision = "allowed"
	Refused Decision = "refused"
)

// Record is one decision.
type Record struct {
	Time      time.Time       `json:"time"`
	ID        string          `json:"id"` // of the request, 16 hex digits
	UID       uint32          `json:"uid"`
	PID       int32           `json:"pid"`
	Tenant    identity.Tenant `json:"tenant"`
	Admin     bool            `json:"admin,omitempty"`
	Operation string          `json:"operation"` // operation id of the API; empty for what is no request of it
	Object    string          `json:"object,omitempty"`
	Decision  Decision        `json:"decision"`
	Rule      string          `json:"rule,omitempty"` // why it was refused
	Binds     []string        `json:"binds,omitempty"`
}

// ahead is how much of the disk is kept for records, in bytes.
const ahead = 4 << 20

// Log appends records.
type Log struct {
	mu   sync.Mutex
	w    io.Writer
	left int64 // of the room that is kept
	torn bool  // the last line has no end
}

// New makes a log on a file that was opened for appending.
func New(w io.Writer) *Log { return &Log{w: w} }

// reserve keeps room on the disk behind the end of the file, where there is a file.
//
// SECURITY(T-801): whoever fills the disk would otherwise stop everybody's requests, their own removals included.
func (l *Log) reserve() {
	f, ok := l.w.(*os.File)
	if !ok || l.left > ahead/2 {
		return
	}
	if fi, err := f.Stat(); err == nil && unix.Fallocate(int(f.Fd()), unix.FALLOC_FL_KEEP_SIZE, fi.Size(), ahead) == nil {
		l.left = ahead
	}
}

// NewID makes the identifier of a request.
func NewID() string {
	var b [8]byte
	_, _ = rand.Read(b[:]) // cannot fail: the runtime ends the process instead
	return hex.EncodeToString(b[:])
}

// Write appends one record.
func (l *Log) Write(r Record) error {
	line, err := json.Marshal(r)
	if err != nil {
		return fmt.Errorf("audit: %w", err)
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	l.reserve()
	line = append(line, '\n')
	if l.torn {
		line = append([]byte{'\n'}, line...)
	}
	n, err := l.w.Write(line)
	l.left -= int64(n)
	if n > 0 {
		l.torn = n != len(line)
	}
	if err == nil && n != len(line) {
		err = io.ErrShortWrite
	}
	if err != nil {
		return fmt.Errorf("audit: %w", err)
	}
	return nil
}
