package logs

import (
	"fmt"
	"math"
	"net/url"
	"slices"
	"sort"
	"strconv"
	"strings"
	"time"
)

// Query says which records are asked for. The zero Query is all that containers
// have written.
type Query struct {
	// Sources are the names to show, as Record.Source has them or, for a one-shot,
	// without the number before its name; none is every container.
	Sources []string
	Streams []Stream // none is stdout and stderr, and what else Events or Sources ask for
	Since   Moment
	Until   Moment
	Last    int  // the last so many before what follows; 0 is all, NoLines none
	Follow  bool // go on with what comes, until the context ends
	Events  bool // the machine's own console lines too
	// After is how far an earlier reading came: of a stream that is in it what follows is
	// given. Not together with Last.
	After     Positions
	Positions bool // for Handler: say where each record is, and where the first one is behind
}

// NoLines as Query.Last shows nothing that is there already.
const NoLines = -1

// Moment is a point in time as somebody wrote it.
type Moment struct {
	set  bool
	text string        // as it was written
	wall time.Time     // by the wall clock, if not zero
	at   time.Duration // since the machine's start
	ago  bool          // at is before now
}

// At is the moment so long after the machine's start.
func At(d time.Duration) Moment {
	return Moment{set: true, at: d, text: strconv.FormatFloat(d.Seconds(), 'f', -1, 64)}
}

// String is the moment as it was written.
func (m Moment) String() string { return m.text }

// Set reports whether there is a moment.
func (m Moment) Set() bool { return m.set }

// Resolve turns a moment into the time since the machine's start, for a machine
// where that is now, and the wall clock shows wall.
func (m Moment) Resolve(now time.Duration, wall time.Time) time.Duration {
	switch {
	case !m.wall.IsZero():
		return now - wall.Sub(m.wall)
	case m.ago:
		return now - m.at
	}
	return m.at
}

// before reports whether a moment is before another one or the same, on any machine.
func (m Moment) before(o Moment) bool {
	switch {
	case !m.set || !o.set || m.ago != o.ago || m.wall.IsZero() != o.wall.IsZero():
		return false
	case !m.wall.IsZero():
		return !m.wall.After(o.wall)
	case m.ago:
		return m.at >= o.at
	}
	return m.at <= o.at
}

// momentForms is what a moment may look like, for messages.
const momentForms = "seconds since the machine's start as on the console (12.5), a duration before now (10m), or a time (2006-01-02T15:04:05Z, 2006-01-02 15:04:05 in UTC)"

// ParseMoment understands the forms in which a moment may be written.
func ParseMoment(text string) (Moment, error) {
	if s, err := strconv.ParseFloat(text, 64); err == nil {
		if !(s >= 0 && s < 1e9) { // also not a number at all
			return Moment{}, fmt.Errorf("%q is no time: %s", text, momentForms)
		}
		return Moment{set: true, text: text, at: time.Duration(math.Round(s * float64(time.Second)))}, nil
	}
	if d, err := time.ParseDuration(text); err == nil {
		if d < 0 {
			return Moment{}, fmt.Errorf("%q is in the future: a duration is that long before now, without a sign", text)
		}
		return Moment{set: true, text: text, at: d, ago: true}, nil
	}
	for _, form := range []string{time.RFC3339Nano, "2006-01-02T15:04:05", "2006-01-02 15:04:05", "2006-01-02 15:04", "2006-01-02"} {
		if t, err := time.Parse(form, text); err == nil {
			if y := t.Year(); y < 1970 || y > 2200 { // outside of what a duration can hold
				return Moment{}, fmt.Errorf("%q is no time of any machine: the year is from 1970 to 2200", text)
			}
			return Moment{set: true, text: text, wall: t}, nil
		}
	}
	return Moment{}, fmt.Errorf("%q is no time: %s", text, momentForms)
}

// queryKeys are the parameters a query may have.
var queryKeys = []string{"after", "events", "follow", "last", "positions", "since", "source", "stream", "until"}

// maxNames bounds the sources of one query, maxAfter its positions: more than there
// are streams.
const (
	maxNames = 1024
	maxAfter = 4096
)

