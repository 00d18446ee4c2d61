//go:build vm

package test

import (
	"maps"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"syscall"
	"testing"

	"keelson/internal/qemu"
)

// wallsOut is the kernel command line that takes out every wall that can be taken out.
const wallsOut = " keelson.harden=linuxkit keelson.sysctl=off"

// escapes are the attempts of testdata/escape that get through where wallsOut is on the kernel command line: each shows
// that it would work, and so that its wall is what holds it. The others have walls that no image can take out, or lack
// what the YAML can grant.
var escapes = []string{
	"core-pattern", "modprobe-path", "sysrq", "keys-list", "write-proc", "write-sys", "user-namespace", "module-autoload", "kernel-keys", "net-admin", "trace",
	"rare-calls",
}

// granted are the attempts that get through where the YAML grants what they lack.
var granted = map[string]string{
	"binfmt":         "capabilities: [CAP_SYS_ADMIN]",
	"kcore":          "capabilities: [CAP_SYS_RAWIO]",
	"kernel-log":     "capabilities: [CAP_SYSLOG]",
	"cgroup":         "capabilities: [CAP_SYS_ADMIN]",
	"device-node":    "capabilities: [CAP_MKNOD, CAP_SYS_RAWIO], devices: [{path: all, type: a}]",
	"clock-and-name": "capabilities: [CAP_SYS_ADMIN]",
	"raw-packets":    "capabilities: [CAP_NET_RAW]",
	"neighbours":     "pid: host",
	"process-root":   "capabilities: [CAP_SYS_PTRACE]",
	"node-maker":     "devices: [{path: all, type: a}]",
}

// escapeImage is testdata/escape/escape.yml, with those services alone that keep wants.
func escapeImage(t *testing.T, keep func(name string) bool) string {
	t.Helper()
	data, err := os.ReadFile(filepath.Join("..", "testdata", "escape", "escape.yml"))
	if err != nil {
		t.Fatal(err)
	}
	before, services, ok := strings.Cut(string(data), "\nservices:\n")
	if !ok {
		t.Fatal("the image has no services")
	}
	kept := ""
	for _, entry := range regexp.MustCompile(`(?m)^  - `).Split(services, -1)[1:] {
		if name := serviceName(entry); keep(name) {
			kept += "  - " + entry
		}
	}
	return before + "\nservices:\n" + kept
}

func serviceName(entry string) string {
	return regexp.MustCompile(`name: ([a-z-]+)`).FindStringSubmatch(entry)[1]
}

// TestEscape boots an image of hostile containers: none gets what its YAML does not grant, and the rest of the machine
// does not notice.
func TestEscape(t *testing.T) {
	t.Parallel()
	m := boot(t, setup{yaml: escapeImage(t, func(string) bool { return true }), agent: true, Config: qemu.Config{MemoryMB: 1024}})
	m.booted()
	before := m.parts()
	pattern := m.read("/proc/sys/kernel/core_pattern")

	for _, name := range hostile(t, func(entry string) bool { return !strings.Contains(entry, "keelson.requires: go") }) {
		t.Run(name, func(t *testing.T) { m.in(t).held(name) })
	}
	t.Run("unharmed", func(t *testing.T) {
		m := m.in(t)
		m.await(`bind-swap +.*restart 2 in`) // by then it would have bound what the link leads to
		m.unharmed(before)
		if now := m.read("/proc/sys/kernel/core_pattern"); now != pattern {
			t.Errorf("core_pattern was %q and is %q", pattern, now)
		}
		for _, path := range []string{"/run/made-by-a-link", "/run/mounted-by-a-link", "/run/namespace-by-a-link"} {
			if _, err := m.Stat(m.ctx, path); err == nil {
				t.Errorf("there is %s", path)
			}
		}
		if log := m.read("/var/log/neighbour.out.log"); strings.Trim(log, "beat\n") != "" {
			t.Errorf("others wrote into the neighbour's log: %q", log)
		}
	})
	t.Run("exhausted", func(t *testing.T) {
		m := m.in(t)
		if err := m.WriteFile(m.ctx, "/var/lib/go/go", ""); err != nil {
			t.Fatal(err)
		}
		for _, name := range hostile(t, func(entry string) bool { return strings.Contains(entry, "keelson.requires: go") }) {
			t.Run(name, func(t *testing.T) { m.in(t).held(name) })
		}
		m.unharmed(before)
		// The machine does its work all the same: another service is stopped and started.
		from := m.Console.Len()
		if result, err := m.ExecIn(m.ctx, 1, "/usr/bin/service", "restart", "watched"); err != nil || result.Exit != 0 {
			t.Errorf("service restart: %+v, %v", result, err)
		}
		m.awaitFrom(from, `watched .*running`)
	})
	for _, line := range m.Console.Lines(0) {
		if matches(`ESCAPED|Oops|BUG:|soft lockup|Kernel panic`, line) {
			t.Errorf("the console shows %q", line)
		}
	}
	m.sendLast(syscall.SIGUSR2)
	m.end(qemu.PowerOff)
}

