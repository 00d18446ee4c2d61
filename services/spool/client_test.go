package spool

import (
	"errors"
	"fmt"
	"strings"
	"testing"
)

// What clients write has the bound of one source for each client, goes before what the
// machine's containers wrote, and is still theirs after a restart.
func TestClientsGoFirst(t *testing.T) {
	dir := t.TempDir()
	cfg := Config{PerSource: 1 << 20, Total: 3 << 20}
	s := openSpool(t, dir, cfg)
	client := func(s *Spool, client, source string) *Stream {
		t.Helper()
		st, err := s.ClientStream(client, source, "stderr")
		if err != nil {
			t.Fatal(err)
		}
		return st
	}
	at := s.cfg.Now()
	write := func(st *Stream, kilobytes int) {
		t.Helper()
		for i := range kilobytes {
			at++
			if err := st.Write(at, fmt.Appendf(nil, "%6d %s\n", i, strings.Repeat("x", 1016))); err != nil {
				t.Fatal(err)
			}
		}
	}
	web := stream(t, s, "web", "stderr")
	write(web, 700)
	for i := range 8 { // more than one source may have, under many names
		write(client(s, "evil", fmt.Sprint("made,up-", i)), 300)
	}
	held := func(s *Spool, names string) (n int64) {
		for _, st := range s.Streams() {
			if strings.HasPrefix(st.Source(), names) {
				offset, _ := st.Kept()
				n += st.End() - offset
			}
		}
		return n
	}
	if n := held(s, "made,up"); n > cfg.PerSource || n < cfg.PerSource/2 {
		t.Errorf("%d bytes of a client are kept", n)
	}
	write(client(s, "good", "app"), 900)
	if offset, _ := web.Kept(); offset > 0 {
		t.Errorf("%d bytes of a container went for a client's", offset)
	}
	for i := range 3 {
		write(stream(t, s, fmt.Sprint("other-", i), "stderr"), 700)
	}
	if offset, _ := web.Kept(); offset > 0 {
		t.Errorf("%d bytes of a container went where there are a client's", offset)
	}
	if n := held(s, "made,up") + held(s, "app"); n > 300<<10 {
		t.Errorf("%d bytes of clients are kept where there is no room for all", n)
	}
	write(client(s, "evil", "made,up-1"), 1)
	for restarts := range 2 {
		if _, err := s.ClientStream("good", "made,up-1", "stdout"); !errors.Is(err, ErrTaken) {
			t.Errorf("restarts %d: another one's: %v", restarts, err)
		}
		if _, err := s.ClientStream("good", "web", "stderr"); !errors.Is(err, ErrTaken) {
			t.Errorf("restarts %d: a container's: %v", restarts, err)
		}
		if restarts == 0 {
			for i := range maxClientStreams - 8 {
				write(client(s, "evil", fmt.Sprint("made,up-more-", i)), 1)
			}
		}
		if _, err := s.ClientStream("evil", "one-more", "stderr"); err == nil && restarts == 0 {
			t.Error("one name more than a client may have")
		}
		if st := client(s, "evil", "made,up-1"); !st.Client() || st.End() == 0 {
			t.Errorf("restarts %d: client %v, %d bytes", restarts, st.Client(), st.End())
		}
		s.Close()
		s = openSpool(t, dir, cfg)
	}
}
