// Package vm boots what was built in QEMU, with the console on the terminal.
//
// It owns QEMU's command line, that of the tests' machines too. It promises to end
// when QEMU ends, and leaves the terminal as it was.
package vm

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"slices"
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
	Host, Guest int // Host 0: a free one
}

// ParseForward reads [[ADDRESS:][HOST]:]GUEST[/udp].
func ParseForward(s string) (Forward, error) {
	bad := func(why string) (Forward, error) {
		return Forward{}, fmt.Errorf("-p %s: %s; must be HOST:GUEST such as 8080:80, or :80 for a free port, with an address in front or /udp behind if need be", s, why)
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
	case 1:
		parts = []string{"", parts[0]}
	case 2:
	case 3:
		f.HostAddr, parts = parts[0], parts[1:]
	default:
		return bad("wrong number of colons")
	}
	if parts[0] == "" {
		parts[0] = "0"
	}
	for i, to := range []*int{&f.Host, &f.Guest} {
		n, err := strconv.Atoi(parts[i])
		if err != nil || n < i || n > 65535 {
			return bad(fmt.Sprintf("%q is no port", parts[i]))
		}
		*to = n
	}
	return f, nil
}

// String describes where the port leads.
func (f Forward) String() string {
	return fmt.Sprintf("%s:%d (%s) leads to port %d of the machine", f.HostAddr, f.Host, f.Proto, f.Guest)
}

// PickPorts gives those that name no port of the host a free one each, and returns them.
func PickPorts(list []Forward) (picked []Forward, err error) {
	for i := range list {
		f := &list[i]
		if f.Host != 0 {
			continue
		}
		// It stays taken until all have one, so that none is picked twice.
		var held io.Closer
		address := net.JoinHostPort(f.HostAddr, "0")
		if f.Proto == "udp" {
			var c net.PacketConn
			if c, err = net.ListenPacket("udp4", address); err == nil {
				held, f.Host = c, c.LocalAddr().(*net.UDPAddr).Port
			}
		} else {
			var l net.Listener
			if l, err = net.Listen("tcp4", address); err == nil {
				held, f.Host = l, l.Addr().(*net.TCPAddr).Port
			}
		}
		if err != nil {
			return nil, fmt.Errorf("-p: a free port at %s for port %d of the machine: %w", f.HostAddr, f.Guest, err)
		}
		defer held.Close()
		picked = append(picked, *f)
	}
	return picked, nil
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
	RootDisk                string // the first disk; where Cmdline says the root is on NVMe, an NVMe disk
	RootFormat              string // of RootDisk, as QEMU names it; empty: raw
	Memory                  string // as QEMU takes it: 512M, 2G
	CPUs                    int
	CPU                     string // the model; empty: emulatedCPU, or with KVM the host's
	KVM                     bool
	Network                 bool // a network card
	Forwards                []Forward
	Random                  bool     // a source of random numbers
	Disks                   []Disk   // attached as /dev/vda, /dev/vdb ...
	Console                 []string // QEMU's arguments for the serial port; nil: the terminal, with QEMU's keys
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
	if m.CPU != "" {
		cpu = m.CPU
	}
	args := []string{
		"-nodefaults", "-no-user-config", "-machine", "pc", "-accel", accel, "-cpu", cpu,
		"-smp", strconv.Itoa(m.CPUs), "-m", m.Memory, "-display", "none",
	}
	if m.Console == nil {
		m.Console = []string{"-serial", "mon:stdio"}
	}
	args = append(args, m.Console...)
	if m.Kernel != "" {
		args = append(args, "-kernel", m.Kernel, "-append", strings.TrimSpace(m.Cmdline+" "+strings.Join(m.Words(), " ")))
	}
	if m.Initrd != "" {
		args = append(args, "-initrd", m.Initrd)
	}
	if m.Firmware != "" {
		args = append(args, "-drive", "if=pflash,format=raw,unit=0,readonly=on,file="+quoted(m.Firmware))
	}
	return slices.Concat(args, m.devices(), m.Args)
}

// Words are what the machine needs on the kernel's command line. Command puts them there,
// but into an EFI program they have to be built.
func (m Machine) Words() []string {
	if m.KVM {
		return nil
	}
	// On a busy host an emulated timer can be so late that the kernel takes it for broken, and panics.
	return []string{"no_timer_check"}
}

func (m Machine) devices() []string {
	var args []string
	if m.Random {
		args = append(args, "-device", "virtio-rng-pci")
	}
	if m.Network {
		netdev := "user,id=net"
		for _, f := range m.Forwards {
			netdev += fmt.Sprintf(",hostfwd=%s:%s:%d-:%d", f.Proto, f.HostAddr, f.Host, f.Guest)
		}
		// Nothing boots from the network, so the card has no program for that.
		args = append(args, "-netdev", netdev, "-device", "virtio-net-pci,netdev=net,romfile=")
	}
	drive := func(id, format, file, device string) {
		args = append(args, "-drive", "if=none,id="+id+",format="+format+",file="+quoted(file), "-device", device+",drive="+id)
	}
	if m.CD != "" {
		drive("cd", "raw,readonly=on,media=cdrom", m.CD, "ide-cd")
	}
	if m.RootDisk != "" {
		device, format := "virtio-blk-pci", m.RootFormat
		if strings.Contains(m.Cmdline, "root=/dev/nvme") {
			device = "nvme,serial=root"
		}
		switch format {
		case "":
			format = "raw"
		case "vmdk": // nobody can write to what is compressed
			format = "vmdk,snapshot=on"
		}
		drive("root", format, m.RootDisk, device)
	}
	for i, d := range m.Disks {
		drive(fmt.Sprintf("disk%d", i), d.Format, d.File, "virtio-blk-pci")
	}
	return args
}

// quoted is a file's name within one of QEMU's options, where a comma is doubled.
func quoted(file string) string { return strings.ReplaceAll(file, ",", ",,") }

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
