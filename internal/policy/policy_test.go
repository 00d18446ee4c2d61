package policy

import (
	"reflect"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"keelson/internal/harden"
)

func TestParseServiceTakesEveryKey(t *testing.T) {
	got, problems := ParseService(map[string]string{
		"keelson.restart":         "on-failure",
		"keelson.restart.backoff": "250ms..1m",
		"keelson.restart.limit":   "5/1m",
		"keelson.on-failure":      "reboot",
		"keelson.stop.signal":     "INT",
		"keelson.stop.timeout":    "3s",
		"keelson.console":         "true",
		"keelson.shim":            "own",
		"keelson.runtime":         "libcontainer",
		"keelson.after":           "db, cache,db",
		"keelson.requires":        "net",
		"keelson.ready":           "http:8080/ready?deep=1",
		"keelson.ready.timeout":   "2m",
		"keelson.health":          `exec:sh -c "test -e /ok"`,
		"keelson.health.interval": "5s",
		"keelson.health.timeout":  "1s",
		"keelson.health.retries":  "2",
		"keelson.health.grace":    "1m",
		"keelson.critical":        "true",
		"keelson.log":             "drop",
		"keelson.harden":          "strict",
		"keelson.seccomp":         "log",
		"keelson.control":         "none",
		"org.example.other":       "nobody's business",
	})
	want := Service{
		Restart: RestartOnFailure, BackoffMin: 250 * time.Millisecond, BackoffMax: time.Minute, Limit: Limit{5, time.Minute}, OnFailure: ActionReboot,
		After: []string{"db", "cache"}, Requires: []string{"net"},
		Ready: Probe{Kind: ProbeHTTP, Port: 8080, Path: "/ready?deep=1", text: "http:8080/ready?deep=1"}, ReadyTimeout: 2 * time.Minute,
		Health: Health{
			Check:    Probe{Kind: ProbeExec, Argv: []string{"sh", "-c", "test -e /ok"}, text: `exec:sh -c "test -e /ok"`},
			Interval: 5 * time.Second, Timeout: time.Second, Retries: 2, Grace: time.Minute,
		},
		StopSignal: unix.SIGINT, StopTimeout: 3 * time.Second, Critical: true, Console: true, OwnShim: true, LogDrop: true,
		Walls: Walls{harden.Strict, true, ControlNone},
	}
	if len(problems) > 0 || !reflect.DeepEqual(got, want) {
		t.Errorf("got %+v, %v; want %+v", got, problems, want)
	}
}

func TestParseOneShotTakesEveryKey(t *testing.T) {
	got, problems := ParseOneShot(false, map[string]string{"keelson.timeout": "5s", "keelson.on-failure": "retry:3", "keelson.console": "false", "keelson.log": "drop", "keelson.harden": "auto", "keelson.seccomp": "log", "keelson.audit.accept": "User: x", "keelson.control": "read"})
	if want := (OneShot{5 * time.Second, ActionRetry, 3, false, true, Walls{harden.Auto, true, ControlRead}}); len(problems) > 0 || got != want {
		t.Errorf("got %+v, %v; want %+v", got, problems, want)
	}
	if got, _ := ParseOneShot(true, map[string]string{"keelson.timeout": "none"}); got.Timeout != 0 {
		t.Errorf("none left a timeout of %v", got.Timeout)
	}
}

