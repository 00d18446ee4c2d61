// Package qemu boots an image in a virtual machine for a test or a benchmark, follows its console, presses its
// buttons and tells how it ended.
//
// It promises that no machine outlives the program that started it, that every wait is bounded by a context,
// and that a wait which fails says what the console showed last. It emulates unless KVM is asked for, and it
// never uses a port or a file that another machine could be using.
package qemu

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"runtime"
	"strconv"
	"strings"
	"syscall"
	"time"

	"keelson/internal/guestagent"
	"keelson/mkimage/vm"
)

// Config is the machine to boot.
type Config struct {
	Kernel, Initrd string // no kernel: the machine's firmware finds what to boot
	Cmdline        string
	// CmdlineAdd is put after Cmdline.
	CmdlineAdd string

	MemoryMB int // 0 is 512
	CPUs     int // 0 is 1

	// Guest ports to forward from free ones of the host's loopback; see Machine.Port. A machine has a network
	// card only where this is not nil.
	Ports []int
	// Drives are disk images, raw or qcow2, as virtio disks in this order.
	Drives []string
	// Watchdog adds QEMU's hardware watchdog, an i6300esb, which resets the machine.
	Watchdog bool
	// Agent adds the virtio-serial port of package guestagent.
	Agent bool
	// KVM uses the processor's virtualisation in place of emulation.
	KVM bool
	// CPU is the processor model; empty is one with a random number generator.
	CPU string
	// Args are put at the end of QEMU's command line.
	Args []string
	// Echo, where it is set, receives each line of the console as it comes.
	Echo func(line string)
}

// Load fills in a Config for the three files that `mkimage build` makes with this path prefix.
func Load(prefix string) (Config, error) {
	cmdline, err := os.ReadFile(prefix + "-cmdline")
	if err != nil {
		return Config{}, fmt.Errorf("load image: %w", err)
	}
	return Config{
		Kernel:  prefix + "-kernel",
		Initrd:  prefix + "-initrd.img",
		Cmdline: strings.TrimSpace(string(cmdline)),
	}, nil
}

// End says how a machine ended.
type End string

const (
	PowerOff End = "poweroff" // the guest switched it off
	Reboot   End = "reboot"   // the guest reset it: a machine of ours stops there
	Watchdog End = "watchdog" // its hardware watchdog reset it
	Panic    End = "panic"    // the guest's kernel panicked and QEMU was told
	Quit     End = "quit"     // we stopped it
	Killed   End = "killed"   // QEMU ended and did not say why
)

// Machine is a machine that was started. All of its methods may be called from several goroutines.
type Machine struct {
	Console *Console

	dir    string
	qmp    *qmp
	agent  *agent
	stdin  io.WriteCloser
	cancel context.CancelFunc
	ports  map[int]int

	done chan struct{} // closed when QEMU has ended and end is set
	end  End
	err  error // what QEMU said on its standard error, where it ended badly
}

// Start boots a machine. It runs until it ends by itself, Close is called, or ctx is done.
func Start(ctx context.Context, config Config) (*Machine, error) {
	program, err := exec.LookPath(vm.Binary)
	if err != nil {
		return nil, fmt.Errorf("start machine: %w (Debian's package is qemu-system-x86)", err)
	}
	// Not under TMPDIR: the path of a Unix socket has room for 108 bytes.
	dir, err := os.MkdirTemp("/tmp", "keelson-vm-")
	if err != nil {
		return nil, fmt.Errorf("start machine: %w", err)
	}
	ctx, cancel := context.WithCancel(ctx)
	m := &Machine{
		Console: newConsole(config.Echo), dir: dir, cancel: cancel,
		ports: map[int]int{}, done: make(chan struct{}),
	}
	if err := m.start(ctx, program, config); err != nil {
		m.Close()
		return nil, fmt.Errorf("start machine: %w", err)
	}
	return m, nil
}

