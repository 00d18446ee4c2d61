package spool

import (
	"sync"
	"testing"
)

// Who looks for what can go sees it before it takes it away: the stream's first segment may be another one by then, that
// somebody needs.
func TestWhatIsNeededByThenDoesNotGo(t *testing.T) {
	s := openSpool(t, t.TempDir(), Config{})
	st := stream(t, s, "web", "stdout")
	if err := st.Write(s.cfg.Now(), make([]byte, 3*SegmentBytes)); err != nil {
		t.Fatal(err)
	}
	if _, ok := st.oldest(false); !ok {
		t.Fatal("nothing can go")
	}
	st.Need(0)
	if st.drop(false) {
		t.Error("what is needed has gone")
	}
	if !st.drop(true) {
		t.Error("it does not go where there is no other way")
	}
}

// Many who find the file system full at once do not each make room anew.
func TestRoomIsMadeOnceForAll(t *testing.T) {
	s := openSpool(t, t.TempDir(), Config{PerSource: 64 * SegmentBytes, Total: 64 * SegmentBytes})
	st := stream(t, s, "web", "stdout")
	if err := st.Write(s.cfg.Now(), make([]byte, 32*SegmentBytes)); err != nil {
		t.Fatal(err)
	}
	before, made := s.Used(), s.made.Load()
	var all sync.WaitGroup
	for range 20 {
		all.Go(func() { s.makeRoom(made) })
	}
	all.Wait()
	if freed := before - s.Used(); freed < 4*SegmentBytes || freed > 6*SegmentBytes {
		t.Errorf("%d segments' room was made", freed/SegmentBytes)
	}
	s.makeRoom(s.made.Load())
	if freed := before - s.Used(); freed < 8*SegmentBytes {
		t.Errorf("the second time it was %d segments' in all", freed/SegmentBytes)
	}
}
