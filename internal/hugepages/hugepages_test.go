package hugepages

import (
	"errors"
	"os"
	"os/exec"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

func TestEachAnonymous(t *testing.T) {
	maps := `00400000-00a2f000 r-xp 00000000 00:02 35   /usr/bin/service
0115a000-011c9000 rw-p 00d5a000 00:02 35                                 /usr/bin/service
011c9000-03214000 rw-p 00000000 00:00 0 
c000000000-c000400000 rw-p 00000000 00:00 0                              [anon: Go: heap]
7ffff7ff9000-7ffff7ffd000 r--p 00000000 00:00 0                          [vvar]
7ffffffde000-7ffffffff000 rw-p 00000000 00:00 0                          [stack]
`
	var got [][2]uintptr
	if err := eachAnonymous(strings.NewReader(maps), func(start, end uintptr) { got = append(got, [2]uintptr{start, end}) }); err != nil {
		t.Fatal(err)
	}
	want := [][2]uintptr{{0x11c9000, 0x3214000}, {0xc000000000, 0xc000400000}, {0x7ffffffde000, 0x7ffffffff000}}
	if len(got) != len(want) {
		t.Fatalf("%x, want %x", got, want)
	}
	for i := range want {
		if got[i] != want[i] {
			t.Errorf("%x, want %x", got[i], want[i])
		}
	}
	if err := eachAnonymous(strings.NewReader("x-y rw-p 00000000 00:00 0\n"), nil); err == nil {
		t.Error("a line that is none is no error")
	}
}

const asChild = "HUGEPAGES_TEST_CHILD"

// A process started Without has the flag, its child after Refuse has not, and neither has the process that
// started it.
func TestFlag(t *testing.T) {
	flag := func() int {
		set, err := unix.PrctlRetInt(unix.PR_GET_THP_DISABLE, 0, 0, 0, 0)
		if err != nil {
			t.Skip("the kernel has no huge pages: ", err)
		}
		return set
	}
	if os.Getenv(asChild) != "" {
		if flag() != 1 {
			t.Error("started with huge pages")
		}
		if err := Refuse(); err != nil {
			t.Error(err)
		}
		if flag() != 0 {
			t.Error("its children will have the flag")
		}
		smaps, err := os.ReadFile("/proc/self/smaps")
		if err != nil {
			t.Fatal(err)
		}
		for _, stretch := range strings.SplitAfter(string(smaps), "\nVmFlags") {
			if strings.Contains(stretch, "[stack]") {
				continue // its flags come with the next
			}
			if strings.Contains(stretch, "AnonHugePages:") && !strings.Contains(stretch, "AnonHugePages:         0 kB") {
				t.Errorf("has huge pages:\n%s", stretch)
			}
		}
		return
	}
	if flag() != 0 {
		t.Skip("whoever started the test has the flag")
	}
	child := exec.Command(os.Args[0], "-test.run=^TestFlag$", "-test.v")
	child.Env = append(os.Environ(), asChild+"=1")
	var out strings.Builder
	child.Stdout, child.Stderr = &out, &out
	if err := Without(child.Start); err != nil {
		t.Fatal(err)
	}
	if flag() != 0 {
		t.Error("the flag stays")
	}
	if err := child.Wait(); err != nil {
		t.Errorf("%v\n%s", err, out.String())
	}
	failed := errors.New("failed")
	if err := Without(func() error { return failed }); err != failed || flag() != 0 {
		t.Errorf("%v, flag %d", err, flag())
	}
}
