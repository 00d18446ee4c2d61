package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"math"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"time"

	"keelson/internal/qemu"
)

// bound is how long one measured boot may take on the host.
const bound = 30 * time.Minute

// megabyte is what sizes and memory are told in.
const megabyte = 1e6

// Shape is what is measured of a number of services. Times in seconds of the guest.
type Shape struct {
	AllUp       float64 `json:"all_up_s"`         // from the kernel's start of /init to the last service's exec
	FromKernel  float64 `json:"from_kernel_s"`    // from the kernel's start
	MemoryUsed  float64 `json:"mem_used_mb"`      // MemTotal - MemFree, 15 s after the boot, caches dropped
	PerCPU      float64 `json:"mem_percpu_mb"`    // of it free pages that the kernel keeps ready for each CPU
	Available   float64 `json:"mem_available_mb"` // MemAvailable at the same moment
	LogRing     float64 `json:"log_ring_mb"`      // of it what has been logged, in the ring
	LogFiles    float64 `json:"log_files_mb"`     // and in files
	SwitchesSec float64 `json:"idle_switches_per_s,omitempty"`
	CPUPercent  float64 `json:"idle_cpu_percent,omitempty"`
}

// Result is build/bench.json.
type Result struct {
	M0       Shape   `json:"m0"`
	M1       Shape   `json:"m1"`
	M5       Shape   `json:"m5"`
	M20      Shape   `json:"m20"`
	Talked   Shape   `json:"m20_talked"`     // after each of the services has written more than its log holds
	Each     float64 `json:"each_service_s"` // what a further service costs, from m5 to m20
	Walls    *Walls  `json:"walls"`
	Handover float64 `json:"handover_s"`      // from the start of /init to that of the next stage
	Restart  float64 `json:"restart_s"`       // from the death of a healthy service to its exec
	Ready    float64 `json:"restart_ready_s"` // from the death of a healthy service to its being ready, by a port
	Chains   float64 `json:"chains_all_up_s"` // of 20 services in chains of five by requires
	Storm    *Storm  `json:"storm"`
	Poweroff float64 `json:"poweroff_s"`    // from poweroff(8) to the kernel's "Power down"
	LeastRAM int     `json:"least_ram_mib"` // that boots m1
	Runtime  float64 `json:"runtime_mb"`    // the init's and the runtime's files
	Initrd   float64 `json:"initrd_mb"`     // of m1, with LZ4
	Logs     *Logs   `json:"logs"`
}

type bench struct {
	build, dir string
	seed       int
	verbose    bool
	shell      float64 // size of the probe's busybox, in bytes
}

func (b *bench) measure(ctx context.Context) (*Result, error) {
	r := new(Result)
	if err := b.weighShell(); err != nil {
		return nil, err
	}
	if err := b.sizes(ctx, r); err != nil {
		return nil, err
	}
	offset, err := b.offset(ctx)
	if err != nil {
		return nil, err
	}
	if err := b.boots(ctx, offset, r); err != nil {
		return nil, err
	}
	say("m20 that has talked: memory")
	if err := b.memory(ctx, "m20-talked", talking(), &r.Talked); err != nil {
		return nil, fmt.Errorf("m20 that has talked: %w", err)
	}
	if r.Walls, err = b.walls(ctx, offset, &r.M5, &r.M20); err != nil {
		return nil, fmt.Errorf("walls: %w", err)
	}
	if err := b.supervision(ctx, offset, r); err != nil {
		return nil, err
	}
	say("poweroff")
	if r.Poweroff, err = b.span(ctx, switchOff, "bench: off", "reboot: Power down"); err != nil {
		return nil, fmt.Errorf("poweroff: %w", err)
	}
	say("least RAM")
	if r.LeastRAM, err = b.leastRAM(ctx); err != nil {
		return nil, fmt.Errorf("least RAM: %w", err)
	}
	say("logs")
	if r.Logs, err = logs(ctx); err != nil {
		return nil, fmt.Errorf("logs: %w", err)
	}
	return r, nil
}

