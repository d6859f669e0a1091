// Command stockade-netd owns the host's side of Stockade's container networks; see package netd.
package main

import (
	"context"
	"log/slog"
	"os"
	"os/signal"
	"syscall"

	"stockade/api/setting"
	"stockade/internal/boot"
	"stockade/priv/netd"
)

func main() {
	log := slog.New(slog.NewTextHandler(os.Stderr, nil)).With("process", "netd")
	if err := run(log); err != nil {
		log.Error("end", "err", err)
		os.Exit(1)
	}
}

func run(log *slog.Logger) error {
	var set setting.Netd
	files, err := boot.Receive(&set)
	if err != nil {
		return err
	}
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM, syscall.SIGINT)
	defer stop()
	return netd.Run(ctx, set, files, log)
}
