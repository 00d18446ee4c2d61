package prepare

import (
	"os"
	"path/filepath"
	"testing"

	specs "github.com/opencontainers/runtime-spec/specs-go"

	"keelson/internal/hold"
	"keelson/internal/nstest"
	"keelson/internal/workshop"
)

// What makes a container's root is seen in the workshop alone, and until the container has
// it; what it mounts elsewhere is the machine's.
func TestRootsAreMadeInTheWorkshop(t *testing.T) {
	nstest.Need(t)
	base := nstest.Tmpfs(t, "size=10m")
	in, out, err := hold.Pair()
	if err != nil {
		t.Fatal(err)
	}
	h, err := hold.New(in, out)
	if err != nil {
		t.Fatal(err)
	}
	shop, err := workshop.Open(h, 0, base+"/containers/services")
	if err != nil {
		t.Fatal(err)
	}
	outside := filepath.Join(base, "var/data")
	b := readWrite(t, base, "web")
	b.Runtime.Mounts = append(b.Runtime.Mounts,
		specs.Mount{Destination: outside, Type: "tmpfs", Source: "data"},
		specs.Mount{Destination: "inner", Type: "tmpfs", Source: "inner"},
		specs.Mount{Destination: b.Rootfs() + "/out/data", Type: "tmpfs", Source: "far"},
	)
	// Below the root, where the container's mount is gone before its neighbours are.
	if err := os.Symlink(filepath.Dir(outside), b.Rootfs()+"/out"); err != nil {
		t.Fatal(err)
	}
	b.Runtime.Mkdir = []string{"made", outside + "/made"}
	count := func(where *workshop.Workshop, dir string) (n int) {
		t.Helper()
		if err := where.Do(func() error { n = below(t, dir); return nil }); err != nil {
			t.Fatal(err)
		}
		return n
	}
	for range 2 {
		if err := Before(testContext(t), b, nil, shop); err != nil {
			t.Fatal(err)
		}
		if machine, there := count(nil, b.Dir), count(shop, b.Dir); machine != 0 || there != 4 {
			t.Errorf("%d mounts of the container on the machine, %d in the workshop", machine, there)
		}
		if machine, there := count(nil, outside), count(shop, outside); machine != 1 || there != 1 {
			t.Errorf("elsewhere %d mounts on the machine, %d in the workshop", machine, there)
		}
	}
	if err := shop.Do(func() error { _, err := os.Stat(b.Dir + "/rootfs/made"); return err }); err != nil {
		t.Error(err)
	}
	if _, err := os.Stat(outside + "/made"); err != nil {
		t.Error(err)
	}
	if err := shop.Do(func() error { Leave(b); return nil }); err != nil || count(shop, b.Dir) != 0 || count(nil, outside) != 1 {
		t.Errorf("%v: %d mounts are left in the workshop", err, count(shop, b.Dir))
	}
	// One whose create failed has not been left.
	if err := Before(testContext(t), b, nil, shop); err != nil {
		t.Fatal(err)
	}
	for range 2 {
		if err := Cleanup(testContext(t), b, nil, shop); err != nil || count(shop, base) != count(nil, base) || count(nil, outside) != 0 {
			t.Errorf("%v: %d mounts on the machine, %d in the workshop, %d elsewhere", err, count(nil, base), count(shop, base), count(nil, outside))
		}
	}
}
