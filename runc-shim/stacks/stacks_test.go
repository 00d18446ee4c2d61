package stacks

import (
	"fmt"
	"os"
	"runtime"
	"strings"
	"sync"
	"testing"
)

// threadStacks returns the sizes of what is writable right above a guard page of one page.
func threadStacks(t *testing.T) []uintptr {
	t.Helper()
	maps, err := os.ReadFile("/proc/self/maps")
	if err != nil {
		t.Fatal(err)
	}
	var sizes []uintptr
	var guard uintptr // the end of one, if the line before was one
	for line := range strings.Lines(string(maps)) {
		fields := strings.Fields(line)
		var start, end uintptr
		if _, err := fmt.Sscanf(fields[0], "%x-%x", &start, &end); err != nil {
			t.Fatalf("%q: %v", line, err)
		}
		if guard == start && strings.HasPrefix(fields[1], "rw") && len(fields) == 5 {
			sizes = append(sizes, end-start)
		}
		guard = 0
		if strings.HasPrefix(fields[1], "---") && end-start == uintptr(os.Getpagesize()) {
			guard = end
		}
	}
	return sizes
}

func TestThreadsHaveSmallStacks(t *testing.T) {
	const threads = 8
	var up, down sync.WaitGroup
	release := make(chan struct{})
	up.Add(threads)
	for range threads {
		down.Go(func() {
			runtime.LockOSThread()
			defer runtime.UnlockOSThread()
			up.Done()
			<-release
		})
	}
	up.Wait()
	sizes := threadStacks(t)
	close(release)
	down.Wait()
	small := 0
	for _, size := range sizes {
		if size <= 256<<10 {
			small++
		}
		if size == 8<<20 {
			t.Error("a thread has a stack of 8 MiB")
		}
	}
	if small < threads {
		t.Errorf("%d small stacks for %d threads: %d", small, threads, sizes)
	}
}