func (m *Machine) start(ctx context.Context, program string, config Config) error {
	args, err := arguments(m.dir, config)
	if err != nil {
		close(m.done)
		return err
	}
	command := exec.CommandContext(ctx, program, args...)
	stdin, err := command.StdinPipe()
	if err != nil {
		close(m.done)
		return err
	}
	m.stdin = stdin
	command.Stdout = m.Console
	var complaint limited
	command.Stderr = &complaint
	command.WaitDelay = 5 * time.Second
	// The emulator dies with us however we end. The signal is tied to the thread that starts it, so that
	// thread is kept until the emulator is gone.
	command.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	started := make(chan error, 1)
	exited := make(chan struct{})    // QEMU is gone
	connected := make(chan struct{}) // m.qmp is set, or will never be
	go func() {
		runtime.LockOSThread()
		defer runtime.UnlockOSThread()
		defer close(m.done)
		defer m.Console.close()
		if err := command.Start(); err != nil {
			started <- err
			return
		}
		started <- nil
		err := command.Wait()
		close(exited)
		<-connected
		m.end = Killed
		if m.qmp != nil {
			if end, ok := m.qmp.ended(); ok {
				m.end = end
			}
		}
		if text := complaint.String(); err != nil && text != "" {
			m.err = fmt.Errorf("%s: %w: %s", vm.Binary, err, text)
		}
	}()
	if err := <-started; err != nil {
		return err
	}
	m.qmp, err = dialQMP(ctx, filepath.Join(m.dir, "qmp"), exited)
	close(connected)
	if err != nil {
		m.cancel()
		<-m.done
		return errors.Join(err, m.err)
	}
	if config.Agent {
		if m.agent, err = dialAgent(ctx, filepath.Join(m.dir, "agent")); err != nil {
			return err
		}
	}
	if len(config.Ports) > 0 {
		if err := m.findPorts(ctx, config.Ports); err != nil {
			return err
		}
	}
	return m.qmp.execute(ctx, "cont", nil, nil)
}

// plainCPU is the processor of the benchmark's numbers. That of mkimage run has more, and the kernel loads modules for it.
const plainCPU = "qemu64,+rdrand"

// arguments is QEMU's command line: that of mkimage run, and how we follow and steer the machine. The processor is
// stopped until we have looked at the ports.
func arguments(dir string, c Config) ([]string, error) {
	m := vm.Machine{
		Kernel: c.Kernel, Initrd: c.Initrd, Cmdline: strings.TrimSpace(c.Cmdline + " " + c.CmdlineAdd),
		Memory: strconv.Itoa(cmp.Or(c.MemoryMB, 512)), CPUs: cmp.Or(c.CPUs, 1), CPU: c.CPU, KVM: c.KVM,
		Network: c.Ports != nil,
		Console: []string{
			"-no-reboot", "-S",
			"-chardev", "stdio,id=console,signal=off", "-serial", "chardev:console",
			"-chardev", "socket,id=qmp,server=on,wait=off,path=" + filepath.Join(dir, "qmp"),
			"-mon", "chardev=qmp,mode=control",
		},
	}
	for _, port := range c.Ports {
		// Port 0: the kernel picks a free one, and we ask which.
		m.Forwards = append(m.Forwards, vm.Forward{Proto: "tcp", HostAddr: "127.0.0.1", Guest: port})
	}
	for _, file := range c.Drives {
		drive, err := vm.OpenDisk(file)
		if err != nil {
			return nil, err
		}
		m.Disks = append(m.Disks, drive)
	}
	if m.CPU == "" && !c.KVM {
		m.CPU = plainCPU
	}
	if c.Watchdog {
		m.Args = append(m.Args, "-device", "i6300esb", "-action", "watchdog=reset")
	}
	if c.Agent {
		m.Args = append(m.Args, "-device", "virtio-serial-pci",
			"-chardev", "socket,id=agent,server=on,wait=off,path="+filepath.Join(dir, "agent"),
			"-device", "virtserialport,chardev=agent,name="+guestagent.PortName)
	}
	m.Args = append(m.Args, c.Args...)
	return m.Command(), nil
}