// boots measures how long the boot of each shape takes and what memory it costs.
func (b *bench) boots(ctx context.Context, offset float64, r *Result) error {
	for _, s := range []struct {
		services int
		shape    *Shape
	}{{0, &r.M0}, {1, &r.M1}, {5, &r.M5}, {20, &r.M20}} {
		say("m%d: time", s.services)
		handover, err := b.times(ctx, fmt.Sprintf("m%d", s.services), s.services, shape(s.services, ""), offset, s.shape)
		if err != nil {
			return fmt.Errorf("m%d: %w", s.services, err)
		}
		if s.services == 1 {
			r.Handover = handover
		}
		say("m%d: memory", s.services)
		if err := b.memory(ctx, fmt.Sprintf("m%d-memory", s.services), shape(s.services, probe(memoryScript)), s.shape); err != nil {
			return fmt.Errorf("m%d: %w", s.services, err)
		}
	}
	r.Each = each(&r.M5, &r.M20)
	return nil
}

// measureBoots measures only the boots.
func (b *bench) measureBoots(ctx context.Context) (*Result, error) {
	offset, err := b.prepare(ctx)
	if err != nil {
		return nil, err
	}
	r := new(Result)
	if err := b.sizes(ctx, r); err != nil {
		return nil, err
	}
	return r, b.boots(ctx, offset, r)
}

// measureSupervision measures only how services are kept.
func (b *bench) measureSupervision(ctx context.Context) (*Result, error) {
	offset, err := b.prepare(ctx)
	if err != nil {
		return nil, err
	}
	r := new(Result)
	return r, b.supervision(ctx, offset, r)
}

// supervision measures how fast services are there again, and what keeping them costs.
func (b *bench) supervision(ctx context.Context, offset float64, r *Result) (err error) {
	say("restart")
	if r.Restart, err = b.span(ctx, victim, "bench: victim dies", "bench: victim runs"); err != nil {
		return fmt.Errorf("restart: %w", err)
	}
	say("kill to ready")
	if r.Ready, err = b.killToReady(ctx, offset); err != nil {
		return fmt.Errorf("kill to ready: %w", err)
	}
	say("chains")
	if r.Chains, err = b.chains(ctx, offset); err != nil {
		return fmt.Errorf("chains: %w", err)
	}
	say("storm")
	if r.Storm, err = b.storm(ctx); err != nil {
		return fmt.Errorf("storm: %w", err)
	}
	return nil
}

// prepare weighs the probe's busybox, and returns what to take off times of the kernel's log.
func (b *bench) prepare(ctx context.Context) (offset float64, err error) {
	if err := b.weighShell(); err != nil {
		return 0, err
	}
	return b.offset(ctx)
}

// weighShell finds out how large the busybox is that measures memory.
func (b *bench) weighShell() error {
	info, err := os.Stat(filepath.Join(b.build, "images/busybox/bin/busybox"))
	if err != nil {
		return fmt.Errorf("%w (make images builds it)", err)
	}
	b.shell = float64(info.Size())
	return nil
}

func say(format string, a ...any) { fmt.Fprintf(os.Stderr, format+"\n", a...) }

// image builds an image YAML into the scratch folder and returns its path prefix.
func (b *bench) image(ctx context.Context, name, yaml string) (string, error) {
	// A file's source is relative to the folder of the YAML.
	folder := filepath.Join(b.build, "bench")
	if err := os.MkdirAll(folder, 0o755); err != nil {
		return "", err
	}
	source := filepath.Join(folder, name+".yml")
	if err := os.WriteFile(source, []byte(yaml), 0o644); err != nil {
		return "", err
	}
	command := exec.CommandContext(ctx, filepath.Join(b.build, "bin/mkimage"), "build",
		"--store", filepath.Join(b.build, "store"), "-q", "-o", b.dir, "--name", name, source)
	if output, err := command.CombinedOutput(); err != nil {
		return "", fmt.Errorf("mkimage: %w: %s", err, output)
	}
	return filepath.Join(b.dir, name), nil
}

// boot starts an image with instructions for a clock.
func (b *bench) boot(ctx context.Context, name, yaml string) (*qemu.Machine, error) {
	return b.bootWith(ctx, name, yaml, 1024, 1)
}

// bootWith is boot with so much memory. With several CPUs the clock is the host's.
func (b *bench) bootWith(ctx context.Context, name, yaml string, memoryMB, cpus int) (*qemu.Machine, error) {
	prefix, err := b.image(ctx, name, yaml)
	if err != nil {
		return nil, err
	}
	config, err := qemu.Load(prefix)
	if err != nil {
		return nil, err
	}
	config.MemoryMB, config.CPUs = memoryMB, cpus
	config.CPU = "qemu64,+rdrand"
	if cpus == 1 {
		config.Args = b.counted()
	}
	if b.verbose {
		config.Echo = func(line string) { fmt.Fprintln(os.Stderr, name+": "+line) }
	}
	return qemu.Start(ctx, config)
}

