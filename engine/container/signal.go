package container

import (
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// ParseSignal reads a number or a name, with or without SIG, also SIGRTMIN+n and SIGRTMAX-n.
func ParseSignal(s string) (int, error) {
	bad := invalid("invalid signal: %s", s)
	if n, err := strconv.Atoi(s); err == nil {
		if n == 0 {
			return 0, bad
		}
		if n < 1 || n > 64 {
			return 0, invalid("the linux daemon does not support signal %d", n)
		}
		return n, nil
	}
	name := "SIG" + strings.TrimPrefix(strings.ToUpper(s), "SIG")
	for prefix, base := range map[string]int{"SIGRTMIN": 34, "SIGRTMAX": 64} {
		rest, ok := strings.CutPrefix(name, prefix)
		if !ok {
			continue
		}
		n := base
		if rest != "" {
			off, err := strconv.Atoi(rest)
			if err != nil {
				return 0, bad
			}
			n += off
		}
		if n < 34 || n > 64 {
			return 0, bad
		}
		return n, nil
	}
	if n := unix.SignalNum(name); n != 0 {
		return int(n), nil
	}
	return 0, bad
}

// stopSignal is the signal that ends a container gracefully.
func stopSignal(configured string) int {
	if n, err := ParseSignal(configured); err == nil {
		return n
	}
	return int(unix.SIGTERM)
}