// forwarded is a line of QEMU's `info usernet`: protocol, descriptor, source address and port, then the guest's.
var forwarded = regexp.MustCompile(`TCP\[HOST_FORWARD\]\s+\d+\s+\S+\s+(\d+)\s+\S+\s+(\d+)`)

func (m *Machine) findPorts(ctx context.Context, wanted []int) error {
	var text string
	err := m.qmp.execute(ctx, "human-monitor-command", map[string]any{"command-line": "info usernet"}, &text)
	if err != nil {
		return err
	}
	for _, match := range forwarded.FindAllStringSubmatch(text, -1) {
		host, _ := strconv.Atoi(match[1])
		guest, _ := strconv.Atoi(match[2])
		m.ports[guest] = host
	}
	for _, port := range wanted {
		if m.ports[port] == 0 {
			return fmt.Errorf("port %d is not forwarded; QEMU has: %s", port, text)
		}
	}
	return nil
}

// Addr is where the guest's port answers on the host.
func (m *Machine) Addr(guest int) string { return fmt.Sprintf("127.0.0.1:%d", m.ports[guest]) }

// Type sends text to the console, as if it were typed.
func (m *Machine) Type(text string) error {
	_, err := io.WriteString(m.stdin, text)
	return err
}

// PressPower presses the ACPI power button.
func (m *Machine) PressPower(ctx context.Context) error {
	return m.qmp.execute(ctx, "system_powerdown", nil, nil)
}

// PressKeys presses keys at once on the keyboard and lets them go, by QEMU's names: "ctrl", "alt", "delete".
func (m *Machine) PressKeys(ctx context.Context, keys ...string) error {
	type key struct {
		Type string `json:"type"`
		Data string `json:"data"`
	}
	var pressed []key
	for _, name := range keys {
		pressed = append(pressed, key{"qcode", name})
	}
	return m.qmp.execute(ctx, "send-key", map[string]any{"keys": pressed}, nil)
}

// Stop and Continue halt the machine's processors and let them go on.
func (m *Machine) Stop(ctx context.Context) error     { return m.qmp.execute(ctx, "stop", nil, nil) }
func (m *Machine) Continue(ctx context.Context) error { return m.qmp.execute(ctx, "cont", nil, nil) }

// Wait waits for the machine's end and says what it was.
func (m *Machine) Wait(ctx context.Context) (End, error) {
	select {
	case <-m.done:
		return m.end, m.err
	case <-ctx.Done():
		return "", fmt.Errorf("the machine did not end: %w\nconsole:\n%s", ctx.Err(), m.Console.tail(30))
	}
}

// Await waits for a line of the console, from the first on, that matches the pattern, and returns it.
func (m *Machine) Await(ctx context.Context, pattern string) (string, error) {
	line, _, err := m.Console.Await(ctx, 0, pattern)
	return line, err
}

// Close ends the machine at once, if it runs, and removes what it left on the host. It may be called again.
func (m *Machine) Close() {
	if m.stdin != nil {
		m.stdin.Close()
	}
	if m.qmp != nil {
		m.qmp.stopping()
	}
	m.cancel()
	<-m.done
	if m.qmp != nil {
		m.qmp.close()
	}
	if m.agent != nil {
		m.agent.close()
	}
	os.RemoveAll(m.dir)
}

// limited keeps the beginning of what is written to it.
type limited struct{ text strings.Builder }

func (l *limited) Write(b []byte) (int, error) {
	if room := 4096 - l.text.Len(); room > 0 {
		l.text.Write(b[:min(room, len(b))])
	}
	return len(b), nil
}

func (l *limited) String() string { return strings.TrimSpace(l.text.String()) }
