// Command stockade-cgroupd writes the control groups of Stockade's containers; see package cgroupd.
package main

import (
	"context"
	"log/slog"
	"os"
	"os/signal"
	"syscall"

	"stockade/api/setting"
	"stockade/internal/boot"
	"stockade/priv/cgroupd"
)

func main() {
	log := slog.New(slog.NewTextHandler(os.Stderr, nil)).With("process", "cgroupd")
	if err := run(log); err != nil {
		log.Error("end", "err", err)
		os.Exit(1)
	}
}

func run(log *slog.Logger) error {
	var set setting.Cgroupd
	files, err := boot.Receive(&set)
	if err != nil {
		return err
	}
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM, syscall.SIGINT)
	defer stop()
	return cgroupd.Run(ctx, set, files, log)
}
