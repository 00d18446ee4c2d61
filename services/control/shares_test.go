package control

import (
	"fmt"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"keelson/internal/policy"
	"keelson/internal/steer"
)

// Containers that may only look cannot keep others from the socket, alone or together.
func TestContainersLeaveRoomForOthers(t *testing.T) {
	var who atomic.Pointer[steer.Client]
	w := start(t, func(cfg *Config) {
		cfg.Client = func(int) (steer.Client, error) { return *who.Load(), nil }
	})
	var kept []interface{ Close() error }
	// fill opens connections until so many are taken, and then one more.
	fill := func(c steer.Client, taken int) {
		t.Helper()
		who.Store(&c)
		for range taken - len(kept) {
			kept = append(kept, w.dial())
		}
		for deadline := time.Now().Add(bound); len(w.server.listen.slots) != taken; time.Sleep(time.Millisecond) {
			if time.Now().After(deadline) {
				t.Fatalf("%s: %d connections are taken, want %d", c.Name, len(w.server.listen.slots), taken)
			}
		}
		if status, body := w.ask("GET", "/v1/machine"); status != 503 || !strings.Contains(body, "are not taken") {
			t.Errorf("%s: one more: %d %s", c.Name, status, body)
		}
	}
	for i := 1; i <= 3; i++ { // the third finds no room left
		fill(steer.Client{Name: fmt.Sprint("shipper", i), Control: policy.ControlRead}, min(i*maxOfOne, maxLookers))
	}
	for _, c := range []steer.Client{{Name: "getty", Control: policy.ControlAll}, {Control: policy.ControlAll}} {
		who.Store(&c)
		if status, body := w.ask("GET", "/v1/machine"); status != 200 {
			t.Errorf("%q is not answered: %d %s", c.Name, status, body)
		}
		w.client.CloseIdleConnections()
	}
	// What was taken comes back.
	for _, c := range kept {
		_ = c.Close()
	}
	who.Store(&steer.Client{Name: "shipper1", Control: policy.ControlRead})
	for deadline := time.Now().Add(bound); ; time.Sleep(time.Millisecond) {
		if status, _ := w.ask("GET", "/v1/machine"); status == 200 {
			break
		}
		if time.Now().After(deadline) {
			t.Fatal("its connections do not come back")
		}
	}
}
