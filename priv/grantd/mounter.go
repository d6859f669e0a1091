package grantd

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"sync"
	"time"

	"stockade/api/helper"
	"stockade/internal/seqpacket"
	"stockade/priv/peer"
)

// bindTime is how long mountd may take for one mount.
const bindTime = 30 * time.Second

// errPair ends the process; any other end of the context is a wanted one.
var errPair = errors.New("the socket pair to mountd is broken")

// mounter asks mountd over the socket pair. Requests and answers alternate; after any fault on the pair nothing can be
// told apart any more, so broken is called and the process ends.
type mounter struct {
	mu     sync.Mutex
	conn   *seqpacket.Conn
	broken func(error)
	dead   error
}

// bind returns a detached mount of file, shown through the map.
func (m *mounter) bind(file, ns *os.File, ro bool) (*os.File, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.dead != nil {
		return nil, m.dead
	}
	answer, files, err := m.exchange(file, ns, ro)
	if err == nil && answer.Class == "" && len(files) != 1 {
		err = fmt.Errorf("%w: %d descriptors in an answer", seqpacket.ErrProtocol, len(files))
	}
	if err != nil {
		seqpacket.CloseAll(files)
		m.dead = fmt.Errorf("%w: %w", errPair, err)
		m.broken(m.dead)
		return nil, m.dead
	}
	if answer.Class != "" {
		seqpacket.CloseAll(files)
		return nil, &peer.Error{Class: answer.Class, Text: answer.Text}
	}
	return files[0], nil
}

func (m *mounter) exchange(file, ns *os.File, ro bool) (helper.Answer[json.RawMessage], []*os.File, error) {
	var answer helper.Answer[json.RawMessage]
	_ = m.conn.SetDeadline(time.Now().Add(bindTime))
	if err := m.conn.Send(helper.Request[helper.Bind]{Op: "bind", Body: helper.Bind{RO: ro}}, file, ns); err != nil {
		return answer, nil, err
	}
	files, err := m.conn.Recv(&answer, 1)
	return answer, files, err
}
