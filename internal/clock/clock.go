// Package clock sets the system clock from the hardware clock where the kernel
// did not.
//
// It promises never to set the clock back: a clock that is ahead of the hardware
// was set by somebody who knew better. The hardware clock is taken for UTC.
package clock

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// tolerance is how far the clock may be behind without being set: the hardware
// counts whole seconds.
const tolerance = 2 * time.Second

// Result is what FromHardware found and did.
type Result struct {
	Set    bool          // the system clock was changed
	By     time.Duration // by how much, when Set
	Now    time.Time     // the system clock afterwards
	Reason string        // why it was not set, when not Set
}

// hardware is the seam to the machine.
type hardware struct {
	sys  string // /sys
	read func(device string) (time.Time, error)
	now  func() time.Time
	set  func(time.Time) error
}

// FromHardware reads the first hardware clock there is and sets the system clock
// if it is behind. No hardware clock is no error: Reason says so.
func FromHardware() (Result, error) {
	return fromHardware(hardware{sys: "/sys", read: readRTC, now: time.Now, set: setSystem})
}

func fromHardware(h hardware) (Result, error) {
	r := Result{Now: h.now()}
	class := filepath.Join(h.sys, "class/rtc")
	clocks, _ := os.ReadDir(class)
	names := make([]string, 0, len(clocks))
	for _, c := range clocks {
		names = append(names, c.Name())
	}
	slices.Sort(names)
	if len(names) == 0 {
		r.Reason = "no hardware clock"
		return r, nil
	}
	for _, name := range names {
		if b, err := os.ReadFile(filepath.Join(class, name, "hctosys")); err == nil && strings.TrimSpace(string(b)) == "1" {
			r.Reason = "the kernel set it from " + name
			return r, nil
		}
	}
	var errs []error
	for _, name := range names {
		t, err := h.read("/dev/" + name)
		if err != nil {
			errs = append(errs, fmt.Errorf("read the hardware clock %s: %w", name, err))
			continue
		}
		r.Now = h.now()
		by := t.Sub(r.Now)
		if by < tolerance {
			r.Reason = "not behind " + name
			return r, nil
		}
		if err := h.set(t); err != nil {
			return r, fmt.Errorf("set the clock to %s: %w", t.UTC().Format(time.RFC3339), err)
		}
		return Result{Set: true, By: by, Now: t}, nil
	}
	return r, errors.Join(errs...)
}

// readRTC asks the driver (rtc(4), RTC_RD_TIME).
func readRTC(device string) (time.Time, error) {
	f, err := os.Open(device)
	if err != nil {
		return time.Time{}, err
	}
	defer f.Close()
	t, err := unix.IoctlGetRTCTime(int(f.Fd()))
	if err != nil {
		if errors.Is(err, unix.EINVAL) {
			return time.Time{}, fmt.Errorf("%w: it was never set, or its battery is empty", err)
		}
		return time.Time{}, err
	}
	return fromRTC(t)
}

func fromRTC(t *unix.RTCTime) (time.Time, error) {
	at := time.Date(int(t.Year)+1900, time.Month(t.Mon+1), int(t.Mday), int(t.Hour), int(t.Min), int(t.Sec), 0, time.UTC)
	if t.Mon < 0 || t.Mon > 11 || at.Day() != int(t.Mday) || at.Hour() != int(t.Hour) || at.Minute() != int(t.Min) || at.Year() < 1970 {
		return time.Time{}, fmt.Errorf("it shows no date: year %d, month %d, day %d, %d:%d:%d", t.Year+1900, t.Mon+1, t.Mday, t.Hour, t.Min, t.Sec)
	}
	return at, nil
}

func setSystem(t time.Time) error {
	tv := unix.NsecToTimeval(t.UnixNano())
	return unix.Settimeofday(&tv)
}
