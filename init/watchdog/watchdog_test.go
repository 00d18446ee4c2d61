package watchdog

import (
	"errors"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"keelson/init/kernel/kerneltest"
)

func holder(t *testing.T, k *kerneltest.Kernel) *Holder {
	t.Helper()
	h, err := New(k)
	if err != nil {
		t.Fatal(err)
	}
	return h
}

// clock is one that each wait turns on.
type clock struct {
	now   time.Time
	waits []time.Duration
	each  func(n int)
}

func (c *clock) Now() time.Time { return c.now }
func (c *clock) After(d time.Duration) <-chan time.Time {
	c.now = c.now.Add(d)
	c.waits = append(c.waits, d)
	if c.each != nil {
		c.each(len(c.waits))
	}
	fired := make(chan time.Time, 1)
	fired <- c.now
	return fired
}

func TestGive(t *testing.T) {
	k := kerneltest.New()
	h := holder(t, k)
	if files, value := h.Give(3); !slices.Equal(files, []int{51}) || value != "3" {
		t.Errorf("before there is a watchdog: %v %q", files, value)
	}
	k.Send(7)
	if files, value := h.Give(5); !slices.Equal(files, []int{51, 7}) || value != "5,6" {
		t.Errorf("with one: %v %q", files, value)
	}
	// A next supervisor that had to open another one: the first is let go.
	k.Send(8)
	if files, _ := h.Give(5); !slices.Equal(files, []int{51, 8}) || !k.Did("close 7") {
		t.Errorf("with another: %v, %q", files, k.Calls())
	}
}

func TestNoSocket(t *testing.T) {
	k := kerneltest.New()
	k.Fail = func(int, string) error { return syscall.EMFILE }
	h, err := New(k)
	if !errors.Is(err, syscall.EMFILE) {
		t.Errorf("%v", err)
	}
	if files, value := h.Give(3); files != nil || value != "" {
		t.Errorf("%v %q", files, value)
	}
	if err := h.Stop(); err != nil {
		t.Error(err)
	}
	if left := (&Holder{}).Keep(&clock{}, time.Minute); left != 0 {
		t.Errorf("the zero value keeps something for %s", left)
	}
}

// TestKeep: it is fed three times in its timeout, until the end has taken too long.
func TestKeep(t *testing.T) {
	k := kerneltest.New()
	h := holder(t, k)
	c := &clock{each: func(n int) {
		if n == 2 {
			k.Send(7) // one that the supervisor was just about to arm
		}
	}}
	if left := h.Keep(c, time.Minute); left != 30*time.Second {
		t.Errorf("it gives the machine %s, not 30s", left)
	}
	want := []time.Duration{noDevice, noDevice, 10e9, 10e9, 10e9, 10e9, 10e9, 10e9}
	if !slices.Equal(c.waits, want) {
		t.Errorf("waited %v", c.waits)
	}
	if fed := strings.Count(strings.Join(k.Calls(), "\n"), "keepalive 7"); fed != 7 {
		t.Errorf("fed %d times", fed)
	}
}

func TestStop(t *testing.T) {
	k := kerneltest.New()
	h := holder(t, k)
	k.Send(7)
	c := &clock{each: func(n int) {
		if n == 1 {
			if err := h.Stop(); err != nil {
				t.Error(err)
			}
		}
	}}
	if left := h.Keep(c, time.Hour); left != 0 || len(c.waits) != 1 {
		t.Errorf("it is kept after the stop: %s, %v", left, c.waits)
	}
	k.Send(8) // too late for anybody to want it
	if err := h.Stop(); err != nil || !k.Did("stop watchdog 7") || k.Did("stop watchdog 8") {
		t.Errorf("%v, %q", err, k.Calls())
	}
}

func TestStopRefused(t *testing.T) {
	k := kerneltest.New()
	h := holder(t, k)
	k.Send(7)
	k.Fail = func(_ int, call string) error {
		if strings.HasPrefix(call, "stop") {
			return syscall.EBUSY
		}
		return nil
	}
	if err := h.Stop(); !errors.Is(err, syscall.EBUSY) {
		t.Errorf("%v", err)
	}
}

// TestOddDriver: one that does not tell its timeout is fed often enough for any.
func TestOddDriver(t *testing.T) {
	k := kerneltest.New()
	h := holder(t, k)
	k.Send(7)
	k.Fail = func(_ int, call string) error {
		if strings.HasPrefix(call, "gettimeout") {
			return syscall.ENOTTY
		}
		return nil
	}
	c := &clock{}
	h.Keep(c, 2*time.Second)
	if len(c.waits) == 0 || c.waits[0] != minTimeout/3 {
		t.Errorf("waited %v", c.waits)
	}
}
