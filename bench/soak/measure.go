package main

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/vishvananda/netlink"

	"stockade/priv/supervisor"
)

// place is where a server is on the host.
type place struct {
	run, data      string
	prefix, cgroup string
}

// sample is the state of a server at rest.
type sample struct {
	at        time.Duration
	counts    map[string]int
	processes []process
}

// process is what a process of the server costs; "shims" are all monitors together.
type process struct {
	name     string
	n        int
	pss, rss int64 // bytes
	fds      int
	threads  int
}

// Things that are counted.
const (
	kindContainers = "containers (records)"
	kindVolumes    = "volumes (records)"
	kindImages     = "images (records)"
	kindMounts     = "mounts of the engine"
	kindHostMounts = "mounts of the host"
	kindLinks      = "links"
	kindCgroups    = "control groups"
	kindRun        = "files in the run folder"
	kindStore      = "folders of the store"
	kindProcesses  = "processes"
)

func (s sample) kinds() []string {
	return []string{kindContainers, kindVolumes, kindImages, kindMounts, kindHostMounts, kindLinks, kindCgroups, kindRun, kindStore, kindProcesses}
}

// restTime bounds how long the server may take to come to rest, steady how long it must have been.
const (
	restTime = 20 * time.Second
	steady   = 1 * time.Second
)

// measure waits until nothing changes any more, and measures.
func (s *soak) measure(ctx context.Context, p place) (sample, error) {
	var last string
	var since time.Time
	for began := time.Now(); ; {
		one, err := s.look(ctx, p)
		if err != nil {
			return one, err
		}
		if now := fmt.Sprint(one.counts); now != last {
			last, since = now, time.Now()
		}
		if time.Since(since) >= steady || time.Since(began) >= restTime || ctx.Err() != nil {
			one.processes, err = processes(p)
			return one, err
		}
		time.Sleep(100 * time.Millisecond)
	}
}

// look counts everything.
func (s *soak) look(ctx context.Context, p place) (sample, error) {
	c := map[string]int{}
	one := sample{counts: c}
	var list []struct{}
	var volumes struct{ Volumes []struct{} }
	if err := s.ask(ctx, "GET", "/containers/json?all=1", nil, &list); err != nil {
		return one, err
	}
	c[kindContainers] = len(list)
	if err := s.ask(ctx, "GET", "/images/json?all=1", nil, &list); err != nil {
		return one, err
	}
	c[kindImages] = len(list)
	if err := s.ask(ctx, "GET", "/volumes", nil, &volumes); err != nil {
		return one, err
	}
	c[kindVolumes] = len(volumes.Volumes)

	links, err := netlink.LinkList()
	if err != nil && !errors.Is(err, netlink.ErrDumpInterrupted) {
		return one, fmt.Errorf("list links: %w", err)
	}
	for _, l := range links {
		if name := l.Attrs().Name; name == p.prefix+"0" || strings.HasPrefix(name, p.prefix+"-") {
			c[kindLinks]++
		}
	}
	parents, err := filepath.Glob("/sys/fs/cgroup/*/" + p.cgroup)
	if err != nil {
		return one, err
	}
	for _, dir := range append(parents, "/sys/fs/cgroup/"+p.cgroup) {
		c[kindCgroups] += folders(dir, -1)
	}
	c[kindRun] = files(p.run)
	c[kindStore] = folders(filepath.Join(p.data, "engine", "store"), 2)
	st, err := supervisor.ReadState(p.run)
	if err != nil {
		return one, err
	}
	for _, i := range st.Processes {
		c[kindProcesses]++
		if i.Name == "engine" {
			c[kindMounts] = lines(fmt.Sprintf("/proc/%d/mountinfo", i.PID), "/")
			c[kindProcesses] += len(shims(i.PID))
		}
	}
	c[kindHostMounts] = lines("/proc/self/mountinfo", p.run, p.data)
	return one, nil
}