// counted are the emulator's options for a clock that counts instructions.
func (b *bench) counted() []string {
	return []string{"-icount", "shift=0,sleep=off", "-rtc", "base=2026-01-01,clock=vm", "-seed", strconv.Itoa(b.seed)}
}

var (
	runInit  = regexp.MustCompile(`\[ *(\d+\.\d+)\] Run /init`)
	running  = regexp.MustCompile(`^ *(\d+\.\d+) +\S+ +running \(pid`)
	complete = regexp.MustCompile(`^ *(\d+\.\d+) .*boot complete in .*\(kernel (\d+\.\d+)s, init (\d+\.\d+)s`)
	kernelAt = regexp.MustCompile(`^\[ *(\d+\.\d+)\] (.*)$`)
	uptime   = regexp.MustCompile(`^\[ *(\d+\.\d+)\] bench: uptime (\d+\.\d+)`)
)

// seconds is a number that a pattern has made sure is one.
func seconds(text string) float64 {
	value, _ := strconv.ParseFloat(text, 64)
	return value
}

// offset finds what the kernel's log is ahead of the time since boot that the console shows.
func (b *bench) offset(ctx context.Context) (float64, error) {
	ctx, cancel := context.WithTimeout(ctx, bound)
	defer cancel()
	m, err := b.boot(ctx, "offset", shape(0, probe(offsetScript)))
	if err != nil {
		return 0, err
	}
	defer m.Close()
	if _, err := m.Await(ctx, `bench: end`); err != nil {
		return 0, err
	}
	least := math.Inf(1)
	for _, line := range m.Console.Lines(0) {
		if found := uptime.FindStringSubmatch(line); found != nil {
			least = min(least, seconds(found[1])-seconds(found[2]))
		}
	}
	if math.IsInf(least, 1) {
		return 0, fmt.Errorf("the console does not show the kernel's clock:\n%s", m.Console)
	}
	return least, nil
}

// times measures the boot of an image with so many services, and how long /init had the machine.
func (b *bench) times(ctx context.Context, name string, services int, yaml string, offset float64, s *Shape) (handover float64, err error) {
	ctx, cancel := context.WithTimeout(ctx, bound)
	defer cancel()
	m, err := b.boot(ctx, name, yaml)
	if err != nil {
		return 0, err
	}
	defer m.Close()
	last, err := m.Await(ctx, complete.String())
	if err != nil {
		return 0, err
	}
	parts := complete.FindStringSubmatch(last)
	started, up, count := -1.0, 0.0, 0
	for _, line := range m.Console.Lines(0) {
		if found := runInit.FindStringSubmatch(line); found != nil {
			started = seconds(found[1]) - offset
		}
		if found := running.FindStringSubmatch(line); found != nil {
			up = max(up, seconds(found[1]))
			count++
		}
	}
	if started < 0 {
		return 0, errors.New("the console does not show the kernel's line \"Run /init\"")
	}
	if count != services {
		return 0, fmt.Errorf("%d of %d services came up:\n%s", count, services, m.Console)
	}
	if services == 0 {
		up = seconds(parts[1])
	}
	s.AllUp, s.FromKernel = up-started, up+offset
	return seconds(parts[2]) + seconds(parts[3]) - started, nil
}

