package container

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"time"

	"github.com/containerd/errdefs"
	"github.com/moby/moby/api/types/container"

	"stockade/api/scope"
	"stockade/engine/container/logfile"
	"stockade/engine/httpapi"
)

func (s *Service) handleLogs(w http.ResponseWriter, r *http.Request, sc scope.Scope) error {
	o, err := logOptions(r.URL.Query())
	if err != nil {
		return err
	}
	c, err := s.index.find(sc.Tenant, r.PathValue("id"))
	if err != nil {
		return err
	}
	v := c.view()
	if v.LogPath == "" {
		return httpapi.NewError(errdefs.ErrNotImplemented, "configured logging driver does not support reading")
	}
	if v.State.Removing || v.State.Dead {
		return conflict("can not get logs from container which is dead or marked for removal")
	}
	ctx, cancel := context.WithCancel(r.Context())
	defer cancel()
	defer context.AfterFunc(s.ctx, cancel)()
	w.Header().Set("Content-Type", contentType(v.Config.Tty, sc.Version))
	w.WriteHeader(http.StatusOK)
	flush := http.NewResponseController(w)
	if err := flush.Flush(); err != nil {
		return fmt.Errorf("flush: %w", err)
	}
	out := io.Writer(w)
	done := make(chan struct{})
	if o.Follow {
		out = &flushing{w: w, c: flush}
		// Until the container has ended for good.
		waiter := c.wait(container.WaitConditionNotRunning)
		defer c.unwait(waiter)
		go func() {
			select {
			case <-waiter.done:
				close(done)
			case <-ctx.Done():
			}
		}()
	}
	return closed(logfile.Copy(ctx, out, v.LogPath, o, v.Config.Tty, done))
}

type flushing struct {
	w io.Writer
	c *http.ResponseController
}

func (f *flushing) Write(p []byte) (int, error) {
	n, err := f.w.Write(p)
	if err == nil {
		err = f.c.Flush()
	}
	return n, err
}

func logOptions(q url.Values) (logfile.Options, error) {
	o := logfile.Options{
		Stdout: boolOf(q.Get("stdout")), Stderr: boolOf(q.Get("stderr")), Timestamps: boolOf(q.Get("timestamps")),
		Details: boolOf(q.Get("details")), Follow: boolOf(q.Get("follow")), Tail: -1,
	}
	if !o.Stdout && !o.Stderr {
		return o, invalid("must specify at least one of 'stdout' or 'stderr'")
	}
	if t := q.Get("tail"); t != "" && t != "all" {
		// As Docker: what is no number means all.
		if n, err := strconv.Atoi(t); err == nil && n >= 0 {
			o.Tail = n
		}
	}
	var err error
	if o.Since, err = timeOf("since", q.Get("since")); err != nil {
		return o, err
	}
	o.Until, err = timeOf("until", q.Get("until"))
	return o, err
}

// timeOf reads seconds[.nanoseconds] since 1970; "" and "0" mean no bound.
func timeOf(field, v string) (time.Time, error) {
	if v == "" || v == "0" {
		return time.Time{}, nil
	}
	sec, frac, _ := strings.Cut(v, ".")
	n, err := strconv.ParseInt(sec, 10, 64)
	if err != nil {
		return time.Time{}, invalid("invalid value for %q: %s", field, v)
	}
	var nano int64
	if frac != "" {
		if nano, err = strconv.ParseInt((frac + "000000000")[:9], 10, 64); err != nil {
			return time.Time{}, invalid("invalid value for %q: %s", field, v)
		}
	}
	return time.Unix(n, nano), nil
}
