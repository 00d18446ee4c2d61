package logs

import (
	"reflect"
	"testing"
	"time"
)

func TestEncode(t *testing.T) {
	wall := time.Date(2026, 3, 1, 12, 0, 0, 5000, time.UTC)
	for _, r := range []Record{
		{At: 1500, Source: "web", Stream: Stdout, Text: []byte("hello"), Priority: NoPriority},
		{At: 1500, Source: "web", Stream: Stdout, Text: []byte{}, Priority: NoPriority, Partial: true},
		{At: 1500, Source: "web", Stream: Stderr, Text: []byte("\x00\x1b\"<&>\\"), Priority: NoPriority, Continued: true},
		{At: 1500, Source: "web", Stream: Stderr, Text: []byte{0xff, 0, 0xfe}, Priority: NoPriority},
		{At: 1500, Source: KernelLog, Stream: Kernel, Text: []byte("oops"), Priority: 0},
		{At: -5, Source: "web", Stream: Stdout, Gap: true, Dropped: 3, DroppedBytes: 4096, Priority: NoPriority},
	} {
		line, err := r.Encode(wall)
		if err != nil {
			t.Fatal(err)
		}
		got, at, err := Decode(line)
		if err != nil || !reflect.DeepEqual(got, r) || !at.Equal(wall) {
			t.Errorf("%+v is %s and comes back as %+v, %v, %v", r, line, got, at, err)
		}
	}
}
