package main

import (
	"bufio"
	"fmt"
	"net"
	"os"
	"strconv"
)

// inside is what this program does in a container.
func inside(what, how string) bool {
	n, _ := strconv.Atoi(how)
	switch what {
	case "sink":
		sink(how)
	case "lines":
		writeLines(n)
	case "bytes":
		writeBytes(n)
	default:
		return false
	}
	return true
}

// lineLength is that of a line of writeLines, with its end.
const lineLength = 100

// line writes the text of line n into b.
func line(b []byte, n int) {
	for i := range b {
		b[i] = byte('a' + i%26)
	}
	copy(b, fmt.Sprintf("%09d ", n))
	b[len(b)-1] = '\n'
}

// writeLines writes numbered lines as fast as they are read.
func writeLines(n int) {
	w := bufio.NewWriterSize(os.Stdout, 64<<10)
	b := make([]byte, lineLength)
	line(b, 0)
	for i := range n {
		for d, v := 8, i; d >= 0; d, v = d-1, v/10 {
			b[d] = byte('0' + v%10)
		}
		if _, err := w.Write(b); err != nil {
			os.Exit(1)
		}
	}
	if w.Flush() != nil {
		os.Exit(1)
	}
}

// writeBytes writes n MB of lines that are all the same.
func writeBytes(n int) {
	buf := make([]byte, 1e6)
	line(buf[:lineLength], 0)
	for at := lineLength; at < len(buf); at *= 2 {
		copy(buf[at:], buf[:at])
	}
	for range n {
		if _, err := os.Stdout.Write(buf); err != nil {
			os.Exit(1)
		}
	}
}

// sink swallows what it gets on a port, for ever.
func sink(listen string) {
	l, err := net.Listen("tcp", listen)
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	for {
		c, err := l.Accept()
		if err != nil {
			return
		}
		go func() {
			defer c.Close()
			buf := make([]byte, 256<<10)
			for {
				if _, err := c.Read(buf); err != nil {
					return
				}
			}
		}()
	}
}
