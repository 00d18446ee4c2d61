package cli

import (
	"bytes"
	"cmp"
	"flag"
	"fmt"
	"slices"
	"strings"
	"time"

	"keelson/internal/api"
)

// usageOf is what a service used between two looks.
type usageOf struct {
	Name   string  `json:"name"`
	State  string  `json:"state"`
	CPU    float64 `json:"cpu"` // percent of one processor
	Memory uint64  `json:"memory"`
	Limit  uint64  `json:"memory_max,omitempty"`
	Read   float64 `json:"read"` // bytes a second
	Write  float64 `json:"write"`
	Pids   uint64  `json:"pids"`
}

func (a *app) top(fs *flag.FlagSet, args []string) int {
	format := output(fs)
	times := fs.Int("n", 0, "")
	every := fs.Duration("d", 2*time.Second, "")
	rest, err := parse(fs, args)
	switch {
	case err != nil:
		return a.usage("top", "%v", err)
	case len(rest) > 0:
		return a.usage("top", "it takes no names")
	case *times < 0:
		return a.usage("top", "-n %d: a number of times, 0 for ever", *times)
	case *every < 100*time.Millisecond:
		return a.usage("top", "-d %v: 100ms is the least", *every)
	}
	if code, wrong := a.wrongOutput("top", *format); wrong {
		return code
	}
	before, err := a.client.services(a.ctx)
	if err != nil {
		return a.fail(err)
	}
	began := time.Now()
	if a.terminal && *times != 1 {
		defer fmt.Fprintln(a.out) // behind the last table
	}
	for n := 1; ; n++ {
		select {
		case <-a.ctx.Done():
			return codeOK
		case <-time.After(time.Until(began.Add(*every))):
		}
		now, err := a.client.services(a.ctx)
		if err != nil {
			return a.fail(err)
		}
		took := time.Since(began)
		began = time.Now()
		used := compare(before, now, took)
		before = now
		if *format == "json" {
			a.json(used)
		} else {
			a.showTop(used, *times != 1)
		}
		if n == *times {
			return codeOK
		}
	}
}

// compare returns what each service used, the busiest first.
func compare(before, now []api.Service, took time.Duration) []usageOf {
	was := map[string]api.Service{}
	for _, s := range before {
		was[s.Name] = s
	}
	used := []usageOf{}
	for _, s := range now {
		u := usageOf{Name: s.Name, State: s.State}
		if f := s.Figures; f != nil {
			u.Memory, u.Limit, u.Pids = f.Memory, f.MemoryMax, f.Pids
			// One that was started again meanwhile has a new cgroup, which begins at 0.
			if old := was[s.Name]; old.Figures != nil && old.PID == s.PID {
				rate := func(a, b uint64) float64 { return max(0, float64(b)-float64(a)) / took.Seconds() }
				u.CPU = rate(uint64(old.Figures.CPU), uint64(f.CPU)) / 1e7
				u.Read, u.Write = rate(old.Figures.ReadBytes, f.ReadBytes), rate(old.Figures.WriteBytes, f.WriteBytes)
			}
		}
		used = append(used, u)
	}
	slices.SortStableFunc(used, func(a, b usageOf) int {
		return cmp.Or(cmp.Compare(b.CPU, a.CPU), cmp.Compare(b.Memory, a.Memory), cmp.Compare(a.Name, b.Name))
	})
	return used
}

func (a *app) showTop(used []usageOf, again bool) {
	rows := [][]string{{"NAME", "STATE", "CPU", "MEMORY", "LIMIT", "READ/s", "WRITE/s", "PIDS"}}
	var total usageOf
	for _, u := range used {
		limit := "-"
		if u.Limit > 0 {
			limit = bytesText(u.Limit)
		}
		rows = append(rows, []string{u.Name, u.State, fmt.Sprintf("%.1f%%", u.CPU), bytesText(u.Memory), limit,
			bytesText(uint64(u.Read)), bytesText(uint64(u.Write)), fmt.Sprint(u.Pids)})
		total.CPU, total.Memory, total.Pids = total.CPU+u.CPU, total.Memory+u.Memory, total.Pids+u.Pids
		total.Read, total.Write = total.Read+u.Read, total.Write+u.Write
	}
	rows = append(rows, []string{"total", "", fmt.Sprintf("%.1f%%", total.CPU), bytesText(total.Memory), "",
		bytesText(uint64(total.Read)), bytesText(uint64(total.Write)), fmt.Sprint(total.Pids)})
	var b bytes.Buffer
	table(&b, rows)
	switch {
	case again && a.terminal:
		text := fit(b.String(), a.size)
		b.Reset()
		b.WriteString("\x1b[H\x1b[2J" + text)
	case again:
		b.WriteByte('\n')
	}
	_, _ = a.out.Write(b.Bytes()) // at once, so that the screen does not flicker
}

// fit cuts a table to a terminal, where a line that is too long would take two and the
// first ones would be pushed out by the last: of too many lines the busiest are shown,
// and the total.
func fit(text string, size func() (cols, rows int)) string {
	cols, rows := size()
	lines := strings.Split(strings.TrimSuffix(text, "\n"), "\n")
	if rows > 0 && len(lines) > rows {
		total := lines[len(lines)-1]
		lines = append(lines[:max(rows-1, 1)], total)[:rows]
	}
	for i, line := range lines {
		if r := []rune(line); cols > 0 && len(r) > cols {
			lines[i] = string(r[:cols])
		}
	}
	return strings.Join(lines, "\n") // no line behind the last, which would scroll
}