func TestWrongValuesKeepTheDefault(t *testing.T) {
	for _, tc := range []struct{ key, value string }{
		{"keelson.restart", "Always"}, {"keelson.restart", ""},
		{"keelson.restart.backoff", "1s"}, {"keelson.restart.backoff", "2s..1s"}, {"keelson.restart.backoff", "0s..1s"}, {"keelson.restart.backoff", "a..b"},
		{"keelson.restart.limit", "5"}, {"keelson.restart.limit", "0/1m"}, {"keelson.restart.limit", "5/0s"}, {"keelson.restart.limit", "-1/1m"},
		{"keelson.on-failure", "continue"},
		{"keelson.stop.signal", "SIGFOO"}, {"keelson.stop.signal", "0"}, {"keelson.stop.signal", "65"}, {"keelson.stop.signal", "RTMIN+31"},
		{"keelson.stop.timeout", "10"}, {"keelson.stop.timeout", "-1s"},
		{"keelson.console", "yes"},
		{"keelson.shim", "group"},
		{"keelson.runtime", "runc"},
		{"keelson.after", "a,,b"}, {"keelson.after", ""}, {"keelson.requires", "a b"}, {"keelson.requires", "../a"},
		{"keelson.ready", "ready"}, {"keelson.ready", "none"}, {"keelson.ready", "tcp"}, {"keelson.ready", "tcp:0"}, {"keelson.ready", "tcp:65536"},
		{"keelson.ready", "tcp:80/x"}, {"keelson.ready", "http:x/"}, {"keelson.ready", "http:80/a b"}, {"keelson.ready", "exec:"}, {"keelson.ready", "exec:'a"},
		{"keelson.ready", `exec:a \`}, {"keelson.ready", "file:a"}, {"keelson.ready", "file:/"}, {"keelson.ready", "log:("}, {"keelson.ready", "log:"},
		{"keelson.ready", "notify:x"}, {"keelson.ready", "started:"}, {"keelson.ready.timeout", "0s"}, {"keelson.ready.timeout", "90"},
		{"keelson.health", "started"}, {"keelson.health", "file:/x"}, {"keelson.health", ""},
		{"keelson.critical", "1"}, {"keelson.log", "keep"}, {"keelson.harden", "off"}, {"keelson.seccomp", "unconfined"}, {"keelson.audit.accept", "Usre: x"},
		{"keelson.timeout", "10s"}, // a one-shot's key
	} {
		got, problems := ParseService(map[string]string{tc.key: tc.value})
		if !reflect.DeepEqual(got, DefaultService()) {
			t.Errorf("%s=%q changed the policy to %+v", tc.key, tc.value, got)
		}
		if len(problems) != 1 || problems[0].Key != tc.key || problems[0].Want == "" {
			t.Errorf("%s=%q: problems %v", tc.key, tc.value, problems)
		}
	}
	for _, tc := range []struct{ key, value string }{
		{"keelson.timeout", "0s"}, {"keelson.timeout", "soon"}, {"keelson.on-failure", "retry:0"}, {"keelson.on-failure", "none"}, {"keelson.restart", "always"},
	} {
		got, problems := ParseOneShot(true, map[string]string{tc.key: tc.value})
		if got != DefaultOneShot(true) || len(problems) != 1 {
			t.Errorf("%s=%q: %+v, %v", tc.key, tc.value, got, problems)
		}
	}
}

func TestProblemsAreInOrderAndSuggest(t *testing.T) {
	_, problems := ParseService(map[string]string{"keelson.zebra-crossing": "1", "keelson.restrat": "always", "keelson.console": "2"})
	var keys []string
	for _, p := range problems {
		keys = append(keys, p.Key)
	}
	if want := []string{"keelson.console", "keelson.restrat", "keelson.zebra-crossing"}; !reflect.DeepEqual(keys, want) {
		t.Fatalf("got %q, want %q", keys, want)
	}
	if got := problems[1].Error(); got != `annotations: keelson.restrat: "always": no such key; did you mean keelson.restart?` {
		t.Errorf("got %s", got)
	}
	if got := problems[2].Want; strings.Contains(got, "did you mean") || !strings.Contains(got, "keelson.restart.limit") {
		t.Errorf("a key like no other should list them all, got %s", got)
	}
}

// A slip in the first word, too, is no annotation of somebody else's.
func TestKeysOfOtherNames(t *testing.T) {
	for name, want := range map[string]string{
		"kelson.restart": "keelson.restart", "Keelson.Restart": "keelson.restart", "keelson_restart": "keelson.restart",
		"KEELSON.HEALTH.INTERVL": "keelson.health.interval",
		"restart":                "", "org.example.restart": "", "example.com/restart": "", "": "",
	} {
		p, problems := ParseService(map[string]string{name: "never"})
		if want == "" && len(problems) > 0 || want != "" && (len(problems) != 1 || !strings.HasSuffix(problems[0].Want, "did you mean "+want+"?")) {
			t.Errorf("%q: %v", name, problems)
		}
		if p.Restart != RestartAlways {
			t.Errorf("%q is in force", name)
		}
	}
}

func TestSignals(t *testing.T) {
	for value, want := range map[string]unix.Signal{
		"SIGTERM": 15, "term": 15, "9": 9, "SIGRTMIN+3": 37, "RTMAX": 64, "RTMAX-1": 63, "SIGQUIT": 3,
	} {
		got, problems := ParseService(map[string]string{"keelson.stop.signal": value})
		if len(problems) > 0 || got.StopSignal != want {
			t.Errorf("%s: got %d %v, want %d", value, got.StopSignal, problems, want)
		}
	}
	got, _ := ParseService(map[string]string{stopSignalLabel: "SIGQUIT"})
	if got.StopSignal != unix.SIGQUIT {
		t.Errorf("the image's stop signal was not taken: %d", got.StopSignal)
	}
	got, _ = ParseService(map[string]string{stopSignalLabel: "SIGQUIT", "keelson.stop.signal": "INT"})
	if got.StopSignal != unix.SIGINT {
		t.Errorf("the user's signal must win over the image's: %d", got.StopSignal)
	}
}

func TestHealthSettingsNeedACheck(t *testing.T) {
	settings := map[string]string{"keelson.health.interval": "1s", "keelson.health.retries": "0"}
	_, problems := ParseService(settings)
	var keys []string
	for _, p := range problems {
		keys = append(keys, p.Key+": "+p.Want)
	}
	want := []string{
		"keelson.health.retries: want a number of at least 1",
		"keelson.health.interval: does nothing without keelson.health, which says how the service is checked",
		"keelson.health.retries: does nothing without keelson.health, which says how the service is checked",
	}
	if !reflect.DeepEqual(keys, want) {
		t.Errorf("got %q, want %q", keys, want)
	}
	settings = map[string]string{"keelson.health.interval": "1s", "keelson.health": "none"}
	if _, problems := ParseService(settings); len(problems) > 0 {
		t.Errorf("a check that is switched off: %v", problems)
	}
}

func TestCommandsAreSplitIntoWords(t *testing.T) {
	for text, want := range map[string][]string{
		"redis-cli ping":      {"redis-cli", "ping"},
		"  a\t b  ":           {"a", "b"},
		`sh -c 'a "b" $c'`:    {"sh", "-c", `a "b" $c`},
		`a "b \" \\ \n" c\ d`: {"a", `b " \ \n`, "c d"},
		`a '' ""`:             {"a", "", ""},
		`x"y"z`:               {"xyz"},
	} {
		if got, ok := splitWords(text); !ok || !reflect.DeepEqual(got, want) {
			t.Errorf("%s: got %q, want %q", text, got, want)
		}
	}
}

// What is accepted of an audit is checked here, so that a build fails on a slip.
func TestAcceptIsChecked(t *testing.T) {
	annotations := map[string]string{"keelson.audit.accept": "Usre: it has to"}
	_, service := ParseService(annotations)
	_, oneShot := ParseOneShot(false, annotations)
	for _, problems := range [][]Problem{service, oneShot} {
		if len(problems) != 1 || !strings.Contains(problems[0].Want, "did you mean User?") {
			t.Errorf("%v", problems)
		}
	}
	if _, problems := ParseService(map[string]string{"keelson.audit.accept": "User: it has to"}); len(problems) > 0 {
		t.Errorf("%v", problems)
	}
}
