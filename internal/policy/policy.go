// Package policy owns the annotations by which an image says how each of its
// containers is to be kept: the keys, their values and their defaults.
//
// It is the one place where they are parsed. mkimage turns a Problem into an
// error of the build, the supervisor into a warning with the key's default in
// force: an appliance must boot. Parsing changes nothing and never fails.
package policy

import (
	"fmt"
	"slices"
	"sort"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// Prefix begins every annotation that is ours; others are nobody's business here.
const Prefix = "keelson."

// stopSignalLabel is what image builders put an image's STOPSIGNAL under.
const stopSignalLabel = "org.opencontainers.image.stopSignal"

// Restart says after which ends a service is started again.
type Restart string

// The values of keelson.restart.
const (
	RestartAlways    Restart = "always"
	RestartOnFailure Restart = "on-failure" // a code other than 0, a signal, a failed start
	RestartNever     Restart = "never"
)

// Action is what the machine does when a container has failed for good.
type Action string

// The values of keelson.on-failure. Continue and Retry are for one-shots.
const (
	ActionNone     Action = "none"
	ActionContinue Action = "continue"
	ActionRetry    Action = "retry"
	ActionReboot   Action = "reboot"
	ActionPoweroff Action = "poweroff"
	ActionHalt     Action = "halt"
)

// Limit is the most restarts in a window of time; a Count of 0 is no limit.
type Limit struct {
	Count  int
	Window time.Duration
}

// Service is the policy of one service.
type Service struct {
	Restart     Restart
	BackoffMin  time.Duration // the delay before the first restart of a service that had not been well
	BackoffMax  time.Duration // the delay it doubles up to
	Limit       Limit
	OnFailure   Action
	StopSignal  unix.Signal
	StopTimeout time.Duration // from the stop signal to SIGKILL
	Console     bool          // its output goes to the console as well
	OwnShim     bool          // it has a shim process of its own
}

// OneShot is the policy of an onboot or onshutdown container.
type OneShot struct {
	Timeout   time.Duration // 0 is none
	OnFailure Action
	Retries   int // for ActionRetry
	Console   bool
}

// Problem is an annotation that was not understood.
type Problem struct {
	Key, Value string
	Want       string // what would be right
}

// Error says what is wrong and what would be right.
func (p Problem) Error() string {
	return fmt.Sprintf("annotations: %s: %q: %s", p.Key, p.Value, p.Want)
}

// DefaultService is the policy of a service without annotations.
func DefaultService() Service {
	return Service{
		Restart:     RestartAlways,
		BackoffMin:  100 * time.Millisecond,
		BackoffMax:  30 * time.Second,
		OnFailure:   ActionNone,
		StopSignal:  unix.SIGTERM,
		StopTimeout: 10 * time.Second,
	}
}

// DefaultOneShot is the policy of a one-shot without annotations; one that runs
// at shutdown has a bound, so that the machine does end.
func DefaultOneShot(onshutdown bool) OneShot {
	p := OneShot{OnFailure: ActionContinue, Console: true}
	if onshutdown {
		p.Timeout = 30 * time.Second
	}
	return p
}

type key[P any] struct {
	name string
	want string
	set  func(p *P, value string) bool
}

var serviceKeys = []key[Service]{
	{"keelson.restart", "want always, on-failure or never", func(p *Service, v string) bool {
		return choose(&p.Restart, v, RestartAlways, RestartOnFailure, RestartNever)
	}},
	{"keelson.restart.backoff", "want FIRST..LAST, two durations of at least 1ms such as 100ms..30s", func(p *Service, v string) bool {
		first, last, ok := strings.Cut(v, "..")
		lo, err1 := time.ParseDuration(strings.TrimSpace(first))
		hi, err2 := time.ParseDuration(strings.TrimSpace(last))
		if !ok || err1 != nil || err2 != nil || lo < time.Millisecond || hi < lo {
			return false
		}
		p.BackoffMin, p.BackoffMax = lo, hi
		return true
	}},
	{"keelson.restart.limit", "want none, or COUNT/WINDOW such as 5/1m", func(p *Service, v string) bool {
		if v == "none" {
			p.Limit = Limit{}
			return true
		}
		count, window, ok := strings.Cut(v, "/")
		n, err1 := strconv.Atoi(count)
		w, err2 := time.ParseDuration(window)
		if !ok || err1 != nil || err2 != nil || n < 1 || w <= 0 {
			return false
		}
		p.Limit = Limit{Count: n, Window: w}
		return true
	}},
	{"keelson.on-failure", "want none, reboot, poweroff or halt", func(p *Service, v string) bool {
		return choose(&p.OnFailure, v, ActionNone, ActionReboot, ActionPoweroff, ActionHalt)
	}},
	{"keelson.stop.signal", "want a signal such as SIGTERM, INT or 15", func(p *Service, v string) bool {
		return setSignal(&p.StopSignal, v)
	}},
	{"keelson.stop.timeout", "want a duration such as 10s", func(p *Service, v string) bool {
		return setDuration(&p.StopTimeout, v)
	}},
	{"keelson.console", "want true or false", func(p *Service, v string) bool { return setBool(&p.Console, v) }},
	{"keelson.shim", "want shared or own", func(p *Service, v string) bool {
		if v != "shared" && v != "own" {
			return false
		}
		p.OwnShim = v == "own"
		return true
	}},
}

var oneShotKeys = []key[OneShot]{
	{"keelson.timeout", "want none, or a duration such as 30s", func(p *OneShot, v string) bool {
		if v == "none" {
			p.Timeout = 0
			return true
		}
		var d time.Duration
		if !setDuration(&d, v) || d == 0 {
			return false
		}
		p.Timeout = d
		return true
	}},
	{"keelson.on-failure", "want continue, retry:COUNT, halt, reboot or poweroff", func(p *OneShot, v string) bool {
		if count, ok := strings.CutPrefix(v, "retry:"); ok {
			n, err := strconv.Atoi(count)
			if err != nil || n < 1 {
				return false
			}
			p.OnFailure, p.Retries = ActionRetry, n
			return true
		}
		return choose(&p.OnFailure, v, ActionContinue, ActionHalt, ActionReboot, ActionPoweroff)
	}},
	{"keelson.console", "want true or false", func(p *OneShot, v string) bool { return setBool(&p.Console, v) }},
}

// ParseService reads the policy of a service from its annotations. Each key
// that is unknown or whose value is wrong is a Problem, in the order of the
// keys, and leaves the default in force.
func ParseService(annotations map[string]string) (Service, []Problem) {
	p := DefaultService()
	if v, ok := annotations[stopSignalLabel]; ok {
		setSignal(&p.StopSignal, v) // the image's wish, not the user's setting: no problem if odd
	}
	return p, parse(&p, serviceKeys, annotations)
}

// ParseOneShot reads the policy of an onboot or onshutdown container.
func ParseOneShot(onshutdown bool, annotations map[string]string) (OneShot, []Problem) {
	p := DefaultOneShot(onshutdown)
	return p, parse(&p, oneShotKeys, annotations)
}

func parse[P any](p *P, keys []key[P], annotations map[string]string) []Problem {
	var names []string
	for name := range annotations {
		if strings.HasPrefix(name, Prefix) {
			names = append(names, name)
		}
	}
	sort.Strings(names)
	var problems []Problem
	for _, name := range names {
		value := annotations[name]
		i := slices.IndexFunc(keys, func(k key[P]) bool { return k.name == name })
		if i < 0 {
			problems = append(problems, Problem{name, value, unknown(name, keys)})
			continue
		}
		if !keys[i].set(p, strings.TrimSpace(value)) {
			problems = append(problems, Problem{name, value, keys[i].want})
		}
	}
	return problems
}

// unknown says that there is no such key, and which one may have been meant.
func unknown[P any](name string, keys []key[P]) string {
	best, bestDistance := "", len(name)
	var all []string
	for _, k := range keys {
		all = append(all, k.name)
		if d := distance(name, k.name); d < bestDistance {
			best, bestDistance = k.name, d
		}
	}
	if bestDistance <= 3 {
		return "no such key; did you mean " + best + "?"
	}
	return "no such key; there are " + strings.Join(all, ", ")
}

// distance is Levenshtein's, the number of single-letter edits between two words.
func distance(a, b string) int {
	row := make([]int, len(b)+1)
	for j := range row {
		row[j] = j
	}
	for i := 1; i <= len(a); i++ {
		diagonal := row[0]
		row[0] = i
		for j := 1; j <= len(b); j++ {
			cost := 1
			if a[i-1] == b[j-1] {
				cost = 0
			}
			next := min(row[j]+1, row[j-1]+1, diagonal+cost)
			diagonal, row[j] = row[j], next
		}
	}
	return row[len(b)]
}

func choose[T ~string](into *T, value string, allowed ...T) bool {
	if !slices.Contains(allowed, T(value)) {
		return false
	}
	*into = T(value)
	return true
}

func setDuration(into *time.Duration, value string) bool {
	d, err := time.ParseDuration(value)
	if err != nil || d < 0 {
		return false
	}
	*into = d
	return true
}

func setBool(into *bool, value string) bool {
	if value != "true" && value != "false" {
		return false
	}
	*into = value == "true"
	return true
}

// setSignal takes SIGTERM, TERM, term, 15, RTMIN+3 and RTMAX-2.
func setSignal(into *unix.Signal, value string) bool {
	const rtmin, rtmax = 34, 64 // as glibc and musl have it
	if n, err := strconv.Atoi(value); err == nil {
		if n < 1 || n > rtmax {
			return false
		}
		*into = unix.Signal(n)
		return true
	}
	name := strings.TrimPrefix(strings.ToUpper(value), "SIG")
	for _, rt := range []struct {
		name string
		base int
	}{{"RTMIN", rtmin}, {"RTMAX", rtmax}} {
		rest, ok := strings.CutPrefix(name, rt.name)
		if !ok {
			continue
		}
		n := 0
		if rest != "" {
			var err error
			if n, err = strconv.Atoi(rest); err != nil {
				return false
			}
		}
		if sig := rt.base + n; sig >= rtmin && sig <= rtmax {
			*into = unix.Signal(sig)
			return true
		}
		return false
	}
	sig := unix.SignalNum("SIG" + name)
	if sig == 0 {
		return false
	}
	*into = sig
	return true
}
