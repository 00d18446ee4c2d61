package uevent

import (
	"context"
	"errors"
	"os"
	"reflect"
	"strings"
	"testing"
	"time"

	"keelson/internal/nstest"
)

func TestMain(m *testing.M) { os.Exit(nstest.Main(m)) }

func TestParse(t *testing.T) {
	got, err := Parse([]byte("add@/devices/virtual/net/x0\x00ACTION=add\x00DEVPATH=/devices/virtual/net/x0\x00SUBSYSTEM=net\x00INTERFACE=x0\x00EMPTY=\x00EQ=a=b\x00"))
	want := Event{Action: "add", Path: "/devices/virtual/net/x0", Env: map[string]string{
		"ACTION": "add", "DEVPATH": "/devices/virtual/net/x0", "SUBSYSTEM": "net", "INTERFACE": "x0", "EMPTY": "", "EQ": "a=b",
	}}
	if err != nil || !reflect.DeepEqual(got, want) {
		t.Errorf("%+v %v", got, err)
	}
	for _, bad := range []string{"", "libudev\x00\xfe\xed", "add", "@/x", "add@x", "\x00ACTION=add\x00"} {
		if _, err := Parse([]byte(bad)); !errors.Is(err, ErrFormat) {
			t.Errorf("%q: %v", bad, err)
		}
	}
}

func FuzzParse(f *testing.F) {
	f.Add([]byte("add@/devices/x\x00ACTION=add\x00MODALIAS=pci:v1\x00"))
	f.Fuzz(func(t *testing.T, b []byte) {
		if e, err := Parse(b); err == nil && (e.Action == "" || e.Path == "" || e.Env == nil) {
			t.Errorf("%q: %+v", b, e)
		}
	})
}

// say makes the kernel repeat the event of a device: writing to its uevent file
// does, in every network namespace that sees the device.
func say(t *testing.T, times int) {
	t.Helper()
	for range times {
		if err := os.WriteFile("/sys/devices/virtual/mem/null/uevent", []byte("change"), 0); err != nil {
			t.Skipf("this machine repeats no device events: %v", err)
		}
	}
}

func open(t *testing.T, buffer int) *Listener {
	t.Helper()
	l, err := listen(buffer)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = l.Close() })
	return l
}

func TestReceive(t *testing.T) {
	nstest.Need(t)
	l := open(t, buffer)
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	say(t, 1)
	for {
		e, err := l.Receive(ctx)
		if err != nil {
			t.Fatal(err)
		}
		if strings.HasSuffix(e.Path, "/mem/null") {
			if e.Action != "change" || e.Env["SUBSYSTEM"] != "mem" || e.Env["DEVNAME"] != "null" {
				t.Errorf("%+v", e)
			}
			return
		}
	}
}

func TestReceiveEndsWithItsContext(t *testing.T) {
	nstest.Need(t)
	l := open(t, buffer)
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() {
		for {
			if _, err := l.Receive(ctx); err != nil && !errors.Is(err, ErrLost) {
				done <- err
				return
			}
		}
	}()
	cancel()
	if err := <-done; !errors.Is(err, context.Canceled) {
		t.Error(err)
	}
	// and works again with another one
	ctx, cancel = context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	say(t, 1)
	if _, err := l.Receive(ctx); err != nil {
		t.Error(err)
	}
}

func TestLostEventsAreReported(t *testing.T) {
	nstest.Need(t)
	l := open(t, 8192)
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	say(t, 200) // each takes some hundred bytes
	lost := false
	for !lost {
		_, err := l.Receive(ctx)
		switch {
		case errors.Is(err, ErrLost):
			lost = true
		case err != nil:
			t.Fatal(err)
		}
	}
	say(t, 1)
	if _, err := l.Receive(ctx); err != nil {
		t.Errorf("after the loss: %v", err)
	}
}
