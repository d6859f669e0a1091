// Command stockade-init is the first process of containers that are started with --init. It takes no settings: what it
// runs is on its command line.
package main

import (
	"os"

	"stockade/engine/initproc"
)

func main() { os.Exit(initproc.Main(os.Args[1:])) }
