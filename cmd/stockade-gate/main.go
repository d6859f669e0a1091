// Command stockade-gate faces the clients of the Docker API. It is started by stockade up.
package main

import (
	"context"
	"fmt"
	"log/slog"
	"os"
	"os/signal"
	"syscall"

	"stockade/api/setting"
	"stockade/gate"
	"stockade/internal/boot"
)

func main() {
	log := slog.New(slog.NewJSONHandler(os.Stderr, nil)).With("process", "gate")
	if err := run(log); err != nil {
		log.Error("ended", "err", err)
		os.Exit(1)
	}
}

func run(log *slog.Logger) error {
	var s setting.Gate
	files, err := boot.Receive(&s)
	if err != nil {
		return err
	}
	api, err := files.Get("api")
	if err != nil {
		return err
	}
	audit, err := files.Get("audit")
	if err != nil {
		return err
	}
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM, syscall.SIGINT)
	defer stop()
	if err := gate.Confine(log); err != nil {
		return fmt.Errorf("confine: %w", err)
	}
	return gate.Run(ctx, gate.Config{Settings: s, API: api, Audit: audit, Log: log})
}
