//go:build root

package compat

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os/exec"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"stockade/test/harness"
)

func TestMain(m *testing.M) { harness.Main(m) }

// TestScenarios plays all scenarios against both servers, with the newest Docker client.
func TestScenarios(t *testing.T) {
	s, kind := harness.Get(t), chosen(t)
	all := All()
	found, played := compare(t, s, kind, s.DockerPath(), kind.Version, all)
	if played < len(all) {
		return // -run chose some: nothing can be said about the rows
	}
	_, stale := Judge(kind.Rows(), found)
	for _, r := range stale {
		t.Errorf("no difference any more, remove the row: %s: %s", r.Step, r.What)
	}
}

// TestOlderClient plays the scenarios' calls of the docker command with an older client, in its own version of the API.
func TestOlderClient(t *testing.T) {
	s, kind := harness.Get(t), chosen(t)
	client := s.DockerOldPath()
	out, err := exec.Command(client, "version", "--format", "{{.Client.DefaultAPIVersion}}").Output()
	version := strings.TrimSpace(string(out))
	if version == "" {
		t.Fatalf("version of the older client: %v", err) // that it has no server is an error, too
	}
	if kind.Name != Newest.Name {
		version = kind.Version
	}
	var all []Scenario
	for _, sc := range All() {
		if slices.ContainsFunc(sc.Steps, func(s Step) bool { return s.Method == "" }) {
			all = append(all, sc)
		}
	}
	compare(t, s, kind, client, version, all)
}

// compare plays scenarios against the peer and Stockade. It returns the differences and how many scenarios were played.
// With an older client only what the docker command says is looked at: answers of the API have been, in its newest version.
func compare(t *testing.T, s *harness.Server, kind Peer, client, version string, all []Scenario) (found []Difference, played int) {
	t.Helper()
	peer := startPeer(t, s, kind)
	ours := &target{name: "ours", server: s, socket: harness.Socket, dial: func() (conn, error) { return s.Dial(s.User) },
		places: map[string]string{harness.Socket: "<socket>", harness.Data: "<data>"}}
	both := []*target{peer, ours}
	for _, on := range both {
		on.client, on.version = client, version
	}
	for _, sc := range all {
		t.Run(sc.Name, func(t *testing.T) {
			var wg sync.WaitGroup
			answers := make([][]Answer, len(both))
			errs := make([]error, len(both))
			for i, on := range both {
				wg.Go(func() { answers[i], errs[i] = on.play(sc) })
			}
			wg.Wait()
			if err := errors.Join(errs...); err != nil {
				t.Fatal(err)
			}
			var here []Difference
			for i, name := range sc.Names() {
				if client != s.DockerPath() && sc.Steps[i].Method != "" {
					continue
				}
				for _, what := range Compare(sc.Steps[i], answers[0][i], answers[1][i]) {
					here = append(here, Difference{sc.Name, name, what})
				}
			}
			unlisted, _ := Judge(kind.Rows(), here)
			for _, d := range unlisted {
				t.Error(d)
			}
			for _, d := range here {
				t.Log("all differences:", d) // seen with -v
			}
			found = append(found, here...)
			played++
		})
	}
	return found, played
}

// target is one of the servers.
type target struct {
	name    string
	server  *harness.Server
	client  string // path of the docker command
	version string
	socket  string
	dial    func() (conn, error)
	places  map[string]string
}

// patience is how long becomes waits, and how long one call takes at most.
const patience = 30 * time.Second

func (on *target) play(sc Scenario) ([]Answer, error) {
	vars := map[string]string{"n": sc.Name}
	defer on.clean()
	var answers []Answer
	for i, step := range sc.Steps {
		filled := step.Fill(vars)
		a, err := on.answer(filled)
		for end := time.Now().Add(patience); err == nil && step.until != "" && !strings.Contains(a.Stdout+string(a.Body), step.until); {
			if time.Now().After(end) {
				return nil, fmt.Errorf("%s: %s: %q does not come: %d %s%s%s", on.name, sc.Names()[i], step.until, a.Code, a.Stdout, a.Stderr, a.Body)
			}
			time.Sleep(50 * time.Millisecond)
			a, err = on.answer(filled)
		}
		if err != nil {
			return nil, fmt.Errorf("%s: %s: %w", on.name, sc.Names()[i], err)
		}
		if step.keep != "" {
			vars[step.keep] = idIn(a)
			if step.kept != nil {
				vars[step.keep] = step.kept(a.Stdout)
			}
		}
		a.Places = on.places
		answers = append(answers, a)
	}
	return answers, nil
}

// idIn is the command's output, or the answer's Id.
func idIn(a Answer) string {
	if a.Body == nil {
		return strings.TrimSpace(a.Stdout)
	}
	var answer struct{ ID string }
	if err := json.Unmarshal(a.Body, &answer); err != nil || answer.ID == "" {
		return "none"
	}
	return answer.ID
}

func (on *target) answer(s Step) (Answer, error) {
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	if s.Method == "" {
		return on.command(ctx, s)
	}
	return on.request(ctx, s)
}

func (on *target) command(ctx context.Context, s Step) (Answer, error) {
	cmd := on.server.Command(ctx, on.server.User, on.client, s.Args...)
	cmd.Env = append(cmd.Env, "DOCKER_HOST=unix://"+on.socket, "DOCKER_API_VERSION="+on.version, "DOCKER_CLI_HINTS=false")
	var stdout, stderr bytes.Buffer
	cmd.Stdin, cmd.Stdout, cmd.Stderr = bytes.NewReader(s.Input), &stdout, &stderr
	cmd.WaitDelay = time.Second
	err := cmd.Run()
	var exit *exec.ExitError
	if err != nil && !errors.As(err, &exit) {
		return Answer{}, err
	}
	if ctx.Err() != nil {
		return Answer{}, fmt.Errorf("took too long: %s%s", stdout.Bytes(), stderr.Bytes())
	}
	return Answer{Code: cmd.ProcessState.ExitCode(), Stdout: stdout.String(), Stderr: stderr.String()}, nil
}

// clean removes everything that scenarios made; not being able to is no failure, it may be gone.
func (on *target) clean() {
	for _, kind := range []struct{ list, remove, force string }{
		{"/containers/json?all=1", "/containers/", "?force=1&v=1"},
		{"/volumes", "/volumes/", "?force=1"},
		{"/images/json", "/images/", "?force=1"},
	} {
		a, err := on.answer(get(kind.list))
		if err != nil {
			continue
		}
		for _, v := range removable(a.Body) {
			if !slices.Contains(kept, v) {
				_, _ = on.answer(del(kind.remove + v + kind.force))
			}
		}
	}
}

// kept are the images of every scenario.
var kept = []string{"busybox:latest", "stockade/demo:latest"}

// removable are the ids or names in a list of containers, volumes or images.
func removable(body []byte) []string {
	type thing struct {
		ID, Name string
		RepoTags []string
	}
	var volumes struct{ Volumes []thing }
	var things []thing
	if json.Unmarshal(body, &things) != nil && json.Unmarshal(body, &volumes) == nil {
		things = volumes.Volumes
	}
	var names []string
	for _, v := range things {
		switch {
		case len(v.RepoTags) > 0 && v.RepoTags[0] != "<none>:<none>":
			names = append(names, v.RepoTags...)
		case v.Name != "":
			names = append(names, v.Name)
		default:
			names = append(names, v.ID)
		}
	}
	return names
}
