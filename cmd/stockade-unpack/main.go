// Command stockade-unpack does the engine's work on hostile files, confined to one folder: it writes an image layer (see
// package unpack), or reads and writes a container's files (see package engine/archive/child). The engine starts it in
// namespaces of its own without network.
package main

import (
	"os"

	"stockade/engine/archive/child"
	"stockade/engine/unpack"
)

func main() {
	if len(os.Args) > 1 && child.IsMode(os.Args[1]) {
		os.Exit(child.Child(os.Args[1:]))
	}
	os.Exit(unpack.Main(os.Args[1:]))
}
