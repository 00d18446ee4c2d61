package garbage

import (
	"math"
	"runtime"
	"runtime/debug"
	"runtime/metrics"
	"testing"
	"time"
)

// read reads one of the runtime's settings without a change of it.
func read(name string) uint64 {
	sample := []metrics.Sample{{Name: name}}
	metrics.Read(sample)
	return sample[0].Value.Uint64()
}

func percent() int { return int(int32(read("/gc/gogc:percent"))) }

func memoryLimit() int64 { return int64(read("/gc/gomemlimit:bytes")) }

// restored leaves the process as it was.
func restored(t *testing.T) {
	before := percent()
	t.Cleanup(func() {
		debug.SetGCPercent(before)
		debug.SetMemoryLimit(math.MaxInt64)
	})
}

func TestReleaseEndsIt(t *testing.T) {
	restored(t)
	t.Setenv("GOGC", "")
	p := postpone(77, 512<<20)
	if percent() != -1 || memoryLimit() != 512<<20 {
		t.Fatalf("postponed: percent %d, limit %d", percent(), memoryLimit())
	}
	p.Release()
	if percent() != 77 || memoryLimit() != math.MaxInt64 {
		t.Errorf("released: percent %d, limit %d", percent(), memoryLimit())
	}
	debug.SetGCPercent(55)
	p.Release()
	if percent() != 55 {
		t.Errorf("released again: percent %d", percent())
	}
}

var sink []byte

// A process that reaches the limit goes on as always.
func TestTheLimitEndsIt(t *testing.T) {
	restored(t)
	t.Setenv("GOGC", "")
	var stats runtime.MemStats
	runtime.ReadMemStats(&stats)
	postpone(77, max(least, int64(stats.Sys-stats.HeapReleased)+4<<20))
	deadline := time.Now().Add(time.Minute)
	for percent() != 77 || memoryLimit() != math.MaxInt64 {
		if time.Now().After(deadline) {
			t.Fatalf("percent %d, limit %d", percent(), memoryLimit())
		}
		sink = make([]byte, 1<<20)
	}
}

func TestWhereNothingIsPostponed(t *testing.T) {
	restored(t)
	t.Setenv("GOGC", "")
	postpone(77, least-1)
	if percent() != 77 || memoryLimit() != math.MaxInt64 {
		t.Errorf("with little memory: percent %d, limit %d", percent(), memoryLimit())
	}
	debug.SetGCPercent(33)
	t.Setenv("GOGC", "33")
	postpone(77, most).Release()
	if percent() != 33 || memoryLimit() != math.MaxInt64 {
		t.Errorf("with GOGC: percent %d, limit %d", percent(), memoryLimit())
	}
}
