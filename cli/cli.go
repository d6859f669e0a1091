// Package cli is what people type: stockade up, down, status and check.
//
// Trust: the caller's arguments; up, down and check need root and say so. Invariants: a command prints to the given
// writers only. Failure: an error, printed once by main, and exit code 1.
package cli

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"os/signal"
	"time"

	"github.com/spf13/cobra"
	"golang.org/x/sys/unix"

	"stockade/host"
	"stockade/internal/config"
	"stockade/internal/version"
	"stockade/priv/supervisor"
)

// New returns the command with all subcommands.
func New() *cobra.Command {
	root := &cobra.Command{
		Use:           "stockade",
		Short:         "A Docker Engine API server whose containers and engine are nobody on the host",
		Version:       version.Version + " (" + version.Commit + ")",
		SilenceUsage:  true,
		SilenceErrors: true,
	}
	file := root.PersistentFlags().String("config", "", "configuration `file` (default "+config.Path+", which need not exist)")
	root.AddCommand(upCommand(file), downCommand(file), statusCommand(file), checkCommand(file), namespaceCommand())
	root.CompletionOptions.HiddenDefaultCmd = true
	return root
}

// logger writes to standard error, as text or, with json, one JSON object per line.
func logger(w io.Writer, json bool) *slog.Logger {
	if json {
		return slog.New(slog.NewJSONHandler(w, nil)).With("process", "supervisor")
	}
	return slog.New(slog.NewTextHandler(w, nil)).With("process", "supervisor")
}

func upCommand(file *string) *cobra.Command {
	cmd := &cobra.Command{
		Use:   "up",
		Short: "Start the server and stay as its supervisor (root)",
		Long: `Start the server and stay as its supervisor: check the host, make folders, the user namespace and sockets, start each
process with its own user and capabilities, and start again what dies. SIGTERM and SIGINT take everything down, containers too.
A supervisor that was killed leaves containers running; the next "stockade up" takes them over.`,
		Args: cobra.NoArgs,
	}
	json := cmd.Flags().Bool("json", false, "log JSON lines")
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		cfg, err := config.Load(*file)
		if err != nil {
			return err
		}
		ctx, stop := signal.NotifyContext(cmd.Context(), unix.SIGTERM, unix.SIGINT)
		defer stop()
		return supervisor.Run(ctx, cfg, logger(cmd.ErrOrStderr(), *json))
	}
	return cmd
}

func downCommand(file *string) *cobra.Command {
	return &cobra.Command{
		Use:   "down",
		Short: "Take the server down, containers too (root)",
		Long:  `Ask the supervisor to take everything down and wait. If it was killed, clean up what it left.`,
		Args:  cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			cfg, err := config.Load(*file)
			if err != nil {
				return err
			}
			if os.Geteuid() != 0 {
				return errors.New("down needs root")
			}
			running, err := supervisor.Stop(cfg.Run, time.Duration(cfg.StopSeconds)*time.Second+time.Minute)
			if running || err != nil {
				return err
			}
			return supervisor.Clean(cfg, logger(cmd.ErrOrStderr(), false))
		},
	}
}

func checkCommand(file *string) *cobra.Command {
	return &cobra.Command{
		Use:   "check",
		Short: "Check the configuration and whether this host can run Stockade (root)",
		Args:  cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			cfg, err := config.Load(*file)
			if err != nil {
				return err
			}
			if os.Geteuid() != 0 {
				return errors.New("check needs root: it tries out mounts and namespaces")
			}
			findings := host.Check(cfg)
			out := cmd.OutOrStdout()
			for _, f := range findings {
				switch {
				case f.Err != nil:
					fmt.Fprintf(out, "FAIL  %s: %v\n      to do: %s\n", f.Check, f.Err, f.Fix)
				case f.Note != "":
					fmt.Fprintf(out, "ok    %s: %s\n", f.Check, f.Note)
				default:
					fmt.Fprintf(out, "ok    %s\n", f.Check)
				}
			}
			if host.Failed(findings) != nil {
				return errors.New("this host cannot run Stockade as it is")
			}
			return nil
		},
	}
}

// namespaceCommand is the child of up that becomes root of U; it is of no use to people.
func namespaceCommand() *cobra.Command {
	return &cobra.Command{
		Use:    "namespace PROGRAMS [HIDE]",
		Hidden: true,
		Args:   cobra.RangeArgs(1, 2),
		RunE: func(_ *cobra.Command, args []string) error {
			if os.Geteuid() != 0 {
				return errors.New("started by stockade up alone")
			}
			hide := ""
			if len(args) == 2 {
				hide = args[1]
			}
			return supervisor.Namespace(args[0], hide)
		},
	}
}

// ping asks the server whether it is healthy.
func ping(ctx context.Context, socket string) error {
	client, done := unixClient(socket)
	defer done()
	return get(ctx, client, "/_ping")
}
