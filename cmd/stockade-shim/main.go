// Command stockade-shim monitors one container: it holds its standard streams, writes its log and keeps its exit code
// while the engine comes and goes.
package main

import (
	"fmt"
	"os"

	"stockade/engine/shim/monitor"
)

func main() {
	if err := monitor.Main(os.Args[1:]); err != nil {
		fmt.Fprintln(os.Stderr, "stockade-shim:", err)
		os.Exit(1)
	}
}
