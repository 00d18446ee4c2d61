// Package metrics turns libcontainer's statistics of a container into the
// messages containerd's clients expect: io.containerd.cgroups.v2.Metrics, or
// the v1 one where the host has cgroup v1.
package metrics

import (
	"math"
	"sort"

	v2 "github.com/containerd/cgroups/v3/cgroup2/stats"
	"github.com/opencontainers/cgroups"
)

// V2 makes the cgroup v2 message. events are the lines of memory.events.
func V2(s *cgroups.Stats, events map[string]uint64) *v2.Metrics {
	m := &v2.Metrics{
		Pids:   &v2.PidsStat{Current: s.PidsStats.Current, Limit: limit(s.PidsStats.Limit)},
		CPU:    cpuV2(s),
		Memory: memoryV2(s),
		Io:     ioV2(s),
		MemoryEvents: &v2.MemoryEvents{
			Low:          events["low"],
			High:         events["high"],
			Max:          events["max"],
			Oom:          events["oom"],
			OomKill:      events["oom_kill"],
			OomGroupKill: events["oom_group_kill"],
		},
		Rdma: &v2.RdmaStat{Current: rdmaV2(s.RdmaStats.RdmaCurrent), Limit: rdmaV2(s.RdmaStats.RdmaLimit)},
	}
	for size, h := range s.HugetlbStats {
		m.Hugetlb = append(m.Hugetlb, &v2.HugeTlbStat{
			Current: h.Usage, Max: h.MaxUsage, Failcnt: h.Failcnt, Pagesize: size,
		})
	}
	sort.Slice(m.Hugetlb, func(i, j int) bool { return m.Hugetlb[i].Pagesize < m.Hugetlb[j].Pagesize })
	return m
}

func cpuV2(s *cgroups.Stats) *v2.CPUStat {
	c := s.CpuStats
	return &v2.CPUStat{
		UsageUsec:     c.CpuUsage.TotalUsage / 1000,
		UserUsec:      c.CpuUsage.UsageInUsermode / 1000,
		SystemUsec:    c.CpuUsage.UsageInKernelmode / 1000,
		NrPeriods:     c.ThrottlingData.Periods,
		NrThrottled:   c.ThrottlingData.ThrottledPeriods,
		ThrottledUsec: c.ThrottlingData.ThrottledTime / 1000,
		NrBursts:      c.BurstData.BurstsPeriods,
		BurstUsec:     c.BurstData.BurstTime / 1000,
		PSI:           psi(c.PSI),
	}
}

func memoryV2(s *cgroups.Stats) *v2.MemoryStat {
	m, st := s.MemoryStats, s.MemoryStats.Stats
	return &v2.MemoryStat{
		Anon:                  st["anon"],
		File:                  st["file"],
		KernelStack:           st["kernel_stack"],
		Slab:                  st["slab"],
		Sock:                  st["sock"],
		Shmem:                 st["shmem"],
		FileMapped:            st["file_mapped"],
		FileDirty:             st["file_dirty"],
		FileWriteback:         st["file_writeback"],
		AnonThp:               st["anon_thp"],
		InactiveAnon:          st["inactive_anon"],
		ActiveAnon:            st["active_anon"],
		InactiveFile:          st["inactive_file"],
		ActiveFile:            st["active_file"],
		Unevictable:           st["unevictable"],
		SlabReclaimable:       st["slab_reclaimable"],
		SlabUnreclaimable:     st["slab_unreclaimable"],
		Pgfault:               st["pgfault"],
		Pgmajfault:            st["pgmajfault"],
		WorkingsetRefault:     st["workingset_refault_anon"] + st["workingset_refault_file"],
		WorkingsetActivate:    st["workingset_activate_anon"] + st["workingset_activate_file"],
		WorkingsetNodereclaim: st["workingset_nodereclaim"],
		Pgrefill:              st["pgrefill"],
		Pgscan:                st["pgscan"],
		Pgsteal:               st["pgsteal"],
		Pgactivate:            st["pgactivate"],
		Pgdeactivate:          st["pgdeactivate"],
		Pglazyfree:            st["pglazyfree"],
		Pglazyfreed:           st["pglazyfreed"],
		ThpFaultAlloc:         st["thp_fault_alloc"],
		ThpCollapseAlloc:      st["thp_collapse_alloc"],
		Usage:                 m.Usage.Usage,
		UsageLimit:            m.Usage.Limit,
		MaxUsage:              m.Usage.MaxUsage,
		SwapUsage:             m.SwapOnlyUsage.Usage,
		SwapLimit:             m.SwapOnlyUsage.Limit,
		SwapMaxUsage:          m.SwapOnlyUsage.MaxUsage,
		PSI:                   psi(m.PSI),
	}
}

// ioV2 gathers the entries of one device, which libcontainer keeps apart.
func ioV2(s *cgroups.Stats) *v2.IOStat {
	type key struct{ major, minor uint64 }
	byDev := map[key]*v2.IOEntry{}
	var order []key
	entry := func(e cgroups.BlkioStatEntry) *v2.IOEntry {
		k := key{e.Major, e.Minor}
		if byDev[k] == nil {
			byDev[k] = &v2.IOEntry{Major: e.Major, Minor: e.Minor}
			order = append(order, k)
		}
		return byDev[k]
	}
	for _, e := range s.BlkioStats.IoServiceBytesRecursive {
		switch e.Op {
		case "Read":
			entry(e).Rbytes = e.Value
		case "Write":
			entry(e).Wbytes = e.Value
		}
	}
	for _, e := range s.BlkioStats.IoServicedRecursive {
		switch e.Op {
		case "Read":
			entry(e).Rios = e.Value
		case "Write":
			entry(e).Wios = e.Value
		}
	}
	out := &v2.IOStat{PSI: psi(s.BlkioStats.PSI)}
	for _, k := range order {
		out.Usage = append(out.Usage, byDev[k])
	}
	return out
}

func rdmaV2(in []cgroups.RdmaEntry) []*v2.RdmaEntry {
	var out []*v2.RdmaEntry
	for _, e := range in {
		out = append(out, &v2.RdmaEntry{Device: e.Device, HcaHandles: e.HcaHandles, HcaObjects: e.HcaObjects})
	}
	return out
}

func psi(p *cgroups.PSIStats) *v2.PSIStats {
	if p == nil {
		return nil
	}
	data := func(d cgroups.PSIData) *v2.PSIData {
		return &v2.PSIData{Avg10: d.Avg10, Avg60: d.Avg60, Avg300: d.Avg300, Total: d.Total}
	}
	return &v2.PSIStats{Some: data(p.Some), Full: data(p.Full)}
}

// limit is how containerd writes "no limit", which libcontainer writes as 0.
func limit(n uint64) uint64 {
	if n == 0 {
		return math.MaxUint64
	}
	return n
}
