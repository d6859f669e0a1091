package initproc

import (
	"bytes"
	"errors"
	"os"
	"os/exec"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

// asInit, in the environment, makes the test program an init.
const asInit = "INITPROC_TEST"

func TestMain(m *testing.M) {
	if os.Getenv(asInit) != "" {
		os.Exit(Main(os.Args[1:]))
	}
	os.Exit(m.Run())
}

func command(args ...string) *exec.Cmd {
	cmd := exec.Command("/proc/self/exe", args...)
	cmd.Env = append(os.Environ(), asInit+"=1")
	return cmd
}

func TestCodes(t *testing.T) {
	for _, c := range []struct {
		name string
		args []string
		code int
		out  string
	}{
		{"code", []string{"--", "sh", "-c", "echo hello; exit 5"}, 5, "hello\n"},
		{"killed", []string{"--", "sh", "-c", "kill -9 $$"}, 137, ""},
		{"missing", []string{"--", "no-such-program"}, 127, ""},
		{"missing path", []string{"--", "/no/such/program"}, 127, ""},
		{"no program", []string{"--", "/etc/passwd"}, 126, ""},
		{"arguments", []string{"--", "echo", "--", "-x"}, 0, "-- -x\n"},
		{"no command", []string{"--"}, 125, ""},
		{"no separator", []string{"true"}, 125, ""},
	} {
		t.Run(c.name, func(t *testing.T) {
			cmd := command(c.args...)
			var out bytes.Buffer
			cmd.Stdout = &out
			err := cmd.Run()
			var exit *exec.ExitError
			if err != nil && !errors.As(err, &exit) {
				t.Fatal(err)
			}
			if got := cmd.ProcessState.ExitCode(); got != c.code || out.String() != c.out {
				t.Errorf("code %d, output %q; want %d, %q", got, out.String(), c.code, c.out)
			}
		})
	}
}

func TestSignals(t *testing.T) {
	cmd := command("--", "sh", "-c", "trap 'echo got; exit 3' TERM; echo ready; while :; do sleep 0.01; done")
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	b := make([]byte, 64)
	if n, err := out.Read(b); err != nil || string(b[:n]) != "ready\n" {
		t.Fatalf("%q %v", b[:n], err)
	}
	if err := cmd.Process.Signal(unix.SIGTERM); err != nil {
		t.Fatal(err)
	}
	n, _ := out.Read(b)
	_ = cmd.Wait()
	if got := cmd.ProcessState.ExitCode(); got != 3 || !strings.Contains(string(b[:n]), "got") {
		t.Errorf("code %d, output %q", got, b[:n])
	}
}
