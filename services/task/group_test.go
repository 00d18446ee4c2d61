package task

import (
	"context"
	"errors"
	"testing"
	"testing/synctest"
)

func TestGroupIsHadAloneOrSideBySide(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var g group
		lock := func(alone bool) func() {
			unlock, err := g.lock(context.Background(), alone)
			if err != nil {
				t.Fatal(err)
			}
			return unlock
		}
		one, two := lock(false), lock(false)
		had := make(chan func())
		go func() { had <- lock(true) }()
		synctest.Wait()
		one()
		synctest.Wait()
		select {
		case <-had:
			t.Fatal("alone beside another")
		default:
		}
		two()
		alone := <-had

		// Whoever waits behind one that is stuck goes when its time is up.
		ctx, cancel := context.WithCancel(context.Background())
		errs := make(chan error)
		for _, kind := range []bool{true, false} {
			go func() {
				_, err := g.lock(ctx, kind)
				errs <- err
			}()
		}
		synctest.Wait()
		cancel()
		for range 2 {
			if err := <-errs; !errors.Is(err, context.Canceled) {
				t.Errorf("got %v", err)
			}
		}
		alone()
		lock(false)()
		lock(true)()
	})
}
