package cli

import (
	"flag"
	"fmt"
	"strings"
	"time"

	"keelson/internal/api"
	"keelson/internal/visible"
)

func lookCommands() []command {
	return []command{
		{"list", "[-o json|name]", "the services and what each is doing", `
Shows each service with its state, how long it has been in it, how often it was
started again since the boot, its first process, its memory, its health, and what
it waits for or why it is what it is. Problems of its configuration follow below.

  service list
  service list -o json
  service list -o name     the names only, for scripts

The states: waiting (for others), queued (for its turn to start), starting, running (not yet ready), ready,
unhealthy, backoff (it will be started again), stopping, stopped, failed.
`, (*app).list},
		{"status", "[-o json] [NAME...]", "everything there is to know of a service", `
Shows the state of a service and how it came to it, its readiness and health, what
it requires and who requires it, how it ended the last time, its policy, its
memory, processor time, input/output and processes, and its last lines. Without a
NAME, the state of the machine.

Ends with 0 if every service named runs, with 3 if one does not.
`, (*app).status},
		{"audit", "[-o json] [NAME...]", "what services could do to the machine, as a number", `
Judges services by their first process as it runs: its exposure from 0.0 (nothing)
to 10.0, by the checks and weights of systemd-analyze security, and what would lower
it. What differs from the configuration that the container was made with is marked:
"declared: no" that the configuration does not have the weakness, "declared: yes" that
it has. Without a NAME, the number of each service, the highest first.

  service audit
  service audit web
  service audit -o json web

A rule of a seccomp or device filter cannot be seen in a process, only that there is a
filter; its rules are taken from the configuration.
`, (*app).audit},
		{"top", "[-n TIMES] [-d TIME] [-o json]", "what each service uses, live", `
Shows processor time, memory, input/output and processes of each service, busiest
first, every two seconds until it is interrupted.

  service top
  service top -n 1         once, over one interval
  service top -d 10s       every ten seconds
`, (*app).top},
		{"wait", "NAME... [--for=STATE] [--timeout=TIME]", "wait until a service is ready, stopped, ...", `
Waits until every service named is in the state: ready unless said otherwise. A
list of states, with commas, is any of them. running includes ready.

  service wait web
  service wait web db --for=ready --timeout=30s
  service wait job --for=stopped,failed

Ends with 0 when it is so, with 124 after the timeout (60s; 0 is none), and with 1
as soon as a service it waits for has failed and failed is not what it waits for.
`, (*app).wait},
	}
}

func (a *app) list(fs *flag.FlagSet, args []string) int {
	format := output(fs)
	rest, err := parse(fs, args)
	if err != nil {
		return a.usage("list", "%v", err)
	}
	if len(rest) > 0 {
		return a.usage("list", "it takes no name: service status %s shows one service", rest[0])
	}
	if code, wrong := a.wrongOutput("list", *format, "name"); wrong {
		return code
	}
	all, err := a.client.services(a.ctx)
	if err != nil {
		return a.fail(err)
	}
	switch *format {
	case "json":
		return a.json(all)
	case "name":
		for _, s := range all {
			fmt.Fprintln(a.out, visible.Text(s.Name))
		}
		return codeOK
	}
	m, err := a.client.machine(a.ctx)
	if err != nil {
		return a.fail(err)
	}
	if len(all) == 0 {
		if m.State == "booting" {
			a.say("The boot has not come to the services yet.")
		} else {
			a.say("The image has no services.")
		}
		return codeOK
	}
	a.table(all, m.Now)
	return codeOK
}

func (a *app) table(all []api.Service, now time.Duration) {
	rows := [][]string{{"NAME", "STATE", "SINCE", "RESTARTS", "PID", "MEMORY", "HEALTH", "WAITING FOR / CAUSE"}}
	for _, s := range all {
		pid, memory, health := "-", "-", "-"
		if s.PID != 0 {
			pid = fmt.Sprint(s.PID)
		}
		if s.Figures != nil {
			memory = bytesText(s.Figures.Memory)
		}
		if s.Health != nil {
			health = s.Health.State
		}
		rows = append(rows, []string{s.Name, s.State, ago(now - s.Since), fmt.Sprint(s.Restarts), pid, memory, health, cut(why(s, now))})
	}
	var b strings.Builder
	table(&b, rows)
	for i, line := range strings.Split(strings.TrimSuffix(b.String(), "\n"), "\n") {
		if i == 0 {
			line = a.colour(bold, line)
		} else if a.terminal {
			s := all[i-1]
			line = strings.Replace(line, " "+s.State+" ", " "+a.colour(stateColour(s.State), s.State)+" ", 1)
		}
		fmt.Fprintln(a.out, line)
	}
	for _, s := range all {
		for _, p := range s.Problems {
			fmt.Fprintf(a.out, "%s %s: %s\n", a.colour(yellow, "warning:"), visible.Text(s.Name), visible.Text(p))
		}
	}
}

