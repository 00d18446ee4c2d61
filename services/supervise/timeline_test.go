package supervise

import (
	"errors"
	"fmt"
	"path/filepath"
	"reflect"
	"testing"
	"time"

	"keelson/internal/api"
	"keelson/internal/bundle"
)

func TestTimeline(t *testing.T) {
	path := filepath.Join(t.TempDir(), "timeline.json")
	now := time.Duration(10)
	open := func() *timeline {
		return openTimeline(path, func() time.Duration { return now }, func(format string, a ...any) { t.Errorf(format, a...) })
	}
	tl := open()
	now = 12
	tl.step("hardware", 10, nil)
	tl.step("hardware", 11, nil) // once in a boot
	for i, to := range []string{"waiting", "starting", "running", "backoff", "starting", "running", "ready", "waiting", "failed"} {
		tl.note(api.Event{Kind: "state", Service: "web", To: to, At: time.Duration(20 + i)})
	}
	tl.note(api.Event{Kind: "health", Service: "web", To: "ready", At: 99})
	now = 30
	tl.complete()
	now = 40
	tl.complete()
	tl.note(api.Event{Kind: "state", Service: "late", To: "starting"})

	want := bootTimes{
		Complete: 30,
		Steps:    []api.Step{{Name: "hardware", Start: 10, End: 12}},
		Services: map[string]api.BootService{
			"web":  {Name: "web", Waiting: 20, Starting: 21, Running: 22, Ready: 26},
			"late": {Name: "late", Starting: 40},
		},
	}
	if got := tl.times(); !reflect.DeepEqual(got, want) {
		t.Errorf("got  %+v\nwant %+v", got, want)
	}
	if got := open().times(); !reflect.DeepEqual(got, want) {
		t.Errorf("the next supervisor has %+v\nwant %+v", got, want)
	}
}

// What a one-shot failed of is part of how the boot went; one of the machine's end is not.
func TestTheTimelineHasWhyAOneShotFailed(t *testing.T) {
	dir := t.TempDir()
	now := time.Duration(10)
	warn := func(format string, a ...any) { t.Errorf(format, a...) }
	p := openProgress(filepath.Join(dir, "boot.json"), warn)
	tl := openTimeline(filepath.Join(dir, "timeline.json"), func() time.Duration { return now }, warn)
	for _, section := range []bundle.Section{bundle.Onboot, bundle.Onshutdown} {
		o := &oneShotProgress{progress: p, times: tl, section: section}
		for _, failed := range []error{nil, errors.New("exited with code 3")} {
			id := fmt.Sprintf("%s.%d", section, now)
			if o.Done(id) {
				t.Errorf("%s is done before it began", id)
			}
			now += 5
			o.SetDone(id, failed)
			if !o.Done(id) {
				t.Errorf("%s is not done", id)
			}
		}
	}
	want := []api.Step{{Name: "onboot.10", Start: 10, End: 15}, {Name: "onboot.15", Start: 15, End: 20, Error: "exited with code 3"}}
	if got := tl.times().Steps; !reflect.DeepEqual(got, want) {
		t.Errorf("got  %+v\nwant %+v", got, want)
	}
}
