// Package audit measures how much of the machine a container could reach if the
// program in it turned hostile: one number from 0 (nothing) to 10.
//
//   - The checks, their weights and the formula are those of systemd-analyze
//     security, so that the number means the same. docs/audit.md has every row.
//   - A gate is a grant that makes the container the machine's master whatever
//     else it is kept from: the exposure is then at least 9.
//   - It judges Facts, which a container's configuration (FromSpec) or a live
//     process fills in. It must never read a file or change anything.
package audit

import (
	"fmt"
	"slices"
	"strings"

	"keelson/internal/typo"
)

// Check is one row of the table.
type Check struct {
	ID     string
	Weight int
	Range  int    // the worst badness
	What   string // what a container that passes is, for people
	Fix    string // what to write in the image YAML to pass
	assess func(f *Facts) (badness int, note string)
}

// notApplicable is the badness of a check that does not count for a container.
const notApplicable = -1

// Gate is a grant that opens the whole machine.
type Gate struct {
	ID, What, Fix string
	open          func(f *Facts) (note string, open bool)
}

// GateExposure is the least exposure of a container with an open gate, in tenths.
const GateExposure = 90

// State is what came of a check or a gate.
type State string

// The states.
const (
	Passed        State = "ok"
	Failed        State = "bad"
	Accepted      State = "accepted" // would count, but its author accepts it
	NotApplicable State = "n/a"
)

// Finding is what came of one check or gate for a container.
type Finding struct {
	ID      string `json:"check"`
	Gate    bool   `json:"gate,omitempty"`
	State   State  `json:"state"`
	Weight  int    `json:"weight,omitempty"`
	Badness int    `json:"badness,omitempty"` // of Range
	Range   int    `json:"range,omitempty"`
	What    string `json:"what"`
	Note    string `json:"note,omitempty"` // what of this container it is about
	Fix     string `json:"fix,omitempty"`
	Reason  string `json:"reason,omitempty"` // why it is accepted
	// Declared is the state by the configuration, where a live process differs.
	Declared State `json:"declared,omitempty"`
}

// cost is what a finding adds to the sum.
func (f Finding) cost() int {
	if f.Gate || f.State != Failed {
		return 0
	}
	return ceil(f.Badness*f.Weight, f.Range)
}

// Report is what the audit of a container found.
type Report struct {
	Exposure int // in tenths: 0 to 100
	Findings []Finding
}

// Score is the exposure as people read it, such as 1.9.
func (r Report) Score() string { return Tenths(r.Exposure) }

// Level is systemd's word for the exposure.
func (r Report) Level() string { return Level(r.Exposure) }

// Tenths writes an exposure.
func Tenths(exposure int) string { return fmt.Sprintf("%d.%d", exposure/10, exposure%10) }

// Level is systemd's word for an exposure.
func Level(exposure int) string {
	for _, l := range []struct {
		from int
		word string
	}{{100, "DANGEROUS"}, {90, "UNSAFE"}, {75, "EXPOSED"}, {50, "MEDIUM"}, {10, "OK"}, {1, "SAFE"}} {
		if exposure >= l.from {
			return l.word
		}
	}
	return "PERFECT"
}

// Bad returns the findings that count, the worst first.
func (r Report) Bad() []Finding {
	return slices.DeleteFunc(slices.Clone(r.Findings), func(f Finding) bool { return f.State != Failed })
}

// Assess judges a container. accepted are checks that do not count, with the reason.
func Assess(f *Facts, accepted map[string]string) Report {
	var r Report
	var bad, all int
	for _, c := range checks {
		x := Finding{ID: c.ID, State: Passed, Weight: c.Weight, Range: c.Range, What: c.What}
		x.Badness, x.Note = c.assess(f)
		switch reason, ok := accepted[c.ID]; {
		case x.Badness == notApplicable:
			x.Badness, x.State = 0, NotApplicable
		case x.Badness == 0:
		case ok:
			x.State, x.Reason, x.Fix = Accepted, reason, c.Fix
		default:
			x.State, x.Fix = Failed, c.Fix
		}
		if x.State == Passed || x.State == Failed {
			all += c.Weight
			bad += x.cost()
		}
		r.Findings = append(r.Findings, x)
	}
	if all > 0 {
		r.Exposure = ceil(bad*100, all)
	}
	for _, g := range gates {
		x := Finding{ID: g.ID, Gate: true, State: Passed, What: g.What}
		if note, open := g.open(f); open {
			x.State, x.Note, x.Fix = Failed, note, g.Fix
			if reason, ok := accepted[g.ID]; ok {
				x.State, x.Reason = Accepted, reason
			} else {
				r.Exposure = max(r.Exposure, GateExposure)
			}
		}
		r.Findings = append(r.Findings, x)
	}
	slices.SortStableFunc(r.Findings, func(a, b Finding) int {
		if a.Gate != b.Gate {
			if a.Gate {
				return -1
			}
			return 1
		}
		return b.cost() - a.cost()
	})
	return r
}

// Compare marks in the report on a live process what its configuration's differs in.
func Compare(live, declared Report) Report {
	state := map[string]Finding{}
	for _, f := range declared.Findings {
		state[f.ID] = f
	}
	live.Findings = slices.Clone(live.Findings)
	for i, f := range live.Findings {
		if d := state[f.ID]; d.State != f.State || d.Badness != f.Badness {
			live.Findings[i].Declared = d.State
		}
	}
	return live
}

// ceil divides and rounds up.
func ceil(n, by int) int { return (n + by - 1) / by }

// Checks returns the table of checks, Gates that of gates.
func Checks() []Check { return slices.Clone(checks) }

// Gates returns the table of gates.
func Gates() []Gate { return slices.Clone(gates) }

// AcceptKey is the annotation that accepts checks.
const AcceptKey = "keelson.audit.accept"

// ParseAccept reads the value of AcceptKey: "CHECK: reason", several on a line each
// or with a semicolon between them.
func ParseAccept(value string) (map[string]string, error) {
	accepted := map[string]string{}
	for _, part := range strings.FieldsFunc(value, func(r rune) bool { return r == '\n' || r == ';' }) {
		if part = strings.TrimSpace(part); part == "" {
			continue
		}
		id, reason, _ := strings.Cut(part, ":")
		id, reason = strings.TrimSpace(id), strings.TrimSpace(reason)
		if !known(id) {
			return nil, fmt.Errorf("there is no check %q%s", id, suggest(id))
		}
		if reason == "" {
			return nil, fmt.Errorf("%s has no reason; want CHECK: reason", id)
		}
		if _, twice := accepted[id]; twice {
			return nil, fmt.Errorf("%s is there twice; give one reason", id)
		}
		accepted[id] = reason
	}
	if len(accepted) == 0 {
		return nil, fmt.Errorf("want CHECK: reason, such as User: nginx drops its rights itself")
	}
	return accepted, nil
}

// ids are the names of all checks and gates.
func ids() []string {
	var list []string
	for _, c := range checks {
		list = append(list, c.ID)
	}
	for _, g := range gates {
		list = append(list, g.ID)
	}
	return list
}

func known(id string) bool { return slices.Contains(ids(), id) }

// suggest names the check that may have been meant.
func suggest(id string) string {
	best := typo.Nearest(id, ids(), len(id)/2)
	if best == "" {
		return "; docs/audit.md has all of them"
	}
	return "; did you mean " + best + "?"
}
