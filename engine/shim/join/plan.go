package join

import (
	"errors"
	"fmt"
	"os"
	"strconv"
	"strings"
	"sync"
	"syscall"

	"golang.org/x/sys/unix"
)

// lastCap is the highest capability that the kernel knows.
var lastCap = sync.OnceValues(func() (uint32, error) {
	data, err := os.ReadFile("/proc/sys/kernel/cap_last_cap")
	if err != nil {
		return 0, err
	}
	n, err := strconv.ParseUint(strings.TrimSpace(string(data)), 10, 6)
	return uint32(n), err
})

// The steps of the child; it leaves the number of the one that failed.
const (
	stepNone = iota
	stepStreams
	stepNamespaces
	stepProcess
	stepSession
	stepRoot
	stepKeyring
	stepTerminal
	stepNoNewPrivs
	stepLimits
	stepFilter
	stepCwd
	stepCapabilities
	stepGroups
	stepGID
	stepUID
	stepCwdOutside
	stepNotFound
	stepExec
)

var stepNames = map[int]string{
	stepStreams: "receive standard streams", stepNamespaces: "join namespaces", stepProcess: "clone", stepSession: "new session",
	stepRoot: "become root of the user namespace", stepKeyring: "unable to join session keyring", stepTerminal: "set controlling terminal",
	stepNoNewPrivs: "set no_new_privs", stepLimits: "error setting rlimits", stepFilter: "unable to init seccomp",
	stepCapabilities: "unable to apply caps", stepGroups: "setgroups", stepGID: "setgid", stepUID: "setuid",
}

// failure describes a step that failed, in the OCI runtime's words where clients know them. looked is the path that was
// looked at last, if any.
func failure(step int, errno syscall.Errno, p Process, looked []string) error {
	quoted := "exec: " + strconv.Quote(p.Args[0])
	switch {
	case step == stepCwd:
		return fmt.Errorf("chdir to cwd (%q) set in config.json failed: %w", p.Cwd, errno)
	case step == stepCwdOutside:
		return errors.New("current working directory is outside of container mount namespace root -- possible container breakout detected")
	case step == stepNotFound && !strings.Contains(p.Args[0], "/"):
		return fmt.Errorf("%s: %w", quoted, ErrNotFound)
	case step == stepNotFound && errno == unix.ENOENT:
		return fmt.Errorf("%s: stat %s: %w", quoted, p.Args[0], errno)
	case step == stepNotFound:
		return fmt.Errorf("%s: %w", quoted, errno)
	case step == stepExec:
		return fmt.Errorf("exec %s: %w", strings.Join(looked, ""), errno)
	}
	return fmt.Errorf("%s: %w", stepNames[step], errno)
}

// atFDCWD is AT_FDCWD, -100.
const atFDCWD = ^uintptr(99)