// folders counts the folders beneath dir, at most so many levels deep; -1: all.
func folders(dir string, levels int) int {
	entries, err := os.ReadDir(dir)
	if err != nil {
		return 0 // gone meanwhile, or not there
	}
	n := 0
	for _, e := range entries {
		if e.IsDir() {
			n++
			if levels != 1 {
				n += folders(filepath.Join(dir, e.Name()), levels-1)
			}
		}
	}
	return n
}

// files counts everything beneath dir that is on its own file system.
func files(dir string) int {
	n := 0
	_ = filepath.WalkDir(dir, func(_ string, _ fs.DirEntry, err error) error {
		if err == nil {
			n++
		}
		return nil // what is gone meanwhile is not counted
	})
	return n
}

// lines counts the lines of a file that have one of the texts in them.
func lines(path string, texts ...string) int {
	data, _ := os.ReadFile(path)
	n := 0
	for line := range strings.Lines(string(data)) {
		if slices.ContainsFunc(texts, func(text string) bool { return strings.Contains(line, text) }) {
			n++
		}
	}
	return n
}

// shims lists the monitors of a server: same user namespace as its engine, and their program's name.
func shims(engine int) []int {
	ns, err := os.Readlink(fmt.Sprintf("/proc/%d/ns/user", engine))
	if err != nil {
		return nil
	}
	var all []int
	entries, _ := os.ReadDir("/proc")
	for _, e := range entries {
		pid, err := strconv.Atoi(e.Name())
		if err != nil || pid == engine {
			continue
		}
		other, err := os.Readlink(fmt.Sprintf("/proc/%d/ns/user", pid))
		if err == nil && other == ns {
			all = append(all, pid)
		}
	}
	return all
}

// processes measures each process of the server.
func processes(p place) ([]process, error) {
	st, err := supervisor.ReadState(p.run)
	if err != nil {
		return nil, err
	}
	var all []process
	monitors := process{name: "shims"}
	for _, i := range append([]supervisor.Instance{st.Supervisor}, st.Processes...) {
		one := process{name: i.Name}
		if err := one.add(i.PID); err != nil {
			return nil, err
		}
		all = append(all, one)
		if i.Name != "engine" {
			continue
		}
		for _, pid := range shims(i.PID) {
			if err := monitors.add(pid); err != nil && !errors.Is(err, fs.ErrNotExist) {
				return nil, err
			}
		}
	}
	return append(all, monitors), nil
}

// add adds the process with a pid.
func (p *process) add(pid int) error {
	dir := fmt.Sprintf("/proc/%d/", pid)
	fds, err := os.ReadDir(dir + "fd")
	if err != nil {
		return err
	}
	tasks, err := os.ReadDir(dir + "task")
	if err != nil {
		return err
	}
	f, err := os.Open(dir + "smaps_rollup")
	if err != nil {
		return err
	}
	defer f.Close()
	for sc := bufio.NewScanner(f); sc.Scan(); {
		w := strings.Fields(sc.Text())
		if len(w) < 2 {
			continue
		}
		kb, _ := strconv.ParseInt(w[1], 10, 64) // the kernel prints numbers
		switch w[0] {
		case "Pss:":
			p.pss += kb << 10
		case "Rss:":
			p.rss += kb << 10
		}
	}
	p.n, p.fds, p.threads = p.n+1, p.fds+len(fds), p.threads+len(tasks)
	return nil
}

func (s sample) print(out io.Writer) {
	w := tabwriter.NewWriter(out, 0, 4, 2, ' ', tabwriter.AlignRight)
	fmt.Fprintln(w, "process\tn\tPSS MB\tRSS MB\tfds\tthreads\t")
	for _, p := range s.processes {
		fmt.Fprintf(w, "%s\t%d\t%.1f\t%.1f\t%d\t%d\t\n", p.name, p.n, float64(p.pss)/1e6, float64(p.rss)/1e6, p.fds, p.threads)
	}
	w.Flush()
	var parts []string
	for _, kind := range slices.Sorted(slices.Values(s.kinds())) {
		parts = append(parts, fmt.Sprintf("%s %d", kind, s.counts[kind]))
	}
	fmt.Fprintln(out, strings.Join(parts, ", "))
}
