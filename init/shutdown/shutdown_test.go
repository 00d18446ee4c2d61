package shutdown

import (
	"fmt"
	"os"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"keelson/init/kernel/kerneltest"
	"keelson/init/lifecycle"
)

// paper is a console on paper.
type paper struct {
	mu    sync.Mutex
	lines []string
}

func (p *paper) put(mark, format string, a ...any) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.lines = append(p.lines, mark+fmt.Sprintf(format, a...))
}
func (p *paper) Line(_, format string, a ...any)  { p.put("", format, a...) }
func (p *paper) Warn(_, format string, a ...any)  { p.put("warning: ", format, a...) }
func (p *paper) Error(_, format string, a ...any) { p.put("ERROR: ", format, a...) }
func (p *paper) Flush(time.Duration) bool         { return true }
func (p *paper) String() string {
	p.mu.Lock()
	defer p.mu.Unlock()
	return strings.Join(p.lines, "\n")
}

// clock lets short pauses pass at once, and long bounds when a call hangs.
type clock struct {
	now time.Time
	k   *kerneltest.Kernel
}

func (c *clock) Now() time.Time { return c.now }
func (c *clock) After(d time.Duration) <-chan time.Time {
	if d >= time.Second {
		return c.k.Hung
	}
	c.now = c.now.Add(d)
	fired := make(chan time.Time, 1)
	fired <- c.now
	return fired
}

func machine() *kerneltest.Kernel {
	return kerneltest.New().Children(3).
		Dir("/sys/fs/cgroup", "keelson", "services").
		Dir("/proc", "1", "2", "9", "self").
		File("/proc/1/stat", "1 (init) S 0 1 1").
		File("/proc/2/stat", "2 (kthreadd) S 0 0 0").
		File("/proc/9/stat", "9 (a (b) c) D 1 9 9").
		Dir("/proc/9/fd", "0", "4").
		Link("/proc/9/cwd", "/").Link("/proc/9/fd/4", "/data/db/wal").
		File("/proc/swaps", "Filename\tType\tSize\tUsed\tPriority\n/data/swap file 1024 0 -2\n").
		Dir("/sys/block", "vda", "loop0").
		Mounted("rootfs", "/").Mounted("proc", "/proc").Mounted("devtmpfs", "/dev").Mounted("tmpfs", "/run").
		Mounted("ext4", "/data").Mounted("overlay", "/containers/a/rootfs").Mounted("ext4", "/data/more room")
}

func run(k *kerneltest.Kernel, set func(*End)) *paper {
	p := &paper{}
	e := &End{Kernel: k, Console: p, Clock: &clock{time.Unix(1000, 0), k}, Kind: lifecycle.Poweroff, Machine: true, Terminals: []string{"/dev/ttyS0"}, Children: make(chan os.Signal)}
	if set != nil {
		set(e)
	}
	e.Run()
	return p
}

func only(calls []string, prefix string) []string {
	return slices.DeleteFunc(slices.Clone(calls), func(c string) bool { return !strings.HasPrefix(c, prefix) })
}

func TestOrder(t *testing.T) {
	k := machine()
	p := run(k, nil)
	want := []string{"lstat /sys/fs/cgroup/keelson", "kill 9 15", "write /sys/fs/cgroup/keelson/cgroup.kill 1", "write /sys/fs/cgroup/services/cgroup.kill 1", "kill -1 9", "swapoff /data/swap",
		"unmount /data/more room 0x8", "unmount /containers/a/rootfs 0x8", "unmount /data 0x8", "unmount /run 0x8", "sync", "drain /dev/ttyS0", "reboot 0x4321fedc"}
	got := slices.DeleteFunc(k.Calls(), func(c string) bool {
		return strings.HasPrefix(c, "read") || c == "wait"
	})
	if !slices.Equal(got, want) {
		t.Errorf("got\n%s\nwant\n%s", strings.Join(got, "\n"), strings.Join(want, "\n"))
	}
	if p.String() != "unmounted 4 file systems, powering off" {
		t.Errorf("said %q", p)
	}
}

