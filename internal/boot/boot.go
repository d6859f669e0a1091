// Package boot is how the supervisor hands settings and descriptors to the processes that it starts: one JSON document
// on descriptor 3, and named descriptors from 4 on.
//
// Trust: the writer is the supervisor (root). Invariants: after Receive no other descriptor than 0, 1, 2 and the named
// ones is open and the environment is empty. Failure: any mismatch is an error and the process ends.
package boot

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"os"

	"golang.org/x/sys/unix"
)

// firstFD is the number of the first named descriptor.
const firstFD = 4

type message struct {
	Settings json.RawMessage `json:"settings"`
	FDs      []string        `json:"fds"` // names of descriptors firstFD, firstFD+1, …
}

// Encode makes the document for descriptor 3.
func Encode(settings any, fds []string) ([]byte, error) {
	s, err := json.Marshal(settings)
	if err != nil {
		return nil, err
	}
	return json.Marshal(message{Settings: s, FDs: fds})
}

// Files are the descriptors that the supervisor handed over, by name.
type Files map[string]*os.File

// Get takes one descriptor; a missing one is an error.
func (f Files) Get(name string) (*os.File, error) {
	if file := f[name]; file != nil {
		return file, nil
	}
	return nil, fmt.Errorf("no descriptor %q was handed over", name)
}

// Receive reads the hand-over into settings (a pointer), closes every stray descriptor and clears the environment.
func Receive(settings any) (Files, error) {
	pipe := os.NewFile(3, "handover")
	if pipe == nil {
		return nil, fmt.Errorf("descriptor 3 is not open: this program is started by stockade up")
	}
	data, err := io.ReadAll(io.LimitReader(pipe, 1<<20))
	if err != nil {
		return nil, fmt.Errorf("read hand-over: %w (this program is started by stockade up)", err)
	}
	pipe.Close()
	var m message
	if err := strict(data, &m); err != nil {
		return nil, fmt.Errorf("hand-over: %w", err)
	}
	if err := strict(m.Settings, settings); err != nil {
		return nil, fmt.Errorf("settings: %w", err)
	}
	files := Files{}
	for i, name := range m.FDs {
		fd := firstFD + i
		if _, err := unix.FcntlInt(uintptr(fd), unix.F_GETFD, 0); err != nil {
			return nil, fmt.Errorf("descriptor %q: %w", name, err)
		}
		unix.CloseOnExec(fd)
		files[name] = os.NewFile(uintptr(fd), name)
	}
	if err := unix.CloseRange(uint(firstFD+len(m.FDs)), ^uint(0)>>1, unix.CLOSE_RANGE_CLOEXEC); err != nil {
		return nil, fmt.Errorf("close stray descriptors: %w", err)
	}
	os.Clearenv()
	return files, nil
}

func strict(data []byte, into any) error {
	d := json.NewDecoder(bytes.NewReader(data))
	d.DisallowUnknownFields()
	return d.Decode(into)
}
