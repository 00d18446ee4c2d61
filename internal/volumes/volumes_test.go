package volumes

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"keelson/internal/mounts"
	"keelson/internal/nstest"
)

func TestMain(m *testing.M) { os.Exit(nstest.Main(m)) }

func lay(t *testing.T, base string, folders ...string) {
	t.Helper()
	for _, f := range folders {
		if err := os.MkdirAll(filepath.Join(base, f), 0o755); err != nil {
			t.Fatal(err)
		}
	}
}

func TestMount(t *testing.T) {
	nstest.Need(t)
	base := nstest.Tmpfs(t, "size=10m")
	lay(t, base, "rw/lower", "rw/tmp", "rw/merged", "ro/lower", "ro/merged", "broken/lower")
	for _, v := range []string{"rw", "ro"} {
		if err := os.WriteFile(filepath.Join(base, v, "lower/f"), []byte("image"), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.Chmod(filepath.Join(base, "rw/lower"), 0o777|os.ModeSticky); err != nil {
		t.Fatal(err)
	}
	if err := os.Chown(filepath.Join(base, "rw/lower"), 100, 101); err != nil {
		t.Fatal(err)
	}
	mounted := 0
	for i := range 2 {
		ready, err := Mount(base)
		if err == nil || !strings.HasPrefix(err.Error(), "volume broken: "+base+"/broken/merged is missing") || strings.Contains(err.Error(), "\n") {
			t.Fatalf("error %v", err)
		}
		if len(ready) != 2 || ready[0] != (Volume{"ro", true, base + "/ro/merged"}) || ready[1] != (Volume{"rw", false, base + "/rw/merged"}) {
			t.Fatalf("%+v", ready)
		}
		points, err := mounts.Below(base)
		if err != nil {
			t.Fatal(err)
		}
		if i > 0 && len(points) != mounted {
			t.Errorf("%d mounts after the second call, %d after the first", len(points), mounted)
		}
		mounted = len(points)
	}
	if mounted != 4 { // the base, bind, tmpfs, overlay
		t.Errorf("%d mounts, want 4", mounted)
	}
	for _, v := range []string{"rw", "ro"} {
		if b, err := os.ReadFile(filepath.Join(base, v, "merged/f")); err != nil || string(b) != "image" {
			t.Errorf("%s: %q %v", v, b, err)
		}
	}
	if err := os.WriteFile(filepath.Join(base, "ro/merged/f"), nil, 0o644); !errors.Is(err, unix.EROFS) {
		t.Errorf("a read-only volume was written to: %v", err)
	}
	if err := os.WriteFile(filepath.Join(base, "rw/merged/f"), []byte("mine"), 0o644); err != nil {
		t.Error(err)
	}
	if b, _ := os.ReadFile(filepath.Join(base, "rw/lower/f")); string(b) != "image" {
		t.Errorf("the image of the writable volume was written to: %q", b)
	}
	var st unix.Stat_t
	if err := unix.Stat(filepath.Join(base, "rw/merged"), &st); err != nil || st.Mode&0o7777 != 0o1777 || st.Uid != 100 || st.Gid != 101 {
		t.Errorf("merged has mode %o, owner %d:%d; want the image's 1777, 100:101", st.Mode&0o7777, st.Uid, st.Gid)
	}
}

func TestASecondMountChangesNothing(t *testing.T) {
	nstest.Need(t)
	base := nstest.Tmpfs(t, "size=10m")
	lay(t, base, "v/lower", "v/tmp", "v/merged")
	merged := filepath.Join(base, "v/merged")
	if _, err := Mount(base); err != nil {
		t.Fatal(err)
	}
	if err := os.Chmod(merged, 0o700); err != nil { // as a container may
		t.Fatal(err)
	}
	if _, err := Mount(base); err != nil {
		t.Fatal(err)
	}
	if info, err := os.Stat(merged); err != nil || info.Mode().Perm() != 0o700 {
		t.Errorf("%v, mode %v; want 0700, as it was set", err, info.Mode())
	}
}

func TestVolumeThatIsALink(t *testing.T) {
	nstest.Need(t)
	base := nstest.Tmpfs(t, "size=10m")
	lay(t, base, "v/lower", "v/merged", "w/lower", "w/tmp", "outside")
	for link, to := range map[string]string{"v/tmp": "../outside", "w/merged": "../outside"} {
		if err := os.Symlink(to, filepath.Join(base, link)); err != nil {
			t.Fatal(err)
		}
	}
	if ready, err := Mount(base); err == nil || len(ready) != 0 {
		t.Errorf("%v %v", ready, err)
	}
	if points, err := mounts.Below(base + "/outside"); err != nil || len(points) != 0 {
		t.Errorf("mounted behind the link: %v %v", points, err)
	}
}

func TestNoVolumes(t *testing.T) {
	if ready, err := Mount(filepath.Join(t.TempDir(), "none")); err != nil || len(ready) != 0 {
		t.Errorf("%v %v", ready, err)
	}
}
