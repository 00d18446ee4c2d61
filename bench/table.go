package main

import (
	"fmt"
	"io"
)

// row is a line of the table: what was measured, beside the budget and the most that is hoped for.
type row struct {
	what                       string
	format                     string // of each number
	measured, budget, moonshot float64
}

func rows(r *Result) []row {
	return []row{
		{"m1 all up", "%.3f s", r.M1.AllUp, 0.40, 0.20},
		{"m5 all up", "%.3f s", r.M5.AllUp, 0.65, 0.32},
		{"m20 all up", "%.3f s", r.M20.AllUp, 1.50, 0.70},
		{"each further service", "%.0f ms", r.Each * 1000, 60, 27},
		{"m1 all up from kernel start", "%.2f s", r.M1.FromKernel, 2.9, 2.3},
		{"root handed over", "%.1f ms", r.Handover * 1000, 10, 2},
		{"memory in use m0", "%.1f MB", r.M0.MemoryUsed, 95, 70},
		{"memory in use m1", "%.1f MB", r.M1.MemoryUsed, 97, 72},
		{"memory in use m5", "%.1f MB", r.M5.MemoryUsed, 100, 74},
		{"memory in use m20", "%.1f MB", r.M20.MemoryUsed, 110, 80},
		{"least RAM that boots m1", "%.0f MiB", float64(r.LeastRAM), 128, 96},
		{"idle m20: context switches", "%.1f /s", r.M20.SwitchesSec, 20, 5},
		{"idle m20: CPU", "%.2f %%", r.M20.CPUPercent, 0.2, 0.05},
		{"dead service -> running again", "%.0f ms", r.Restart * 1000, 90, 40},
		{"poweroff -> power down", "%.3f s", r.Poweroff, 0.5, 0.2},
		{"init + runtime files", "%.1f MB", r.Runtime, 30, 24},
		{"m1 initrd, gzip", "%.1f MB", r.Initrd, 14, 11},
	}
}

func printTable(w io.Writer, r *Result) {
	fmt.Fprintf(w, "\n%-32s %12s %12s %12s\n", "", "measured", "budget", "moonshot")
	for _, row := range rows(r) {
		mark := ""
		switch {
		case row.measured > row.budget:
			mark = "over budget"
		case row.measured <= row.moonshot:
			mark = "moonshot"
		}
		fmt.Fprintf(w, "%-32s %12s %12s %12s  %s\n", row.what, fmt.Sprintf(row.format, row.measured),
			fmt.Sprintf(row.format, row.budget), fmt.Sprintf(row.format, row.moonshot), mark)
	}
}
