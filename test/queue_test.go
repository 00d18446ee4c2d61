//go:build vm

package test

import (
	"fmt"
	"regexp"
	"slices"
	"strings"
	"syscall"
	"testing"

	"keelson/internal/api"
	"keelson/internal/qemu"
)

// Thirty services on one small CPU, ten of which fail again and again: the first starts of the healthy ones come first,
// in the order of the YAML, a few at a time; what others wait for comes before them; and the machine's own table of
// mounts is none the longer for them.
func TestQueue(t *testing.T) {
	t.Parallel()
	const good, bad = 20, 10
	var yaml strings.Builder
	yaml.WriteString(`
kernel:
  image: keelson/kernel-lean
  cmdline: "console=ttyS0 quiet"
init: [keelson/init]
services:
`)
	for i := range bad {
		fmt.Fprintf(&yaml, "  - {name: bad%d, image: keelson/busybox, command: [nothing], annotations: {keelson.restart.backoff: 100ms..100ms}}\n", i)
	}
	var names []string
	for i := range good { // not the alphabet's order
		name := fmt.Sprintf("good%02d", good-i)
		names = append(names, name)
		fmt.Fprintf(&yaml, "  - {name: %s, image: keelson/busybox, readonly: %v, command: [sleep, \"1000000\"]}\n", name, i%2 == 1)
	}
	yaml.WriteString(`  - {name: user, image: keelson/busybox, command: [sleep, "1000000"], annotations: {keelson.requires: used}}
  - {name: used, image: keelson/busybox, command: [sleep, "1000000"]}
`)
	m := boot(t, setup{agent: true, faulty: true, yaml: yaml.String()})
	m.booted()
	m.await(`bad\d .*failed to start for the same reason`) // a second try
	m.firstStartsFirst(names)
	m.wereQueued(append(names, "user"))
	if n := m.mountsBelow("/containers/services"); n != 1 {
		t.Errorf("%d mounts at and below /containers/services, where there is to be itself alone", n)
	}
	for _, name := range names[:2] {
		if roots := m.mountsOf(m.service("agent").PID); slices.ContainsFunc(roots, func(m mount) bool { return strings.Contains(m.point, name) }) {
			t.Errorf("a container has %s's root", name)
		}
	}
	m.sendLast(syscall.SIGUSR2)
	m.await(`services stopped in`)
	m.end(qemu.PowerOff)
}

// firstStartsFirst looks at the console: a second try of those that fail comes after the first of the others, and these
// come as the YAML has them; but for those that were being started at the same time.
func (m *vm) firstStartsFirst(names []string) {
	m.t.Helper()
	const besides = 2 // one CPU, and one more
	up := regexp.MustCompile(`(good\d+|used|user) +running \(pid`)
	again := regexp.MustCompile(`bad\d .*failed to start for the same reason`)
	var order []string
	tries := 0
	for _, line := range m.Console.Lines(0) {
		switch found := up.FindStringSubmatch(line); {
		case found != nil:
			order = append(order, found[1])
		case again.MatchString(line):
			if tries++; len(order) < len(names)+1-besides && tries > besides {
				m.t.Fatalf("tried again when only %d of the others were up: %q", len(order), line)
			}
		}
	}
	if tries == 0 {
		m.t.Error("nothing was tried again")
	}
	want := append([]string{"used"}, names...)
	for i, name := range want {
		if at := slices.Index(order, name); at < 0 || at > i+besides || at < i-besides {
			m.t.Errorf("%s came up as number %d, and is number %d: %q", name, at, i, order)
		}
	}
}

// wereQueued looks at what the services say of themselves.
func (m *vm) wereQueued(names []string) {
	m.t.Helper()
	for _, name := range names[2:] {
		s := m.status(name)
		if !slices.ContainsFunc(s.Moves, func(move api.Move) bool { return move.To == "queued" }) {
			m.t.Errorf("%s was never queued: %+v", name, s.Moves)
		}
	}
}
