package cli

import (
	"bufio"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"hash/fnv"
	"io"
	"math"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"

	"keelson/internal/api"
	"keelson/internal/visible"
	"keelson/services/logs"
)

func logCommands() []command {
	return []command{
		{"logs", "[-f] [-n LINES] [NAME...]", "what the containers have written", `
Shows the lines of every container, or of those named, in the order of their times.
A one-shot is named as in the image, or as onboot.000-NAME; kernel is the kernel's
log, keelson the supervisor's own lines.

  -f                 go on with what comes
  -n LINES           the last LINES only; 0 shows none of what is there already
  --since=TIME       from TIME on: seconds since the machine's start as shown at the
  --until=TIME       left (12.5), a duration before now (10m), or a date and time
                     (2026-01-02T15:04:05Z, "2026-01-02 15:04")
  --stream=STREAM    stdout, stderr, event or kernel only; may be repeated
  --boot-events      the supervisor's own lines too, as on the console
  -o short|raw|json  short is time, name and text; raw is what was written, byte for
                     byte; json has a line for each

  service logs -f web
  service logs -n 100 --stream=stderr web db
  service logs --since=5m --boot-events

Where lines are missing, because they came faster than they could be kept or read,
"missed N lines" says so in their place; with raw it is on the standard error.
`, (*app).logs},
		{"events", "[-f] [-n EVENTS] [-o json] [NAME...]", "what has happened: states, health, resources", `
Shows the changes of every service, or of those named: states with their cause,
health, limits that were hit, the machine's own.

  -f         go on with what comes
  -n EVENTS  the last EVENTS only; 0 shows none of what is there already

  service events -f -n 0 web
`, (*app).events},
	}
}

// repeated is an option that may be given more than once.
type repeated []string

func (r *repeated) String() string     { return strings.Join(*r, ",") }
func (r *repeated) Set(s string) error { *r = append(*r, s); return nil }

func (a *app) logs(fs *flag.FlagSet, args []string) int {
	format := output(fs)
	var streams repeated
	follow := fs.Bool("f", false, "")
	fs.BoolVar(follow, "follow", false, "")
	last := fs.String("n", "", "")
	fs.Var(&streams, "stream", "")
	since, until := fs.String("since", "", ""), fs.String("until", "", "")
	events := fs.Bool("boot-events", false, "")
	names, err := parse(fs, args)
	if err != nil {
		return a.usage("logs", "%v", err)
	}
	if code, wrong := a.wrongOutput("logs", *format, "short", "raw"); wrong {
		return code
	}
	if code, wrong := a.emptyOption("logs", fs); wrong {
		return code
	}
	// The supervisor checks it too; here it is told which option is meant.
	v := url.Values{"source": names, "stream": streams}
	for key, value := range map[string]string{"last": *last, "since": *since, "until": *until} {
		if value != "" {
			v.Set(key, value)
		}
	}
	query, err := logs.ParseQuery(v)
	if err != nil {
		return a.usage("logs", "%s", strings.NewReplacer("last: ", "-n: ", "since: ", "--since: ", "until: ", "--until: ", "stream: ", "--stream: ", "source is empty", "a name is empty").Replace(err.Error()))
	}
	query.Follow, query.Events = *follow, *events
	query.Positions = query.Follow
	show := &logLines{a: a, format: *format}
	return a.whole(query.Follow, func() error {
		err := a.readLogs(query, show)
		if r, ok := errors.AsType[*refusal](err); ok && r.status == http.StatusNotFound {
			return a.unknownLog(r, names)
		}
		if errors.Is(err, errCut) && show.shown.Positions != nil {
			query.Behind(show.shown)
		}
		return err
	})
}

// whole reads a stream to its end. One that is followed and was cut, as the supervisor
// was started again or we were too slow for it, is read again: from where it was cut
// is what read sees to.
func (a *app) whole(followed bool, read func() error) int {
	for {
		err := read()
		switch {
		case err == nil || a.ctx.Err() != nil:
			return codeOK
		case !followed || !errors.Is(err, errCut):
			return a.fail(err)
		}
		fmt.Fprintln(a.err, "service: the connection was cut; going on")
	}
}

