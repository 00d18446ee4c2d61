package workshop

import (
	"fmt"
	"os"
	"testing"

	"github.com/moby/sys/mountinfo"
	"golang.org/x/sys/unix"

	"keelson/internal/hold"
	"keelson/internal/nstest"
)

func TestMain(m *testing.M) { os.Exit(nstest.Main(m)) }

func newHold(t *testing.T) *hold.Hold {
	in, out, err := hold.Pair()
	if err != nil {
		t.Fatal(err)
	}
	h, err := hold.New(in, out)
	if err != nil {
		t.Fatal(err)
	}
	return h
}

func tmpfs(t *testing.T, dir string) func() error {
	return func() error {
		if err := os.MkdirAll(dir, 0o755); err != nil {
			return err
		}
		return unix.Mount("tmpfs", dir, "tmpfs", 0, "")
	}
}

func isMounted(t *testing.T, w *Workshop, dir string) (is bool) {
	t.Helper()
	if err := w.Do(func() (err error) {
		is, err = mountinfo.Mounted(dir)
		return err
	}); err != nil {
		t.Fatal(err)
	}
	return is
}

func TestWhatIsSeenWhere(t *testing.T) {
	nstest.Need(t)
	base := nstest.Tmpfs(t, "size=1m")
	roots, h := base+"/roots", newHold(t)
	w, err := Open(h, 0, roots)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = unix.Unmount(roots, unix.MNT_DETACH) })
	for _, c := range []struct {
		where          *Workshop
		dir            string
		machine, there bool
	}{
		{w, roots + "/web", false, true},
		{w, base + "/elsewhere", true, true},
		{nil, base + "/machine", true, true},
	} {
		if err := c.where.Do(tmpfs(t, c.dir)); err != nil {
			t.Fatal(err)
		}
		if machine, there := isMounted(t, nil, c.dir), isMounted(t, w, c.dir); machine != c.machine || there != c.there {
			t.Errorf("%s is mounted on the machine: %v, in the workshop: %v", c.dir, machine, there)
		}
	}
	// An unmount is seen as the mount was.
	if err := unix.Unmount(base+"/elsewhere", 0); err != nil || isMounted(t, w, base+"/elsewhere") {
		t.Errorf("still mounted in the workshop: %v", err)
	}
	// A restarted supervisor has the same one, and so has one that PID 1 keeps nothing for.
	again, err := Open(h, 0, roots)
	if err != nil || !isMounted(t, again, roots+"/web") {
		t.Errorf("another workshop: %v", err)
	}
}

func TestTheWorkshopOfARunningProcess(t *testing.T) {
	nstest.Need(t)
	pid, _ := nstest.Process(t, unix.CLONE_NEWNS)
	w, err := Open(newHold(t), pid)
	if err != nil || w == nil {
		t.Fatalf("%v %v", w, err)
	}
	own, _ := os.Readlink("/proc/thread-self/ns/mnt")
	its, _ := os.Readlink(fmt.Sprintf("/proc/%d/ns/mnt", pid))
	var there string
	if err := w.Do(func() (err error) { there, err = os.Readlink("/proc/thread-self/ns/mnt"); return err }); err != nil || there != its || its == own {
		t.Errorf("%v: in %s, not %s", err, there, its)
	}
	// Nobody else has moved, whichever thread it was done in.
	for range 200 {
		if err := w.Do(func() error { return nil }); err != nil {
			t.Fatal(err)
		}
	}
	for _, where := range []string{"self", "thread-self"} {
		if here, _ := os.Readlink("/proc/" + where + "/ns/mnt"); here != own {
			t.Errorf("%s is now in %s, not %s", where, here, own)
		}
	}
}

func TestWithoutSomebodyWhoKeepsIt(t *testing.T) {
	nstest.Need(t)
	w, err := Open(nil, 0)
	if err == nil || w != nil {
		t.Fatalf("%v %v", w, err)
	}
	dir := nstest.Tmpfs(t, "size=1m") + "/x"
	if err := w.Do(tmpfs(t, dir)); err != nil || !isMounted(t, nil, dir) {
		t.Errorf("not done in the machine's namespace: %v", err)
	}
}
