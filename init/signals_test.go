package main

import (
	"os"
	"os/signal"
	"syscall"
	"testing"
	"time"
)

// More signals than a channel holds, with nobody reading, leave room for the
// one that matters.
func TestStormLeavesRoomForAStop(t *testing.T) {
	s := watch()
	s.watchAll()
	t.Cleanup(func() { signal.Reset() })
	arrived := make(chan os.Signal, 64)
	raise := func(sig syscall.Signal) {
		signal.Notify(arrived, sig)
		if err := syscall.Kill(os.Getpid(), sig); err != nil {
			t.Fatal(err)
		}
		select {
		case <-arrived:
		case <-time.After(bound):
			t.Fatalf("signal %d did not arrive", sig)
		}
	}
	for sig := syscall.Signal(35); sig <= 64; sig++ { // the real-time signals
		raise(sig)
	}
	for _, sig := range []syscall.Signal{syscall.SIGHUP, syscall.SIGPIPE, syscall.SIGQUIT, syscall.SIGUSR2} {
		raise(sig)
	}
	select {
	case got := <-s.stops:
		if got != syscall.SIGUSR2 {
			t.Errorf("%v came as a stop", got)
		}
	case <-time.After(bound):
		t.Error("SIGUSR2 was pushed out")
	}
}
