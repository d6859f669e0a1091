// Package shim is the protocol between the engine and the monitor process of one container (package monitor), and the
// engine's side of it.
//
// A connection to the monitor's socket starts with one JSON line, Open. A control connection then carries Requests from
// the engine and Events from the monitor, one JSON value a line. A stream connection carries bytes: standard input
// towards the monitor, output from it.
//
// Trust: both sides run as the engine's uid; the socket lies in a folder of that uid. The monitor relays bytes of a hostile
// container and believes none of them.
// Invariants: an answer has the sequence number of its request; the exit of the first process is told once to each
// control connection, and stands in the file ExitFile before it is told.
package shim

import (
	"time"

	"stockade/engine/shim/join"
)

// Names in the bundle folder.
const (
	SocketFile = "shim.sock"
	ExitFile   = "exit.json"
	ConfigFile = "config.json"
	ListenFD   = 3 // the monitor's listening socket
)

// Open is the first line of a connection.
type Open struct {
	Control bool   `json:"control,omitempty"`
	Exec    string `json:"exec,omitempty"` // stream of this exec instead of the container's
	Stdin   bool   `json:"stdin,omitempty"`
	Stdout  bool   `json:"stdout,omitempty"`
	Stderr  bool   `json:"stderr,omitempty"`
}

// Opened answers Open.
type Opened struct {
	Err     string `json:"err,omitempty"`
	StubPID int    `json:"stubPid,omitempty"` // control: the process that waits to become the OCI runtime
	Exit    *Exit  `json:"exit,omitempty"`    // control: the container has ended already
	PID     int    `json:"pid,omitempty"`     // control: first process, once created
}

// Request is one order of the engine.
type Request struct {
	Seq    uint64  `json:"seq"`
	Op     Op      `json:"op"`
	Exec   string  `json:"exec,omitempty"`
	Create *Create `json:"create,omitempty"`
	Run    *Run    `json:"run,omitempty"`
	Join   *Join   `json:"join,omitempty"`
	Height uint16  `json:"height,omitempty"`
	Width  uint16  `json:"width,omitempty"`
}

// Op names an order.
type Op string

// The orders.
const (
	OpCreate  Op = "create"   // Create: run the OCI runtime's create; answers with PID
	OpStart   Op = "start"    // let the first process begin
	OpResize  Op = "resize"   // Height, Width; of Exec if that is set
	OpPrepare Op = "prepare"  // make a process that can make execs, named Exec; answers with its PID
	OpExec    Op = "exec"     // Run: prepare an exec; answers with the stub's PID. Or Join: by a process of OpPrepare
	OpExecGo  Op = "exec-go"  // begin it; answers with the process's PID
	OpExecEnd Op = "exec-end" // forget an exec, or end a process of OpPrepare
	OpRelease Op = "release"  // the monitor ends
)

// Run says how to run one process.
type Run struct {
	Argv  []string `json:"argv"` // OCI runtime's command line; paths are relative to the bundle
	TTY   bool     `json:"tty,omitempty"`
	Stdin bool     `json:"stdin,omitempty"`
	// StdinOnce closes standard input when the first stream that had it ends.
	StdinOnce bool   `json:"stdinOnce,omitempty"`
	PIDFile   string `json:"pidFile"`
	LogFile   string `json:"logFile"` // the runtime's own log, JSON lines
	Console   string `json:"console"` // name of the console socket, with TTY
	UID       int    `json:"uid"`     // owner of the standard streams, in the engine's view
	GID       int    `json:"gid"`
	Height    uint16 `json:"height,omitempty"`
	Width     uint16 `json:"width,omitempty"`
}

// Join says how to add a process without the OCI runtime.
type Join struct {
	From    string       `json:"from"` // name of the process that OpPrepare made
	Process join.Process `json:"process"`
	Stdin   bool         `json:"stdin,omitempty"`
	UID     int          `json:"uid"` // owner of the standard streams, in the engine's view
	GID     int          `json:"gid"`
	Height  uint16       `json:"height,omitempty"`
	Width   uint16       `json:"width,omitempty"`
}

// Create is the order to create the container.
type Create struct {
	Run  Run    `json:"run"`
	Fifo string `json:"fifo"` // opened for reading to start the first process
	Log  Log    `json:"log"`
}

// Log says where the container's output is written.
type Log struct {
	Path    string            `json:"path,omitempty"` // json-file; empty: none
	MaxSize int64             `json:"maxSize,omitempty"`
	MaxFile int               `json:"maxFile,omitempty"`
	Attrs   map[string]string `json:"attrs,omitempty"`
}

// Event is an answer (Seq set) or news (Exit set).
type Event struct {
	Seq  uint64 `json:"seq,omitempty"`
	Err  string `json:"err,omitempty"`
	PID  int    `json:"pid,omitempty"`
	Exec string `json:"exec,omitempty"` // whose exit
	Exit *Exit  `json:"exit,omitempty"`
}

// Exit is how a process ended.
type Exit struct {
	Code int       `json:"code"`
	At   time.Time `json:"at"`
}
