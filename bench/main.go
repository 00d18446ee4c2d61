// Command bench measures the tree as it stands against its budgets: how long a boot takes to the last service,
// what memory it costs, how fast a dead service is back and how fast the machine is off; and how fast output is
// logged. It prints tables and writes build/bench.json.
//
// Time is the guest's under an emulator that counts instructions (one is a nanosecond), so a number depends on
// the tree and not on the machine it is measured on. docs/benchmarks.md says how each is defined.
package main

import (
	"context"
	"encoding/json"
	"flag"
	"fmt"
	"log/slog"
	"os"
	"os/signal"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
)

func main() {
	if len(os.Args) == 5 && os.Args[1] == logWriter {
		if err := writeLog(os.Args[2], os.Args[3], os.Args[4]); err != nil {
			slog.Error(logWriter, "error", err)
			os.Exit(1)
		}
		return
	}
	build := flag.String("build", os.Getenv("KEELSON_BUILD"), "the `folder` that make built into")
	seed := flag.Int("seed", 1, "of the emulator; compare two trees with the median of three seeds")
	onlyLogs := flag.Bool("logs", false, "measure only how fast logs are taken")
	many := flag.String("many", "", "measure only machines with so many `services`, as in 100,200,1000")
	cpus := flag.Int("cpus", 1, "with -many: of those machines; with 1 the clock counts instructions, with more it is the host's")
	var only *part
	for i := range parts {
		flag.BoolFunc(parts[i].name, "measure only "+parts[i].what, func(value string) error {
			on, err := strconv.ParseBool(value)
			if on {
				only = &parts[i]
			}
			return err
		})
	}
	verbose := flag.Bool("v", false, "show the consoles")
	flag.Parse()
	if *build == "" {
		*build = "build"
	}
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	if *onlyLogs {
		result, err := logs(ctx)
		if err != nil {
			slog.Error("bench", "error", err)
			os.Exit(1)
		}
		printLogs(os.Stdout, result)
		return
	}
	if err := run(ctx, *build, *seed, *many, *cpus, only, *verbose); err != nil {
		slog.Error("bench", "error", err)
		os.Exit(1)
	}
}

// A part of the table can be measured without the rest, by the flag of its name.
type part struct {
	name, what string
	measure    func(*bench, context.Context) (*Result, error)
	rows       func(*Result) []row
}

var parts = []part{
	{"boots", "how long boots take and their memory", (*bench).measureBoots, bootRows},
	{"supervision", "how services are kept", (*bench).measureSupervision, supervisionRows},
	{"walls", "what the hardening of containers costs", (*bench).measureWalls, wallRows},
}

func run(ctx context.Context, build string, seed int, many string, cpus int, only *part, verbose bool) error {
	dir, err := os.MkdirTemp("", "keelson-bench-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	b := &bench{build: build, dir: dir, seed: seed, verbose: verbose}
	if many != "" {
		var services []int
		for word := range strings.SplitSeq(many, ",") {
			n, err := strconv.Atoi(word)
			if err != nil || n < 2 {
				return fmt.Errorf("-many: %q is no number of services: name numbers from 2 on, as in 100,200,1000", word)
			}
			services = append(services, n)
		}
		result, err := b.measureMany(ctx, services, cpus)
		if err != nil {
			return err
		}
		printMany(os.Stdout, result)
		return nil
	}
	if only != nil {
		result, err := only.measure(b, ctx)
		if err != nil {
			return err
		}
		printTable(os.Stdout, only.rows(result))
		return nil
	}
	result, err := b.measure(ctx)
	if err != nil {
		return err
	}
	encoded, err := json.MarshalIndent(result, "", "  ")
	if err != nil {
		return err
	}
	path := filepath.Join(build, "bench.json")
	if err := os.WriteFile(path, append(encoded, '\n'), 0o644); err != nil {
		return err
	}
	printTable(os.Stdout, rows(result))
	printLogs(os.Stdout, result.Logs)
	fmt.Printf("\nwritten to %s\n", path)
	return nil
}
