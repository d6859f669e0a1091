// Package proctable is the one table of Stockade's processes and their privileges. The supervisor starts what stands
// here, a test compares it with /proc/PID/status of a running server, and ARCHITECTURE.md's table is made from it.
package proctable

// Process is one row.
type Process struct {
	Name     string   // binary stockade-<Name>
	User     string   // system user and group it runs as; "root" for uid 0
	Caps     []string // permitted, effective and bounding set in the initial user namespace
	InU      bool     // runs as root of the user namespace U, with all capabilities there
	NoNew    bool     // no_new_privs
	Seccomp  bool     // filtered by its own allow-list
	Landlock bool     // where the kernel has it
	Serves   string   // who may ask it
	Why      string   // reason for its privilege
}

// Table lists the processes in the order in which they are started.
var Table = []Process{
	{Name: "mountd", User: "stockade-mountd", Caps: []string{"CAP_SYS_ADMIN"}, NoNew: true, Seccomp: true, Landlock: true, Serves: "engine (store folders by name), grantd (binds)", Why: "only CAP_SYS_ADMIN may id-map a mount"},
	{Name: "grantd", User: "stockade-grantd", Caps: []string{"CAP_SETUID", "CAP_SETGID"}, NoNew: true, Seccomp: true, Landlock: true, Serves: "gate (new grants), engine (use of a grant)", Why: "opens a path with the caller's own identity, writes id maps"},
	{Name: "netd", User: "stockade-netd", Caps: []string{"CAP_NET_ADMIN"}, NoNew: true, Seccomp: true, Landlock: true, Serves: "engine", Why: "links, addresses, nftables"},
	{Name: "cgroupd", User: "root", Caps: nil, NoNew: true, Seccomp: true, Landlock: true, Serves: "engine", Why: "cgroup v1 lets only uid 0 move other users' processes"},
	{Name: "engine", User: "stockade-engine", InU: true, Serves: "gate", Why: "images, containers; root of a namespace whose ids own nothing on the host"},
	{Name: "gate", User: "stockade-gate", NoNew: true, Seccomp: true, Landlock: true, Serves: "clients", Why: "decides"},
}

// Get returns one row by name.
func Get(name string) (Process, bool) {
	for _, p := range Table {
		if p.Name == name {
			return p, true
		}
	}
	return Process{}, false
}

// UserOn returns the system user of the process. On cgroup v1 cgroupd is uid 0 (without capabilities); on v2 it is the
// owner of its subtree. UserOn(true) is the user on a v1 host, UserOn(false) the one that only this process has.
func (p Process) UserOn(v1 bool) string {
	if p.User == "root" && !v1 {
		return "stockade-" + p.Name
	}
	return p.User
}
