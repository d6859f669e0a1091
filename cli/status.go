package cli

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"

	"stockade/internal/config"
	"stockade/priv/supervisor"
)

// Status is what "stockade status --json" prints.
type Status struct {
	Healthy   bool      // the server answered /_ping
	Error     string    `json:",omitempty"` // why not
	Socket    string    // of the API
	Processes []Process // the supervisor first
}

// Process is one running process as the kernel shows it.
type Process struct {
	Name       string
	PID        int
	UID        string // effective uid
	Caps       string // effective capabilities, hexadecimal, in the process's own user namespace
	Bounding   string
	NoNewPrivs string
	Seccomp    string
	Restarts   int
}

func statusCommand(file *string) *cobra.Command {
	cmd := &cobra.Command{
		Use:   "status",
		Short: "Ask the server whether it is healthy and list its processes",
		Args:  cobra.NoArgs,
	}
	asJSON := cmd.Flags().Bool("json", false, "print JSON")
	wait := cmd.Flags().Duration("wait", 0, "how long to wait for the server to become healthy")
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		cfg, err := config.Load(*file)
		if err != nil {
			return err
		}
		deadline := time.Now().Add(*wait)
		st := readStatus(cmd.Context(), cfg.Run)
		for !st.Healthy && time.Now().Before(deadline) {
			time.Sleep(50 * time.Millisecond)
			st = readStatus(cmd.Context(), cfg.Run)
		}
		if *asJSON {
			enc := json.NewEncoder(cmd.OutOrStdout())
			enc.SetIndent("", "  ")
			err = enc.Encode(st)
		} else {
			w := tabwriter.NewWriter(cmd.OutOrStdout(), 0, 8, 2, ' ', 0)
			fmt.Fprintln(w, "PROCESS\tPID\tUID\tCAPABILITIES\tBOUNDING\tNO_NEW_PRIVS\tSECCOMP\tRESTARTS")
			for _, p := range st.Processes {
				fmt.Fprintf(w, "%s\t%d\t%s\t%s\t%s\t%s\t%s\t%d\n", p.Name, p.PID, p.UID, p.Caps, p.Bounding, p.NoNewPrivs, p.Seccomp, p.Restarts)
			}
			err = w.Flush()
			if st.Healthy {
				fmt.Fprintln(cmd.OutOrStdout(), "\nhealthy:", st.Socket)
			}
		}
		if err != nil {
			return err
		}
		if !st.Healthy {
			return fmt.Errorf("not healthy: %s", st.Error)
		}
		return nil
	}
	return cmd
}

func readStatus(ctx context.Context, run string) Status {
	st := Status{Socket: filepath.Join(run, "docker.sock")}
	state, err := supervisor.ReadState(run)
	if err != nil {
		if errors.Is(err, os.ErrNotExist) {
			err = fmt.Errorf("no server runs with the run folder %s", run)
		}
		st.Error = err.Error()
		return st
	}
	for _, i := range append([]supervisor.Instance{state.Supervisor}, state.Processes...) {
		if i.Alive() {
			st.Processes = append(st.Processes, describe(i))
		}
	}
	if err := ping(ctx, st.Socket); err != nil {
		st.Error = err.Error()
		return st
	}
	st.Healthy = true
	return st
}

// describe reads what the kernel says about a process; fields stay empty if it has just ended.
func describe(i supervisor.Instance) Process {
	p := Process{Name: i.Name, PID: i.PID, Restarts: i.Restarts}
	data, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", i.PID))
	if err != nil {
		return p
	}
	for line := range strings.Lines(string(data)) {
		key, value, _ := strings.Cut(strings.TrimSpace(line), ":\t")
		switch key {
		case "Uid":
			if f := strings.Fields(value); len(f) > 1 {
				p.UID = f[1]
			}
		case "CapEff":
			p.Caps = value
		case "CapBnd":
			p.Bounding = value
		case "NoNewPrivs":
			p.NoNewPrivs = value
		case "Seccomp":
			p.Seccomp = value
		}
	}
	return p
}

// unixClient returns a client of the server at socket, and what closes it.
func unixClient(socket string) (*http.Client, func()) {
	t := &http.Transport{DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
		var d net.Dialer
		return d.DialContext(ctx, "unix", socket)
	}}
	return &http.Client{Transport: t, Timeout: 5 * time.Second}, t.CloseIdleConnections
}

func get(ctx context.Context, c *http.Client, path string) error {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://localhost"+path, nil)
	if err != nil {
		return err
	}
	resp, err := c.Do(req)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		return fmt.Errorf("GET %s: %s", path, resp.Status)
	}
	return nil
}