// What belongs to no service is asked to end, and waited for as long as it may hear that.
func TestTerminate(t *testing.T) {
	status := func(nspid, ignored, caught string) string {
		return "Name:\tx\nNSpid:\t" + nspid + "\nSigIgn:\t" + ignored + "\nSigCgt:\t" + caught + "\n"
	}
	const none, term = "0000000000000000", "0000000000004000"
	// others is a machine with one of each kind beside the process that is given.
	others := func(stat, status, cgroup string) *kerneltest.Kernel {
		return machine().Dir("/sys/fs/cgroup/keelson", "containerd", "supervisor").Dir("/proc", "1", "2", "20").
			File("/proc/20/stat", stat).File("/proc/20/status", status).File("/proc/20/cgroup", cgroup)
	}
	for name, tc := range map[string]struct {
		k    *kerneltest.Kernel
		kill []string
		said string
	}{
		"it ends": {others("20 (sleep) S 1", status("20", none, none), "0::/keelson/supervisor\n").Obeying(), []string{"kill 20 15"}, "SIGTERM to what belongs to no service: 20 (sleep)"},
		"it stays": {others("20 (sleep) S 1", status("20", none, term), "0::/kubepods/x\n"), []string{"kill 20 15"},
			"warning: still there 5s after SIGTERM, killed: 20 (sleep)"},
		"it ignores that":          {others("20 (sleep) S 1", status("20", term, none), "0::/x\n"), []string{"kill 20 15"}, ""},
		"a pod that does not hear": {others("20 (pause) S 1", status("20 1", none, none), "0::/x\n"), []string{"kill 20 15"}, ""},
		"a pod that hears":         {others("20 (pause) S 1", status("20 1", none, term), "0::/x\n").Obeying(), []string{"kill 20 15"}, "SIGTERM to what"},
		"it is stopped":            {others("20 (sleep) T 1", status("20", none, none), "0::/x\n").Obeying(), []string{"kill 20 15", "kill 20 18"}, ""},
		"a zombie":                 {others("20 (sleep) Z 1", "", "0::/x\n"), nil, ""},
		"a shim":                   {others("20 (containerd-shim) S 1", status("20", none, term), "0::/keelson/shim\n"), nil, ""},
		"somebody's containerd":    {others("20 (containerd) S 1", status("20", none, term), "0::/x\n").Obeying(), []string{"kill 20 15"}, "SIGTERM to what"},
		"containerd on cgroup v1": {machine().Dir("/proc", "1", "2", "20").File("/proc/20/stat", "20 (containerd) S 1").
			File("/proc/20/status", status("20", none, term)), nil, ""},
	} {
		p := run(tc.k, nil)
		asked := slices.DeleteFunc(only(tc.k.Calls(), "kill"), func(c string) bool { return c == "kill -1 9" })
		if !slices.Equal(asked, tc.kill) || !strings.Contains(p.String(), tc.said) || tc.said == "" && strings.Contains(p.String(), "SIGTERM to") != (name == "it is stopped") {
			t.Errorf("%s: %q, said %q", name, asked, p)
		}
	}
}

// A supervisor that hangs has been asked to end; one that is stopped is not made to go on.
func TestHungSupervisorIsNotAskedAgain(t *testing.T) {
	k := machine().Dir("/proc", "1", "2", "20").File("/proc/20/stat", "20 (service) T 1").File("/proc/20/status", "SigIgn:\t0\n")
	p := run(k, func(e *End) { e.Supervisor = 20 })
	if got := only(k.Calls(), "kill"); !slices.Equal(got, []string{"kill -1 9"}) || strings.Contains(p.String(), "SIGTERM") {
		t.Errorf("%q, said %q", got, p)
	}
}

