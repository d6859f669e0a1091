// Command stockade-unpack writes one image layer into one folder. The engine starts it inside the store's user
// namespace, without network and confined to that folder; see package unpack.
package main

import (
	"os"

	"stockade/engine/unpack"
)

func main() { os.Exit(unpack.Main(os.Args[1:])) }