// ParseQuery understands the parameters of GET /v1/logs: source, stream and after,
// each any number of times; since and until; last; follow, events and positions, each
// 1 or 0.
func ParseQuery(v url.Values) (Query, error) {
	var q Query
	keys := make([]string, 0, len(v))
	for k := range v {
		keys = append(keys, k)
	}
	sort.Strings(keys) // the same message each time
	for _, k := range keys {
		if !slices.Contains(queryKeys, k) {
			return Query{}, fmt.Errorf("%q is no parameter of a log query: there are %s", k, strings.Join(queryKeys, ", "))
		}
		if k != "source" && k != "stream" && k != "after" && len(v[k]) > 1 {
			return Query{}, fmt.Errorf("%s is given %d times: once is enough", k, len(v[k]))
		}
	}
	if len(v["source"]) > maxNames {
		return Query{}, fmt.Errorf("%d sources are too many: %d at most, or none for all", len(v["source"]), maxNames)
	}
	if len(v["after"]) > maxAfter {
		return Query{}, fmt.Errorf("after: %d positions are too many: %d at most", len(v["after"]), maxAfter)
	}
	for _, text := range v["after"] {
		if q.After == nil {
			q.After = Positions{}
		}
		if err := q.After.parse(text); err != nil {
			return Query{}, fmt.Errorf("after: %w", err)
		}
	}
	for _, name := range v["source"] {
		if name == "" {
			return Query{}, fmt.Errorf("source is empty: it is the name of a container, or keelson or kernel")
		}
		if !slices.Contains(q.Sources, name) {
			q.Sources = append(q.Sources, name)
		}
	}
	for _, text := range v["stream"] {
		s := Stream(text)
		if !slices.Contains(Streams, s) {
			return Query{}, fmt.Errorf("stream: %q is none: there are stdout, stderr, event, kernel", text)
		}
		if !slices.Contains(q.Streams, s) {
			q.Streams = append(q.Streams, s)
		}
	}
	var err error
	for _, m := range []struct {
		key string
		to  *Moment
	}{{"since", &q.Since}, {"until", &q.Until}} {
		if text := v.Get(m.key); text != "" {
			if *m.to, err = ParseMoment(text); err != nil {
				return Query{}, fmt.Errorf("%s: %w", m.key, err)
			}
		}
	}
	if q.Until.before(q.Since) {
		return Query{}, fmt.Errorf("until: %s is no later than since, %s: nothing is between them", q.Until, q.Since)
	}
	if text := v.Get("last"); text != "" {
		n, err := strconv.Atoi(text)
		if err != nil || n < 0 {
			return Query{}, fmt.Errorf("last: %q is no number of lines: 0 or more", text)
		}
		if q.Last = n; n == 0 {
			q.Last = NoLines
		}
		if q.After != nil {
			return Query{}, fmt.Errorf("last: not together with after: what follows a position is not counted")
		}
	}
	for _, b := range []struct {
		key string
		to  *bool
	}{{"follow", &q.Follow}, {"events", &q.Events}, {"positions", &q.Positions}} {
		switch v.Get(b.key) {
		case "", "0", "false":
		case "1", "true":
			*b.to = true
		default:
			return Query{}, fmt.Errorf("%s: %q is neither yes nor no: 1 or 0", b.key, v.Get(b.key))
		}
	}
	return q, nil
}

// Values is the reverse of ParseQuery.
func (q Query) Values() url.Values {
	v := url.Values{}
	for _, name := range q.Sources {
		v.Add("source", name)
	}
	for _, s := range q.Streams {
		v.Add("stream", string(s))
	}
	if q.Since.Set() {
		v.Set("since", q.Since.String())
	}
	if q.Until.Set() {
		v.Set("until", q.Until.String())
	}
	if q.Last != 0 {
		v.Set("last", strconv.Itoa(max(q.Last, 0)))
	}
	if q.Follow {
		v.Set("follow", "1")
	}
	if q.Events {
		v.Set("events", "1")
	}
	if q.Positions {
		v.Set("positions", "1")
	}
	for id, p := range q.After {
		v.Add("after", id.String()+"@"+p.String())
	}
	return v
}

// wants reports whether a stream of a source is asked for.
func (q *Query) wants(source string, stream Stream) bool {
	named := slices.ContainsFunc(q.Sources, func(name string) bool { return name == source || name == plainName(source) })
	if len(q.Sources) > 0 && !named {
		return q.Events && stream == Event
	}
	switch {
	case len(q.Streams) > 0:
		return slices.Contains(q.Streams, stream) || q.Events && stream == Event
	case stream == Event:
		return q.Events || named && source == Keelson
	case stream == Kernel:
		return named
	}
	return true
}

// plainName is a one-shot's name as its image names it, without section and number.
func plainName(source string) string {
	for _, section := range []string{"onboot.", "onshutdown."} {
		if rest, ok := strings.CutPrefix(source, section); ok {
			if number, name, ok := strings.Cut(rest, "-"); ok && len(number) == 3 && strings.Trim(number, "0123456789") == "" && name != "" {
				return name
			}
			return rest
		}
	}
	return source
}