// TestEscapeWithoutWalls shows that each attempt gets through where its wall is taken out.
func TestEscapeWithoutWalls(t *testing.T) {
	t.Parallel()
	yaml := escapeImage(t, func(name string) bool {
		return slices.Contains(escapes, name) || granted[name] != "" || name == "neighbour"
	})
	for name, grant := range granted {
		yaml = strings.Replace(yaml, "name: "+name+", image: keelson/attack, ", "name: "+name+", image: keelson/attack, "+grant+", ", 1)
	}
	yaml = strings.NewReplacer(" keelson.modules=boot", wallsOut, ", keelson.requires: go", "").Replace(yaml)
	yaml = regexp.MustCompile(`keelson.after: [a-z-]+, `).ReplaceAllString(yaml, "keelson.after: neighbour, ") // the others may not be in this image
	m := boot(t, setup{yaml: yaml, agent: true, Config: qemu.Config{MemoryMB: 768}})
	m.booted()
	for _, name := range slices.Concat(escapes, slices.Sorted(maps.Keys(granted))) {
		if got := m.verdict(name); !strings.HasPrefix(got, "ESCAPED") {
			t.Errorf("without its wall %s does not get through: %s", name, got)
		}
	}
}

// hostile returns the names of the services of the escape image that make an attempt and whose entry is wanted.
func hostile(t *testing.T, want func(entry string) bool) (names []string) {
	t.Helper()
	_, services, _ := strings.Cut(escapeImage(t, func(string) bool { return true }), "\nservices:\n")
	for _, entry := range regexp.MustCompile(`(?m)^  - `).Split(services, -1)[1:] {
		if strings.Contains(entry, "image: keelson/attack") && strings.Contains(entry, "keelson.restart") && want(entry) {
			names = append(names, serviceName(entry))
		}
	}
	return names
}

// verdict waits until an attempt has come to something and returns what it printed, or how it ended where it could not
// even print that.
func (m *vm) verdict(name string) (said string) {
	m.t.Helper()
	// The log of one that put something in the place of its log is not what it printed.
	ended := regexp.MustCompile(`\d  ` + name + ` +.*(failed to start|cannot be started|out of memory|killed by|exited with|at its limit|/var/log/` + name + `)`)
	m.until(name+" has come to something", func() bool {
		out, err := m.ReadFile(m.ctx, "/var/log/"+name+".out.log")
		if err == nil && matches(`^(held|ESCAPED):`, out) {
			said, _, _ = strings.Cut(out, "\n")
			return true
		}
		i := slices.IndexFunc(m.Console.Lines(0), ended.MatchString)
		if i >= 0 {
			said = m.Console.Lines(0)[i]
		}
		return i >= 0
	})
	return said
}

// held fails the test where an attempt got through.
func (m *vm) held(name string) {
	m.t.Helper()
	got := m.verdict(name)
	m.t.Log(got)
	if strings.Contains(got, "ESCAPED") {
		m.t.Error("got through")
	}
}

// parts returns the processes that no attempt may end: the machine's own and the neighbours'.
func (m *vm) parts() map[string]int {
	m.t.Helper()
	parts := m.pids("neighbour", "watched")
	parts["supervisor"], parts["containerd"] = m.supervisor(0).PID, m.containerd(0).PID
	for _, shim := range m.shims() {
		parts["shim"] = shim.PID
	}
	return parts
}

// unharmed fails the test where one of the parts is another process than before, or the neighbour has stopped beating.
func (m *vm) unharmed(before map[string]int) {
	m.t.Helper()
	if now := m.parts(); !maps.Equal(now, before) {
		m.t.Errorf("the machine's parts were %v and are %v", before, now)
	}
	beats := func() int { return strings.Count(m.read("/var/log/neighbour.out.log"), "beat") }
	was := beats()
	m.until("the neighbour goes on", func() bool { return beats() > was })
}
