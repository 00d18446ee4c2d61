package oci

import (
	"errors"

	"github.com/opencontainers/cgroups"
	"github.com/opencontainers/runc/libcontainer"
	"github.com/opencontainers/runtime-spec/specs-go"
)

// Update changes the limits of a running container. A nil field of r leaves
// that limit alone.
func Update(c *libcontainer.Container, r *specs.LinuxResources) error {
	if r == nil {
		return errors.New("update without resources")
	}
	config := c.Config()
	// The cgroup configuration is shared with the container by pointer, and a
	// refused update must leave it as it was.
	cg := *config.Cgroups
	res := *cg.Resources
	cg.Resources = &res
	config.Cgroups = &cg

	if m := r.Memory; m != nil {
		set(&res.Memory, m.Limit)
		set(&res.MemoryReservation, m.Reservation)
		set(&res.MemorySwap, m.Swap)
		set(&res.MemoryCheckBeforeUpdate, m.CheckBeforeUpdate)
		if m.Limit != nil && *m.Limit == -1 && m.Swap == nil {
			// The kernel refuses a swap limit without a memory limit.
			res.MemorySwap = 0
		}
	}
	if cpu := r.CPU; cpu != nil {
		set(&res.CpuPeriod, cpu.Period)
		set(&res.CpuQuota, cpu.Quota)
		set(&res.CpuRtPeriod, cpu.RealtimePeriod)
		set(&res.CpuRtRuntime, cpu.RealtimeRuntime)
		if cpu.Burst != nil {
			res.CpuBurst = cpu.Burst
		}
		if cpu.Idle != nil {
			res.CPUIdle = cpu.Idle
			if cpu.Shares == nil {
				// cpu.weight cannot be written while cpu.idle is 1.
				res.CpuShares, res.CpuWeight = 0, 0
			}
		}
		if cpu.Shares != nil {
			res.CpuShares = *cpu.Shares
			res.CpuWeight = cgroups.ConvertCPUSharesToCgroupV2Value(*cpu.Shares)
		}
		if cpu.Cpus != "" {
			res.CpusetCpus = cpu.Cpus
		}
		if cpu.Mems != "" {
			res.CpusetMems = cpu.Mems
		}
	}
	if b := r.BlockIO; b != nil {
		set(&res.BlkioWeight, b.Weight)
		set(&res.BlkioLeafWeight, b.LeafWeight)
		for _, d := range b.WeightDevice {
			res.BlkioWeightDevice = setWeight(res.BlkioWeightDevice, d)
		}
		res.BlkioThrottleReadBpsDevice = setThrottle(res.BlkioThrottleReadBpsDevice, b.ThrottleReadBpsDevice)
		res.BlkioThrottleWriteBpsDevice = setThrottle(res.BlkioThrottleWriteBpsDevice, b.ThrottleWriteBpsDevice)
		res.BlkioThrottleReadIOPSDevice = setThrottle(res.BlkioThrottleReadIOPSDevice, b.ThrottleReadIOPSDevice)
		res.BlkioThrottleWriteIOPSDevice = setThrottle(res.BlkioThrottleWriteIOPSDevice, b.ThrottleWriteIOPSDevice)
	}
	if r.Pids != nil && r.Pids.Limit != nil {
		res.PidsLimit = r.Pids.Limit
	}
	if r.Unified != nil {
		res.Unified = r.Unified
	}
	// An update does not touch the device rules: somebody else may have added
	// to them. The flag is not kept in the container's state.
	res.SkipDevices = true
	if err := c.Set(config); err != nil {
		return err
	}
	res.SkipDevices = false
	return nil
}

func set[T any](dst *T, src *T) {
	if src != nil {
		*dst = *src
	}
}

func setWeight(list []*cgroups.WeightDevice, d specs.LinuxWeightDevice) []*cgroups.WeightDevice {
	n := cgroups.NewWeightDevice(d.Major, d.Minor, 0, 0)
	out := make([]*cgroups.WeightDevice, 0, len(list)+1)
	for _, e := range list {
		if e.Major == d.Major && e.Minor == d.Minor {
			n.Weight, n.LeafWeight = e.Weight, e.LeafWeight
			continue
		}
		out = append(out, e)
	}
	set(&n.Weight, d.Weight)
	set(&n.LeafWeight, d.LeafWeight)
	return append(out, n)
}

func setThrottle(list []*cgroups.ThrottleDevice, changes []specs.LinuxThrottleDevice) []*cgroups.ThrottleDevice {
	for _, d := range changes {
		out := make([]*cgroups.ThrottleDevice, 0, len(list)+1)
		for _, e := range list {
			if e.Major != d.Major || e.Minor != d.Minor {
				out = append(out, e)
			}
		}
		list = append(out, cgroups.NewThrottleDevice(d.Major, d.Minor, d.Rate))
	}
	return list
}
