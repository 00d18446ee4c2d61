package qemu

import (
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"keelson/mkimage/vm"
)

// The machines of tests are those of mkimage run, and differ in what steers them.
func TestArguments(t *testing.T) {
	disk := filepath.Join(t.TempDir(), "disk")
	if err := os.WriteFile(disk, []byte("QFI\xfb"), 0o600); err != nil {
		t.Fatal(err)
	}
	got, err := arguments("/dir", Config{
		Kernel: "k", Initrd: "i", Cmdline: "console=ttyS0", CmdlineAdd: "quiet", Ports: []int{80}, Drives: []string{disk}, Args: []string{"-snapshot"},
	})
	if err != nil {
		t.Fatal(err)
	}
	ours := vm.Machine{
		Kernel: "k", Initrd: "i", Cmdline: "console=ttyS0 quiet", Memory: "512", CPUs: 1, Network: true,
		CPU:      plainCPU,
		Forwards: []vm.Forward{{Proto: "tcp", HostAddr: "127.0.0.1", Guest: 80}},
		Disks:    []vm.Disk{{File: disk, Format: "qcow2"}},
	}
	for _, arg := range ours.Command() {
		if !slices.Contains(got, arg) && arg != "mon:stdio" {
			t.Errorf("lacks %s of mkimage run: %s", arg, got)
		}
	}
	all := strings.Join(got, " ")
	for _, want := range []string{"-append console=ttyS0 quiet no_timer_check", "-no-reboot -S", "path=/dir/qmp"} {
		if !strings.Contains(all, want) {
			t.Errorf("lacks %s: %s", want, all)
		}
	}
	if !strings.HasSuffix(all, " -snapshot") {
		t.Errorf("does not end in the test's own argument: %s", all)
	}
	if _, err := arguments("/dir", Config{Drives: []string{disk + "none"}}); err == nil {
		t.Error("a drive that is not there was taken")
	}
}
