package netd

import (
	"context"
	"strconv"
	"testing"
	"testing/synctest"
	"time"
)

// However many endpoints end at once, none waits for the links of those before it.
func TestReaperKeepsUp(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := &Server{reap: make(chan reaping), endpoints: map[string]*endpoint{}}
		ctx, cancel := context.WithCancel(t.Context())
		ended := make(chan struct{})
		go func() {
			s.reaper(ctx)
			close(ended)
		}()
		begin := time.Now()
		for i := range 1000 {
			id := strconv.Itoa(i)
			s.endpoints[id] = &endpoint{} // attached again, so there is no link to remove
			s.later(ctx, reaping{ids: []string{id}})
		}
		if waited := time.Since(begin); waited != 0 {
			t.Errorf("waited %v", waited)
		}
		cancel()
		<-ended
	})
}