// unknownLog is the error for a name that nothing was logged under.
func (a *app) unknownLog(r *refusal, names []string) error {
	all, err := a.client.services(a.ctx)
	if err != nil {
		return r
	}
	known := []string{logs.Keelson, logs.KernelLog}
	for _, s := range all {
		known = append(known, s.Name)
	}
	for _, name := range names {
		if !slices.Contains(known, name) && strings.Contains(r.body.Error, name) {
			r.body.Error += didYouMean(name, known)
		}
	}
	return r
}

// readLogs shows what one connection gives.
func (a *app) readLogs(query logs.Query, show *logLines) error {
	answer, err := a.client.askMuch(a.ctx, "/logs", query.Values())
	if err != nil {
		return err
	}
	defer answer.Body.Close()
	out := bufio.NewWriterSize(a.out, 32<<10)
	defer out.Flush()
	err = eachLine(answer.Body, query.Follow && !query.Until.Set(), func(line []byte) error {
		if err := show.line(out, line); err != nil {
			return err
		}
		// A line that is there is shown at once, many together with one write.
		if query.Follow || a.terminal {
			return out.Flush()
		}
		return nil
	})
	if err != nil {
		return err
	}
	return out.Flush()
}

// eachLine gives the lines of an answer, without their newlines, until its end, which is a cut if it was not to have
// one. So is an end in the middle of a line: whoever answered has died.
func eachLine(body io.Reader, endless bool, give func(line []byte) error) error {
	r := bufio.NewReaderSize(body, 64<<10)
	for {
		line, err := r.ReadBytes('\n')
		switch {
		case err == nil:
			if err := give(line[:len(line)-1]); err != nil {
				return err
			}
		case err == io.EOF && len(line) == 0 && !endless:
			return nil
		default:
			return errCut
		}
	}
}

// logLines shows records.
type logLines struct {
	a      *app
	format string
	shown  logs.Begin // where to go on, if that was asked for and has been told
}

func (l *logLines) line(out *bufio.Writer, data []byte) error {
	switch begin, ok, err := logs.DecodeBegin(data); {
	case err != nil:
		return err
	case ok:
		l.shown = begin
		return nil
	}
	r, wall, err := logs.Decode(data)
	if err != nil {
		return err
	}
	if l.shown.Positions != nil {
		l.shown.Positions[logs.StreamID{Source: r.Source, Stream: r.Stream}] = r.Position
	}
	if l.format == "json" {
		r.Position = logs.Position{} // ours, not asked for by whoever reads this
		line, err := r.Encode(wall)
		if err != nil {
			return err
		}
		_, err = out.Write(line)
		return err
	}
	if r.Dropped > 0 || r.DroppedBytes > 0 {
		if l.format == "raw" { // nothing of ours stands among a container's bytes
			fmt.Fprintf(l.a.err, "service: %s: %s\n", visible.Text(r.Source), missed(r))
			return l.raw(out, r)
		}
		fmt.Fprintf(out, "%s\n", l.a.colour(yellow, fmt.Sprintf("%9s  %-12s  %s", seconds(r.At), visible.Text(r.Source), missed(r))))
	}
	if l.format == "raw" {
		return l.raw(out, r)
	}
	if r.Gap {
		return nil
	}
	text := mark(r) + visible.Text(strings.TrimSuffix(string(r.Text), "\r"))
	if r.Continued {
		text += "…"
	}
	name := fmt.Sprintf("%-12s", visible.Text(r.Source))
	switch {
	case r.Stream == logs.Event || r.Stream == logs.Kernel:
		text = l.a.colour(dim, text)
	case r.Stream == logs.Stderr:
		text = l.a.colour(red, text)
	}
	_, err = fmt.Fprintf(out, "%9s  %s  %s\n", seconds(r.At), l.a.colour(nameColour(r.Source), name), text)
	return err
}

// raw shows what was written.
func (l *logLines) raw(out *bufio.Writer, r logs.Record) error {
	_, err := out.Write(r.Text)
	if r.Gap || r.Continued || r.Partial {
		return err
	}
	return out.WriteByte('\n')
}