// memory measures what is in use of the memory, and what idleness costs.
func (b *bench) memory(ctx context.Context, name, yaml string, s *Shape) error {
	ctx, cancel := context.WithTimeout(ctx, bound)
	defer cancel()
	m, err := b.boot(ctx, name, yaml)
	if err != nil {
		return err
	}
	defer m.Close()
	if _, err := m.Await(ctx, `bench: end`); err != nil {
		return err
	}
	found := map[string]float64{}
	for _, line := range m.Console.Lines(0) {
		if _, after, ok := strings.Cut(line, "bench: "); ok {
			if name, value, ok := strings.Cut(after, ": "); ok {
				found[name] = seconds(strings.TrimSpace(value))
			}
		}
	}
	if found["MemTotal"] == 0 || found["MemFree"] == 0 {
		return fmt.Errorf("the console does not show the memory:\n%s", m.Console)
	}
	s.MemoryUsed = ((found["MemTotal"]-found["MemFree"])*1024 - b.shell) / megabyte
	s.Available = (found["MemAvailable"]*1024 + b.shell) / megabyte
	s.LogRing, s.LogFiles = found["ring"]*1024/megabyte, found["files"]*1024/megabyte
	s.PerCPU = found["percpu"] * float64(os.Getpagesize()) / megabyte
	// Ticks are hundredths of a second, and there were 100 s of them.
	s.CPUPercent = (found["busy-after"] - found["busy-before"]) / 100
	s.SwitchesSec = (found["switches-after"] - found["switches-before"]) / 100
	return nil
}

// span measures the time between two lines of the kernel's log, the second being the first of its kind after
// the other, in a machine of shape m1 with one service more.
func (b *bench) span(ctx context.Context, service, from, to string) (float64, error) {
	ctx, cancel := context.WithTimeout(ctx, bound)
	defer cancel()
	m, err := b.boot(ctx, "span", shape(1, service))
	if err != nil {
		return 0, err
	}
	defer m.Close()
	first, next, err := m.Console.Await(ctx, 0, `^\[ *[0-9.]+\] `+regexp.QuoteMeta(from))
	if err != nil {
		return 0, err
	}
	second, _, err := m.Console.Await(ctx, next, `^\[ *[0-9.]+\] `+regexp.QuoteMeta(to))
	if err != nil {
		return 0, err
	}
	return seconds(kernelAt.FindStringSubmatch(second)[1]) - seconds(kernelAt.FindStringSubmatch(first)[1]), nil
}

// leastRAM finds the least memory that boots m1, in steps of 4 MiB.
func (b *bench) leastRAM(ctx context.Context) (int, error) {
	prefix, err := b.image(ctx, "m1", shape(1, ""))
	if err != nil {
		return 0, err
	}
	boots := func(mib int) (bool, error) {
		ctx, cancel := context.WithTimeout(ctx, 2*time.Minute)
		defer cancel()
		config, err := qemu.Load(prefix)
		if err != nil {
			return false, err
		}
		config.MemoryMB, config.CmdlineAdd = mib, "panic=-1"
		m, err := qemu.Start(ctx, config)
		if err != nil {
			return false, err
		}
		defer m.Close()
		line, err := m.Await(ctx, `boot complete|of \d+ not running|root is incomplete|Kernel panic|Out of memory|oom-kill`)
		return err == nil && strings.Contains(line, "boot complete"), nil
	}
	const step = 4
	low, high := 32/step, 256/step // does not boot, boots
	for high-low > 1 {
		middle := (low + high) / 2
		ok, err := boots(middle * step)
		if err != nil {
			return 0, err
		}
		say("  %d MiB: %v", middle*step, ok)
		if ok {
			high = middle
		} else {
			low = middle
		}
	}
	return high * step, nil
}

// sizes measures files.
func (b *bench) sizes(ctx context.Context, r *Result) error {
	err := filepath.WalkDir(filepath.Join(b.build, "images/init"), func(path string, entry os.DirEntry, err error) error {
		if err != nil || !entry.Type().IsRegular() {
			return err
		}
		info, err := entry.Info()
		if err != nil {
			return err
		}
		r.Runtime += float64(info.Size()) / megabyte
		return nil
	})
	if err != nil {
		return fmt.Errorf("%w (make images builds it)", err)
	}
	prefix, err := b.image(ctx, "m1", shape(1, ""))
	if err != nil {
		return err
	}
	file, err := os.Open(prefix + "-initrd.img")
	if err != nil {
		return err
	}
	defer file.Close()
	// A size of something else would be a wrong number.
	magic := make([]byte, 4)
	if _, err := io.ReadFull(file, magic); err != nil {
		return fmt.Errorf("read %s: %w", file.Name(), err)
	}
	if string(magic) != "\x02\x21\x4c\x18" {
		return fmt.Errorf("%s is not compressed with LZ4 but begins with %x", file.Name(), magic)
	}
	size, err := file.Seek(0, io.SeekEnd)
	if err != nil {
		return err
	}
	r.Initrd = float64(size) / megabyte
	return nil
}
