//go:build root

package e2e

import (
	"fmt"
	"os"
	"runtime"
	"testing"

	"stockade/test/harness"
)

// runtimes are the default, one that does everything by its own commands, and one that makes the user namespace, too.
var runtimes = `
[runtimes]
runc = "` + harness.Bin + `/runc"
crun = "` + harness.Bin + `/crun"
crun-userns = "` + harness.Bin + `/crun"
[runtime_options.crun]
args = ["--cgroup-manager=disabled"]
own_commands = true
[runtime_options.crun-userns]
args = ["--cgroup-manager=disabled"]
own_commands = true
own_userns = true
`

func TestMain(m *testing.M) {
	if address := os.Getenv(echoAddress); address != "" {
		fmt.Fprintln(os.Stderr, echo(address))
		os.Exit(1)
	}
	runtime.LockOSThread() // the registries end with this thread
	harness.MainWith(m, harness.Options{
		Before: func(o *harness.Options) error {
			err := startRegistries()
			o.Tables = fmt.Sprintf("[registries]\ninsecure = [%q, \"localhost\"]\nca = %q\n", plain.host, trustedCA) + runtimes
			return err
		},
		After: stopRegistries,
	})
}
