// Package sarif writes what an audit found as SARIF 2.1.0, which code hosts and
// editors show beside the line that it is about.
//
// It owns the format alone: each check is a rule, each failed one a result, an
// accepted one a result that is suppressed in the source.
package sarif

import (
	"fmt"
	"net/url"
	"path/filepath"

	"keelson/internal/audit"
)

// Container is one container that was judged, and where it is declared.
type Container struct {
	Name   string
	File   string
	Line   int
	Report audit.Report
}

// Log is a SARIF file.
type Log struct {
	Schema  string `json:"$schema"`
	Version string `json:"version"`
	Runs    []Run  `json:"runs"`
}

// Run is one run of a tool.
type Run struct {
	Tool    Tool     `json:"tool"`
	Results []Result `json:"results"`
}

// Tool is what ran.
type Tool struct {
	Driver Driver `json:"driver"`
}

// Driver is its program.
type Driver struct {
	Name  string `json:"name"`
	Rules []Rule `json:"rules"`
}

// Rule is a check.
type Rule struct {
	ID               string  `json:"id"`
	ShortDescription Message `json:"shortDescription"`
	Help             Message `json:"help"`
}

// Message is a text.
type Message struct {
	Text string `json:"text"`
}

// Result is one finding.
type Result struct {
	RuleID       string        `json:"ruleId"`
	RuleIndex    int           `json:"ruleIndex"`
	Level        string        `json:"level"`
	Message      Message       `json:"message"`
	Locations    []Location    `json:"locations"`
	Suppressions []Suppression `json:"suppressions,omitempty"`
}

// Location is where a finding is.
type Location struct {
	PhysicalLocation PhysicalLocation `json:"physicalLocation"`
}

// PhysicalLocation is a place in a file.
type PhysicalLocation struct {
	ArtifactLocation ArtifactLocation `json:"artifactLocation"`
	Region           Region           `json:"region"`
}

// ArtifactLocation is a file.
type ArtifactLocation struct {
	URI string `json:"uri"`
}

// Region is a line.
type Region struct {
	StartLine int `json:"startLine"`
}

// Suppression is why a finding does not count.
type Suppression struct {
	Kind          string `json:"kind"`
	Justification string `json:"justification"`
}

// New returns what was found in containers.
func New(containers []Container) Log {
	rules, index := []Rule{}, map[string]int{}
	rule := func(id, what, fix string) {
		index[id] = len(rules)
		rules = append(rules, Rule{ID: id, ShortDescription: Message{"A container " + what + "."}, Help: Message{"To pass: " + fix + "."}})
	}
	for _, g := range audit.Gates() {
		rule(g.ID, g.What, g.Fix)
	}
	for _, c := range audit.Checks() {
		rule(c.ID, c.What, c.Fix)
	}
	results := []Result{}
	for _, c := range containers {
		for _, f := range c.Report.Findings {
			if f.State == audit.Failed || f.State == audit.Accepted {
				results = append(results, result(c, f, index[f.ID]))
			}
		}
	}
	return Log{
		Schema: "https://json.schemastore.org/sarif-2.1.0.json", Version: "2.1.0",
		Runs: []Run{{Tool: Tool{Driver{Name: "mkimage audit", Rules: rules}}, Results: results}},
	}
}

func result(c Container, f audit.Finding, index int) Result {
	text := fmt.Sprintf("%s (exposure %s %s): it should be a container that %s", c.Name, c.Report.Score(), c.Report.Level(), f.What)
	if f.Note != "" {
		text += ", but: " + f.Note
	}
	r := Result{
		RuleID: f.ID, RuleIndex: index, Level: level(f), Message: Message{text + ". To pass: " + f.Fix + "."},
		Locations: []Location{{PhysicalLocation{ArtifactLocation{uri(c.File)}, Region{max(c.Line, 1)}}}},
	}
	if f.State == audit.Accepted {
		r.Suppressions = []Suppression{{Kind: "inSource", Justification: f.Reason}}
	}
	return r
}

// level is SARIF's word for how bad a finding is.
func level(f audit.Finding) string {
	switch {
	case f.Gate:
		return "error"
	case f.Weight >= 1000:
		return "warning"
	}
	return "note"
}

// uri is a file as SARIF has it: relative to where the tool ran, or with its scheme.
func uri(file string) string {
	u := url.URL{Path: filepath.ToSlash(file)}
	if filepath.IsAbs(file) {
		u.Scheme = "file"
	}
	return u.String()
}
