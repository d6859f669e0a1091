//go:build root

package compat

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/url"
	"os"
	"os/exec"
	"strings"
	"sync"
	"testing"
	"time"

	"stockade/test/harness"
)

func TestMain(m *testing.M) { harness.Main(m) }

// TestScenarios plays all scenarios against both servers.
func TestScenarios(t *testing.T) {
	s := harness.Get(t)
	peer := startPeer(t, s)
	ours := &target{name: "ours", server: s, socket: harness.Socket, dial: func() (conn, error) { return s.Dial(s.User) },
		places: map[string]string{harness.Socket: "<socket>", harness.Data: "<data>"}}
	var mu sync.Mutex
	var found []Difference
	played := 0
	all := All()
	for _, sc := range all {
		t.Run(sc.Name, func(t *testing.T) {
			var wg sync.WaitGroup
			answers := make([][]Answer, 2)
			errs := make([]error, 2)
			for i, on := range []*target{peer, ours} {
				wg.Go(func() { answers[i], errs[i] = on.play(sc) })
			}
			wg.Wait()
			if err := errors.Join(errs...); err != nil {
				t.Fatal(err)
			}
			var here []Difference
			for i, name := range sc.Names() {
				for _, what := range Compare(sc.Steps[i], answers[0][i], answers[1][i]) {
					here = append(here, Difference{sc.Name, name, what})
				}
			}
			unlisted, _ := Judge(Known, here)
			for _, d := range unlisted {
				t.Error(d)
			}
			mu.Lock()
			defer mu.Unlock()
			found = append(found, here...)
			played++
		})
	}
	if played < len(all) {
		return // -run chose some: nothing can be said about the rows
	}
	_, stale := Judge(Known, found)
	for _, r := range stale {
		t.Errorf("no difference any more, remove the row: %s: %s", r.Step, r.What)
	}
}

// target is one of the servers.
type target struct {
	name   string
	server *harness.Server
	socket string
	dial   func() (conn, error)
	places map[string]string
}

// patience is how long becomes waits, and how long one call takes at most.
const patience = 30 * time.Second

func (on *target) play(sc Scenario) ([]Answer, error) {
	vars := map[string]string{"n": sc.Name}
	defer on.clean(sc.Name)
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
			vars[step.keep] = kept(a)
		}
		a.Places = on.places
		answers = append(answers, a)
	}
	return answers, nil
}

// kept is the command's output, or the answer's Id.
func kept(a Answer) string {
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
	cmd := on.server.Command(ctx, on.server.User, on.server.DockerPath(), s.Args...)
	cmd.Env = append(cmd.Env, "DOCKER_HOST=unix://"+on.socket, "DOCKER_API_VERSION="+Version, "DOCKER_CLI_HINTS=false")
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

// clean removes what the scenario left; not being able to is no failure, it may be gone.
func (on *target) clean(name string) {
	for _, kind := range []struct{ list, remove, force string }{
		{"/containers/json?all=1&", "/containers/", "?force=1&v=1"},
		{"/volumes?", "/volumes/", "?force=1"},
	} {
		filter := url.QueryEscape(fmt.Sprintf(`{"name":[%q]}`, name))
		a, err := on.answer(get(kind.list + "filters=" + filter))
		if err != nil {
			continue
		}
		for _, v := range removable(a.Body) {
			_, _ = on.answer(del(kind.remove + v + kind.force))
		}
	}
	a, err := on.answer(get("/images/json?filters=" + url.QueryEscape(fmt.Sprintf(`{"reference":["%s:*"]}`, name))))
	if err != nil {
		return
	}
	for _, v := range removable(a.Body) {
		_, _ = on.answer(del("/images/" + v + "?force=1"))
	}
}

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
		case len(v.RepoTags) > 0:
			names = append(names, v.RepoTags...)
		case v.Name != "":
			names = append(names, v.Name)
		default:
			names = append(names, v.ID)
		}
	}
	return names
}

// TestPeerIsPresent says what to install.
func TestPeerIsPresent(t *testing.T) {
	if _, err := os.Stat(peerProgram); err != nil {
		t.Fatalf("the peer is Debian's package docker.io: %v", err)
	}
	if _, err := exec.LookPath("iptables"); err != nil {
		t.Fatalf("the peer needs iptables: %v", err)
	}
}
