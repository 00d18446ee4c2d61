package command

import (
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"strconv"
	"strings"

	"github.com/opencontainers/runtime-spec/specs-go"

	"keelson/runc-shim/oci"
)

func updateVerb(fs *flag.FlagSet, g *globals) func([]string) (int, error) {
	var (
		file     string
		weight   int
		pids     int64
		cpus     string
		mems     string
		numbers  = map[string]*string{}
		isSet    = map[string]bool{}
		resource = specs.LinuxResources{
			Memory: &specs.LinuxMemory{}, CPU: &specs.LinuxCPU{},
			BlockIO: &specs.LinuxBlockIO{}, Pids: &specs.LinuxPids{},
		}
	)
	stringVar(fs, &file, "", "JSON file of the resources, or - for standard input; other flags are then ignored", "resources", "r")
	fs.IntVar(&weight, "blkio-weight", 0, "block IO weight, 10 to 1000")
	fs.Int64Var(&pids, "pids-limit", 0, "how many processes there may be")
	fs.StringVar(&cpus, "cpuset-cpus", "", "CPUs to use")
	fs.StringVar(&mems, "cpuset-mems", "", "memory nodes to use")
	for name, usage := range map[string]string{
		"cpu-period":         "period of the hard limit, microseconds",
		"cpu-quota":          "CPU time per period, microseconds",
		"cpu-burst":          "CPU time that may be saved up, microseconds",
		"cpu-share":          "relative weight",
		"cpu-rt-period":      "realtime period, microseconds",
		"cpu-rt-runtime":     "realtime CPU time per period, microseconds",
		"cpu-idle":           "1: SCHED_IDLE for the whole cgroup",
		"memory":             "memory limit: bytes, or with K, M, G",
		"memory-reservation": "soft memory limit",
		"memory-swap":        "memory and swap together, -1 for no limit",
	} {
		numbers[name] = fs.String(name, "", usage)
	}
	return func(args []string) (int, error) {
		c, err := g.load(args[0])
		if err != nil {
			return -1, err
		}
		fs.Visit(func(f *flag.Flag) { isSet[f.Name] = true })
		r := &resource
		if file != "" {
			if err := readResources(file, r); err != nil {
				return -1, fmt.Errorf("--resources: %w", err)
			}
			return 0, oci.Update(c, r)
		}
		if isSet["blkio-weight"] {
			w := uint16(weight)
			if weight < 10 || weight > 1000 {
				return -1, fmt.Errorf("--blkio-weight %d: not between 10 and 1000", weight)
			}
			r.BlockIO.Weight = &w
		}
		if isSet["pids-limit"] {
			r.Pids.Limit = &pids
		}
		r.CPU.Cpus, r.CPU.Mems = cpus, mems
		if err := setNumbers(r, numbers, isSet); err != nil {
			return -1, err
		}
		return 0, oci.Update(c, r)
	}
}

func readResources(file string, r *specs.LinuxResources) error {
	in := io.Reader(os.Stdin)
	if file != "-" {
		f, err := os.Open(file)
		if err != nil {
			return err
		}
		defer f.Close()
		in = f
	}
	return json.NewDecoder(in).Decode(r)
}

func setNumbers(r *specs.LinuxResources, values map[string]*string, isSet map[string]bool) error {
	unsigned := map[string]**uint64{
		"cpu-period": &r.CPU.Period, "cpu-burst": &r.CPU.Burst,
		"cpu-share": &r.CPU.Shares, "cpu-rt-period": &r.CPU.RealtimePeriod,
	}
	signed := map[string]**int64{
		"cpu-quota": &r.CPU.Quota, "cpu-rt-runtime": &r.CPU.RealtimeRuntime, "cpu-idle": &r.CPU.Idle,
	}
	bytes := map[string]**int64{
		"memory": &r.Memory.Limit, "memory-reservation": &r.Memory.Reservation, "memory-swap": &r.Memory.Swap,
	}
	for name, v := range values {
		if !isSet[name] {
			continue
		}
		var err error
		switch {
		case unsigned[name] != nil:
			var n uint64
			n, err = strconv.ParseUint(*v, 10, 64)
			*unsigned[name] = &n
		case signed[name] != nil:
			var n int64
			n, err = strconv.ParseInt(*v, 10, 64)
			*signed[name] = &n
		default:
			var n int64
			n, err = parseBytes(*v)
			*bytes[name] = &n
		}
		if err != nil {
			return fmt.Errorf("--%s %q: %w", name, *v, err)
		}
	}
	return nil
}

// parseBytes reads a size: a number, perhaps with K, M, G, T (powers of 1024)
// and a B after it; -1 is no limit.
func parseBytes(s string) (int64, error) {
	if s == "-1" {
		return -1, nil
	}
	t := strings.TrimSuffix(strings.TrimSuffix(strings.ToLower(s), "b"), "i")
	factor := int64(1)
	if t != "" {
		if i := strings.IndexByte("kmgt", t[len(t)-1]); i >= 0 {
			factor = 1 << (10 * (i + 1))
			t = t[:len(t)-1]
		}
	}
	f, err := strconv.ParseFloat(t, 64)
	if err != nil || f < 0 {
		return 0, errors.New("not a size (a number with K, M, G or T, or -1)")
	}
	return int64(f * float64(factor)), nil
}
