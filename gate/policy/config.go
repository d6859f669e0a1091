package policy

import (
	"fmt"
	"path"
	"regexp"
	"strconv"
	"strings"
	"time"

	"github.com/moby/moby/api/types/network"
)

type networking = network.NetworkingConfig

var (
	hostname  = regexp.MustCompile(`^[a-zA-Z0-9]([a-zA-Z0-9.-]{0,62}[a-zA-Z0-9])?$`)
	userPart  = regexp.MustCompile(`^[a-zA-Z0-9_][a-zA-Z0-9_.-]{0,63}\$?$`)
	signalRe  = regexp.MustCompile(`^[A-Za-z0-9+-]{1,20}$`)
	controlRe = regexp.MustCompile(`[\x00-\x1f\x7f]`)
)

// minHealth is the shortest interval of health checks; each one starts a process.
const minHealth = 100 * time.Millisecond

// configRules are about what runs in the container.
var configRules = []rule{
	{
		id: "hostname", threat: "T-303", fields: []string{"Hostname", "Domainname"},
		remedy: "use letters, digits, '-' and '.', at most 64",
		bad: func(s *subject) (string, string) {
			for _, f := range []struct{ field, value string }{{"Hostname", s.config.Hostname}, {"Domainname", s.config.Domainname}} {
				if f.value != "" && !hostname.MatchString(f.value) {
					return f.field, quote(f.value)
				}
			}
			return "", ""
		},
	},
	{
		id: "user", threat: "T-501", fields: []string{"User"},
		remedy: "use NAME, UID, NAME:GROUP or UID:GID with ids up to 65535",
		bad:    func(s *subject) (string, string) { return badUser(s.config.User) },
	},
	{
		id: "env", threat: "T-303", fields: []string{"Env"},
		remedy: "use NAME=VALUE without zero bytes",
		bad:    func(s *subject) (string, string) { return badEnv(s.config.Env) },
	},
	{
		id: "arguments", threat: "T-303", fields: []string{"Cmd", "Entrypoint", "Shell", "Healthcheck.Test"},
		remedy: "leave zero bytes out",
		bad: func(s *subject) (string, string) {
			lists := map[string][]string{"Cmd": s.config.Cmd, "Entrypoint": s.config.Entrypoint, "Shell": s.config.Shell}
			if s.config.Healthcheck != nil {
				lists["Healthcheck.Test"] = s.config.Healthcheck.Test
			}
			for _, field := range []string{"Cmd", "Entrypoint", "Shell", "Healthcheck.Test"} {
				for i, v := range lists[field] {
					if strings.ContainsRune(v, 0) {
						return fmt.Sprintf("%s[%d]", field, i), quote(v)
					}
				}
			}
			return "", ""
		},
	},
	{
		id: "working-dir", threat: "T-301", fields: []string{"WorkingDir"},
		remedy: "use an absolute path without '..'",
		bad: func(s *subject) (string, string) {
			if w := s.config.WorkingDir; w != "" && !plainPath(w) {
				return "WorkingDir", quote(w)
			}
			return "", ""
		},
	},
	{
		id: "volume-path", threat: "T-301", fields: []string{"Volumes"},
		remedy: "use absolute paths in the container; give folders of the host with -v SOURCE:TARGET",
		bad: func(s *subject) (string, string) {
			for _, p := range sortedKeys(s.config.Volumes) {
				if !target(p) || strings.Contains(p, ":") {
					return "Volumes", quote(p)
				}
			}
			return "", ""
		},
	},
	{
		id: "stop-signal", threat: "T-303", fields: []string{"StopSignal"},
		remedy: "use the name or number of a signal",
		bad: func(s *subject) (string, string) {
			if v := s.config.StopSignal; v != "" && !signalRe.MatchString(v) {
				return "StopSignal", quote(v)
			}
			return "", ""
		},
	},
	{
		id: "health-interval", threat: "T-305", fields: []string{"Healthcheck.Interval", "Healthcheck.Timeout", "Healthcheck.StartPeriod", "Healthcheck.StartInterval", "Healthcheck.Retries"},
		remedy: "use at least " + minHealth.String() + ", or 0 for the default",
		bad: func(s *subject) (string, string) {
			h := s.config.Healthcheck
			if h == nil {
				return "", ""
			}
			for _, d := range []struct {
				field string
				value time.Duration
			}{{"Interval", h.Interval}, {"Timeout", h.Timeout}, {"StartPeriod", h.StartPeriod}, {"StartInterval", h.StartInterval}} {
				if d.value != 0 && d.value < minHealth {
					return "Healthcheck." + d.field, d.value.String()
				}
			}
			if h.Retries < 0 {
				return "Healthcheck.Retries", strconv.Itoa(h.Retries)
			}
			return "", ""
		},
	},
	{
		id: "exposed-port", threat: "T-306", fields: []string{"ExposedPorts"},
		remedy: "use PORT/tcp, PORT/udp or PORT/sctp",
		bad: func(s *subject) (string, string) {
			for p := range s.config.ExposedPorts {
				if !goodPort(p) {
					return "ExposedPorts", quote(p.String())
				}
			}
			return "", ""
		},
	},
}

