package metrics

import (
	"sort"

	v1 "github.com/containerd/cgroups/v3/cgroup1/stats"
	"github.com/opencontainers/cgroups"
)

// V1 makes the cgroup v1 message.
func V1(s *cgroups.Stats) *v1.Metrics {
	b := s.BlkioStats
	m := &v1.Metrics{
		Pids:   &v1.PidsStat{Current: s.PidsStats.Current, Limit: s.PidsStats.Limit},
		CPU:    cpuV1(s),
		Memory: memoryV1(s),
		Blkio: &v1.BlkIOStat{
			IoServiceBytesRecursive: blkioV1(b.IoServiceBytesRecursive),
			IoServicedRecursive:     blkioV1(b.IoServicedRecursive),
			IoQueuedRecursive:       blkioV1(b.IoQueuedRecursive),
			IoServiceTimeRecursive:  blkioV1(b.IoServiceTimeRecursive),
			IoWaitTimeRecursive:     blkioV1(b.IoWaitTimeRecursive),
			IoMergedRecursive:       blkioV1(b.IoMergedRecursive),
			IoTimeRecursive:         blkioV1(b.IoTimeRecursive),
			SectorsRecursive:        blkioV1(b.SectorsRecursive),
		},
		Rdma: &v1.RdmaStat{Current: rdmaV1(s.RdmaStats.RdmaCurrent), Limit: rdmaV1(s.RdmaStats.RdmaLimit)},
	}
	for size, h := range s.HugetlbStats {
		m.Hugetlb = append(m.Hugetlb, &v1.HugetlbStat{Usage: h.Usage, Max: h.MaxUsage, Failcnt: h.Failcnt, Pagesize: size})
	}
	sort.Slice(m.Hugetlb, func(i, j int) bool { return m.Hugetlb[i].Pagesize < m.Hugetlb[j].Pagesize })
	return m
}

func cpuV1(s *cgroups.Stats) *v1.CPUStat {
	u, t := s.CpuStats.CpuUsage, s.CpuStats.ThrottlingData
	return &v1.CPUStat{
		Usage:      &v1.CPUUsage{Total: u.TotalUsage, Kernel: u.UsageInKernelmode, User: u.UsageInUsermode, PerCPU: u.PercpuUsage},
		Throttling: &v1.Throttle{Periods: t.Periods, ThrottledPeriods: t.ThrottledPeriods, ThrottledTime: t.ThrottledTime},
	}
}

func memoryV1(s *cgroups.Stats) *v1.MemoryStat {
	m, st := s.MemoryStats, s.MemoryStats.Stats
	entry := func(d cgroups.MemoryData) *v1.MemoryEntry {
		return &v1.MemoryEntry{Limit: d.Limit, Usage: d.Usage, Max: d.MaxUsage, Failcnt: d.Failcnt}
	}
	return &v1.MemoryStat{
		Cache:                   st["cache"],
		RSS:                     st["rss"],
		RSSHuge:                 st["rss_huge"],
		MappedFile:              st["mapped_file"],
		Dirty:                   st["dirty"],
		Writeback:               st["writeback"],
		PgPgIn:                  st["pgpgin"],
		PgPgOut:                 st["pgpgout"],
		PgFault:                 st["pgfault"],
		PgMajFault:              st["pgmajfault"],
		InactiveAnon:            st["inactive_anon"],
		ActiveAnon:              st["active_anon"],
		InactiveFile:            st["inactive_file"],
		ActiveFile:              st["active_file"],
		Unevictable:             st["unevictable"],
		HierarchicalMemoryLimit: st["hierarchical_memory_limit"],
		HierarchicalSwapLimit:   st["hierarchical_memsw_limit"],
		TotalCache:              st["total_cache"],
		TotalRSS:                st["total_rss"],
		TotalRSSHuge:            st["total_rss_huge"],
		TotalMappedFile:         st["total_mapped_file"],
		TotalDirty:              st["total_dirty"],
		TotalWriteback:          st["total_writeback"],
		TotalPgPgIn:             st["total_pgpgin"],
		TotalPgPgOut:            st["total_pgpgout"],
		TotalPgFault:            st["total_pgfault"],
		TotalPgMajFault:         st["total_pgmajfault"],
		TotalInactiveAnon:       st["total_inactive_anon"],
		TotalActiveAnon:         st["total_active_anon"],
		TotalInactiveFile:       st["total_inactive_file"],
		TotalActiveFile:         st["total_active_file"],
		TotalUnevictable:        st["total_unevictable"],
		Usage:                   entry(m.Usage),
		Swap:                    entry(m.SwapUsage),
		Kernel:                  entry(m.KernelUsage),
		KernelTCP:               entry(m.KernelTCPUsage),
	}
}

func blkioV1(in []cgroups.BlkioStatEntry) []*v1.BlkIOEntry {
	out := make([]*v1.BlkIOEntry, 0, len(in))
	for _, e := range in {
		out = append(out, &v1.BlkIOEntry{Op: e.Op, Major: e.Major, Minor: e.Minor, Value: e.Value})
	}
	return out
}

func rdmaV1(in []cgroups.RdmaEntry) []*v1.RdmaEntry {
	var out []*v1.RdmaEntry
	for _, e := range in {
		out = append(out, &v1.RdmaEntry{Device: e.Device, HcaHandles: e.HcaHandles, HcaObjects: e.HcaObjects})
	}
	return out
}