// mark is how the console begins an event that is more than one.
func mark(r logs.Record) string {
	switch {
	case r.Stream != logs.Event:
	case r.Priority <= 3:
		return "ERROR: "
	case r.Priority == 4:
		return "warning: "
	case r.Priority == 7:
		return "debug: "
	}
	return ""
}

// missed says what is not there.
func missed(r logs.Record) string {
	lines := fmt.Sprintf("missed %d lines", r.Dropped)
	switch {
	case r.Dropped == 0:
		return fmt.Sprintf("missed %s", bytesText(uint64(r.DroppedBytes)))
	case r.Dropped == 1:
		lines = "missed 1 line"
	}
	if r.DroppedBytes > 0 {
		lines += fmt.Sprintf(" (%s)", bytesText(uint64(r.DroppedBytes)))
	}
	return lines
}

// nameColour is the same for a name each time.
func nameColour(name string) string {
	h := fnv.New32a()
	_, _ = h.Write([]byte(name))
	return fmt.Sprintf("\x1b[%dm", []int{32, 33, 34, 35, 36, 92, 94, 95, 96}[h.Sum32()%9])
}

func (a *app) events(fs *flag.FlagSet, args []string) int {
	format := output(fs)
	follow := fs.Bool("f", false, "")
	fs.BoolVar(follow, "follow", false, "")
	last := fs.String("n", "", "")
	names, err := parse(fs, args)
	if err != nil {
		return a.usage("events", "%v", err)
	}
	if code, wrong := a.wrongOutput("events", *format); wrong {
		return code
	}
	if code, wrong := a.emptyOption("events", fs); wrong {
		return code
	}
	if n, err := strconv.Atoi(*last); *last != "" && (err != nil || n < 0) {
		return a.usage("events", "-n: %q is no number of events: 0 or more", *last)
	}
	for _, name := range names {
		if _, err := a.client.service(a.ctx, name); err != nil {
			return a.fail(err)
		}
	}
	query := url.Values{"service": names}
	if *follow {
		query.Set("follow", "1")
	}
	show := &eventLines{a: a, format: *format}
	if *last != "" {
		query.Set("last", *last)
		m, err := a.client.machine(a.ctx)
		if err != nil {
			return a.fail(err)
		}
		show.last = api.Event{Seq: math.MaxUint64, At: m.Now} // where nothing is shown before it is cut
	}
	return a.whole(*follow, func() error {
		err := a.readEvents(query, show)
		query.Del("last") // of what comes again everything that is newer
		show.before = show.last
		return err
	})
}

// readEvents shows what one connection gives.
func (a *app) readEvents(query url.Values, show *eventLines) error {
	answer, err := a.client.do(a.ctx, http.MethodGet, "/events", query)
	if err != nil {
		return err
	}
	defer answer.Body.Close()
	return eachLine(answer.Body, query.Get("follow") != "", show.line)
}

// eventLines shows events.
type eventLines struct {
	a      *app
	format string
	last   api.Event
	before api.Event // the last one of an earlier connection
}

func (l *eventLines) line(data []byte) error {
	var e api.Event
	if err := json.Unmarshal(data, &e); err != nil {
		return fmt.Errorf("an event cannot be read: %w", err)
	}
	if e.Seq <= l.before.Seq && e.At <= l.before.At {
		return nil // shown; a supervisor that was started again counts from 1, but later
	}
	l.last = e
	if l.format == "json" {
		_, err := fmt.Fprintf(l.a.out, "%s\n", data)
		return err
	}
	if e.Missed > 0 {
		fmt.Fprintln(l.a.out, l.a.colour(yellow, fmt.Sprintf("%9s  missed %d events", seconds(e.At), e.Missed)))
	}
	_, err := fmt.Fprintln(l.a.out, l.a.eventLine(e))
	return err
}

func (a *app) eventLine(e api.Event) string {
	name := e.Service
	if name == "" {
		name = "-"
	}
	text := visible.Text(e.Cause)
	if e.To != "" {
		move := a.colour(stateColour(e.To), e.To)
		if e.From != "" {
			move = e.From + " -> " + move
		}
		if text != "" {
			move += ": "
		}
		text = move + text
	}
	return fmt.Sprintf("%9s  %-9s  %-12s  %s", seconds(e.At), e.Kind, visible.Text(name), text)
}
