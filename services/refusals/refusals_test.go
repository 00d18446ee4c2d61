package refusals

import (
	"fmt"
	"strings"
	"testing"
)

// record is a line of the kernel's log.
func record(pid int, comm string, arch, syscall int, code string) string {
	return fmt.Sprintf(`audit: type=1326 audit(1767225605.123:7): auid=4294967295 uid=0 gid=0 ses=4294967295 subj=unconfined pid=%d comm=%s exe="/bin/busybox" sig=0 arch=%x syscall=%d compat=0 ip=0x4f2a11 code=%s`,
		pid, comm, arch, syscall, code)
}

type fixture struct {
	*Reporter
	lines []string
}

func newFixture() *fixture {
	f := &fixture{}
	f.Reporter = New(Config{
		Container: func(pid int) string {
			if pid < 1000 {
				return "web"
			}
			return ""
		},
		Warn: func(name, format string, a ...any) {
			f.lines = append(f.lines, name+": "+fmt.Sprintf(format, a...))
		},
	})
	return f
}

func TestOneLineForEachContainerAndCall(t *testing.T) {
	for _, tc := range []struct{ text, want string }{
		{record(214, `"httpd"`, x86_64, 165, "0x50000"), "web: seccomp refused mount (pid 214, httpd); allow it with capabilities: [CAP_SYS_ADMIN], or keelson.harden: linuxkit"},
		{record(214, `"httpd"`, x86_64, 165, "0x7ffc0000"), "web: seccomp would refuse mount (pid 214, httpd); allow it with capabilities: [CAP_SYS_ADMIN], or keelson.harden: linuxkit"},
		{record(214, `"bpf"`, x86_64, 321, "0x50000"), "web: seccomp refused bpf (pid 214, bpf); allow it with capabilities: [CAP_BPF], or keelson.harden: linuxkit"},
		{record(214, `"k"`, x86_64, 250, "0x50000"), "web: seccomp refused keyctl (pid 214, k); allow it with keelson.harden: linuxkit"},
		{record(214, `"s"`, x86_64, 41, "0x50000"), "web: seccomp refused socket (pid 214, s); allow it with keelson.harden: linuxkit"},
		{record(214, "6120621B", x86_64, 165, "0x50000"), "web: seccomp refused mount (pid 214, a b?); allow it with capabilities: [CAP_SYS_ADMIN], or keelson.harden: linuxkit"},
		{record(2140, `"sh"`, x86_64, 165, "0x50000"), "keelson: seccomp refused mount (pid 2140, sh, which has exited: its container is not known); allow it with capabilities: [CAP_SYS_ADMIN], or keelson.harden: linuxkit"},
		{record(214, `"old"`, 0x40000003, 4, "0x0"), "web: seccomp refused a 32-bit program (pid 214, old); allow it with keelson.harden: linuxkit"},
		// Nobody misses these.
		{record(214, `"t"`, x86_64, 435, "0x50000"), ""}, // clone3
		{record(214, `"t"`, x86_64, 452, "0x50000"), ""}, // newer than the profile
		{record(214, `"t"`, x86_64, 500, "0x50000"), ""},
		{record(214, `"t"`, x86_64, 0, "0x50000"), ""},
		{record(214, `"t"`, x86_64, 165, "0x7ff00000"), ""}, // another filter's action
		{"audit: type=1400 audit(1:2): pid=214", ""},
		{"audit: type=1326 audit(1:2): pid=x arch=c000003e syscall=165 code=0x50000", ""},
		{"something else", ""},
	} {
		f := newFixture()
		f.Message(tc.text)
		f.Message(tc.text)
		if got := strings.Join(f.lines, "\n"); got != tc.want {
			t.Errorf("%s:\ngot  %s\nwant %s", tc.text, got, tc.want)
		}
	}
}

func TestManyAreCounted(t *testing.T) {
	f := newFixture()
	for range 150 {
		f.Message(record(1, `"x"`, x86_64, 165, "0x50000"))
	}
	if len(f.lines) != 3 || !strings.Contains(f.lines[1], "mount 10 times by now (") || !strings.Contains(f.lines[2], "mount 100 times by now (") {
		t.Errorf("got %q", f.lines)
	}
}

func TestMemoryIsBounded(t *testing.T) {
	f := newFixture()
	container := 0
	f.cfg.Container = func(int) string { container++; return fmt.Sprint(container) }
	for range most + 100 {
		f.Message(record(1, `"x"`, x86_64, 165, "0x50000"))
	}
	if len(f.seen) != most || len(f.lines) != most+1 || !strings.Contains(f.lines[most], "more kinds of calls") {
		t.Errorf("%d are remembered, and %d lines reported", len(f.seen), len(f.lines))
	}
}
