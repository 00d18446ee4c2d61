package mountinfo

import (
	"slices"
	"testing"
)

const sample = `21 1 0:2 / / ro shared:1 - rootfs rootfs rw
22 21 0:19 / /proc rw,nosuid,nodev,noexec,relatime shared:2 - proc proc rw
23 21 0:20 / /run rw,nosuid shared:3 - tmpfs tmpfs rw,size=48132k,mode=755,inode64
26 21 0:5 / /dev rw,nosuid,noexec,relatime shared:6 - devtmpfs dev rw
30 26 0:25 / /dev/pts rw,nosuid,noexec shared:9 - devpts devpts rw,gid=5
31 27 0:6 / /sys rw - sysfs sysfs rw
32 21 254:1 / /var/lib/my\040data rw,relatime shared:16 master:3 propagate_from:2 - ext4 /dev/vda1 rw
33 32 0:40 / /var/lib/my\040data/fuse rw - fuse.sshfs user@host:/ rw
garbage
34 21 0:41 / /nodash rw ext4 /dev/vdb rw
35 32 0:42 /sub\134dir /containers/services/a/rootfs rw - overlay overlay rw,lowerdir=/a
36 26 254:2 / /dev/disk rw - ext4 /dev/vdc ro
37 21 0:4 mnt:[4026532200] /run/ns/a rw - nsfs nsfs rw
`

func TestParse(t *testing.T) {
	got := Parse(sample)
	if len(got) != 11 {
		t.Fatalf("%d mounts, want 11: %+v", len(got), got)
	}
	want := Mount{Root: "/", Target: "/var/lib/my data", Type: "ext4", Source: "/dev/vda1"}
	if got[6] != want {
		t.Errorf("got %+v, want %+v", got[6], want)
	}
	if !got[0].ReadOnly || got[1].ReadOnly || !got[9].ReadOnly {
		t.Errorf("read-only: root %v (mount), /proc %v, /dev/disk %v (file system)", got[0].ReadOnly, got[1].ReadOnly, got[9].ReadOnly)
	}
	if got[8].Root != `/sub\dir` {
		t.Errorf("root of the overlay is %q", got[8].Root)
	}
}

func TestToUnmountIsNewestFirstAndLeavesWhatPID1Needs(t *testing.T) {
	var got []string
	for _, m := range ToUnmount(Parse(sample)) {
		got = append(got, m.Target)
	}
	want := []string{"/run/ns/a", "/dev/disk", "/containers/services/a/rootfs", "/var/lib/my data/fuse", "/var/lib/my data", "/run"}
	if !slices.Equal(got, want) {
		t.Errorf("got %q, want %q", got, want)
	}
}

func TestKinds(t *testing.T) {
	for typ, want := range map[string][2]bool{ // store, network
		"ext4": {true, false}, "overlay": {true, false}, "nfs4": {true, true}, "fuse.sshfs": {true, true},
		"tmpfs": {false, false}, "cgroup2": {false, false}, "xfs": {true, false}, "9p": {true, true},
	} {
		m := Mount{Type: typ}
		if got := [2]bool{HasStore(m), OnNetwork(m)}; got != want {
			t.Errorf("%s: store, network = %v, want %v", typ, got, want)
		}
	}
}

func FuzzParse(f *testing.F) {
	f.Add(sample)
	f.Add(`1 1 0:1 / \ rw - a`)
	f.Add(`1 1 0:1 / \777\04 rw - ext4 \`)
	f.Fuzz(func(t *testing.T, text string) {
		for _, m := range ToUnmount(Parse(text)) {
			if m.Target == "/" {
				t.Errorf("the root is to be unmounted")
			}
		}
	})
}
