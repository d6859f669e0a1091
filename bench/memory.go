package main

import (
	"bufio"
	"errors"
	"fmt"
	"os"
	"strconv"
	"strings"
)

// pss adds up proportional set sizes in MB.
func pss(pids []int) (float64, error) {
	if len(pids) == 0 {
		return 0, errors.New("no processes")
	}
	total := 0.0
	for _, pid := range pids {
		f, err := os.Open(fmt.Sprintf("/proc/%d/smaps_rollup", pid))
		if err != nil {
			continue // it ended meanwhile
		}
		sc := bufio.NewScanner(f)
		for sc.Scan() {
			if rest, ok := strings.CutPrefix(sc.Text(), "Pss:"); ok {
				kb, err := strconv.Atoi(strings.Fields(rest)[0])
				if err != nil {
					f.Close()
					return 0, err
				}
				total += float64(kb) / 1024
			}
		}
		f.Close()
	}
	return total, nil
}
