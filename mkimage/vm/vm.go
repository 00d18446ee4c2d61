// Package vm boots what was built in QEMU, with the console on the terminal.
//
// It owns QEMU's command line. It promises to end when QEMU ends, and leaves
// the terminal as it was.
package vm

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// Binary is the emulator.
const Binary = "qemu-system-x86_64"

// Forward passes connections to a port of the host on to one of the guest.
type Forward struct {
	Proto       string // tcp or udp
	HostAddr    string
	Host, Guest int
}

// ParseForward reads [ADDRESS:]HOST:GUEST[/udp].
func ParseForward(s string) (Forward, error) {
	bad := func(why string) (Forward, error) {
		return Forward{}, fmt.Errorf("-p %s: %s; must be HOST:GUEST such as 8080:80, with an address in front or /udp behind if need be", s, why)
	}
	f := Forward{Proto: "tcp", HostAddr: "127.0.0.1"}
	rest, proto, ok := strings.Cut(s, "/")
	if ok {
		if proto != "tcp" && proto != "udp" {
			return bad("unknown protocol " + proto)
		}
		f.Proto = proto
	}
	parts := strings.Split(rest, ":")
	switch len(parts) {
	case 2:
	case 3:
		f.HostAddr, parts = parts[0], parts[1:]
	default:
		return bad("wrong number of colons")
	}
	for i, to := range []*int{&f.Host, &f.Guest} {
		n, err := strconv.Atoi(parts[i])
		if err != nil || n < 1 || n > 65535 {
			return bad(fmt.Sprintf("%q is no port", parts[i]))
		}
		*to = n
	}
	return f, nil
}

// Disk is a file that is a disk of the machine.
type Disk struct {
	File   string
	Format string // raw or qcow2
}

// OpenDisk finds out the format of a disk. It must exist.
func OpenDisk(file string) (Disk, error) {
	f, err := os.Open(file)
	if err != nil {
		return Disk{}, fmt.Errorf("--disk: %w; make one with: truncate -s 1G %s", err, file)
	}
	defer f.Close()
	d := Disk{File: file, Format: "raw"}
	magic := make([]byte, 4)
	if _, err := io.ReadFull(f, magic); err == nil && string(magic) == "QFI\xfb" {
		d.Format = "qcow2"
	}
	return d, nil
}

// Machine is what to boot and on what.
type Machine struct {
	Kernel, Initrd, Cmdline string // no kernel: the firmware finds one. The initrd may be missing
	Firmware                string // EFI firmware; without it, a PC's BIOS
	CD                      string
	RootDisk                string // the first disk, raw; where Cmdline says the root is on NVMe, an NVMe disk
	Memory                  string // as QEMU takes it: 512M, 2G
	CPUs                    int
	KVM                     bool
	Forwards                []Forward
	Disks                   []Disk   // attached as /dev/vda, /dev/vdb ...
	Args                    []string // passed to QEMU as they are
}

// emulatedCPU is x86-64-v2, which distributions build for, and RDRAND, without
// which a guest waits for its first random numbers. QEMU's "max" would do as
// well, and takes about a third longer to boot: all it has is emulated.
const emulatedCPU = "qemu64,+rdrand,+ssse3,+sse4.1,+sse4.2,+popcnt,+cx16,+lahf-lm"

// Command returns QEMU's arguments.
func (m Machine) Command() []string {
	accel, cpu := "tcg", emulatedCPU
	if m.KVM {
		accel, cpu = "kvm", "host"
	}
	args := []string{
		"-nodefaults", "-no-user-config", "-machine", "q35", "-accel", accel, "-cpu", cpu,
		"-smp", strconv.Itoa(m.CPUs), "-m", m.Memory,
		"-display", "none", "-serial", "mon:stdio",
		"-device", "virtio-rng-pci",
	}
	if m.Kernel != "" {
		args = append(args, "-kernel", m.Kernel, "-append", m.Cmdline)
	}
	if m.Initrd != "" {
		args = append(args, "-initrd", m.Initrd)
	}
	if m.Firmware != "" {
		args = append(args, "-drive", "if=pflash,format=raw,unit=0,readonly=on,file="+m.Firmware)
	}
	netdev := "user,id=net0"
	for _, f := range m.Forwards {
		netdev += fmt.Sprintf(",hostfwd=%s:%s:%d-:%d", f.Proto, f.HostAddr, f.Host, f.Guest)
	}
	args = append(args, "-netdev", netdev, "-device", "virtio-net-pci,netdev=net0")
	drive := func(id, format, file, device string) {
		// A comma in a name is doubled in QEMU's options.
		args = append(args, "-drive", "if=none,id="+id+",format="+format+",file="+strings.ReplaceAll(file, ",", ",,"), "-device", device+",drive="+id)
	}
	if m.CD != "" {
		drive("cd", "raw,readonly=on,media=cdrom", m.CD, "ide-cd")
	}
	if m.RootDisk != "" {
		device := "virtio-blk-pci"
		if strings.Contains(m.Cmdline, "root=/dev/nvme") {
			device = "nvme,serial=root"
		}
		drive("root", "raw", m.RootDisk, device)
	}
	for i, d := range m.Disks {
		drive(fmt.Sprintf("disk%d", i), d.Format, d.File, "virtio-blk-pci")
	}
	return append(args, m.Args...)
}

// ExitError is QEMU's own end with a code other than 0.
type ExitError struct{ Code int }

func (e *ExitError) Error() string { return fmt.Sprintf("%s ended with code %d", Binary, e.Code) }

// Run boots the machine and waits for its end.
func (m Machine) Run(ctx context.Context) error {
	path, err := exec.LookPath(Binary)
	if err != nil {
		return fmt.Errorf("%s is not installed; on Debian and Ubuntu: apt-get install qemu-system-x86", Binary)
	}
	if m.KVM {
		f, err := os.OpenFile("/dev/kvm", os.O_RDWR, 0)
		if err != nil {
			return fmt.Errorf("--kvm: this machine has no usable KVM (%w); leave --kvm out", err)
		}
		f.Close()
	}
	cmd := exec.CommandContext(ctx, path, m.Command()...)
	cmd.Stdin, cmd.Stdout, cmd.Stderr = os.Stdin, os.Stdout, os.Stderr
	// QEMU ends by itself on SIGTERM and puts the terminal right.
	cmd.Cancel = func() error { return cmd.Process.Signal(unix.SIGTERM) }
	cmd.WaitDelay = 5 * time.Second
	err = cmd.Run()
	if ctx.Err() != nil {
		return ctx.Err()
	}
	var exit *exec.ExitError
	if errors.As(err, &exit) && exit.ExitCode() >= 0 {
		return &ExitError{exit.ExitCode()}
	}
	return err
}
