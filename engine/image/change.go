package image

import (
	"encoding/json"
	"path"
	"strconv"
	"strings"
	"time"

	"github.com/containerd/errdefs"
	dockerspec "github.com/moby/docker-image-spec/specs-go/v1"

	"stockade/engine/httpapi"
)

// ApplyChanges applies Dockerfile instructions, one per element or line, as import and commit take them with --change.
func ApplyChanges(cfg *dockerspec.DockerOCIImageConfig, changes []string) error {
	for _, c := range changes {
		for text := range strings.Lines(c) {
			text = strings.TrimSpace(text)
			if text == "" || text[0] == '#' {
				continue
			}
			word, rest, _ := strings.Cut(text, " ")
			if err := applyChange(cfg, strings.ToUpper(word), strings.TrimSpace(rest)); err != nil {
				return err
			}
		}
	}
	return nil
}

func badChange(format string, a ...any) error {
	return httpapi.NewError(errdefs.ErrInvalidArgument, format, a...)
}

func applyChange(cfg *dockerspec.DockerOCIImageConfig, word, rest string) error {
	if rest == "" && word != "CMD" && word != "ENTRYPOINT" {
		return badChange("%s requires at least one argument", word)
	}
	switch word {
	case "CMD":
		cfg.Cmd = command(cfg, rest)
	case "ENTRYPOINT":
		cfg.Entrypoint = command(cfg, rest)
	case "SHELL":
		list, ok := jsonList(rest)
		if !ok || len(list) == 0 {
			return badChange("SHELL requires the arguments to be in JSON form")
		}
		cfg.Shell = list
	case "ENV":
		return changeEnv(cfg, rest)
	case "LABEL":
		pairs, err := keyValues(word, rest)
		if err != nil {
			return err
		}
		labels := map[string]string{}
		for k, v := range cfg.Labels {
			labels[k] = v
		}
		for _, p := range pairs {
			labels[p[0]] = p[1]
		}
		cfg.Labels = labels
	case "EXPOSE":
		ports := map[string]struct{}{}
		for p := range cfg.ExposedPorts {
			ports[p] = struct{}{}
		}
		for _, p := range strings.Fields(rest) {
			if err := expose(ports, p); err != nil {
				return err
			}
		}
		cfg.ExposedPorts = ports
	case "USER":
		cfg.User = rest
	case "VOLUME":
		list, ok := jsonList(rest)
		if !ok {
			list = strings.Fields(rest)
		}
		volumes := map[string]struct{}{}
		for v := range cfg.Volumes {
			volumes[v] = struct{}{}
		}
		for _, v := range list {
			if v == "" {
				return badChange("VOLUME specified can not be an empty string")
			}
			volumes[v] = struct{}{}
		}
		cfg.Volumes = volumes
	case "WORKDIR":
		if !path.IsAbs(rest) {
			rest = path.Join("/", cfg.WorkingDir, rest)
		}
		cfg.WorkingDir = path.Clean(rest)
	case "STOPSIGNAL":
		cfg.StopSignal = rest
	case "HEALTHCHECK":
		return healthcheck(cfg, rest)
	case "ONBUILD":
		trigger, _, _ := strings.Cut(strings.ToUpper(rest), " ")
		if trigger == "ONBUILD" || trigger == "FROM" || trigger == "MAINTAINER" {
			return badChange("%s isn't allowed as an ONBUILD trigger", trigger)
		}
		cfg.OnBuild = append(append([]string{}, cfg.OnBuild...), rest)
	default:
		return badChange("%s is not a valid change command", strings.ToUpper(word))
	}
	return nil
}

// command reads the exec form (JSON) or the shell form.
func command(cfg *dockerspec.DockerOCIImageConfig, rest string) []string {
	if list, ok := jsonList(rest); ok {
		return list
	}
	if rest == "" {
		return nil
	}
	shell := cfg.Shell
	if len(shell) == 0 {
		shell = []string{"/bin/sh", "-c"}
	}
	return append(append([]string{}, shell...), rest)
}

func jsonList(s string) ([]string, bool) {
	var list []string
	return list, strings.HasPrefix(s, "[") && json.Unmarshal([]byte(s), &list) == nil
}

func changeEnv(cfg *dockerspec.DockerOCIImageConfig, rest string) error {
	pairs, err := keyValues("ENV", rest)
	if err != nil {
		return err
	}
	env := append([]string{}, cfg.Env...)
next:
	for _, p := range pairs {
		for i, e := range env {
			if k, _, _ := strings.Cut(e, "="); k == p[0] {
				env[i] = p[0] + "=" + p[1]
				continue next
			}
		}
		env = append(env, p[0]+"="+p[1])
	}
	cfg.Env = env
	return nil
}