func TestKinds(t *testing.T) {
	for kind, want := range map[lifecycle.Kind]string{
		lifecycle.Poweroff: fmt.Sprintf("reboot %#x", unix.LINUX_REBOOT_CMD_POWER_OFF),
		lifecycle.Reboot:   fmt.Sprintf("reboot %#x", unix.LINUX_REBOOT_CMD_RESTART),
		lifecycle.Halt:     fmt.Sprintf("reboot %#x", unix.LINUX_REBOOT_CMD_HALT),
	} {
		k := machine()
		run(k, func(e *End) { e.Kind = kind })
		if got := only(k.Calls(), "reboot"); !slices.Equal(got, []string{want}) {
			t.Errorf("%s: %q", kind, got)
		}
	}
}

// Any one call may fail: the last one is still reached.
func TestEachCallFailsInTurn(t *testing.T) {
	whole := machine()
	run(whole, nil)
	for i, call := range whole.Calls() {
		for _, errno := range []syscall.Errno{syscall.EIO, syscall.EBUSY, syscall.ENOENT} {
			k := machine()
			k.Fail = func(n int, _ string) error {
				if n == i {
					return errno
				}
				return nil
			}
			run(k, nil)
			calls := k.Calls()
			want := "reboot 0x4321fedc"
			if call == want {
				want = "reboot 0xcdef0123" // halt instead
			}
			if calls[len(calls)-1] != want {
				t.Errorf("%q failed with %v: ended with %q", call, errno, calls[len(calls)-1])
			}
			if left := len(k.Targets()); strings.HasPrefix(call, "unmount") && errno == syscall.EBUSY && left != 3 {
				t.Errorf("%q failed once: %d are left: %q", call, left, k.Targets())
			}
		}
	}
}

func TestEverythingFails(t *testing.T) {
	k := machine()
	k.Fail = func(int, string) error { return syscall.EIO }
	p := run(k, nil)
	if got := only(k.Calls(), "reboot"); len(got) != 2 {
		t.Errorf("reboots: %q", got)
	}
	if !strings.Contains(p.String(), "safe to cut the power") {
		t.Errorf("said %q", p)
	}
}

// Each call that may take for ever does so in turn.
func TestEachCallHangsInTurn(t *testing.T) {
	for call, say := range map[string]string{
		"sync":                         "sync did not end",
		"drain":                        "powering off",
		"swapoff":                      "swapoff /data/swap did not end",
		"unmount /data 0x8":            "unmount /data (ext4): it did not end in time, 30s",
		"unmount /containers/a/rootfs": "unmount /containers/a/rootfs (overlay): it did not end in time, 30s",
	} {
		k := machine()
		k.Hang = call
		p := run(k, nil)
		calls := k.Calls()
		if calls[len(calls)-1] != "reboot 0x4321fedc" {
			t.Errorf("%s hangs: ended with %q", call, calls[len(calls)-1])
		}
		if !strings.Contains(p.String(), say) {
			t.Errorf("%s hangs: said %q", call, p)
		}
		if n := len(only(calls, call)); n > 2 {
			t.Errorf("%s hangs: tried %d times", call, n)
		}
	}
}

func TestBusyMountIsNamedWithItsHolder(t *testing.T) {
	k := machine().Busy("/data")
	p := run(k, nil)
	said := p.String()
	if !strings.Contains(said, "unmount /data: device or resource busy; held by 9 (a (b) c, fd/4 /data/db/wal)") {
		t.Errorf("said %q", said)
	}
	if !strings.Contains(said, "unmounted 3 file systems, 1 are left, powering off") {
		t.Errorf("said %q", said)
	}
	if !k.Did("mount  /data  0x21 ") {
		t.Errorf("not made read-only: %q", only(k.Calls(), "mount"))
	}
}

// What killed processes had open is given back some time after their end.
func TestBusyForAMoment(t *testing.T) {
	k := machine().Busy("/run")
	tries := 0
	k.Fail = func(_ int, call string) error {
		if strings.HasPrefix(call, "unmount /run ") {
			if tries++; tries == 5 {
				k.Free("/run")
			}
		}
		return nil
	}
	if p := run(k, nil); tries != 5 || p.String() != "unmounted 4 file systems, powering off" {
		t.Errorf("%d tries, said %q", tries, p)
	}
	if swaps := only(k.Calls(), "swapoff"); len(swaps) > 2 {
		t.Errorf("swap is asked for at each try: %q", swaps)
	}
}

