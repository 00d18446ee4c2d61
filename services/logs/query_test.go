package logs

import (
	"net/url"
	"reflect"
	"strings"
	"testing"
	"time"
)

func TestParseQuery(t *testing.T) {
	for _, tc := range []struct {
		query string
		want  Query
		err   string
	}{
		{"", Query{}, ""},
		{"source=web&source=db&source=web&stream=stderr", Query{Sources: []string{"web", "db"}, Streams: []Stream{Stderr}}, ""},
		{"last=5&follow=1&events=true", Query{Last: 5, Follow: true, Events: true}, ""},
		{"last=0", Query{Last: NoLines}, ""},
		{"since=12.5", Query{Since: At(12500 * time.Millisecond)}, ""},
		{"last=-1", Query{}, "last"},
		{"last=many", Query{}, "last"},
		{"follow=maybe", Query{}, "follow"},
		{"stream=stdin", Query{}, "stdout, stderr, event, kernel"},
		{"since=-5m", Query{}, "future"},
		{"since=yesterday", Query{}, "since"},
		{"until=NaN", Query{}, "until"},
		{"until=1e300", Query{}, "until"},
		{"since=0001-01-01", Query{}, "year"},
		{"since=5m&until=10m", Query{}, "until: 10m is no later than since, 5m"},
		{"since=5&until=5", Query{}, "until: "},
		{"since=2026-03-02&until=2026-03-01", Query{}, "until: "},
		{"until=5m&since=2026-03-02", Query{Since: moment(t, "2026-03-02"), Until: moment(t, "5m")}, ""},
		{"after=web/stdout@1.2.3&after=a/b@1/event@0.1.2", Query{After: Positions{{"web", Stdout}: {1, 2, 3}, {"a/b@1", Event}: {0, 1, 2}}}, ""},
		{"after=web/stdout", Query{}, "SOURCE/STREAM@POSITION"},
		{"after=web@1.2.3", Query{}, "after: "},
		{"after=web/stdout@1.-2.3", Query{}, "after: "},
		{"source=", Query{}, "source is empty"},
		{"lines=5", Query{}, "lines"},
		{"last=5&last=6", Query{}, "once"},
		{"last=5&after=web/stdout@1.2.3", Query{}, "last: not together with after"},
	} {
		v, err := url.ParseQuery(tc.query)
		if err != nil {
			t.Fatal(err)
		}
		got, err := ParseQuery(v)
		switch {
		case tc.err != "" && (err == nil || !strings.Contains(err.Error(), tc.err)):
			t.Errorf("%s: error %v, want one of %q", tc.query, err, tc.err)
		case tc.err == "" && (err != nil || !reflect.DeepEqual(got, tc.want)):
			t.Errorf("%s: %+v, %v; want %+v", tc.query, got, err, tc.want)
		}
	}
}

func TestMoment(t *testing.T) {
	wall := time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)
	for text, want := range map[string]time.Duration{
		"12.5":                      12500 * time.Millisecond,
		"0":                         0,
		"10m":                       50 * time.Minute,
		"2026-03-01 11:30":          30 * time.Minute,
		"2026-03-01T11:59:59Z":      time.Hour - time.Second,
		"2026-03-01T12:59:59+01:00": time.Hour - time.Second,
		"2026-03-01":                -11 * time.Hour,
	} {
		m, err := ParseMoment(text)
		if err != nil {
			t.Errorf("%s: %v", text, err)
			continue
		}
		if got := m.Resolve(time.Hour, wall); got != want {
			t.Errorf("%s: %v, want %v", text, got, want)
		}
	}
}

func TestWants(t *testing.T) {
	for _, tc := range []struct {
		query  Query
		source string
		stream Stream
		want   bool
	}{
		{Query{}, "web", Stdout, true},
		{Query{}, Keelson, Event, false},
		{Query{}, KernelLog, Kernel, false},
		{Query{Events: true}, "web", Event, true},
		{Query{Sources: []string{"web"}}, "db", Stdout, false},
		{Query{Sources: []string{"web"}, Events: true}, Keelson, Event, true},
		{Query{Sources: []string{"dhcp"}}, "onboot.000-dhcp", Stderr, true},
		{Query{Sources: []string{"onboot.000-dhcp"}}, "onboot.000-dhcp", Stderr, true},
		{Query{Sources: []string{KernelLog}}, KernelLog, Kernel, true},
		{Query{Sources: []string{Keelson}}, Keelson, Event, true},
		{Query{Streams: []Stream{Stderr}}, "web", Stdout, false},
		{Query{Streams: []Stream{Kernel}}, KernelLog, Kernel, true},
	} {
		if got := tc.query.wants(tc.source, tc.stream); got != tc.want {
			t.Errorf("%+v of %s %s: %v", tc.query, tc.source, tc.stream, got)
		}
	}
}

func FuzzParseQuery(f *testing.F) {
	f.Add("source=web&stream=stderr&last=5&follow=1")
	f.Add("since=10m&until=2026-03-01T11:59:59Z&events=0")
	f.Add("since=12.5&until=%00")
	f.Add("after=web/stdout@1.2.3&positions=1")
	f.Fuzz(func(t *testing.T, raw string) {
		v, err := url.ParseQuery(raw)
		if err != nil {
			t.Skip()
		}
		q, err := ParseQuery(v)
		if err != nil {
			if !strings.Contains(err.Error(), ": ") && !strings.Contains(err.Error(), " is ") {
				t.Errorf("%q: the error does not say what: %v", raw, err)
			}
			return
		}
		again, err := ParseQuery(q.Values())
		if err != nil || !reflect.DeepEqual(again, q) {
			t.Errorf("%q: %+v is written %v and read as %+v, %v", raw, q, q.Values(), again, err)
		}
		q.Since.Resolve(time.Hour, time.Now())
	})
}
