package spec

import (
	"maps"
	"path"
	"slices"
	"strings"

	dockerspec "github.com/moby/docker-image-spec/specs-go/v1"
	"github.com/moby/moby/api/types/container"
	"github.com/moby/moby/api/types/network"
)

// Merge completes a container's configuration with its image's, by Docker's rules: what the client named wins, lists
// of environment, labels, ports and volumes are united, and an entrypoint of the client's hides the image's command.
func Merge(c *container.Config, img *dockerspec.DockerOCIImageConfig) error {
	if img != nil {
		if err := mergeImage(c, img); err != nil {
			return err
		}
	}
	// Never null, and null rather than empty: as Docker answers.
	if c.Labels == nil {
		c.Labels = map[string]string{}
	}
	if len(c.Volumes) == 0 {
		c.Volumes = nil
	}
	if len(c.Entrypoint) == 1 && c.Entrypoint[0] == "" {
		c.Entrypoint = nil
	}
	if len(c.Entrypoint)+len(c.Cmd) == 0 {
		return invalid("no command specified")
	}
	if c.WorkingDir != "" {
		c.WorkingDir = path.Clean(c.WorkingDir)
		if !path.IsAbs(c.WorkingDir) {
			return invalid("the working directory '%s' is invalid, it needs to be an absolute path", c.WorkingDir)
		}
	}
	for _, e := range c.Env {
		if e == "" || e[0] == '=' {
			return invalid("invalid environment variable: %s", e)
		}
		if strings.IndexByte(e, 0) >= 0 {
			return invalid("invalid environment variable: contains a zero byte")
		}
	}
	return nil
}

func mergeImage(c *container.Config, img *dockerspec.DockerOCIImageConfig) error {
	if c.User == "" {
		c.User = img.User
	}
	for p := range img.ExposedPorts {
		port, err := network.ParsePort(p)
		if err != nil {
			return invalid("image: invalid exposed port %q", p)
		}
		if c.ExposedPorts == nil {
			c.ExposedPorts = network.PortSet{}
		}
		c.ExposedPorts[port] = struct{}{}
	}
	c.Env = mergeEnv(c.Env, img.Env)
	if len(img.Labels) > 0 {
		labels := maps.Clone(img.Labels)
		maps.Copy(labels, c.Labels)
		c.Labels = labels
	}
	if len(c.Entrypoint) == 0 {
		if len(c.Cmd) == 0 {
			c.Cmd = slices.Clone(img.Cmd)
		}
		if c.Entrypoint == nil {
			c.Entrypoint = slices.Clone(img.Entrypoint)
		}
	}
	c.Healthcheck = mergeHealth(c.Healthcheck, img.Healthcheck)
	if c.WorkingDir == "" {
		c.WorkingDir = img.WorkingDir
	}
	for v := range img.Volumes {
		if c.Volumes == nil {
			c.Volumes = map[string]struct{}{}
		}
		c.Volumes[v] = struct{}{}
	}
	if c.StopSignal == "" {
		c.StopSignal = img.StopSignal
	}
	if len(c.Shell) == 0 {
		c.Shell = slices.Clone(img.Shell)
	}
	return nil
}

// mergeEnv adds the image's variables that the client did not name.
func mergeEnv(user, image []string) []string {
	if len(user) == 0 {
		return slices.Clone(image)
	}
	have := map[string]bool{}
	for _, e := range user {
		k, _, _ := strings.Cut(e, "=")
		have[k] = true
	}
	for _, e := range image {
		if k, _, _ := strings.Cut(e, "="); !have[k] {
			user = append(user, e)
		}
	}
	return user
}

func mergeHealth(user, image *container.HealthConfig) *container.HealthConfig {
	if image == nil {
		return user
	}
	if user == nil {
		h := *image
		return &h
	}
	if len(user.Test) == 0 {
		user.Test = image.Test
	}
	if user.Interval == 0 {
		user.Interval = image.Interval
	}
	if user.Timeout == 0 {
		user.Timeout = image.Timeout
	}
	if user.StartPeriod == 0 {
		user.StartPeriod = image.StartPeriod
	}
	if user.StartInterval == 0 {
		user.StartInterval = image.StartInterval
	}
	if user.Retries == 0 {
		user.Retries = image.Retries
	}
	return user
}

// Command returns the program and its arguments.
func Command(c *container.Config) (string, []string) {
	all := slices.Concat(c.Entrypoint, c.Cmd)
	if len(all) == 0 {
		return "", nil
	}
	return all[0], all[1:]
}

// DefaultPath is PATH when neither image nor client sets it.
const DefaultPath = "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"

// Environment returns the environment of a container's process. home is set unless the configuration sets HOME.
func Environment(c *container.Config, home string) []string {
	env := []string{DefaultPath, "HOSTNAME=" + c.Hostname}
	if c.Tty {
		env = append(env, "TERM=xterm")
	}
	env = ReplaceEnv(env, c.Env)
	return withHome(env, home)
}

// ExecEnvironment returns the environment of a process added to a container.
func ExecEnvironment(c *container.Config, extra []string, tty bool, home string) []string {
	env := []string{DefaultPath, "HOSTNAME=" + c.Hostname}
	if tty {
		env = append(env, "TERM=xterm")
	}
	return withHome(ReplaceEnv(ReplaceEnv(env, c.Env), extra), home)
}

func withHome(env []string, home string) []string {
	for _, e := range env {
		if strings.HasPrefix(e, "HOME=") {
			return env
		}
	}
	if home == "" {
		home = "/"
	}
	return append(env, "HOME="+home)
}

// ReplaceEnv returns env with over's variables put in; a name without "=" removes the variable.
func ReplaceEnv(env, over []string) []string {
	out := slices.Clone(env)
	for _, o := range over {
		name, _, hasValue := strings.Cut(o, "=")
		i := slices.IndexFunc(out, func(e string) bool {
			k, _, _ := strings.Cut(e, "=")
			return k == name
		})
		switch {
		case !hasValue && i >= 0:
			out = slices.Delete(out, i, i+1)
		case !hasValue:
		case i >= 0:
			out[i] = o
		default:
			out = append(out, o)
		}
	}
	return out
}
