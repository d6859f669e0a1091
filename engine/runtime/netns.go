package runtime

import (
	"fmt"
	"net"
	"os"
	goruntime "runtime"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// configureLink brings up lo, and eth0 with its address and default route, inside a network namespace.
//
// The thread that enters the namespace can never come back to the host's (the engine has no right there), so it ends
// with the goroutine.
func configureLink(ns *os.File, e *Endpoint) error {
	done := make(chan error, 1)
	go func() {
		goruntime.LockOSThread() // never unlocked: the thread ends here
		done <- configureInside(ns, e)
	}()
	return <-done
}

func configureInside(ns *os.File, e *Endpoint) error {
	if err := unix.Setns(int(ns.Fd()), unix.CLONE_NEWNET); err != nil {
		return fmt.Errorf("enter network namespace: %w", err)
	}
	h, err := netlink.NewHandle(unix.NETLINK_ROUTE)
	if err != nil {
		return err
	}
	defer h.Close()
	lo, err := h.LinkByName("lo")
	if err != nil {
		return fmt.Errorf("lo: %w", err)
	}
	if err := h.LinkSetUp(lo); err != nil {
		return fmt.Errorf("lo: %w", err)
	}
	if e == nil {
		return nil
	}
	eth, err := h.LinkByName("eth0")
	if err != nil {
		return fmt.Errorf("eth0: %w", err)
	}
	ip := net.ParseIP(e.Address)
	if err := h.AddrAdd(eth, &netlink.Addr{IPNet: &net.IPNet{IP: ip, Mask: net.CIDRMask(e.Bits, 32)}}); err != nil {
		return fmt.Errorf("eth0 address: %w", err)
	}
	if err := h.LinkSetUp(eth); err != nil {
		return fmt.Errorf("eth0: %w", err)
	}
	if err := h.RouteAdd(&netlink.Route{LinkIndex: eth.Attrs().Index, Gw: net.ParseIP(e.Gateway)}); err != nil {
		return fmt.Errorf("default route: %w", err)
	}
	return nil
}
