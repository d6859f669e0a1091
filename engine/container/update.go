package container

import (
	"context"
	"fmt"
	"net/http"

	"github.com/moby/moby/api/types/container"
	"github.com/moby/moby/api/types/events"

	"stockade/api/scope"
	"stockade/engine/container/spec"
	"stockade/engine/httpapi"
	"stockade/internal/failpoint"
)

func (s *Service) handleUpdate(w http.ResponseWriter, r *http.Request, sc scope.Scope) error {
	var req container.UpdateConfig
	if err := httpapi.ReadJSON(r, &req); err != nil {
		return err
	}
	c, err := s.index.find(sc.Tenant, r.PathValue("id"))
	if err != nil {
		return err
	}
	if err := s.update(context.WithoutCancel(r.Context()), c, &req); err != nil {
		return err
	}
	return httpapi.WriteJSON(w, http.StatusOK, container.UpdateResponse{})
}

// update changes limits and the restart policy; zero values leave what is.
func (s *Service) update(ctx context.Context, c *item, req *container.UpdateConfig) error {
	c.op.Lock()
	defer c.op.Unlock()
	v := c.view()
	if v.State.Removing || v.State.Dead {
		return conflict("Cannot update container %s: container is marked for removal and cannot be \"update\"", v.ID)
	}
	if err := exclusive(&v.Host.Resources, &req.Resources); err != nil {
		return fmt.Errorf("Cannot update container %s: %w", v.ID, err) //nolint:staticcheck // Docker's text
	}
	hc := *v.Host
	mergeResources(&hc.Resources, &req.Resources)
	if err := spec.CheckResources(&hc.Resources); err != nil {
		return err
	}
	spec.AdaptResources(&hc.Resources)
	if req.RestartPolicy.Name != "" {
		if err := container.ValidateRestartPolicy(req.RestartPolicy); err != nil {
			return invalid("%v", err)
		}
		if hc.AutoRemove && !req.RestartPolicy.IsNone() {
			return conflict("Cannot update container %s: Restart policy cannot be updated because AutoRemove is enabled for the container", v.ID)
		}
		hc.RestartPolicy = req.RestartPolicy
	}
	before := *v.Host
	if err := c.update(s.st, func(v *view) { v.Host = &hc }); err != nil {
		return err
	}
	failpoint.Hit("container.update.recorded")
	if v.State.Running && v.Task != nil {
		if err := v.Task.Update(ctx, spec.Limits(&hc.Resources)); err != nil {
			if back := c.update(s.st, func(v *view) { v.Host = &before }); back != nil {
				s.cfg.Log.Error("undo update", "container", v.ID, "err", back)
			}
			return fmt.Errorf("Cannot update container %s: %w", v.ID, err) //nolint:staticcheck // Docker's text
		}
	}
	failpoint.Hit("container.update.applied")
	s.publish(c.view(), events.ActionUpdate)
	return nil
}

// exclusive refuses to set processors in one way where they are set in the other.
func exclusive(have, want *container.Resources) error {
	for _, c := range []struct {
		clash      bool
		want, have string
	}{
		{want.NanoCPUs > 0 && have.CPUPeriod > 0, "Nano CPUs", "CPU Period"},
		{want.NanoCPUs > 0 && have.CPUQuota > 0, "Nano CPUs", "CPU Quota"},
		{want.CPUPeriod > 0 && have.NanoCPUs > 0, "CPU Period", "NanoCPUs"},
		{want.CPUQuota > 0 && have.NanoCPUs > 0, "CPU Quota", "NanoCPUs"},
	} {
		if c.clash {
			return conflict("Conflicting options: %s cannot be updated as %s has already been set", c.want, c.have)
		}
	}
	return nil
}

// mergeResources takes over what the client named.
func mergeResources(have, want *container.Resources) {
	set := func(dst *int64, v int64) {
		if v != 0 {
			*dst = v
		}
	}
	set(&have.CPUShares, want.CPUShares)
	set(&have.NanoCPUs, want.NanoCPUs)
	set(&have.CPUPeriod, want.CPUPeriod)
	set(&have.CPUQuota, want.CPUQuota)
	if want.Memory != 0 && want.MemorySwap == 0 && have.MemorySwap == 2*have.Memory {
		have.MemorySwap = 0 // it was derived, so it is derived again
	}
	set(&have.Memory, want.Memory)
	set(&have.MemorySwap, want.MemorySwap)
	set(&have.MemoryReservation, want.MemoryReservation)
	if want.BlkioWeight != 0 {
		have.BlkioWeight = want.BlkioWeight
	}
	if want.CpusetCpus != "" {
		have.CpusetCpus = want.CpusetCpus
	}
	if want.CpusetMems != "" {
		have.CpusetMems = want.CpusetMems
	}
	if want.PidsLimit != nil {
		p := *want.PidsLimit
		have.PidsLimit = &p
	}
}
