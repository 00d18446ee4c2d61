package vm

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

func TestCommand(t *testing.T) {
	m := Machine{
		Kernel: "k", Initrd: "i", Cmdline: "console=ttyS0", Memory: "512M", CPUs: 2, Network: true, Random: true,
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
		"-accel tcg", "-smp 2 -m 512M", "-kernel k -append console=ttyS0 no_timer_check -initrd i", "-serial mon:stdio", "-device virtio-rng-pci",
		"-netdev user,id=net,hostfwd=tcp:127.0.0.1:8080-:80,hostfwd=udp:0.0.0.0:53-:53 -device virtio-net-pci,netdev=net,romfile=",
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
	if got := strings.Join(m.Command(), " "); !strings.Contains(got, "-accel kvm -cpu host") || strings.Contains(got, "no_timer_check") {
		t.Errorf("with KVM: %s", got)
	}
	m.CPU, m.Console = "486", []string{"-serial", "null"}
	if got := strings.Join(m.Command(), " "); !strings.Contains(got, "-cpu 486") || !strings.Contains(got, "-serial null") || strings.Contains(got, "mon:stdio") {
		t.Errorf("with a processor and a console of its own: %s", got)
	}
	if got := strings.Join(Machine{}.Command(), " "); strings.Contains(got, "-device") || strings.Contains(got, "-netdev") {
		t.Errorf("a machine without devices: %s", got)
	}
}

func TestCommandOfDisks(t *testing.T) {
	for _, test := range []struct {
		m            Machine
		wants, lacks string
	}{
		{Machine{Kernel: "k", Cmdline: "root=/dev/vda", RootDisk: "r", Disks: []Disk{{"d", "raw"}}},
			"-drive if=none,id=root,format=raw,file=r -device virtio-blk-pci,drive=root -drive if=none,id=disk0,format=raw,file=d", "-initrd"},
		{Machine{Firmware: "f", RootDisk: "r", RootFormat: "vpc"}, "id=root,format=vpc,file=r -device virtio-blk-pci", "snapshot"},
		{Machine{Firmware: "f", RootDisk: "r", RootFormat: "vmdk"}, "id=root,format=vmdk,snapshot=on,file=r -device virtio-blk-pci", "-kernel"},
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
	for _, bad := range []string{"", ":", "80:", "80:0", "0", "a:b", "-1:80", "80:70000", "1:2:3:4", "80:80/icmp"} {
		if f, err := ParseForward(bad); err == nil {
			t.Errorf("%q is taken as %+v", bad, f)
		}
	}
}

// A forward without a port of the host gets one that is free, each another one.
func TestPickPorts(t *testing.T) {
	var list []Forward
	for _, s := range []string{"80", ":80", "0:80", "127.0.0.1::80", "127.0.0.2:0:80/udp", ":53/udp", "8080:80"} {
		f, err := ParseForward(s)
		if err != nil {
			t.Fatal(err)
		}
		if f.Host != 0 && s != "8080:80" || f.Guest != 80 && f.Guest != 53 {
			t.Errorf("%s is %+v", s, f)
		}
		list = append(list, f)
	}
	picked, err := PickPorts(list)
	if err != nil {
		t.Fatal(err)
	}
	if !slices.Equal(picked, list[:6]) || list[6].Host != 8080 || list[4].HostAddr != "127.0.0.2" {
		t.Errorf("picked %v of %v", picked, list)
	}
	seen := map[string]bool{}
	for _, f := range picked {
		if f.Host < 1 || seen[f.String()] {
			t.Errorf("port %d is none, or picked twice", f.Host)
		}
		seen[f.String()] = true
		if f.Proto == "tcp" { // it is free again
			l, err := net.Listen("tcp4", fmt.Sprintf("%s:%d", f.HostAddr, f.Host))
			if err != nil {
				t.Error(err)
				continue
			}
			l.Close()
		}
	}
	_, err = PickPorts([]Forward{{"tcp", "192.0.2.1", 0, 80}})
	if err == nil || !strings.HasPrefix(err.Error(), "-p: a free port at 192.0.2.1 for port 80 of the machine: ") {
		t.Errorf("an address that this machine has not: got %v", err)
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
