// Command demoimage writes the demonstration images to standard output, for "docker load".
package main

import (
	"bufio"
	"fmt"
	"os"

	"stockade/internal/demoimage"
)

func main() {
	w := bufio.NewWriter(os.Stdout)
	err := demoimage.WriteDemo(w)
	if err == nil {
		err = w.Flush()
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "demoimage:", err)
		os.Exit(1)
	}
}
