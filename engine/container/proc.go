package container

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/moby/moby/api/types/container"
)

// topFromProc lists processes with the columns of "ps -ef", for hosts without ps.
func topFromProc(proc string, pids []int) (*container.TopResponse, error) {
	resp := &container.TopResponse{
		Titles: []string{"UID", "PID", "PPID", "C", "STIME", "TTY", "TIME", "CMD"}, Processes: [][]string{},
	}
	boot, err := bootTime(proc)
	if err != nil {
		return nil, err
	}
	for _, pid := range slices.Sorted(slices.Values(pids)) {
		row, err := procRow(filepath.Join(proc, strconv.Itoa(pid)), pid, boot)
		if errors.Is(err, os.ErrNotExist) {
			continue // it has ended
		}
		if err != nil {
			return nil, err
		}
		resp.Processes = append(resp.Processes, row)
	}
	return resp, nil
}

func bootTime(proc string) (time.Time, error) {
	b, err := os.ReadFile(filepath.Join(proc, "stat"))
	if err != nil {
		return time.Time{}, err
	}
	for line := range strings.Lines(string(b)) {
		if v, ok := strings.CutPrefix(line, "btime "); ok {
			n, err := strconv.ParseInt(strings.TrimSpace(v), 10, 64)
			return time.Unix(n, 0), err
		}
	}
	return time.Time{}, errors.New("no btime in /proc/stat")
}

func procRow(dir string, pid int, boot time.Time) ([]string, error) {
	b, err := os.ReadFile(filepath.Join(dir, "stat"))
	if err != nil {
		return nil, err
	}
	info, err := os.ReadFile(filepath.Join(dir, "status"))
	if err != nil {
		return nil, err
	}
	// The name stands in parentheses and may hold anything; the last one ends it.
	text := string(b)
	open, shut := strings.IndexByte(text, '('), strings.LastIndexByte(text, ')')
	if open < 0 || shut < open {
		return nil, fmt.Errorf("unexpected stat of process %d", pid)
	}
	f := strings.Fields(text[shut+1:]) // from field 3, the state, on: proc_pid_stat(5)
	if len(f) < 20 {
		return nil, fmt.Errorf("unexpected stat of process %d", pid)
	}
	var n [20]int64
	for i, v := range f[:20] {
		n[i], _ = strconv.ParseInt(v, 10, 64) // the state is no number and not used as one
	}
	uid := "?"
	for line := range strings.Lines(string(info)) {
		if v := strings.Fields(line); len(v) > 1 && v[0] == "Uid:" {
			uid = v[1]
		}
	}
	cmd, err := os.ReadFile(filepath.Join(dir, "cmdline"))
	if err != nil {
		return nil, err
	}
	shown := strings.TrimSpace(strings.ReplaceAll(string(cmd), "\x00", " "))
	if shown == "" {
		shown = "[" + text[open+1:shut] + "]"
	}
	used := time.Duration(n[11]+n[12]) * time.Second / userHz
	started := boot.Add(time.Duration(n[19]) * time.Second / userHz)
	return []string{
		uid, strconv.Itoa(pid), strconv.FormatInt(n[1], 10), "0", started.Format("15:04"), terminal(n[4]),
		fmt.Sprintf("%02d:%02d:%02d", int(used.Hours()), int(used.Minutes())%60, int(used.Seconds())%60), shown,
	}, nil
}

// terminal names a controlling terminal by its device number (see tty_nr in proc_pid_stat(5)).
func terminal(nr int64) string {
	major, minor := nr>>8&0xfff, nr&0xff|nr>>12&0xfff00
	if major >= 136 && major <= 143 {
		return fmt.Sprintf("pts/%d", (major-136)<<8+minor)
	}
	return "?"
}
