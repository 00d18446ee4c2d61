package cli

import (
	"cmp"
	"flag"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"time"

	"keelson/internal/api"
	"keelson/internal/visible"
)

func bootCommands() []command {
	return []command{
		{"analyze", "[-o json] [NAME]", "where the time of the boot went", `
Shows how long each step of the boot took, how long each service took to be ready,
and the critical chain: the service that was ready last (or NAME), what it had to
wait for, what that had to wait for, and so on back to the kernel. Only what is in
the chain is worth being made faster.

  service analyze
  service analyze web
  service analyze plot > boot.svg

analyze plot draws the boot as a picture (SVG): steps and services as bars over the
time, waiting, starting and ready in different colours.
`, (*app).analyze},
	}
}

func (a *app) analyze(fs *flag.FlagSet, args []string) int {
	format := output(fs)
	rest, err := parse(fs, args)
	if err != nil {
		return a.usage("analyze", "%v", err)
	}
	if len(rest) > 1 {
		return a.usage("analyze", "it takes one name, or plot")
	}
	if code, wrong := a.wrongOutput("analyze", *format); wrong {
		return code
	}
	var b api.Boot
	if err := a.client.ask(a.ctx, http.MethodGet, "/boot", nil, &b); err != nil {
		return a.fail(err)
	}
	switch {
	case *format == "json":
		return a.json(b)
	case len(rest) == 1 && rest[0] == "plot":
		if err := plot(a.out, b); err != nil {
			return a.fail(err)
		}
		return codeOK
	}
	name := ""
	if len(rest) == 1 {
		name = rest[0]
		if !slices.ContainsFunc(b.Services, func(s api.BootService) bool { return s.Name == name }) {
			if _, err := a.client.service(a.ctx, name); err != nil {
				return a.fail(err)
			}
			return a.fail(fmt.Errorf("%s has not begun to come up yet", name))
		}
	}
	a.showBoot(b, name)
	return codeOK
}

// span is one bar of the boot: a step or a service's way up.
type span struct {
	name       string
	start, end time.Duration
	note       string
}

// spans are the boot's own steps, in the order of their beginning.
func spans(b api.Boot) []span {
	all := []span{{"kernel", 0, b.InitStart, ""}, {"init", b.InitStart, b.InitDone, ""}}
	for _, s := range b.Steps {
		all = append(all, span{s.Name, s.Start, s.End, s.Error})
	}
	slices.SortStableFunc(all, func(a, b span) int { return cmp.Compare(a.start, b.start) })
	return all
}

func (a *app) showBoot(b api.Boot, name string) {
	if b.Complete > 0 {
		fmt.Fprintf(a.out, "boot complete in %.3fs\n\n", b.Complete.Seconds())
	} else {
		fmt.Fprintf(a.out, "the boot goes on\n\n")
	}
	rows := [][]string{{"STEP", "FROM", "TO", "TOOK", ""}}
	for _, s := range spans(b) {
		rows = append(rows, []string{s.name, seconds(s.start), seconds(s.end), took(s.end - s.start), s.note})
	}
	table(a.out, rows)
	if len(b.Services) == 0 {
		return
	}
	fmt.Fprintln(a.out)
	rows = [][]string{{"SERVICE", "WAITED", "STARTED IN", "READY AFTER", "READY AT"}}
	services := slices.Clone(b.Services)
	slices.SortStableFunc(services, func(a, b api.BootService) int { return cmp.Compare(arrived(a), arrived(b)) })
	for _, s := range services {
		row := []string{s.Name, "-", "-", "-", "-"}
		if s.Waiting > 0 && s.Starting > 0 {
			row[1] = took(s.Starting - s.Waiting)
		}
		if s.Starting > 0 && s.Running > 0 {
			row[2] = took(s.Running - s.Starting)
		}
		switch {
		case s.Ready > 0 && s.Running > 0:
			row[3], row[4] = took(s.Ready-s.Running), seconds(s.Ready)
		case s.Failed > 0:
			row[4] = "failed at " + seconds(s.Failed)
		}
		rows = append(rows, row)
	}
	table(a.out, rows)
	chain := criticalChain(b, name)
	if len(chain) == 0 {
		return
	}
	fmt.Fprintf(a.out, "\ncritical chain, the last one first (@ when it was reached, + how long it took):\n")
	for i, s := range chain {
		branch := ""
		if i > 0 {
			branch = strings.Repeat("  ", i-1) + "└─"
		}
		line := fmt.Sprintf("%s%s @%.3fs +%s", branch, visible.Text(s.name), s.end.Seconds(), took(s.end-s.start))
		if i == 0 {
			line = a.colour(bold, line)
		}
		fmt.Fprintln(a.out, line)
	}
}

func took(d time.Duration) string { return fmt.Sprintf("%.3fs", d.Seconds()) }

// arrived is when a service's way up was over; never is last.
func arrived(s api.BootService) time.Duration {
	if at := cmp.Or(s.Ready, s.Failed); at > 0 {
		return at
	}
	return 1<<63 - 1
}

// begun is when a service's own way up began, without the wait for others.
func begun(s api.BootService) time.Duration { return cmp.Or(s.Starting, s.Waiting, s.Running, s.Ready) }

// criticalChain returns what the end of the boot, or a service, had to wait for:
// each the last one to arrive of those before it.
func criticalChain(b api.Boot, name string) []span {
	byName := map[string]api.BootService{}
	var last api.BootService
	for _, s := range b.Services {
		byName[s.Name] = s
		if s.Ready > 0 && (name == "" && s.Ready > last.Ready && (b.Complete == 0 || s.Ready <= b.Complete) || s.Name == name) {
			last = s
		}
	}
	var chain []span
	at := b.Complete
	seen := map[string]bool{}
	for s := last; s.Ready > 0 && !seen[s.Name]; {
		seen[s.Name] = true
		chain = append(chain, span{name: s.Name, start: begun(s), end: s.Ready})
		at = begun(s)
		var before api.BootService
		for _, other := range slices.Concat(s.Requires, s.After) {
			if o := byName[other]; o.Ready > before.Ready && o.Ready <= at {
				before = o
			}
		}
		s = before
	}
	// Behind the services lie the steps that came before the first of the chain.
	steps := spans(b)
	for {
		var before span
		for _, s := range steps {
			if s.end <= at && s.end > before.end && (len(chain) == 0 || s.start < chain[len(chain)-1].start) && s.name != "containerd" && s.name != "modules" {
				before = s
			}
		}
		if before.end == 0 {
			return chain
		}
		chain = append(chain, before)
		at = before.start
	}
}
