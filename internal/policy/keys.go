package policy

import (
	"maps"
	"slices"
	"sort"
	"strconv"
	"strings"
	"time"

	"keelson/internal/audit"
	"keelson/internal/typo"
)

type key[P any] struct {
	name string
	want string
	set  func(p *P, value string) bool
}

const (
	healthKey  = "keelson.health"
	hardenKey  = "keelson.harden"
	seccompKey = "keelson.seccomp"

	wantHarden  = "want auto, linuxkit or strict"
	wantSeccomp = "want refuse or log"
	controlKey  = "keelson.control"
	wantControl = "want none, read or all"
	runtimeKey  = "keelson.runtime" // the shim reads it
	wantRuntime = "want plan or libcontainer"
)

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
	{"keelson.after", "want the names of services, with commas between them", func(p *Service, v string) bool {
		return setNames(&p.After, v)
	}},
	{"keelson.requires", "want the names of services, with commas between them", func(p *Service, v string) bool {
		return setNames(&p.Requires, v)
	}},
	{"keelson.ready", "want " + wantReady, func(p *Service, v string) bool {
		return setProbe(&p.Ready, v, ProbeStarted, ProbeNotify, ProbeTCP, ProbeHTTP, ProbeExec, ProbeFile, ProbeLog)
	}},
	{"keelson.ready.timeout", "want a duration such as 90s", func(p *Service, v string) bool {
		return setPositive(&p.ReadyTimeout, v)
	}},
	{healthKey, "want " + wantHealth, func(p *Service, v string) bool {
		return setProbe(&p.Health.Check, v, ProbeNone, ProbeNotify, ProbeTCP, ProbeHTTP, ProbeExec)
	}},
	{"keelson.health.interval", "want a duration such as 10s", func(p *Service, v string) bool {
		return setPositive(&p.Health.Interval, v)
	}},
	{"keelson.health.timeout", "want a duration such as 3s", func(p *Service, v string) bool {
		return setPositive(&p.Health.Timeout, v)
	}},
	{"keelson.health.retries", "want a number of at least 1", func(p *Service, v string) bool {
		return setCount(&p.Health.Retries, v)
	}},
	{"keelson.health.grace", "want a duration such as 30s", func(p *Service, v string) bool {
		return setDuration(&p.Health.Grace, v)
	}},
	{"keelson.stop.signal", "want a signal such as SIGTERM, INT or 15", func(p *Service, v string) bool {
		return setSignal(&p.StopSignal, v)
	}},
	{"keelson.stop.timeout", "want a duration such as 10s", func(p *Service, v string) bool {
		return setDuration(&p.StopTimeout, v)
	}},
	{"keelson.critical", "want true or false", func(p *Service, v string) bool { return setBool(&p.Critical, v) }},
	{"keelson.console", "want true or false", func(p *Service, v string) bool { return setBool(&p.Console, v) }},
	{"keelson.log", "want block or drop", func(p *Service, v string) bool { return setDrop(&p.LogDrop, v) }},
	{controlKey, wantControl, func(p *Service, v string) bool { return setControl(&p.Control, v) }},
	{"keelson.shim", "want shared or own", func(p *Service, v string) bool {
		if v != "shared" && v != "own" {
			return false
		}
		p.OwnShim = v == "own"
		return true
	}},
	{hardenKey, wantHarden, func(p *Service, v string) bool { return setHarden(&p.Harden, v) }},
	{seccompKey, wantSeccomp, func(p *Service, v string) bool { return setSeccompLog(&p.SeccompLog, v) }},
	{runtimeKey, wantRuntime, func(_ *Service, v string) bool { return isRuntime(v) }},
	{audit.AcceptKey, "", func(_ *Service, v string) bool { return accepts(v) == nil }},
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
	{"keelson.log", "want block or drop", func(p *OneShot, v string) bool { return setDrop(&p.LogDrop, v) }},
	{hardenKey, wantHarden, func(p *OneShot, v string) bool { return setHarden(&p.Harden, v) }},
	{seccompKey, wantSeccomp, func(p *OneShot, v string) bool { return setSeccompLog(&p.SeccompLog, v) }},
	{runtimeKey, wantRuntime, func(_ *OneShot, v string) bool { return isRuntime(v) }},
	{audit.AcceptKey, "", func(_ *OneShot, v string) bool { return accepts(v) == nil }},
	{controlKey, wantControl, func(p *OneShot, v string) bool { return setControl(&p.Control, v) }},
}

func isRuntime(v string) bool { return v == "plan" || v == "libcontainer" }

// ParseService reads the policy of a service from its annotations. Each key
// that is unknown or whose value is wrong is a Problem, in the order of the
// keys, and leaves the default in force.
func ParseService(annotations map[string]string) (Service, []Problem) {
	p := DefaultService()
	if v, ok := annotations[stopSignalLabel]; ok {
		setSignal(&p.StopSignal, v) // the image's wish, not the user's setting: no problem if odd
	}
	problems := parse(&p, serviceKeys, annotations)
	return p, append(problems, idle(p, annotations)...)
}

// idle finds settings of a health check that there is none of: they would do
// nothing.
func idle(p Service, annotations map[string]string) []Problem {
	if p.Health.Check.Kind != ProbeNone || annotations[healthKey] != "" {
		return nil
	}
	var problems []Problem
	for _, name := range slices.Sorted(maps.Keys(annotations)) {
		if strings.HasPrefix(name, healthKey+".") && slices.ContainsFunc(serviceKeys, func(k key[Service]) bool { return k.name == name }) {
			problems = append(problems, Problem{name, annotations[name], "does nothing without " + healthKey + ", which says how the service is checked"})
		}
	}
	return problems
}

// ParseOneShot reads the policy of an onboot or onshutdown container.
func ParseOneShot(onshutdown bool, annotations map[string]string) (OneShot, []Problem) {
	p := DefaultOneShot(onshutdown)
	return p, parse(&p, oneShotKeys, annotations)
}

func parse[P any](p *P, keys []key[P], annotations map[string]string) []Problem {
	var names []string
	for name := range annotations {
		if strings.HasPrefix(name, Prefix) || mistyped(name, keys) {
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
			want := keys[i].want
			if name == audit.AcceptKey {
				want = accepts(value).Error()
			}
			problems = append(problems, Problem{name, value, want})
		}
	}
	return problems
}

// mistyped reports whether a name is a key but for its case or a slip in it, such as
// kelson.restart. Annotations of other names are somebody else's.
func mistyped[P any](name string, keys []key[P]) bool {
	name = strings.ToLower(name)
	const slips = 2
	return slices.ContainsFunc(keys, func(k key[P]) bool {
		// The lengths alone tell of most, as each service of an image is looked at.
		return max(len(name), len(k.name))-min(len(name), len(k.name)) <= slips && typo.Distance(name, k.name) <= slips
	})
}

// unknown says that there is no such key, and which one may have been meant.
func unknown[P any](name string, keys []key[P]) string {
	var all []string
	for _, k := range keys {
		all = append(all, k.name)
	}
	if best := typo.Nearest(name, all, 3); best != "" {
		return "no such key; did you mean " + best + "?"
	}
	return "no such key; there are " + strings.Join(all, ", ")
}

// accepts checks what an author accepts of an audit; who audits reads it again.
func accepts(value string) error {
	_, err := audit.ParseAccept(value)
	return err
}
