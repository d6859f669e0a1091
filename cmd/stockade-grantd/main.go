// Command stockade-grantd turns a caller's own rights into bind mounts for Stockade; see package grantd.
package main

import (
	"context"
	"log/slog"
	"os"
	"os/signal"
	"syscall"

	"stockade/api/setting"
	"stockade/internal/boot"
	"stockade/internal/confine"
	"stockade/priv/grantd"
)

func main() {
	log := slog.New(slog.NewTextHandler(os.Stderr, nil)).With("process", "grantd")
	if err := run(log); err != nil {
		log.Error("end", "err", err)
		os.Exit(1)
	}
}

func run(log *slog.Logger) error {
	var set setting.Grantd
	files, err := boot.Receive(&set)
	if err != nil {
		return err
	}
	records, err := files.Get("records")
	if err != nil {
		return err
	}
	if err := confine.Process(grantd.Limits(records, log)); err != nil {
		return err
	}
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM, syscall.SIGINT)
	defer stop()
	return grantd.Run(ctx, set, files, log)
}