// keyValues reads `k=v k2="v 2"` or the old form `k the rest`.
func keyValues(word, rest string) ([][2]string, error) {
	words, err := split(rest)
	if err != nil {
		return nil, badChange("%s: %v", word, err)
	}
	if len(words) > 0 && !strings.Contains(words[0], "=") {
		k, v, found := strings.Cut(rest, " ")
		if !found {
			return nil, badChange("%s must have two arguments", word)
		}
		return [][2]string{{k, strings.TrimSpace(v)}}, nil
	}
	var out [][2]string
	for _, w := range words {
		k, v, found := strings.Cut(w, "=")
		if !found || k == "" {
			return nil, badChange("Syntax error - can't find = in %q. Must be of the form: name=value", w)
		}
		out = append(out, [2]string{k, v})
	}
	return out, nil
}

// split separates words at spaces outside of quotes.
func split(s string) (words []string, _ error) {
	var word strings.Builder
	var quote rune
	in, escaped := false, false
	for _, c := range s {
		switch {
		case escaped:
			word.WriteRune(c)
			escaped = false
		case c == '\\' && quote != '\'':
			in, escaped = true, true
		case quote != 0 && c == quote:
			quote = 0
		case quote == 0 && (c == '"' || c == '\''):
			in, quote = true, c
		case quote == 0 && (c == ' ' || c == '\t'):
			if in {
				words = append(words, word.String())
				word.Reset()
			}
			in = false
		default:
			in = true
			word.WriteRune(c)
		}
	}
	if quote != 0 || escaped {
		return nil, badChange("unterminated quote or escape")
	}
	if in {
		words = append(words, word.String())
	}
	return words, nil
}

// expose adds one port or range of ports, "80", "80/udp" or "80-90/tcp".
func expose(ports map[string]struct{}, s string) error {
	span, proto, found := strings.Cut(strings.ToLower(s), "/")
	if !found {
		proto = "tcp"
	}
	low, high, ranged := strings.Cut(span, "-")
	if !ranged {
		high = low
	}
	from, errLow := strconv.ParseUint(low, 10, 16)
	to, errHigh := strconv.ParseUint(high, 10, 16)
	if errLow != nil || errHigh != nil || from > to || proto != "tcp" && proto != "udp" && proto != "sctp" {
		return badChange("invalid containerPort: %s", s)
	}
	for p := from; p <= to; p++ {
		ports[strconv.FormatUint(p, 10)+"/"+proto] = struct{}{}
	}
	return nil
}

// healthcheck reads "NONE" or "[--option=value …] CMD …".
func healthcheck(cfg *dockerspec.DockerOCIImageConfig, rest string) error {
	var h dockerspec.HealthcheckConfig
	for {
		word, after, _ := strings.Cut(rest, " ")
		after = strings.TrimSpace(after)
		if option, ok := strings.CutPrefix(word, "--"); ok {
			if err := healthOption(&h, option); err != nil {
				return err
			}
			rest = after
			continue
		}
		switch strings.ToUpper(word) {
		case "NONE":
			h.Test = []string{"NONE"}
		case "CMD":
			if list, ok := jsonList(after); ok {
				h.Test = append([]string{"CMD"}, list...)
			} else if after != "" {
				h.Test = []string{"CMD-SHELL", after}
			}
		default:
			return badChange("Unknown type %q in HEALTHCHECK (try CMD)", word)
		}
		if len(h.Test) == 0 || len(h.Test) == 1 && h.Test[0] == "CMD" {
			return badChange("Missing command after HEALTHCHECK CMD")
		}
		cfg.Healthcheck = &h
		return nil
	}
}

func healthOption(h *dockerspec.HealthcheckConfig, option string) error {
	name, value, _ := strings.Cut(option, "=")
	if name == "retries" {
		n, err := strconv.ParseUint(value, 10, 31)
		if err != nil {
			return badChange("HEALTHCHECK: invalid --retries %q", value)
		}
		h.Retries = int(n)
		return nil
	}
	target, ok := map[string]*time.Duration{
		"interval": &h.Interval, "timeout": &h.Timeout, "start-period": &h.StartPeriod, "start-interval": &h.StartInterval,
	}[name]
	if !ok {
		return badChange("HEALTHCHECK: unknown flag: --%s", name)
	}
	d, err := time.ParseDuration(value)
	if err != nil || d < 0 || d > 0 && d < time.Millisecond {
		return badChange("HEALTHCHECK: invalid --%s %q", name, value)
	}
	*target = d
	return nil
}
