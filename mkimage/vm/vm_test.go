package vm

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

func TestCommand(t *testing.T) {
	m := Machine{
		Kernel: "k", Initrd: "i", Cmdline: "console=ttyS0", Memory: "512M", CPUs: 2,
		Disks: []Disk{{File: "a,b.img", Format: "raw"}}, Args: []string{"-snapshot"},
	}
	for _, p := range []string{"8080:80", "0.0.0.0:53:53/udp"} {
		f, err := ParseForward(p)
		if err != nil {
			t.Fatal(err)
		}
		m.Forwards = append(m.Forwards, f)
	}
	got := strings.Join(m.Command(), " ")
	for _, want := range []string{
		"-accel tcg", "-smp 2 -m 512M", "-kernel k -append console=ttyS0 -initrd i", "-serial mon:stdio", "-device virtio-rng-pci",
		"-netdev user,id=net0,hostfwd=tcp:127.0.0.1:8080-:80,hostfwd=udp:0.0.0.0:53-:53 -device virtio-net-pci,netdev=net0",
		"-drive if=none,id=disk0,format=raw,file=a,,b.img -device virtio-blk-pci,drive=disk0",
	} {
		if !strings.Contains(got, want) {
			t.Errorf("%s\nlacks %s", got, want)
		}
	}
	if !strings.HasSuffix(got, " -snapshot") {
		t.Errorf("%s\ndoes not end in the user's own argument", got)
	}
	m.KVM = true
	if got := strings.Join(m.Command(), " "); !strings.Contains(got, "-accel kvm -cpu host") {
		t.Errorf("with KVM: %s", got)
	}
}

func TestCommandOfDisks(t *testing.T) {
	for _, test := range []struct {
		m            Machine
		wants, lacks string
	}{
		{Machine{Kernel: "k", Cmdline: "root=/dev/vda", RootDisk: "r", Disks: []Disk{{"d", "raw"}}},
			"-drive if=none,id=root,format=raw,file=r -device virtio-blk-pci,drive=root -drive if=none,id=disk0,format=raw,file=d", "-initrd"},
		{Machine{Kernel: "k", Cmdline: "root=/dev/nvme0n1", RootDisk: "r"}, "-device nvme,serial=root,drive=root", "virtio-blk"},
		{Machine{Firmware: "f", CD: "c"}, "-drive if=pflash,format=raw,unit=0,readonly=on,file=f", "-kernel"},
		{Machine{Firmware: "f", CD: "c"}, "-drive if=none,id=cd,format=raw,readonly=on,media=cdrom,file=c -device ide-cd,drive=cd", "-append"},
	} {
		got := strings.Join(test.m.Command(), " ")
		if !strings.Contains(got, test.wants) || strings.Contains(got, test.lacks) {
			t.Errorf("%+v: got %s", test.m, got)
		}
	}
}

func TestParseForwardRefuses(t *testing.T) {
	for _, bad := range []string{"", "80", "a:b", "0:80", "80:70000", "1:2:3:4", "80:80/icmp"} {
		if f, err := ParseForward(bad); err == nil {
			t.Errorf("%q is taken as %+v", bad, f)
		}
	}
}

func TestOpenDisk(t *testing.T) {
	dir := t.TempDir()
	for body, want := range map[string]string{"": "raw", "QF": "raw", "QFI\xfb\x00\x00\x00\x03": "qcow2", "something else": "raw"} {
		file := filepath.Join(dir, "disk")
		if err := os.WriteFile(file, []byte(body), 0o600); err != nil {
			t.Fatal(err)
		}
		if d, err := OpenDisk(file); err != nil || d.Format != want {
			t.Errorf("%q: got %+v, %v, want %s", body, d, err, want)
		}
	}
	if _, err := OpenDisk(filepath.Join(dir, "none")); err == nil || !strings.HasSuffix(err.Error(), "make one with: truncate -s 1G "+filepath.Join(dir, "none")) {
		t.Errorf("got %v", err)
	}
}

// fakeQEMU puts a script in QEMU's place.
func fakeQEMU(t *testing.T, script string) {
	t.Helper()
	dir := t.TempDir()
	if script != "" {
		if err := os.WriteFile(filepath.Join(dir, Binary), []byte("#!/bin/sh\n"+script), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	t.Setenv("PATH", dir)
}

func TestRun(t *testing.T) {
	fakeQEMU(t, "")
	if err := (Machine{}).Run(context.Background()); err == nil || err.Error() != "qemu-system-x86_64 is not installed; on Debian and Ubuntu: apt-get install qemu-system-x86" {
		t.Errorf("without QEMU: got %v", err)
	}
	fakeQEMU(t, "exit 0\n")
	if err := (Machine{}).Run(context.Background()); err != nil {
		t.Errorf("got %v", err)
	}
	fakeQEMU(t, "exit 3\n")
	var exit *ExitError
	if err := (Machine{}).Run(context.Background()); !errors.As(err, &exit) || exit.Code != 3 {
		t.Errorf("got %v, want code 3", err)
	}
}

func TestRunIsStoppedByItsContext(t *testing.T) {
	ctx, cancel := context.WithCancel(context.Background())
	fakeQEMU(t, "trap 'exit 0' TERM\nwhile :; do :; done\n")
	done := make(chan error, 1)
	go func() { done <- Machine{}.Run(ctx) }()
	cancel()
	if err := <-done; !errors.Is(err, context.Canceled) {
		t.Errorf("got %v", err)
	}
}
