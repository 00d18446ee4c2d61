package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"regexp"
	"slices"
	"strings"
)

// Many is what is measured of a machine with hundreds of services. Times in seconds of
// the guest.
type Many struct {
	Services int     `json:"services"`
	First    float64 `json:"first_s"`       // from the kernel's start of /init to the first service's exec
	AllUp    float64 `json:"all_up_s"`      // to the last service's
	Head     float64 `json:"head_each_s"`   // what each of the first hundred after the first costs
	Tail     float64 `json:"tail_each_s"`   // what each of the last hundred costs
	Memory   float64 `json:"mem_used_mb"`   // MemTotal - MemFree with all running, caches dropped, without PerCPU
	PerCPU   float64 `json:"mem_percpu_mb"` // free pages that the kernel keeps ready for each CPU
	Poweroff float64 `json:"poweroff_s"`    // from the signal to PID 1 to the kernel's "Power down"
	Warnings int     `json:"warnings"`      // of the kernel
}

// manyScript measures the memory when all are up, and ends the machine. Warnings of the
// kernel come to the console by themselves: quiet lets those of level 3 and below through.
const manyScript = `(
		b=/bench/busybox
		while ! [ -e /run/keelson/timeline.json ] || ! $b grep -q '"complete":[1-9]' /run/keelson/timeline.json; do $b sleep 5; done
		$b sleep 10` + memoryProbe + `		$b dmesg | while read line; do
			case $line in *"soft lockup"* | *"WARNING:"* | *"BUG:"* | *"blocked for more than"* | *"rcu_sched self-detected"*) echo "bench: warning: 1" ;; esac
		done >/dev/console
		$b sleep 1
		echo '<1>bench: off' >/dev/kmsg
		$b kill -USR2 1
		) &
`

// many measures a machine with so many services.
func (b *bench) many(ctx context.Context, services, memoryMB, cpus int, offset float64) (*Many, error) {
	ctx, cancel := context.WithTimeout(ctx, bound)
	defer cancel()
	m, err := b.bootWith(ctx, fmt.Sprintf("m%d", services), shape(services, probe(manyScript)), memoryMB, cpus)
	if err != nil {
		return nil, err
	}
	defer m.Close()
	if _, err := m.Await(ctx, `reboot: Power down`); err != nil {
		return nil, err
	}
	r := &Many{Services: services}
	started, off, down, total, free := -1.0, 0.0, 0.0, 0.0, 0.0
	var ups []float64
	for _, line := range m.Console.Lines(0) {
		if found := runInit.FindStringSubmatch(line); found != nil {
			started = seconds(found[1]) - offset
		}
		if found := running.FindStringSubmatch(line); found != nil {
			ups = append(ups, seconds(found[1]))
		}
		if found := kernelAt.FindStringSubmatch(line); found != nil {
			switch {
			case found[2] == "bench: off":
				off = seconds(found[1])
			case strings.HasPrefix(found[2], "reboot: Power down"):
				down = seconds(found[1])
			}
		}
		if found := benchLine.FindStringSubmatch(line); found != nil {
			switch found[1] {
			case "MemTotal":
				total = seconds(found[2])
			case "MemFree":
				free = seconds(found[2])
			case "percpu":
				r.PerCPU = seconds(found[2]) * float64(os.Getpagesize()) / megabyte
			case "warning":
				r.Warnings++
			}
		}
	}
	switch {
	case started < 0 || off == 0 || down == 0 || total == 0:
		return nil, errors.New("the console does not show what is measured:\n" + m.Console.String())
	case len(ups) != services:
		return nil, fmt.Errorf("%d of %d services came up:\n%s", len(ups), services, m.Console)
	}
	slices.Sort(ups)
	r.First, r.AllUp = ups[0]-started, ups[len(ups)-1]-started
	const hundred = 100
	head, tail := min(hundred, services-1), min(hundred, services-1)
	r.Head = (ups[head] - ups[0]) / float64(head)
	r.Tail = (ups[services-1] - ups[services-1-tail]) / float64(tail)
	// How many free pages those are is chance, and 15 MB more or less from one seed to the next.
	r.Memory = ((total-free)*1024-b.shell)/megabyte - r.PerCPU
	r.Poweroff = down - off
	return r, nil
}

var benchLine = regexp.MustCompile(`^bench: (\w+): *(\d+)`)

// measureMany measures them, with a clock that counts instructions or, where there are
// several CPUs, by the host's time.
func (b *bench) measureMany(ctx context.Context, services []int, cpus int) ([]*Many, error) {
	if err := b.weighShell(); err != nil {
		return nil, err
	}
	offset := 0.0
	if cpus == 1 {
		var err error
		if offset, err = b.offset(ctx); err != nil {
			return nil, err
		}
	}
	var all []*Many
	for _, n := range services {
		say("m%d", n)
		memoryMB := 1024
		if n > 200 {
			memoryMB = 4096
		}
		r, err := b.many(ctx, n, memoryMB, cpus, offset)
		if err != nil {
			return nil, fmt.Errorf("m%d: %w", n, err)
		}
		all = append(all, r)
	}
	return all, nil
}

func printMany(w io.Writer, all []*Many) {
	fmt.Fprintf(w, "\n%-6s %12s %12s %18s %18s %12s %15s %12s %16s\n", "", "first up", "all up", "each of first 100", "each of last 100", "memory", "free per CPU", "poweroff", "kernel warnings")
	for _, r := range all {
		fmt.Fprintf(w, "m%-5d %10.3f s %10.3f s %15.1f ms %15.1f ms %9.1f MB %12.1f MB %10.3f s %16d\n",
			r.Services, r.First, r.AllUp, r.Head*1000, r.Tail*1000, r.Memory, r.PerCPU, r.Poweroff, r.Warnings)
	}
}
