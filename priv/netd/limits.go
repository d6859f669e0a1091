package netd

import (
	"fmt"
	"log/slog"
	"os"

	"golang.org/x/sys/unix"

	"stockade/internal/confine"
)

// Limits is what the process keeps once New has set the network up: from then on no sysctl can be written, nothing be
// connected to, and no namespace be entered.
func Limits(records *os.File, log *slog.Logger) confine.Spec {
	return confine.Spec{
		Process: "netd",
		Log:     log,
		TCP:     true, // binds reservations; seccomp withholds connect, listen and accept on them
		Calls: confine.Join(confine.UnixServer, confine.Namespaces, confine.ReadFiles, []confine.Calls{
			{Why: "rtnetlink and nf_tables", Names: []string{"socket"}, If: []confine.Cond{{Arg: 0, Value: unix.AF_NETLINK}}},
			{Why: "sockets that hold published ports", Names: []string{"socket"}, If: []confine.Cond{{Arg: 0, Value: unix.AF_INET}}},
			{Why: "netlink messages, reservations", Names: []string{"bind", "setsockopt", "sendto", "recvfrom"}},
			{Why: "replace the records", Names: []string{"renameat", "renameat2"}},
		}),
		Paths: []confine.Path{
			{Why: "the records", Name: fmt.Sprintf("/proc/self/fd/%d", records.Fd()), Access: confine.Records},
			{Why: "ports in use on the host", Name: "/proc/self/net", Access: confine.ReadFile},
			{Why: "range of ports to choose from", Name: portRange, Access: confine.ReadFile},
		},
	}
}
