package policy

import (
	"reflect"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
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
		"org.example.other":       "nobody's business",
	})
	want := Service{RestartOnFailure, 250 * time.Millisecond, time.Minute, Limit{5, time.Minute}, ActionReboot, unix.SIGINT, 3 * time.Second, true, true}
	if len(problems) > 0 || got != want {
		t.Errorf("got %+v, %v; want %+v", got, problems, want)
	}
}

func TestParseOneShotTakesEveryKey(t *testing.T) {
	got, problems := ParseOneShot(false, map[string]string{"keelson.timeout": "5s", "keelson.on-failure": "retry:3", "keelson.console": "false"})
	if want := (OneShot{5 * time.Second, ActionRetry, 3, false}); len(problems) > 0 || got != want {
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
		{"keelson.timeout", "10s"}, // a one-shot's key
	} {
		got, problems := ParseService(map[string]string{tc.key: tc.value})
		if got != DefaultService() {
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
