package container

import (
	"errors"
	"fmt"
	"strings"

	"github.com/containerd/errdefs"
	"github.com/moby/moby/api/types/container"

	"stockade/api/scope"
	"stockade/engine/httpapi"
	"stockade/engine/runtime"
)

// joinPrefix begins a mode that names another container.
const joinPrefix = "container:"

// checkJoin refuses what cannot be had together with another container's network, as Docker does. The image's settings
// are not in req yet: they give way without a word.
func checkJoin(req *container.CreateRequest) error {
	hc := req.HostConfig
	if hc == nil || !hc.NetworkMode.IsContainer() {
		return nil
	}
	c := req.Config
	mac := false
	if req.NetworkingConfig != nil {
		for _, e := range req.NetworkingConfig.EndpointsConfig {
			mac = mac || e != nil && len(e.MacAddress) > 0
		}
	}
	for _, o := range []struct {
		given bool
		what  string
	}{
		{c.Hostname != "", "hostname and the network mode"},
		{len(hc.DNS) > 0, "dns and the network mode"},
		{len(hc.ExtraHosts) > 0, "custom host-to-IP mapping and the network mode"},
		{mac, "mac-address and the network mode"},
		{len(hc.PortBindings) > 0 || hc.PublishAllPorts, "port publishing and the container type network mode"},
		{len(c.ExposedPorts) > 0, "port exposing and the container type network mode"},
	} {
		if o.given {
			return invalid("conflicting options: %s", o.what)
		}
	}
	return nil
}

// nameTargets puts ids into the modes that name other containers: names can pass to others.
//
// SECURITY(T-204): to join a container gives what an exec in it gives, so it is found by the same look-up. What is not
// found is an invalid argument, as clients take "not found" for the image.
func (s *Service) nameTargets(sc scope.Scope, hc *container.HostConfig) error {
	name := func(mode string) (string, error) {
		ref, ok := strings.CutPrefix(mode, joinPrefix)
		if !ok {
			return mode, nil
		}
		c, err := s.index.find(sc.Tenant, ref)
		if err != nil {
			return "", invalid("%v", err)
		}
		return joinPrefix + c.view().ID, nil
	}
	network, err1 := name(string(hc.NetworkMode))
	pid, err2 := name(string(hc.PidMode))
	ipc, err3 := name(string(hc.IpcMode))
	for _, err := range []error{err1, err2, err3} {
		if err != nil {
			return err
		}
	}
	hc.NetworkMode, hc.PidMode, hc.IpcMode = container.NetworkMode(network), container.PidMode(pid), container.IpcMode(ipc)
	return nil
}

// joins are the containers that a container waits for when all start at once.
func joins(hc *container.HostConfig) []string {
	var list []string
	for _, id := range []string{hc.NetworkMode.ConnectedContainer(), hc.PidMode.Container(), hc.IpcMode.Container()} {
		if id != "" {
			list = append(list, id)
		}
	}
	return list
}

// joined finds the running containers that a start joins, with Docker's errors. The second value is the one whose network
// is shared, or nil.
func (s *Service) joined(v *view) (runtime.Join, *view, error) {
	var j runtime.Join
	var network *view
	if id := v.Host.NetworkMode.ConnectedContainer(); id != "" {
		c, err := s.index.find(v.Tenant, id)
		if err != nil {
			return j, nil, err
		}
		if _, network, err = c.running(); err != nil {
			if network.State.Restarting {
				return j, nil, err
			}
			return j, nil, conflict("cannot join network of a non running container: %s", id)
		}
		j.Net = network.ID
	}
	if id := v.Host.PidMode.Container(); id != "" {
		target, err := s.joinTarget(v.Tenant, id)
		if err != nil {
			return j, nil, &httpapi.Error{Class: classOf(err), Message: fmt.Sprintf("failed to join PID namespace: %v", err)}
		}
		j.PID = target.ID
	}
	if id := v.Host.IpcMode.Container(); id != "" {
		target, err := s.joinTarget(v.Tenant, id)
		if m := container.IpcMode(""); err == nil {
			if m = target.Host.IpcMode; !m.IsShareable() && !m.IsContainer() {
				err = invalid("container %s: non-shareable IPC (hint: use IpcMode:shareable for the donor container)", id)
			}
		}
		if err != nil {
			return j, nil, &httpapi.Error{Class: classOf(err), Message: fmt.Sprintf("failed to join IPC namespace: %v", err)}
		}
		j.IPC = target.ID
	}
	return j, network, nil
}

func (s *Service) joinTarget(tenant, id string) (*view, error) {
	c, err := s.index.find(tenant, id)
	if err != nil {
		return nil, invalid("%v", err)
	}
	_, v, err := c.running()
	return v, err
}

func classOf(err error) error {
	var shown *httpapi.Error
	if errors.As(err, &shown) {
		return shown.Class
	}
	return errdefs.ErrInternal
}
