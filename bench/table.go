package main

import (
	"fmt"
	"io"
)

// row is a line of the table: what was measured, beside the budget and the most that is hoped for.
type row struct {
	what                       string
	format                     string  // of each number
	measured, budget, moonshot float64 // 0 is none
}

func rows(r *Result) []row {
	all := bootRows(r)
	all = append(all, []row{
		{"  m20 with full logs, without them", "%.1f MB", r.Talked.MemoryUsed - r.Talked.PerCPU, 0, 0},
		{"    of it the ring", "%.1f MB", r.Talked.LogRing, 0, 0},
		{"    of it log files", "%.1f MB", r.Talked.LogFiles, 0, 0},
		{"least RAM that boots m1", "%.0f MiB", float64(r.LeastRAM), 96, 80},
		{"idle m20: context switches", "%.1f /s", r.M20.SwitchesSec, 10, 5},
		{"idle m20: CPU", "%.2f %%", r.M20.CPUPercent, 0.01, 0.01},
		{"  with full logs: switches", "%.1f /s", r.Talked.SwitchesSec, 0, 0},
		{"  with full logs: CPU", "%.2f %%", r.Talked.CPUPercent, 0, 0},
	}...)
	all = append(all, wallRows(r)...)
	all = append(all, supervisionRows(r)...)
	return append(all, []row{
		{"poweroff -> power down", "%.3f s", r.Poweroff, 0.07, 0.05},
	}...)
}

// bootRows are those of what a boot takes.
func bootRows(r *Result) []row {
	return []row{
		{"m1 all up", "%.3f s", r.M1.AllUp, 0.195, 0.15},
		{"m5 all up", "%.3f s", r.M5.AllUp, 0.27, 0.21},
		{"m20 all up", "%.3f s", r.M20.AllUp, 0.56, 0.45},
		{"each further service", "%.1f ms", r.Each * 1000, 18.5, 12},
		{"m1 all up from kernel start", "%.2f s", r.M1.FromKernel, 1.85, 1.75},
		{"root handed over", "%.1f ms", r.Handover * 1000, 4, 2},
		{"memory in use m0", "%.1f MB", r.M0.MemoryUsed, 66, 60},
		{"memory in use m1", "%.1f MB", r.M1.MemoryUsed, 72, 64},
		{"memory in use m5", "%.1f MB", r.M5.MemoryUsed, 74, 66},
		{"memory in use m20", "%.1f MB", r.M20.MemoryUsed, 82, 72},
		{"  m0 without free pages per CPU", "%.1f MB", r.M0.MemoryUsed - r.M0.PerCPU, 0, 0},
		{"  m1 without them", "%.1f MB", r.M1.MemoryUsed - r.M1.PerCPU, 0, 0},
		{"  m5 without them", "%.1f MB", r.M5.MemoryUsed - r.M5.PerCPU, 0, 0},
		{"  m20 without them", "%.1f MB", r.M20.MemoryUsed - r.M20.PerCPU, 0, 0},
		{"memory available m1", "%.1f MB", r.M1.Available, 0, 0},
		{"memory available m20", "%.1f MB", r.M20.Available, 0, 0},
		{"init + runtime files", "%.1f MB", r.Runtime, 25, 22},
		{"m1 initrd, LZ4", "%.1f MB", r.Initrd, 13.5, 12},
	}
}

// wallRows are those of what the hardening of containers adds.
func wallRows(r *Result) []row {
	return []row{
		{"walls: each further service", "%.1f ms", r.Walls.Start * 1000, 2, 0},
		{"walls: memory of m20", "%.1f MB", r.Walls.Memory, 1, 0},
	}
}

// supervisionRows are those of how services are kept.
func supervisionRows(r *Result) []row {
	return []row{
		{"dead service -> running again", "%.0f ms", r.Restart * 1000, 22, 15},
		{"dead service -> ready again", "%.0f ms", r.Ready * 1000, 0, 0},
		{"20 services in chains of 5", "%.3f s", r.Chains, 0, 0},
		{"restart storm: supervisor's CPU", "%.1f %%", r.Storm.CPUPercent, 10, 0},
		{"restart storm: its memory grows", "%.1f MB", r.Storm.GrownMB, 0, 0},
		{"restart storm: restarts", "%.1f /s", r.Storm.RestartsSec, 0, 0},
		{"restart storm: dead -> running", "%.0f ms", r.Storm.Restart * 1000, 0, 0},
	}
}

func printTable(w io.Writer, rows []row) {
	fmt.Fprintf(w, "\n%-35s %12s %12s %12s\n", "", "measured", "budget", "moonshot")
	for _, row := range rows {
		mark := ""
		switch {
		case row.budget == 0:
		case row.measured > row.budget:
			mark = "over budget"
		case row.measured <= row.moonshot:
			mark = "moonshot"
		}
		fmt.Fprintf(w, "%-35s %12s %12s %12s  %s\n", row.what, row.number(row.measured),
			row.aim(row.budget), row.aim(row.moonshot), mark)
	}
}

func (r row) number(n float64) string { return fmt.Sprintf(r.format, n) }

// aim is a number that is to be reached, or a dash where none was set.
func (r row) aim(n float64) string {
	if n == 0 {
		return "-"
	}
	return r.number(n)
}
