package main

import (
	"encoding/json"
	"fmt"
	"io"
	"slices"
	"strconv"
	"strings"
	"text/tabwriter"

	"github.com/spf13/cobra"

	"keelson/internal/audit"
	"keelson/internal/bundle"
	"keelson/internal/harden"
	"keelson/internal/inspect"
	"keelson/internal/visible"
	"keelson/mkimage/assemble"
	"keelson/mkimage/config"
	"keelson/mkimage/sarif"
)

// threshold is an exposure in tenths that a flag gives; it is a limit once it is set.
type threshold struct {
	tenths int
	set    bool
}

// String is the exposure.
func (t *threshold) String() string {
	if !t.set {
		return ""
	}
	return audit.Tenths(t.tenths)
}

// Set reads an exposure.
func (t *threshold) Set(s string) error {
	whole, tenth, _ := strings.Cut(s, ".")
	n, err := strconv.ParseUint(whole, 10, 8)
	m, err2 := strconv.ParseUint(tenth+"0"[:max(0, 1-len(tenth))], 10, 8)
	if err != nil || err2 != nil || len(tenth) > 1 || n*10+m > 100 {
		return fmt.Errorf("must be an exposure from 0.0 to 10.0, such as 3.0")
	}
	t.tenths, t.set = int(n*10+m), true
	return nil
}

// Type names the kind of value in help.
func (t *threshold) Type() string { return "exposure" }

// check fails if a container is above the threshold.
func (t *threshold) check(yamls []string, all []audited) error {
	if !t.set {
		return nil
	}
	var above []string
	for _, a := range all {
		if a.report.Exposure > t.tenths {
			above = append(above, fmt.Sprintf("%s %s (%s)", a.Section, visible.Text(a.Name), a.report.Score()))
		}
	}
	if len(above) == 0 {
		return nil
	}
	return fmt.Errorf("the exposure of %s is above %s; mkimage audit %s shows why, and how to lower it", strings.Join(above, ", "), t, strings.Join(yamls, " "))
}

// audited is a container and what came of its audit.
type audited struct {
	Section  bundle.Section  `json:"section"`
	Name     string          `json:"name"`
	File     string          `json:"file"`
	Line     int             `json:"line"`
	Exposure float64         `json:"exposure"`
	Level    string          `json:"level"`
	Findings []audit.Finding `json:"findings"`

	report audit.Report
}

// auditImage judges the containers of an image as they will run, the worst first.
func auditImage(res *assemble.Result) []audited {
	off := slices.Contains(strings.Fields(res.Cmdline), "keelson.harden="+string(harden.LinuxKit))
	all := []audited{}
	for _, c := range res.Containers {
		walls := c.Bundle.Walls()
		if off {
			walls.Harden = harden.LinuxKit
		}
		spec, _ := harden.Apply(c.Bundle.Spec, walls.Harden, harden.Options{LogOnly: walls.SeccompLog})
		r := audit.Assess(inspect.Declared(c.Bundle, spec), inspect.Accepted(spec))
		all = append(all, audited{
			Section: c.Bundle.Section, Name: c.Bundle.Name, File: c.File, Line: c.Line,
			Exposure: float64(r.Exposure) / 10, Level: r.Level(), Findings: r.Findings, report: r,
		})
	}
	slices.SortStableFunc(all, func(a, b audited) int { return b.report.Exposure - a.report.Exposure })
	return all
}

func auditCommand() *cobra.Command {
	var flags buildFlags
	var limit threshold
	var format string
	cmd := &cobra.Command{
		Use:   "audit [flags] IMAGE.yml...",
		Short: "Show what each container of an image could do to the machine, as a number",
		Long: `Judge each container of an image as it will run, with what keelson.harden adds:
its exposure from 0.0 to 10.0, by the checks and weights of systemd-analyze
security, and what would lower it. The worst comes first. docs/audit.md has all
checks. What a container needs is accepted in its annotations:

  keelson.audit.accept: "WritableRoot: it backs the machine up"

Ends with 1 if a container is above the --threshold.`,
		Example: `  mkimage audit web.yml
  mkimage audit --threshold 3.0 -o sarif web.yml`,
		Args: someFiles("an image YAML"),
		RunE: func(cmd *cobra.Command, args []string) error {
			write, ok := auditFormats[format]
			if !ok {
				return fmt.Errorf("-o %s: must be one of text, json, sarif", format)
			}
			ui := newReporter(cmd.ErrOrStderr(), true)
			cfg, err := config.LoadAll(cmd.InOrStdin(), args...)
			if err != nil {
				return err
			}
			res, _, done, err := assembleImage(cmd.Context(), ui, cfg, flags)
			if err != nil {
				return err
			}
			defer done()
			all := auditImage(res)
			if err := write(cmd.OutOrStdout(), all); err != nil {
				return err
			}
			return limit.check(args, all)
		},
	}
	flags.addImages(cmd)
	cmd.Flags().Var(&limit, "threshold", "the highest exposure that is right, such as 3.0")
	cmd.Flags().StringVarP(&format, "output", "o", "text", "text, json or sarif")
	return cmd
}

var auditFormats = map[string]func(io.Writer, []audited) error{
	"text": auditText,
	"json": func(w io.Writer, all []audited) error { return encode(w, all) },
	"sarif": func(w io.Writer, all []audited) error {
		var places []sarif.Container
		for _, a := range all {
			places = append(places, sarif.Container{Name: string(a.Section) + " " + a.Name, File: a.File, Line: a.Line, Report: a.report})
		}
		return encode(w, sarif.New(places))
	},
}

func encode(w io.Writer, v any) error {
	e := json.NewEncoder(w)
	e.SetEscapeHTML(false)
	e.SetIndent("", "  ")
	return e.Encode(v)
}

func auditText(w io.Writer, all []audited) error {
	t := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	for i, a := range all {
		if i > 0 {
			fmt.Fprintln(t)
		}
		fmt.Fprintf(t, "%s %s: exposure %s %s (%s:%d)\n", a.Section, visible.Text(a.Name), a.report.Score(), a.Level, a.File, a.Line)
		fmt.Fprintf(t, "  CHECK\tWEIGHT\tA CONTAINER THAT PASSES\tTHIS ONE\tTO PASS\n")
		for _, f := range a.report.Bad() {
			fmt.Fprintf(t, "  %s\t%s\t%s\t%s\t%s\n", f.ID, weight(f), f.What, orDash(visible.Text(f.Note)), visible.Text(f.Fix))
		}
		for _, f := range a.Findings {
			if f.State == audit.Accepted {
				fmt.Fprintf(t, "  %s\taccepted\t%s\t%s\t(%s)\n", f.ID, f.What, orDash(visible.Text(f.Note)), visible.Text(f.Reason))
			}
		}
		if err := t.Flush(); err != nil {
			return err
		}
	}
	if len(all) == 0 {
		fmt.Fprintln(t, "The image has no containers.")
	}
	return t.Flush()
}

func weight(f audit.Finding) string {
	if f.Gate {
		return "gate"
	}
	return strconv.Itoa(f.Weight)
}

func orDash(s string) string {
	if s == "" {
		return "-"
	}
	return s
}