// execRules are about further processes of a container.
var execRules = []rule{
	{
		id: "exec-privileged", threat: "T-308", fields: []string{"exec.Privileged"},
		remedy: "run the command without --privileged",
		bad:    func(s *subject) (string, string) { return isTrue("Privileged", s.exec.Privileged) },
	},
	{
		id: "exec-user", threat: "T-501", fields: []string{"exec.User"},
		remedy: "use NAME, UID, NAME:GROUP or UID:GID with ids up to 65535",
		bad:    func(s *subject) (string, string) { return badUser(s.exec.User) },
	},
	{
		id: "exec-env", threat: "T-308", fields: []string{"exec.Env"},
		remedy: "use NAME=VALUE without zero bytes",
		bad:    func(s *subject) (string, string) { return badEnv(s.exec.Env) },
	},
	{
		id: "exec-arguments", threat: "T-308", fields: []string{"exec.Cmd", "exec.WorkingDir"},
		remedy: "leave zero bytes out; the working folder is an absolute path without '..'",
		bad: func(s *subject) (string, string) {
			for i, v := range s.exec.Cmd {
				if strings.ContainsRune(v, 0) {
					return fmt.Sprintf("Cmd[%d]", i), quote(v)
				}
			}
			if w := s.exec.WorkingDir; w != "" && !plainPath(w) {
				return "WorkingDir", quote(w)
			}
			return "", ""
		},
	},
}

// volumeRules are about volumes.
var volumeRules = []rule{
	{
		// SECURITY(T-301): the local driver's options are a raw mount(8).
		id: "volume-options", threat: "T-301", fields: []string{"volume.Driver", "volume.DriverOpts", "volume.ClusterVolumeSpec"},
		remedy: "use the driver local without options",
		bad: func(s *subject) (string, string) {
			switch v := s.volume; {
			case v.Driver != "" && v.Driver != "local":
				return "Driver", quote(v.Driver)
			case len(v.DriverOpts) > 0:
				return "DriverOpts", quote(sortedKeys(v.DriverOpts)[0])
			case v.ClusterVolumeSpec != nil:
				return "ClusterVolumeSpec", "a cluster volume"
			}
			return "", ""
		},
	},
	{
		id: "volume-name", threat: "T-301", fields: []string{"volume.Name"},
		remedy: "use [a-zA-Z0-9][a-zA-Z0-9_.-], 2 to 128 characters",
		bad: func(s *subject) (string, string) {
			if n := s.volume.Name; n != "" && !volumeName.MatchString(n) {
				return "Name", quote(n)
			}
			return "", ""
		},
	},
}

// badUser checks NAME or UID with an optional group. A number beyond a container's 65536 ids would be somebody else.
func badUser(user string) (string, string) {
	if user == "" {
		return "", ""
	}
	name, group, _ := strings.Cut(user, ":")
	for _, part := range []string{name, group} {
		if part == "" {
			continue
		}
		if !userPart.MatchString(part) {
			return "User", quote(user)
		}
		if strings.Trim(part, "0123456789") == "" {
			if n, err := strconv.ParseUint(part, 10, 32); err != nil || n > 65535 {
				return "User", quote(user)
			}
		}
	}
	return "", ""
}

func badEnv(env []string) (string, string) {
	for i, v := range env {
		if v == "" || v[0] == '=' || strings.ContainsRune(v, 0) {
			return fmt.Sprintf("Env[%d]", i), quote(v)
		}
	}
	return "", ""
}

func goodPort(p network.Port) bool {
	switch p.Proto() {
	case network.TCP, network.UDP, network.SCTP:
		return p.Num() > 0
	}
	return false
}

// plainPath tells whether p is absolute, without control characters and without "..".
func plainPath(p string) bool {
	return strings.HasPrefix(p, "/") && !controlRe.MatchString(p) && !strings.Contains(p+"/", "/../")
}

// target tells whether p may be a mount point in a container.
func target(p string) bool { return plainPath(p) && path.Clean(p) != "/" }
