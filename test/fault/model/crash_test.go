//go:build root

package model

import (
	"fmt"
	"io/fs"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"stockade/internal/failpoint"
	"stockade/test/harness"
)

var daemons = []string{"gate", "engine", "mountd", "grantd", "netd", "cgroupd"}

// crasher ends processes.
type crasher struct {
	t     testing.TB
	s     *harness.Server
	j     *journal
	armed []armed
	kills int // since the supervisor was started: it waits longer before each new start of the same process
}

// armed is a process that kills itself at a failpoint.
type armed struct {
	point string
	pid   int // 0: a monitor
	hits  int // in the server's log before
}

// pid is the process of a name, 0 while it does not run.
func (k *crasher) pid(name string) int {
	st, err := k.s.Status()
	if err != nil {
		k.t.Fatal(err)
	}
	for _, p := range st.Processes {
		if p.Name == name {
			return p.PID
		}
	}
	return 0
}

// kill ends a process now and does not wait for what follows.
func (k *crasher) kill(name string) {
	pid := k.pid(name)
	if pid == 0 {
		return
	}
	k.j.add("kill -9 %s (%d)", name, pid)
	if err := unix.Kill(pid, unix.SIGKILL); err != nil && err != unix.ESRCH {
		k.t.Fatal(err)
	}
	k.kills++
	if name == "supervisor" {
		if err := k.s.Up(); err != nil {
			k.t.Fatal(err)
		}
		k.kills = 0
	}
}

// heal disarms everything and waits until the server is well. Now and then the supervisor begins anew, too.
func (k *crasher) heal() {
	k.s.Disarm(k.t)
	for _, a := range k.armed {
		if a.pid == 0 || k.logged(a.point) == a.hits {
			continue
		}
		harness.Poll(k.t, "the end at "+a.point, func() (string, bool) { return "", ended(a.pid) })
	}
	k.armed = nil
	if k.kills >= 3 {
		k.kill("supervisor")
	}
	harness.Poll(k.t, "killed processes to be replaced", func() (string, bool) {
		st, err := k.s.Status()
		if err != nil {
			return err.Error(), false
		}
		if len(st.Processes) != 1+len(daemons) {
			return fmt.Sprintf("running: %+v", st.Processes), false
		}
		for _, p := range st.Processes {
			// The supervisor may not know yet.
			if ended(p.PID) {
				return p.Name + " has ended", false
			}
		}
		return st.Error, st.Healthy
	})
	k.j.add("well")
}

// ended tells whether a process runs no more.
func ended(pid int) bool {
	stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	return err != nil || strings.Contains(string(stat), ") Z ")
}

// home is the process that meets a failpoint: "shim" for any monitor.
func home(name string) string {
	part, _, _ := strings.Cut(name, ".")
	if slices.Contains(daemons, part) || part == "shim" {
		return part
	}
	return "engine"
}

// mortal tells whether a failpoint's kill ends a container, too.
func mortal(name string) bool { return home(name) == "shim" }

// arm prepares a process's end at a failpoint.
func (k *crasher) arm(name, process string, action failpoint.Action, nth int) (pid int) {
	if process != "shim" {
		if pid = k.pid(process); pid == 0 {
			k.j.add("%s does not run", process)
			return 0
		}
	}
	if action == failpoint.Kill {
		k.armed = append(k.armed, armed{name, pid, k.logged(name)})
	}
	k.j.add("armed %s: action %d at hit %d in %s (%d)", name, action, nth, process, pid)
	k.s.Arm(k.t, name, action, nth, pid)
	if action == failpoint.Kill && process != "shim" {
		k.kills++
	}
	return pid
}

// strike does something bad, at random.
func (k *crasher) strike(r *rand.Rand, shims bool) {
	switch n := r.IntN(16); {
	case n == 0:
		k.kill("supervisor")
	case n < 8:
		k.kill(pick(r, append([]string{"engine", "engine"}, daemons...)))
	default:
		var names []string
		for _, name := range failpoint.Names {
			if mortal(name) == shims || r.IntN(2) == 0 && !mortal(name) {
				names = append(names, name)
			}
		}
		name := pick(r, names)
		process := home(name)
		if strings.HasPrefix(name, "helper.") {
			process = pick(r, []string{"mountd", "grantd", "netd", "cgroupd"})
		}
		action := failpoint.Kill
		if r.IntN(8) == 0 {
			action = failpoint.Delay
		}
		k.arm(name, process, action, 1+r.IntN(3))
	}
}

// disk is everything that the server keeps on disk but the audit log, which only grows, and grants: one whose container
// was not made stays until it is old enough (grantGrace of package runtime).
func disk(t testing.TB) []string {
	t.Helper()
	var all []string
	err := filepath.WalkDir(harness.Data, func(path string, d fs.DirEntry, err error) error {
		if os.IsNotExist(err) {
			return nil
		}
		if err != nil {
			return err
		}
		rel, _ := filepath.Rel(harness.Data, path)
		all = append(all, rel)
		// Layers' contents are the images' business.
		if ok, _ := filepath.Match("engine/store/layers/*", rel); ok || strings.Contains(rel, "grantd") || strings.Contains(rel, "audit") {
			if d.IsDir() {
				return fs.SkipDir
			}
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return all
}

// nothingLeft waits until host and disk are as before. What a deleted image leaves stays for some minutes after its last
// use, but not over a new start of the engine.
func (k *crasher) nothingLeft(before harness.Census, files []string) {
	k.t.Helper()
	k.kill("engine")
	k.heal()
	harness.Poll(k.t, "the disk to be as before", func() (string, bool) {
		now := disk(k.t)
		var d []string
		for _, f := range now {
			if !slices.Contains(files, f) {
				d = append(d, "new "+f)
			}
		}
		for _, f := range files {
			if !slices.Contains(now, f) {
				d = append(d, "missing "+f)
			}
		}
		return fmt.Sprint(strings.Join(d, "\n")), len(d) == 0
	})
	k.s.NoLeaks(k.t, before)
}