// whyWidth is how much of a cause the list has room for; status has all of it.
const whyWidth = 120

func cut(text string) string {
	if r := []rune(text); len(r) > whyWidth {
		return string(r[:whyWidth-1]) + "…"
	}
	return text
}

// why says what a service waits for, or why it is not ready.
func why(s api.Service, now time.Duration) string {
	switch {
	case len(s.WaitingFor) > 0:
		return visible.Text(strings.Join(s.WaitingFor, ", "))
	case s.State == "ready" && s.Health != nil && s.Health.Failures > 0:
		return visible.Text(s.Health.Reason)
	case s.State == "ready":
		return ""
	case s.State == "backoff" && s.RetryAt > 0:
		return visible.Text(s.Cause) + "; again in " + ago(s.RetryAt-now)
	case s.State == "running":
		return "ready when " + visible.Text(s.Ready)
	}
	return visible.Text(s.Cause)
}

func (a *app) status(fs *flag.FlagSet, args []string) int {
	format := output(fs)
	names, err := parse(fs, args)
	if err != nil {
		return a.usage("status", "%v", err)
	}
	if code, wrong := a.wrongOutput("status", *format); wrong {
		return code
	}
	m, err := a.client.machine(a.ctx)
	if err != nil {
		return a.fail(err)
	}
	if len(names) == 0 {
		return a.machineStatus(m, *format)
	}
	code := codeOK
	for i, name := range names {
		s, err := a.client.service(a.ctx, name)
		if err != nil {
			code = a.fail(err)
			continue
		}
		if s.PID == 0 && code == codeOK {
			code = codeNotThere
		}
		if *format == "json" {
			a.json(s)
			continue
		}
		if i > 0 {
			fmt.Fprintln(a.out)
		}
		a.statusOf(s, m.Now)
	}
	return code
}

func (a *app) machineStatus(m api.Machine, format string) int {
	if format == "json" {
		return a.json(m)
	}
	var b api.Boot
	if err := a.client.ask(a.ctx, "GET", "/boot", nil, &b); err != nil {
		return a.fail(err)
	}
	line := func(name, value string) { fmt.Fprintf(a.out, "%12s: %s\n", name, visible.Text(value)) }
	line("Machine", m.State)
	line("Up", ago(m.Now))
	if b.Complete > 0 {
		line("Boot", fmt.Sprintf("complete in %.3fs (service analyze)", b.Complete.Seconds()))
	}
	line("Services", fmt.Sprintf("%d, %d ready, %d failed (service list)", m.Services, m.Ready, m.Failed))
	if c := m.Containers; c != nil {
		line("Containers", fmt.Sprintf("%d of %d MiB of memory, %d of %d processes and threads (service top)", c.MemoryUsed>>20, c.Memory>>20, c.PidsUsed, c.Pids))
	}
	for _, p := range m.Parts {
		line(p.Name, partText(p, m.Now))
	}
	if m.Watchdog != "" {
		line("Watchdog", m.Watchdog)
	}
	if m.Modules != "" {
		line("Modules", m.Modules)
	}
	line("Version", m.Version)
	return codeOK
}

// partText is a part of the machine in words.
func partText(p api.Part, now time.Duration) string {
	text := fmt.Sprintf("%s for %s, process %d", p.State, ago(now-p.Since), p.PID)
	if n := len(p.Members); n == 1 {
		text += ", 1 container"
	} else if n > 1 {
		text += fmt.Sprintf(", %d containers", n)
	}
	return text
}

