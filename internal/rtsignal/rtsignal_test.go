package rtsignal

import (
	"os"
	"regexp"
	"strconv"
	"testing"
)

func TestIgnoreAndDefault(t *testing.T) {
	const three = 7 << 31 // signal n is bit n-1
	ignored := func() uint64 {
		status, err := os.ReadFile("/proc/self/status")
		if err != nil {
			t.Fatal(err)
		}
		mask, err := strconv.ParseUint(string(regexp.MustCompile(`(?m)^SigIgn:\s*(\S+)$`).FindSubmatch(status)[1]), 16, 64)
		if err != nil {
			t.Fatal(err)
		}
		return mask & three
	}
	for _, tc := range []struct {
		set  func() error
		want uint64
	}{{Ignore, three}, {Default, 0}} {
		if err := tc.set(); err != nil {
			t.Fatal(err)
		}
		if got := ignored(); got != tc.want {
			t.Errorf("ignored %#x, want %#x", got, tc.want)
		}
	}
}
