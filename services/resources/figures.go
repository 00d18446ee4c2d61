package resources

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"keelson/internal/api"
)

// Root is where cgroup file systems are mounted.
const Root = "/sys/fs/cgroup"

// Read returns what a cgroup says of what it holds. dir is its folder below
// Root, as cgroup2 has it; on a machine with cgroup v1 the folders of that name in
// the hierarchies are read. What a kernel or a controller does not tell is 0. The
// error is fs.ErrNotExist where there is no such cgroup.
func Read(dir string) (api.Figures, error) {
	if unified(dir) {
		return readUnified(dir), nil
	}
	h := hierarchies{Root, dir}
	for _, name := range []string{"memory", "pids", "cpuacct", "cpu"} {
		if _, err := os.Stat(h.file(name, "")); err == nil {
			return h.read(), nil
		}
	}
	return api.Figures{}, fmt.Errorf("read cgroup %s: %w", dir, fs.ErrNotExist)
}

// unified reports whether dir is a cgroup of cgroup2.
func unified(dir string) bool {
	_, err := os.Stat(filepath.Join(dir, "cgroup.events"))
	return err == nil
}

func readUnified(dir string) api.Figures {
	f := func(name string) string { return filepath.Join(dir, name) }
	cpu := flat(f("cpu.stat"))
	io := text(f("io.stat"))
	return api.Figures{
		Memory:     number(f("memory.current")),
		MemoryPeak: number(f("memory.peak")),
		MemoryMax:  number(f("memory.max")),
		CPU:        time.Duration(cpu["usage_usec"]) * time.Microsecond,
		Throttled:  time.Duration(cpu["throttled_usec"]) * time.Microsecond,
		ReadBytes:  sum(io, "rbytes="),
		WriteBytes: sum(io, "wbytes="),
		Pids:       number(f("pids.current")),
		PidsMax:    number(f("pids.max")),
	}
}

// hierarchies are the folders of one cgroup in the hierarchies of cgroup v1.
type hierarchies struct{ root, dir string }

func (h hierarchies) file(controller, name string) string {
	rel := strings.TrimPrefix(h.dir, h.root)
	return filepath.Join(h.root, controller, rel, name)
}

// unlimited is above every limit of memory that somebody has set: without one
// cgroup v1 has the largest number of pages there is.
const unlimited = 1 << 62

func (h hierarchies) read() api.Figures {
	io := text(h.file("blkio", "blkio.throttle.io_service_bytes"))
	limit := number(h.file("memory", "memory.limit_in_bytes"))
	if limit >= unlimited {
		limit = 0
	}
	return api.Figures{
		Memory:     number(h.file("memory", "memory.usage_in_bytes")),
		MemoryPeak: number(h.file("memory", "memory.max_usage_in_bytes")),
		MemoryMax:  limit,
		CPU:        time.Duration(number(h.file("cpuacct", "cpuacct.usage"))),
		Throttled:  time.Duration(flat(h.file("cpu", "cpu.stat"))["throttled_time"]),
		ReadBytes:  sumWord(io, "Read"),
		WriteBytes: sumWord(io, "Write"),
		Pids:       number(h.file("pids", "pids.current")),
		PidsMax:    number(h.file("pids", "pids.max")),
	}
}

// text is a file's content, "" where it cannot be read.
func text(path string) string {
	data, err := os.ReadFile(path)
	if err != nil {
		return ""
	}
	return string(data)
}

// number is the one number of a file; "max" and a file that is not there are 0.
func number(path string) uint64 {
	n, err := strconv.ParseUint(strings.TrimSpace(text(path)), 10, 64)
	if err != nil {
		if errors.Is(err, strconv.ErrRange) {
			return unlimited
		}
		return 0
	}
	return n
}

// flat reads a file of lines "name number".
func flat(path string) map[string]uint64 {
	data, err := os.ReadFile(path)
	if err != nil {
		return nil
	}
	values := map[string]uint64{}
	for line := range bytes.Lines(data) {
		name, value, _ := bytes.Cut(bytes.TrimSpace(line), []byte(" "))
		if n, err := strconv.ParseUint(string(value), 10, 64); err == nil {
			values[string(name)] = n
		}
	}
	return values
}

// sum adds up what follows key in lines such as io.stat's "8:0 rbytes=1 wbytes=2".
func sum(text, key string) (total uint64) {
	for _, word := range strings.Fields(text) {
		if v, ok := strings.CutPrefix(word, key); ok {
			n, _ := strconv.ParseUint(v, 10, 64)
			total += n
		}
	}
	return total
}

// sumWord adds up the numbers of lines such as "8:0 Read 4096".
func sumWord(text, word string) (total uint64) {
	for line := range strings.Lines(text) {
		if f := strings.Fields(line); len(f) == 3 && f[1] == word {
			n, _ := strconv.ParseUint(f[2], 10, 64)
			total += n
		}
	}
	return total
}
