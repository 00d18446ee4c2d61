package clock

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

var rtcTime = time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)

func TestFromHardware(t *testing.T) {
	for _, c := range []struct {
		name    string
		clocks  map[string]string // name -> hctosys
		now     time.Time
		readErr error
		set     bool
		reason  string
		failed  string
	}{
		{name: "none", now: time.Unix(5, 0), reason: "no hardware clock"},
		{name: "done by the kernel", clocks: map[string]string{"rtc0": "0", "rtc1": "1"}, now: time.Unix(5, 0), reason: "the kernel set it from rtc1"},
		{name: "unset", clocks: map[string]string{"rtc0": "0"}, now: time.Unix(5, 0), set: true},
		{name: "behind", clocks: map[string]string{"rtc0": "0"}, now: rtcTime.Add(-time.Hour), set: true},
		{name: "right", clocks: map[string]string{"rtc0": "0"}, now: rtcTime.Add(-time.Second), reason: "not behind rtc0"},
		{name: "ahead", clocks: map[string]string{"rtc0": "0"}, now: rtcTime.Add(time.Hour), reason: "not behind rtc0"},
		{name: "broken", clocks: map[string]string{"rtc0": "0"}, readErr: errors.New("broken"), failed: "read the hardware clock rtc0: broken"},
	} {
		t.Run(c.name, func(t *testing.T) {
			sys := t.TempDir()
			for name, hctosys := range c.clocks {
				dir := filepath.Join(sys, "class/rtc", name)
				if err := os.MkdirAll(dir, 0o755); err != nil {
					t.Fatal(err)
				}
				if err := os.WriteFile(filepath.Join(dir, "hctosys"), []byte(hctosys+"\n"), 0o644); err != nil {
					t.Fatal(err)
				}
			}
			var set time.Time
			r, err := fromHardware(hardware{
				sys:  sys,
				read: func(string) (time.Time, error) { return rtcTime, c.readErr },
				now:  func() time.Time { return c.now },
				set:  func(to time.Time) error { set = to; return nil },
			})
			if c.failed != "" {
				if err == nil || err.Error() != c.failed {
					t.Errorf("error %v", err)
				}
				return
			}
			if err != nil || r.Set != c.set || r.Reason != c.reason {
				t.Errorf("%+v %v", r, err)
			}
			if c.set && (!set.Equal(rtcTime) || r.By != rtcTime.Sub(c.now) || !r.Now.Equal(rtcTime)) {
				t.Errorf("set to %v: %+v", set, r)
			}
			if !c.set && !set.IsZero() {
				t.Errorf("set to %v", set)
			}
		})
	}
}

func TestFromRTC(t *testing.T) {
	got, err := fromRTC(&unix.RTCTime{Year: 126, Mon: 1, Mday: 28, Hour: 23, Min: 59, Sec: 58})
	if err != nil || !got.Equal(time.Date(2026, 2, 28, 23, 59, 58, 0, time.UTC)) {
		t.Errorf("%v %v", got, err)
	}
	for _, bad := range []unix.RTCTime{{Year: 126, Mon: 1, Mday: 30}, {Year: 126, Mon: 12, Mday: 1}, {Year: 126, Mday: 0}, {Year: 10, Mday: 1}, {Year: 126, Mday: 1, Hour: 25}} {
		if at, err := fromRTC(&bad); err == nil || !strings.Contains(err.Error(), "no date") {
			t.Errorf("%+v: %v %v", bad, at, err)
		}
	}
}