func TestLoopDeviceIsDetached(t *testing.T) {
	k := machine().Busy("/data").File("/sys/block/loop0/loop/backing_file", "/data/disk.img\n")
	p := run(k, nil)
	if !k.Did("detach /dev/loop0") || slices.Contains(k.Targets(), "/data") {
		t.Errorf("left %q, said %q", k.Targets(), p)
	}
}

// A loop device that a container has set up holds no mount of the machine's, but a file system.
func TestLoopDeviceOfAContainer(t *testing.T) {
	k := machine().Dir("/sys/block", "loop0", "loop1", "dm-0").File("/sys/block/loop0/loop/backing_file", "/data/disk.img\n").File("/sys/block/dm-0/dm/name", "a\n")
	p := run(k, nil)
	if !k.Did("detach /dev/loop0") || k.Did("detach /dev/loop1") || !k.Did("remove mapping a") || p.String() != "unmounted 4 file systems, powering off" {
		t.Errorf("%q, said %q", only(k.Calls(), "detach"), p)
	}
}

// What is made of a loop device goes before it: a mapping on an array on another mapping.
func TestMappedDevicesAreRemoved(t *testing.T) {
	k := machine().Busy("/data").Dir("/sys/block", "vda", "loop0", "dm-0", "dm-1", "md7", "md8").Dir("/sys/block/loop0/holders", "dm-0").
		File("/sys/block/loop0/loop/backing_file", "/data/disk.img\n").
		File("/sys/block/dm-0/dm/name", "a\n").File("/sys/block/dm-1/dm/name", "b\n").
		File("/sys/block/md7/md/array_state", "clean\n").File("/sys/block/md8/md/array_state", "clear\n")
	gone := map[string]bool{}
	k.Fail = func(_ int, call string) error {
		switch {
		case call == "remove mapping a" && !gone["array"], strings.HasPrefix(call, "write /sys/block/md7") && !gone["b"], call == "detach /dev/loop0" && !gone["a"]:
			return syscall.EBUSY
		case call == "remove mapping b" && gone["b"], call == "remove mapping a" && gone["a"], strings.HasPrefix(call, "write /sys/block/md7") && gone["array"]:
			return syscall.ENXIO
		case strings.HasPrefix(call, "unmount /data ") && !gone["loop"]:
			return syscall.EBUSY
		}
		switch call {
		case "remove mapping a":
			gone["a"] = true
		case "remove mapping b":
			gone["b"] = true
		case "write /sys/block/md7/md/array_state clear":
			gone["array"] = true
		case "detach /dev/loop0":
			gone["loop"] = true
		}
		return nil
	}
	p := run(k, nil)
	if len(gone) != 4 || slices.Contains(k.Targets(), "/data") || len(only(k.Calls(), "write /sys/block/md8")) > 0 {
		t.Errorf("gone %v, left %q, said %q", gone, k.Targets(), p)
	}

	// One that does not answer is tried once, and named with what it holds.
	k = machine().Busy("/data").Dir("/sys/block", "loop0", "dm-0").Dir("/sys/block/loop0/holders", "dm-0").
		File("/sys/block/loop0/loop/backing_file", "/data/disk.img\n").File("/sys/block/dm-0/dm/name", "a\n")
	k.Hang = "remove mapping"
	k.Fail = func(_ int, call string) error {
		if strings.HasPrefix(call, "unmount /data ") || strings.HasPrefix(call, "detach") {
			return syscall.EBUSY
		}
		return nil
	}
	p = run(k, nil)
	if n := len(only(k.Calls(), "remove mapping")); n != 1 || !strings.Contains(p.String(), "the removal of /dev/dm-0 did not end within 2s") ||
		!strings.Contains(p.String(), "/dev/loop0 with /data/disk.img below /dev/dm-0") || !k.Did("reboot 0x4321fedc") {
		t.Errorf("tried %d times, said %q", n, p)
	}
}

