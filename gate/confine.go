package gate

import (
	"log/slog"

	"stockade/internal/confine"
)

// Confine gives up everything that the gate does not need: it opens no file, talks to Unix sockets only and starts no
// process.
func Confine(log *slog.Logger) error {
	return confine.Process(confine.Spec{
		Process: "gate",
		Calls: confine.Join(confine.UnixServer, confine.UnixClient, confine.Streams, []confine.Calls{
			{Why: "room for audit records", Names: []string{"fallocate", "fstat"}},
			{Why: "how many descriptors it may have; never to set it", Names: []string{"prlimit64"}, If: []confine.Cond{{Arg: 0, Value: 0}, {Arg: 2, Value: 0}}},
		}),
		Log: log,
	})
}
