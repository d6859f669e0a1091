// Command stockade-engine keeps images and runs containers, as root of a user namespace that owns nothing on the host.
// It is started by stockade up.
package main

import (
	"context"
	"log/slog"
	"os"
	"os/signal"
	"runtime"
	"syscall"

	"stockade/api/setting"
	"stockade/engine"
	"stockade/internal/boot"
)

// The main thread can never end: no goroutine that changes its thread for good (network namespace, file system identity)
// may get it.
func init() { runtime.LockOSThread() }

func main() {
	log := slog.New(slog.NewJSONHandler(os.Stderr, nil)).With("process", "engine")
	if err := run(log); err != nil {
		log.Error("ended", "err", err)
		os.Exit(1)
	}
}

func run(log *slog.Logger) error {
	var s setting.Engine
	files, err := boot.Receive(&s)
	if err != nil {
		return err
	}
	api, err := files.Get("api")
	if err != nil {
		return err
	}
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM, syscall.SIGINT)
	defer stop()
	return engine.Run(ctx, s, api, log)
}