// statusOf shows all of one service.
func (a *app) statusOf(s api.Service, now time.Duration) {
	line := func(name, format string, args ...any) {
		fmt.Fprintf(a.out, "%12s: %s\n", name, visible.Text(fmt.Sprintf(format, args...)))
	}
	list := func(name string, of []string) {
		if len(of) > 0 {
			line(name, "%s", strings.Join(of, ", "))
		}
	}
	fmt.Fprintf(a.out, "%s %s: %s\n", a.colour(stateColour(s.State), "●"), a.colour(bold, visible.Text(s.Name)), a.colour(stateColour(s.State), s.State))
	cause := ""
	if s.Cause != "" {
		cause = ": " + s.Cause
	}
	line("State", "%s since %s (%s ago)%s", s.State, seconds(s.Since), ago(now-s.Since), cause)
	list("Waiting for", s.WaitingFor)
	if s.RetryAt > 0 {
		line("Next start", "in %s", ago(s.RetryAt-now))
	}
	if s.PID != 0 {
		ready := ""
		if s.ReadyAt > 0 {
			ready = fmt.Sprintf(", ready %.3fs later", (s.ReadyAt - s.StartedAt).Seconds())
		}
		line("Process", "%d, started %s%s", s.PID, seconds(s.StartedAt), ready)
	}
	line("Ready when", "%s", s.Ready)
	if s.Status != "" {
		line("It says", "%s", s.Status)
	}
	if h := s.Health; h != nil {
		text := fmt.Sprintf("%s by %s", h.State, h.Check)
		if h.At > 0 {
			text += fmt.Sprintf(", looked at %s ago", ago(now-h.At))
		}
		if h.State == "unknown" && h.Reason != "" {
			text += ": " + h.Reason
		}
		if h.Failures > 0 {
			text += fmt.Sprintf(", failed %d times: %s", h.Failures, h.Reason)
		}
		line("Health", "%s", text)
	}
	last := "never ended"
	if e := s.LastExit; e != nil {
		last = fmt.Sprintf("%s at %s, after %s", e.Reason, seconds(e.At), ago(e.Ran))
	}
	line("Restarts", "%d; last exit: %s", s.Restarts, last)
	list("Requires", s.Requires)
	list("After", s.After)
	list("Required by", s.RequiredBy)
	a.policy(s, line)
	if h := s.Hardening; h != nil {
		added := "nothing added"
		if len(h.Added) > 0 {
			added = strings.Join(h.Added, ", ")
		}
		line("Hardening", "%s (%s)", h.Level, added)
	}
	if f := s.Figures; f != nil {
		line("Memory", "%s%s%s", bytesText(f.Memory), optional(", at most %s", f.MemoryPeak), optional(", limit %s", f.MemoryMax))
		throttled := ""
		if f.Throttled > 0 {
			throttled = fmt.Sprintf(", held back for %.3fs", f.Throttled.Seconds())
		}
		line("CPU", "%.3fs%s", f.CPU.Seconds(), throttled)
		line("IO", "%s read, %s written", bytesText(f.ReadBytes), bytesText(f.WriteBytes))
		limit := ""
		if f.PidsMax > 0 {
			limit = fmt.Sprintf(", limit %d", f.PidsMax)
		}
		line("Processes", "%d%s", f.Pids, limit)
	}
	if s.OOMKills > 0 {
		line("Killed", "%d processes, for want of memory", s.OOMKills)
	}
	if c := s.Control; c != nil {
		line("Control", "%s (%s)", c.Right, c.Why)
		list("Hidden", c.Hidden)
	}
	line("Cgroup", "%s", s.Cgroup)
	line("Folder", "%s, namespace %s", s.Image, s.Namespace)
	for _, p := range s.Problems {
		line("Problem", "%s", p)
	}
	if len(s.Moves) > 0 {
		fmt.Fprintf(a.out, "%12s:\n", "History")
		for _, m := range s.Moves[max(0, len(s.Moves)-8):] {
			cause := m.Cause
			if cause == "" {
				cause = m.Event
			}
			fmt.Fprintf(a.out, "    %9s  %s -> %s: %s\n", seconds(m.At), m.From, m.To, visible.Text(cause))
		}
	}
	if len(s.Log) > 0 {
		fmt.Fprintf(a.out, "%12s:\n", "Last lines")
		for _, l := range s.Log {
			fmt.Fprintf(a.out, "    | %s\n", visible.Text(l))
		}
	}
}

func optional(format string, n uint64) string {
	if n == 0 {
		return ""
	}
	return fmt.Sprintf(format, bytesText(n))
}

func (a *app) policy(s api.Service, line func(name, format string, args ...any)) {
	p := s.Policy
	text := fmt.Sprintf("restart %s, backoff %s", p.Restart, p.Backoff)
	if p.Limit != "" {
		text += ", limit " + p.Limit
	}
	text += fmt.Sprintf(", on-failure %s, stop %s within %s, shim %s", p.OnFailure, p.StopSignal, p.StopTimeout, p.Shim)
	if p.ReadyTimeout != "" {
		text += ", ready within " + p.ReadyTimeout
	}
	if s.Critical {
		text += ", critical"
	}
	line("Policy", "%s", text)
}
