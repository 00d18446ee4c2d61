package command

import (
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"os"
	"time"

	"github.com/opencontainers/cgroups"
	"github.com/opencontainers/runc/libcontainer"
	"github.com/opencontainers/runc/types"
)

func eventsVerb(fs *flag.FlagSet, g *globals) func([]string) (int, error) {
	interval := fs.Duration("interval", 5*time.Second, "time between statistics")
	once := fs.Bool("stats", false, "print statistics once")
	return func(args []string) (int, error) {
		c, err := g.load(args[0])
		if err != nil {
			return -1, err
		}
		if *interval <= 0 {
			return -1, errors.New("--interval must be greater than 0")
		}
		status, err := c.Status()
		if err != nil {
			return -1, err
		}
		if status == libcontainer.Stopped {
			return -1, fmt.Errorf("container with id %s is not running", c.ID())
		}
		enc := json.NewEncoder(os.Stdout)
		stats := func() error {
			s, err := c.Stats()
			if err != nil {
				return err
			}
			return enc.Encode(&types.Event{Type: "stats", ID: c.ID(), Data: convert(s)})
		}
		if *once {
			return 0, stats()
		}
		return 0, follow(c, enc, *interval, stats)
	}
}

// follow prints until the container has ended.
func follow(c *libcontainer.Container, enc *json.Encoder, every time.Duration, stats func() error) error {
	oom, err := c.NotifyOOM()
	if err != nil {
		return err
	}
	tick := time.NewTicker(every)
	defer tick.Stop()
	for {
		select {
		case _, ok := <-oom:
			if !ok {
				return nil // the cgroup is gone
			}
			if err := enc.Encode(&types.Event{Type: "oom", ID: c.ID()}); err != nil {
				return err
			}
		case <-tick.C:
			if status, err := c.Status(); err != nil || status == libcontainer.Stopped {
				return err
			}
			if err := stats(); err != nil {
				return err
			}
		}
	}
}

// convert makes the structure that runc prints.
func convert(s *libcontainer.Stats) *types.Stats {
	cg := s.CgroupStats
	if cg == nil {
		return nil
	}
	out := &types.Stats{NetworkInterfaces: s.Interfaces, CPUSet: types.CPUSet(cg.CPUSetStats)}
	out.Pids.Current, out.Pids.Limit = cg.PidsStats.Current, cg.PidsStats.Limit

	u, t := cg.CpuStats.CpuUsage, cg.CpuStats.ThrottlingData
	out.CPU.Usage.Total, out.CPU.Usage.Kernel, out.CPU.Usage.User = u.TotalUsage, u.UsageInKernelmode, u.UsageInUsermode
	out.CPU.Usage.Percpu, out.CPU.Usage.PercpuKernel, out.CPU.Usage.PercpuUser = u.PercpuUsage, u.PercpuUsageInKernelmode, u.PercpuUsageInUsermode
	out.CPU.Throttling.Periods, out.CPU.Throttling.ThrottledPeriods, out.CPU.Throttling.ThrottledTime = t.Periods, t.ThrottledPeriods, t.ThrottledTime
	out.CPU.PSI = cg.CpuStats.PSI

	m := cg.MemoryStats
	out.Memory.Cache, out.Memory.Raw, out.Memory.PSI = m.Cache, m.Stats, m.PSI
	out.Memory.Usage, out.Memory.Swap = memory(m.Usage), memory(m.SwapUsage)
	out.Memory.Kernel, out.Memory.KernelTCP = memory(m.KernelUsage), memory(m.KernelTCPUsage)

	b := cg.BlkioStats
	out.Blkio.IoServiceBytesRecursive = blkio(b.IoServiceBytesRecursive)
	out.Blkio.IoServicedRecursive = blkio(b.IoServicedRecursive)
	out.Blkio.IoQueuedRecursive = blkio(b.IoQueuedRecursive)
	out.Blkio.IoServiceTimeRecursive = blkio(b.IoServiceTimeRecursive)
	out.Blkio.IoWaitTimeRecursive = blkio(b.IoWaitTimeRecursive)
	out.Blkio.IoMergedRecursive = blkio(b.IoMergedRecursive)
	out.Blkio.IoTimeRecursive = blkio(b.IoTimeRecursive)
	out.Blkio.SectorsRecursive = blkio(b.SectorsRecursive)
	out.Blkio.PSI = b.PSI

	out.Hugetlb = map[string]types.Hugetlb{}
	for k, v := range cg.HugetlbStats {
		out.Hugetlb[k] = types.Hugetlb{Usage: v.Usage, Max: v.MaxUsage, Failcnt: v.Failcnt}
	}
	return out
}

func memory(d cgroups.MemoryData) types.MemoryEntry {
	return types.MemoryEntry{Limit: d.Limit, Usage: d.Usage, Max: d.MaxUsage, Failcnt: d.Failcnt}
}

func blkio(in []cgroups.BlkioStatEntry) []types.BlkioEntry {
	out := make([]types.BlkioEntry, 0, len(in))
	for _, e := range in {
		out = append(out, types.BlkioEntry(e))
	}
	return out
}
