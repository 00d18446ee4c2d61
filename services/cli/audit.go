package cli

import (
	"cmp"
	"errors"
	"flag"
	"fmt"
	"net/http"
	"slices"
	"strconv"
	"strings"

	"keelson/internal/api"
	"keelson/internal/audit"
)

func (a *app) audit(fs *flag.FlagSet, args []string) int {
	format := output(fs)
	names, err := parse(fs, args)
	if err != nil {
		return a.usage("audit", "%v", err)
	}
	if code, wrong := a.wrongOutput("audit", *format); wrong {
		return code
	}
	if len(names) == 0 {
		return a.auditAll(*format)
	}
	code := codeOK
	for i, name := range names {
		r, err := a.auditOf(name)
		if err != nil {
			if code = a.fail(err); notRunning(err) {
				code = codeNotThere
			}
			continue
		}
		if *format == "json" {
			a.json(r)
			continue
		}
		if i > 0 {
			fmt.Fprintln(a.out)
		}
		a.showAudit(r)
	}
	return code
}

func (a *app) auditOf(name string) (r api.Audit, err error) {
	err = a.client.ask(a.ctx, http.MethodGet, servicePath(name)+"/audit", nil, &r)
	return r, helpfully(err, name)
}

// notRunning reports whether a service could not be judged because it does not run.
func notRunning(err error) bool {
	r, ok := errors.AsType[*refusal](err)
	return ok && r.status == http.StatusConflict
}

// auditAll shows the number of each service that runs.
func (a *app) auditAll(format string) int {
	services, err := a.client.services(a.ctx)
	if err != nil {
		return a.fail(err)
	}
	all := []api.Audit{}
	for _, s := range services {
		if s.PID == 0 {
			continue
		}
		r, err := a.auditOf(s.Name)
		if notRunning(err) {
			continue // by now
		}
		if err != nil {
			return a.fail(err)
		}
		all = append(all, r)
	}
	slices.SortStableFunc(all, func(x, y api.Audit) int { return cmp.Compare(y.Exposure, x.Exposure) })
	if format == "json" {
		return a.json(all)
	}
	if len(all) == 0 {
		a.say("No service runs.")
		return codeOK
	}
	rows := [][]string{{"NAME", "EXPOSURE", "LEVEL", "GATES", "OTHER THAN DECLARED"}}
	for _, r := range all {
		var open, drift []string
		for _, f := range r.Findings {
			if f.Gate && f.State == audit.Failed {
				open = append(open, f.ID)
			}
		}
		for _, f := range r.Facts {
			if f.Drifted() {
				drift = append(drift, f.Name)
			}
		}
		rows = append(rows, []string{r.Service, exposure(r), r.Level, orDash(strings.Join(open, ",")), orDash(strings.Join(drift, ", "))})
	}
	table(a.out, rows)
	return codeOK
}

func exposure(r api.Audit) string { return strconv.FormatFloat(r.Exposure, 'f', 1, 64) }

func orDash(s string) string {
	if s == "" {
		return "-"
	}
	return s
}

// showAudit shows all that counts of one service.
func (a *app) showAudit(r api.Audit) {
	fmt.Fprintf(a.out, "%s: exposure %s %s (process %d)\n", a.colour(bold, r.Service), exposure(r), r.Level, r.PID)
	rows := [][]string{{"", "CHECK", "WEIGHT", "A SERVICE THAT PASSES", "THIS ONE", "TO PASS"}}
	for _, f := range r.Findings {
		if row, ok := findingRow(f); ok {
			rows = append(rows, row)
		}
	}
	table(a.out, rows)
	drift := [][]string{{"OTHER THAN DECLARED", "DECLARED", "LIVE"}}
	for _, f := range r.Facts {
		if f.Drifted() {
			drift = append(drift, []string{f.Name, f.Declared, f.Live})
		}
	}
	if len(drift) > 1 {
		fmt.Fprintln(a.out)
		table(a.out, drift)
	}
}

// findingRow is a row for what counts, what is accepted and what is other than declared.
func findingRow(f audit.Finding) ([]string, bool) {
	if f.State != audit.Failed && f.State != audit.Accepted && f.Declared == "" {
		return nil, false
	}
	mark, weight, note := map[audit.State]string{audit.Failed: "✗", audit.Accepted: "~"}[f.State], strconv.Itoa(f.Weight), f.Note
	if f.Gate {
		weight = "gate"
	}
	fix := f.Fix
	switch {
	case f.State == audit.Accepted:
		weight, fix = "accepted", "("+f.Reason+")"
	case f.State != audit.Failed:
		mark, fix = "✓", "-"
	}
	if f.Declared != "" {
		bad := map[bool]string{true: "yes", false: "no"}
		if note != "" {
			note += "; "
		}
		note += "declared: " + bad[f.Declared == audit.Failed || f.Declared == audit.Accepted] + ", live: " + bad[f.State == audit.Failed || f.State == audit.Accepted]
	}
	return []string{mark, f.ID, weight, f.What, orDash(note), fix}, true
}
