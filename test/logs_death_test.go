//go:build vm

package test

import (
	"fmt"
	"regexp"
	"strconv"
	"strings"
	"syscall"
	"testing"
)

// ledger writes lines while it is told to, and after each writes down how far it is: what it has written is known
// whoever dies. Each of its processes numbers its lines anew. Some 680 lines fill a pipe.
const ledger = `
  - name: ledger
    image: keelson/busybox
    command:
      - sh
      - -c
      - |
        cd /run/ledger; run=0; [ ! -e run ] || read -r run <run; run=$((run+1)); echo $run >run; i=0
        while :; do
          [ -e go ] || { usleep 50000; continue; }
          i=$((i+1)); echo "$run $i ......................................................................................" && echo $i >wrote.$run
        done
    binds: ["/run/ledger:/run/ledger"]
    runtime: {mkdir: ["/run/ledger"]}
    annotations: {keelson.shim: own, keelson.restart.backoff: 1s..1s}
`

// ledgerLine is about how long a line of the ledger is, at least.
const ledgerLine = 90

// pipeBytes is what a pipe holds, busyPipeBytes that of a log which is written fast.
const (
	pipeBytes     = 64 << 10
	busyPipeBytes = 256 << 10
)

// wrote is what the ledger's process number run has written, by its own account.
func (m *vm) wrote(run int) int {
	m.t.Helper()
	n, _ := strconv.Atoi(strings.TrimSpace(m.sh(fmt.Sprintf("cat /proc/1/root/run/ledger/wrote.%d 2>/dev/null; true", run))))
	return n
}

// ledgerGoes has the ledger write, or ends that.
func (m *vm) ledgerGoes(on bool) {
	m.t.Helper()
	m.sh(map[bool]string{true: "touch", false: "rm"}[on] + " /proc/1/root/run/ledger/go")
}

// lastOf reads the last line of each of the ledger's processes out of its log, and says where one is missing, is there
// twice or in the wrong place.
const lastOf = `awk '$1 != run { if (run) print run, n; run = $1; n = 0 } $2 != n + 1 || length($3) != 86 { print "wrong: after", run, n, "comes", $0 } { n = $2 } END { print run, n }'`

// logged is the last line of each process of the ledger, once its files and the service command tell the same.
func (m *vm) logged() map[int]int {
	m.t.Helper()
	var files string
	m.until("the files have what the ring has", func() bool {
		files = m.sh(`cd /proc/1/root/var/log; for i in 9 8 7 6 5 4 3 2 1; do cat ledger.out.log.$i 2>/dev/null; done | cat - ledger.out.log | ` + lastOf)
		return files == m.sh(`chroot /proc/1/root /usr/bin/service logs -o raw --stream=stdout ledger | `+lastOf)
	})
	last := map[int]int{}
	for line := range strings.Lines(files) {
		var run, n int
		if _, err := fmt.Sscanf(line, "%d %d\n", &run, &n); err != nil || last[run] != 0 {
			m.t.Fatalf("the ledger's log:\n%s", files)
		}
		last[run] = n
	}
	return last
}

// blocked waits until the ledger has filled its pipe, which nobody reads, and returns how many lines it has written.
func (m *vm) blocked(run int) (wrote int) {
	m.t.Helper()
	m.until("the ledger has filled its pipe", func() bool {
		was := wrote
		wrote = m.wrote(run)
		return wrote > pipeBytes/ledgerLine/2 && wrote == was
	})
	return wrote
}

// testDeaths has the supervisor, the ledger's shim, and both die while the ledger writes. Inside is how many bytes the
// shim may have in hand, which die with it.
func testDeaths(t *testing.T, m *vm, inside int) {
	run := 1
	m.service("ledger")

	// The supervisor, in the middle of a stream.
	m.ledgerGoes(true)
	for range 3 {
		supervisor, wrote := m.supervisor(0).PID, m.wrote(run)
		m.until("the ledger writes", func() bool { return m.wrote(run) > wrote+100 })
		m.kill(supervisor, syscall.SIGKILL)
		m.supervisor(supervisor)
	}
	m.ledgerGoes(false)
	m.until("all that was written is in the log", func() bool { return m.logged()[run] == m.wrote(run) })

	// The shim, while the supervisor hangs: what is in the pipe is still there when it goes on.
	supervisor, process := m.supervisor(0), m.service("ledger")
	m.kill(supervisor.PID, syscall.SIGSTOP)
	m.ledgerGoes(true)
	wrote := m.blocked(run)
	m.kill(process.Parent, syscall.SIGKILL)
	m.until("the ledger has died with its shim", func() bool { return first(m.processes(), "/services/ledger").PID == 0 })
	m.ledgerGoes(false)
	from := m.Console.Len()
	m.kill(supervisor.PID, syscall.SIGCONT)
	m.awaitFrom(from, `ledger +ERROR: .*; restart`)
	process = m.serviceAfter("ledger", process.PID)
	last := m.logged()[run]
	t.Logf("the shim died: of %d lines %d are in the log", wrote, last)
	if least := wrote - inside/ledgerLine; last < least || last > wrote+1 {
		t.Errorf("the shim died: the ledger had written %d lines, %d are in the log", wrote, last)
	}

	// Both: what was in the pipe has gone with them, which is said.
	run++
	m.kill(supervisor.PID, syscall.SIGSTOP)
	m.ledgerGoes(true)
	wrote = m.blocked(run)
	from = m.Console.Len()
	m.kill(process.Parent, syscall.SIGKILL)
	m.until("the ledger has died with its shim", func() bool { return first(m.processes(), "/services/ledger").PID == 0 })
	m.ledgerGoes(false)
	m.kill(supervisor.PID, syscall.SIGKILL)
	m.awaitFrom(from, `ledger +warning: what it wrote last may be missing.*256 KiB`)
	m.serviceAfter("ledger", process.PID)
	for _, line := range m.Console.Lines(from) {
		if strings.Contains(line, "ledger        | 1 ") {
			t.Errorf("both died: an earlier process's line is shown as one of its last: %s", line)
		}
	}
	last = m.logged()[run]
	t.Logf("both died: of %d lines %d are in the log", wrote, last)
	if least := wrote - (busyPipeBytes+inside)/ledgerLine; last < least || last > wrote+1 {
		t.Errorf("both died: the ledger had written %d lines, %d are in the log", wrote, last)
	}

	// And it goes on.
	run++
	m.ledgerGoes(true)
	m.until("the ledger writes", func() bool { return m.wrote(run) > 10 })
	m.ledgerGoes(false)
	m.until("all that was written is in the log", func() bool { return m.logged()[run] == m.wrote(run) })

	if lines := m.Console.Lines(0); regexp.MustCompile(`ledger .*missing in `).MatchString(strings.Join(lines, "\n")) {
		t.Error("the file of the ledger lacks something")
	}
}
