package main

import (
	"context"
	"errors"
	"fmt"
	"regexp"
	"strings"
	"time"
)

// Storm is a minute in which ten of fifty services end as soon as they are started.
type Storm struct {
	CPUPercent  float64 `json:"supervisor_cpu_percent"` // of one processor, by the supervisor
	GrownMB     float64 `json:"supervisor_grown_mb"`    // its resident memory, from the minute's begin to its end
	RestartsSec float64 `json:"restarts_per_s"`
	Restart     float64 `json:"restart_s"` // of a healthy service that dies meanwhile, to its exec
}

// readyVictim is victim with a port that has to answer before the service counts as ready.
const readyVictim = `  - name: victim
    image: keelson/busybox
    command: ["sh", "-c", "(sleep 12; echo '<1>bench: victim dies' >/dev/kmsg; kill -9 $$) & exec httpd -f -p 8081"]
    pid: host
    capabilities: [CAP_KILL]
    binds: ["/dev/kmsg:/dev/kmsg"]
    devices: [{path: all, type: c}]
    annotations: {keelson.ready: "tcp:8081"}
`

// killToReady measures the time from the death of a healthy service to its being ready again. The first is in
// the kernel's log, the second on the console.
func (b *bench) killToReady(ctx context.Context, offset float64) (float64, error) {
	ctx, cancel := context.WithTimeout(ctx, bound)
	defer cancel()
	m, err := b.boot(ctx, "ready", shape(1, readyVictim))
	if err != nil {
		return 0, err
	}
	defer m.Close()
	died, next, err := m.Console.Await(ctx, 0, `^\[ *[0-9.]+\] bench: victim dies`)
	if err != nil {
		return 0, err
	}
	pattern := `^ *(\d+\.\d+) +victim +ready in `
	ready, _, err := m.Console.Await(ctx, next, pattern)
	if err != nil {
		return 0, err
	}
	return seconds(regexp.MustCompile(pattern).FindStringSubmatch(ready)[1]) - (seconds(kernelAt.FindStringSubmatch(died)[1]) - offset), nil
}

// chained returns twenty services in four chains: of five, each requires the one before it.
func chained() string {
	var yaml strings.Builder
	for chain := range 4 {
		for i := range 5 {
			fmt.Fprintf(&yaml, "  - name: link%d%d\n    image: keelson/busybox\n    readonly: true\n    command: [\"sleep\", \"1000000\"]\n", chain, i)
			if i > 0 {
				fmt.Fprintf(&yaml, "    annotations: {keelson.requires: \"link%d%d\"}\n", chain, i-1)
			}
		}
	}
	return "services:\n" + yaml.String()
}

// chains measures a boot of twenty services that wait for one another.
func (b *bench) chains(ctx context.Context, offset float64) (float64, error) {
	ctx, cancel := context.WithTimeout(ctx, bound)
	defer cancel()
	m, err := b.boot(ctx, "chains", shape(0, chained()))
	if err != nil {
		return 0, err
	}
	defer m.Close()
	if _, err := m.Await(ctx, complete.String()); err != nil {
		return 0, err
	}
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
	if started < 0 || count != 20 {
		return 0, fmt.Errorf("%d of 20 services came up:\n%s", count, m.Console)
	}
	return up - started, nil
}

// Services of a storm: ten that end at once, one that is healthy for a while and then dies, and others that sleep.
func stormy() string {
	var yaml strings.Builder
	for i := range 39 {
		fmt.Fprintf(&yaml, "  - {name: calm%02d, image: keelson/busybox, readonly: true, command: [\"sleep\", \"1000000\"]}\n", i)
	}
	for i := range 10 {
		// The least backoff there is a use for, so that the storm does not die down.
		fmt.Fprintf(&yaml, "  - {name: storm%02d, image: keelson/busybox, readonly: true, command: [\"false\"], annotations: {keelson.restart.backoff: \"1s..1s\"}}\n", i)
	}
	yaml.WriteString(strings.Replace(victim, "sleep 12", "sleep 45", 1))
	return "services:\n" + yaml.String()
}

// stormScript prints what the supervisor has used, at the begin and at the end of a minute.
const stormScript = `(
		b=/bench/busybox
		$b sleep 20
		for dir in /proc/[0-9]*; do
			read -r name <$dir/comm || continue
			if [ "$name" = service ] && $b grep -q supervise $dir/cmdline; then supervisor=$dir; fi
		done 2>/dev/null
		look() {
			read -r f1 f2 f3 f4 f5 f6 f7 f8 f9 f10 f11 f12 f13 user system rest <$supervisor/stat
			echo "bench: cpu-$1: $((user + system))"
			while read -r key value unit; do
				case $key in VmRSS:) echo "bench: rss-$1: $value" ;; esac
			done <$supervisor/status
		}
		look before >/dev/console
		$b sleep 60
		look after >/dev/console
		echo "bench: end" >/dev/console
		) &
`

func (b *bench) storm(ctx context.Context) (*Storm, error) {
	ctx, cancel := context.WithTimeout(ctx, bound)
	defer cancel()
	m, err := b.boot(ctx, "storm", shape(0, stormy()+probe(stormScript)))
	if err != nil {
		return nil, err
	}
	defer m.Close()
	_, begin, err := m.Console.Await(ctx, 0, `bench: rss-before`)
	if err != nil {
		return nil, err
	}
	_, end, err := m.Console.Await(ctx, begin, `bench: end`)
	if err != nil {
		return nil, err
	}
	found := map[string]float64{}
	restarts, died, back := 0.0, 0.0, 0.0
	for i, line := range m.Console.Lines(0) {
		if _, after, ok := strings.Cut(line, "bench: "); ok {
			if name, value, ok := strings.Cut(after, ": "); ok {
				found[name] = seconds(strings.TrimSpace(value))
			}
		}
		if i >= begin && i < end && running.MatchString(line) && strings.Contains(line, " storm") {
			restarts++
		}
		if at := kernelAt.FindStringSubmatch(line); at != nil {
			switch {
			case at[2] == "bench: victim dies" && died == 0:
				died = seconds(at[1])
			case at[2] == "bench: victim runs" && died > 0 && back == 0:
				back = seconds(at[1])
			}
		}
	}
	if found["rss-before"] == 0 || restarts == 0 || back == 0 {
		return nil, errors.New("the console does not show the storm:\n" + m.Console.String())
	}
	const minute = float64(60 * time.Second / time.Second)
	return &Storm{
		CPUPercent:  (found["cpu-after"] - found["cpu-before"]) / minute, // in hundredths of a second
		GrownMB:     (found["rss-after"] - found["rss-before"]) * 1024 / megabyte,
		RestartsSec: restarts / minute,
		Restart:     back - died,
	}, nil
}
