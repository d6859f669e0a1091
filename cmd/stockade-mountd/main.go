// Command stockade-mountd makes id-mapped mounts for Stockade; see package mountd.
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
	"stockade/priv/mountd"
)

func main() {
	log := slog.New(slog.NewTextHandler(os.Stderr, nil)).With("process", "mountd")
	if err := run(log); err != nil {
		log.Error("end", "err", err)
		os.Exit(1)
	}
}

func run(log *slog.Logger) error {
	var set setting.Mountd
	files, err := boot.Receive(&set)
	if err != nil {
		return err
	}
	if err := confine.Process(mountd.Limits(log)); err != nil {
		return err
	}
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM, syscall.SIGINT)
	defer stop()
	return mountd.Run(ctx, set, files, log)
}