// A mount may hide a swap file until it is gone itself.
func TestHiddenSwap(t *testing.T) {
	k := machine().Busy("/data")
	tries := 0
	k.Fail = func(_ int, call string) error {
		if call != "swapoff /data/swap" {
			return nil
		}
		if tries++; tries == 1 {
			return syscall.ENOENT
		}
		k.Free("/data")
		return nil
	}
	if p := run(k, nil); tries != 2 || slices.Contains(k.Targets(), "/data") {
		t.Errorf("%d tries, left %q, said %q", tries, k.Targets(), p)
	}
	k = machine().Busy("/data")
	k.Fail = func(_ int, call string) error {
		if call == "swapoff /data/swap" {
			return syscall.ENOMEM
		}
		return nil
	}
	if p := run(k, nil); !strings.Contains(p.String(), "swap on /data/swap") {
		t.Errorf("said %q", p)
	}
}

func TestSomethingDoesNotDie(t *testing.T) {
	k := machine().Immortal()
	p := run(k, nil)
	if !strings.Contains(p.String(), "still there 5s after SIGKILL: 9 (a (b) c, state D)") {
		t.Errorf("said %q", p)
	}
	if n := len(only(k.Calls(), "kill -1 9")); n < 10 {
		t.Errorf("killed %d times: what forks away is missed", n)
	}
	if !k.Did("reboot 0x4321fedc") {
		t.Error("no end")
	}
}

func TestContainerLeavesTheMachineAlone(t *testing.T) {
	k := machine()
	p := run(k, func(e *End) { e.Machine, e.Container = false, true })
	for _, bad := range []string{"unmount", "reboot", "swapoff", "sync", "write", "mount"} {
		if got := only(k.Calls(), bad); len(got) > 0 {
			t.Errorf("in a container: %q", got)
		}
	}
	if !k.Did("kill -1 9") || !strings.Contains(p.String(), "leaving the container") {
		t.Errorf("%q, said %q", k.Calls(), p)
	}
}

func TestNotPID1KillsItsOwnOnly(t *testing.T) {
	k := machine().Pid(50).Dir("/proc", "1", "50", "60", "70").
		File("/proc/50/stat", "50 (init) S 1").File("/proc/60/stat", "60 (mine) S 50").File("/proc/70/stat", "70 (other) S 1")
	run(k, func(e *End) { e.Machine, e.Container = false, true })
	if got := only(k.Calls(), "kill"); !slices.Equal(got, []string{"kill 60 15", "kill 60 9"}) {
		t.Errorf("killed %q", got)
	}
}

func TestForeignMachine(t *testing.T) {
	k := machine().Busy("/data")
	run(k, func(e *End) { e.Machine = false })
	for _, bad := range []string{"write", "swapoff", "detach", "mount"} {
		if got := only(k.Calls(), bad); len(got) > 0 {
			t.Errorf("somebody else's: %q", got)
		}
	}
	if !k.Did("reboot 0x4321fedc") || !k.Did("unmount /run 0x8") {
		t.Errorf("%q", k.Calls())
	}
}

func TestParseStat(t *testing.T) {
	for text, want := range map[string]process{
		"9 (a (b) c) D 1 9 9":           {9, 1, "a (b) c", "D", false},
		"9 (kworker/0:1) I 2 0":         {9, 2, "kworker/0:1", "I", true},
		"9 () S 4":                      {9, 4, "", "S", false},
		"9 (evil) S 2) D 1 0":           {9, 1, "evil) S 2", "D", false},
		"9":                             {},
		"9 )(":                          {},
		"9 (x) S":                       {},
		"9 (x) S notanumber 3 4 5 6 77": {},
	} {
		got, ok := parseStat(9, text)
		if got != want || ok != (want != process{}) {
			t.Errorf("%q: %+v, %v", text, got, ok)
		}
	}
}
