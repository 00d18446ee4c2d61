//go:build vm

package test

import (
	"fmt"
	"slices"
	"strings"
	"syscall"
	"testing"

	"keelson/internal/qemu"
)

// flooding has a service that others' logs are to suffer from, and two that they are of.
const flooding = `
  - name: victim
    image: keelson/guestagent
    command: ["sh", "-c", "echo real; exec sleep 1000000"]
  - name: good
    image: keelson/guestagent
    binds: ["/run:/run"]
    command: ["sh", "-c", "guestagent give good.out 3 10; exec sleep 1000000"]
  - name: hostile
    image: keelson/guestagent
    binds: ["/run:/run"]
    command: ["guestagent", "flood", "victim.out", "300"]
`

// A client of memlogd's socket neither speaks for others nor takes their room.
func TestMemlogdFlood(t *testing.T) {
	t.Parallel()
	m := boot(t, setup{file: "minimal.yml", agent: true, swap: map[string]string{"\nservices:\n": "\nservices:" + flooding}, Config: qemu.Config{MemoryMB: 256}})
	m.booted()
	const from = `memlogd +warning: linuxkit-external-logging\.sock: of hostile: `
	m.await(from + `a file of endless was not taken: it is a socket of another kind`)
	m.await(from + `a file of made-up-32 was not taken: 32 are open already`)
	m.await(from + `it may not speak as victim: that is logged as hostile:victim`)
	all := m.sh("guestagent ask 0 0")
	if !strings.Contains(all, `"source":"hostile:victim.out","msg":"forged"`) || !strings.Contains(all, `"source":"victim.out","msg":"real"`) || strings.Contains(all, `"source":"victim.out","msg":"forged"`) {
		t.Errorf("memlogd's query socket says %s", all)
	}
	if got := m.sh("chroot /proc/1/root /usr/bin/service logs victim"); !strings.Contains(got, "real") || strings.Contains(got, "forged") {
		t.Errorf("the victim's log is %q", got)
	}

	// Another one has its room, also when the supervisor was started again.
	goodOnes := func() int {
		return strings.Count(m.sh("guestagent ask 0 0"), `"source":"good.out","msg":"line 2 of good.out"`)
	}
	again := func() {
		before := goodOnes()
		m.sh("chroot /proc/1/root /usr/bin/service restart good")
		m.until("the good one is heard", func() bool { return goodOnes() > before })
	}
	again()
	supervisor := m.supervisor(0).PID
	m.kill(supervisor, syscall.SIGKILL)
	supervisor = m.supervisor(supervisor).PID
	m.await(`supervisor is back`)
	again()

	// The hostile one's slots end with it, even where somebody else could still write.
	files := func(pid int) []string {
		return strings.Fields(m.sh(fmt.Sprintf("for f in /proc/%d/fd/*; do readlink $f; done | grep ^pipe: ; true", pid)))
	}
	hostile := m.service("hostile").PID
	read := files(supervisor)
	pipes := slices.DeleteFunc(files(hostile), func(f string) bool { return !slices.Contains(read, f) })
	if len(pipes) == 0 {
		t.Fatalf("the supervisor reads %q, none of them of hostile", read)
	}
	m.sh(fmt.Sprintf("for f in /proc/%d/fd/*; do if [ \"$(readlink $f)\" = '%s' ]; then sleep 1000000 >$f </dev/null 2>/dev/null & break; fi; done", hostile, pipes[0]))
	m.sh("chroot /proc/1/root /usr/bin/service stop hostile")
	m.until("its slots are free", func() bool {
		return !slices.ContainsFunc(files(supervisor), func(f string) bool { return slices.Contains(pipes, f) })
	})
	if writer := m.sh("for f in /proc/*/fd/1; do readlink $f; done; true"); !strings.Contains(writer, pipes[0]) {
		t.Errorf("nobody else had %s open", pipes[0])
	}
	m.sendLast(syscall.SIGUSR2)
	m.end(qemu.PowerOff)
}
