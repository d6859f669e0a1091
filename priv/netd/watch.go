package netd

import (
	"context"
	"encoding/binary"
	"errors"
	"os"
	"time"

	"github.com/google/nftables"
	"golang.org/x/sys/unix"
)

// watch puts our rules back when somebody else removes them, for example by `nft flush ruleset` in a reload of the
// host's firewall. SECURITY(T-601): the rules that keep containers in must not vanish silently (CVE-2025-54388 class).
func (s *Server) watch(ctx context.Context) {
	f, err := openMonitor()
	if err != nil {
		s.log.Error("rules are not watched", "err", err)
		return
	}
	defer f.Close()
	stop := context.AfterFunc(ctx, func() { _ = f.SetReadDeadline(time.Now()) })
	defer stop()
	buf := make([]byte, 64<<10)
	for ctx.Err() == nil {
		n, err := f.Read(buf)
		switch {
		case errors.Is(err, unix.ENOBUFS): // some messages are lost
		case err != nil:
			if ctx.Err() == nil {
				s.log.Error("rules are not watched any more", "err", err)
			}
			return
		case !removal(buf[:n]):
			continue
		}
		s.restore()
	}
}

func (s *Server) restore() {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.rules.intact() {
		return
	}
	s.log.Warn("the rules were removed from outside, putting them back")
	if err := s.rules.rebuild(s.endpoints); err != nil {
		s.log.Error("put rules back", "err", err)
	}
}

// nfnlgrpNftables is the multicast group of nf_tables changes (<linux/netfilter/nfnetlink.h>).
const nfnlgrpNftables = 7

func openMonitor() (*os.File, error) {
	fd, err := unix.Socket(unix.AF_NETLINK, unix.SOCK_RAW|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, unix.NETLINK_NETFILTER)
	if err != nil {
		return nil, err
	}
	if err := unix.Bind(fd, &unix.SockaddrNetlink{Family: unix.AF_NETLINK, Groups: 1 << (nfnlgrpNftables - 1)}); err != nil {
		unix.Close(fd)
		return nil, err
	}
	return os.NewFile(uintptr(fd), "nftables monitor"), nil
}

// removal tells whether a datagram of netlink messages says that a table, chain, rule or set was deleted.
func removal(b []byte) bool {
	for len(b) >= unix.SizeofNlMsghdr {
		size := int(binary.NativeEndian.Uint32(b))
		kind := binary.NativeEndian.Uint16(b[4:])
		if size < unix.SizeofNlMsghdr || size > len(b) {
			return true // cannot be told
		}
		if kind>>8 == unix.NFNL_SUBSYS_NFTABLES {
			switch kind & 0xff {
			case unix.NFT_MSG_DELTABLE, unix.NFT_MSG_DELCHAIN, unix.NFT_MSG_DELRULE, unix.NFT_MSG_DELSET:
				return true
			}
		}
		b = b[min((size+3)&^3, len(b)):]
	}
	return false
}

// intact tells whether every chain of ours has as many rules as rebuild gave it.
func (r ruleset) intact() bool {
	c, err := r.conn()
	if err != nil {
		return false
	}
	for at, want := range r.counts {
		t := &nftables.Table{Name: r.name, Family: at.family}
		rules, err := c.GetRules(t, &nftables.Chain{Name: at.chain, Table: t})
		if err != nil || len(rules) != want {
			return false
		}
	}
	return true
}
