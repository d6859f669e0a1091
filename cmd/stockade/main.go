// Command stockade is what administrators type: it starts, stops and shows the server.
package main

import (
	"fmt"
	"os"
	"runtime"

	"stockade/cli"
)

// The main goroutine keeps the main thread: the supervisor starts processes from threads that it throws away, and the
// main thread cannot be one of them.
func init() { runtime.LockOSThread() }

func main() {
	if err := cli.New().Execute(); err != nil {
		fmt.Fprintln(os.Stderr, "stockade:", err)
		os.Exit(1)
	}
}
