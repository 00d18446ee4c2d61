package console

import (
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

func TestDevices(t *testing.T) {
	root := t.TempDir()
	for name, kind := range map[string]string{"ttyS0": "4\n", "ttyS3": "0\n"} {
		dir := filepath.Join(root, "sys/class/tty", name)
		if err := errors.Join(os.MkdirAll(dir, 0o755), os.WriteFile(filepath.Join(dir, "type"), []byte(kind), 0o644)); err != nil {
			t.Fatal(err)
		}
	}
	const serial, screen = "ttyS0                -W- (EC p a)    4:64\n", "tty0                 -WU (E   p  )    4:1\n"
	for _, tc := range []struct {
		cmdline, consoles string
		want              []string
	}{
		{"", "", []string{"/dev/console"}},
		{"quiet root=/dev/vda", serial, []string{"/dev/ttyS0"}},
		{"console=ttyS0", "", []string{"/dev/ttyS0"}},
		{"console=tty0 console=ttyS0,115200n8 console=tty0", serial + screen, []string{"/dev/tty0", "/dev/ttyS0"}},
		{"console= console=null console=../../etc/x console=hvc0", "", []string{"/dev/hvc0"}},
		{"netconsole=@/,@10.0.0.1/", "netcon0              -W- (E  p a)\n", []string{"/dev/console"}},
		// Names that the kernel takes for others, that mean nothing to it, or that lack their hardware.
		{"console=uart8250,io,0x3f8", serial, []string{"/dev/ttyS0"}},
		{"console=uart,mmio,0x3f8 console=tty0", screen + serial, []string{"/dev/tty0", "/dev/ttyS0"}},
		{"console=ttyS9", serial, []string{"/dev/ttyS9", "/dev/ttyS0"}},
		{"console=ttyS3", screen, []string{"/dev/tty0"}},
		{"console=ttyS3", "", []string{"/dev/console"}},
		// What is no place to write to: a boot console, one that is not enabled, the null console.
		{"", "uart0                -W- (EB  p a)\n" + "ttyS1                -W- (  p a)    4:65\n" + "ttynull0             --- (EC    )  242:0\n", []string{"/dev/console"}},
		{"", "nonsense\n(E) 1:1\n../x (E) 1:1\n", []string{"/dev/console"}},
	} {
		if got := devices(tc.cmdline, tc.consoles, root); !slices.Equal(got, tc.want) {
			t.Errorf("%q and %q: %q, want %q", tc.cmdline, tc.consoles, got, tc.want)
		}
	}
	// A screen that is none: the kernel has picked it because nothing else was named.
	put := func(path, text string) {
		path = filepath.Join(root, path)
		if err := errors.Join(os.MkdirAll(filepath.Dir(path), 0o755), os.WriteFile(path, []byte(text), 0o644)); err != nil {
			t.Fatal(err)
		}
	}
	put("sys/bus/pci/devices/0000:00:01.0/class", "0x060100\n")
	put("dev/ttyS0", "")
	put("dev/hvc0", "")
	for cmdline, want := range map[string][]string{"quiet": {"/dev/tty0", "/dev/ttyS0"}, "console=tty0": {"/dev/tty0"}, "console=null": {"/dev/tty0"}} {
		if got := devices(cmdline, screen, root); !slices.Equal(got, want) {
			t.Errorf("%q without a screen: %q, want %q", cmdline, got, want)
		}
	}
	put("sys/bus/pci/devices/0000:00:02.0/class", "0x030000\n")
	if got := devices("quiet", screen, root); !slices.Equal(got, []string{"/dev/tty0"}) {
		t.Errorf("with a screen: %q", got)
	}
	for cmdline, want := range map[string]bool{"": false, "console=ttyS0": false, "console=null": true, "console= x": true, "console=ttynull console=ttyS0": true, "console=hvc0,null": false} {
		if got := wantsSilence(cmdline); got != want {
			t.Errorf("%q wants silence: %v", cmdline, got)
		}
	}
}

// Lines that no device takes go to the spare one, each once and in order, for as long as none takes them.
func TestSpareDevice(t *testing.T) {
	var devices []*fakeTTY
	c := newConsole()
	for range 2 {
		f := &fakeTTY{}
		f.set(unix.EIO)
		devices = append(devices, f)
		d := newDevice("/dev/ttyX")
		d.ops = f.ops()
		c.devices = append(c.devices, d)
	}
	spare := &fakeTTY{}
	c.spare = newDevice("/dev/spare")
	c.spare.ops = spare.ops()
	c.start()
	read := func(f *fakeTTY) string {
		f.mu.Lock()
		defer f.mu.Unlock()
		return f.out.String()
	}
	for _, word := range []string{"one", "two", "three"} {
		c.Line("a", "%s", word)
		if !c.Flush(30 * time.Second) {
			t.Fatal("the queues did not drain")
		}
	}
	out := read(spare)
	if strings.Count(out, "\n") != 3 || strings.Index(out, "one") > strings.Index(out, "two") || strings.Index(out, "two") > strings.Index(out, "three") {
		t.Errorf("the spare device has %q", out)
	}
	devices[1].set(nil)
	c.Line("a", "four")
	if !c.Flush(30*time.Second) || !strings.Contains(read(devices[1]), "four") {
		t.Errorf("a device that has come has %q", read(devices[1]))
	}
	c.Line("a", "five")
	if !c.Flush(30*time.Second) || strings.Contains(read(spare), "five") {
		t.Errorf("the spare device has %q", read(spare))
	}
}

func TestOpenAny(t *testing.T) {
	open := func(path string) (int, error) {
		if path == "/dev/hvc0" {
			return 7, nil
		}
		return -1, unix.ENODEV
	}
	if fd, err := openAny(open, func() []string { return []string{"/dev/console", "/dev/hvc0", "/dev/tty0"} })(""); fd != 7 || err != nil {
		t.Errorf("%d, %v", fd, err)
	}
	if fd, err := openAny(open, func() []string { return []string{"/dev/console", "/dev/tty0"} })(""); fd >= 0 || !errors.Is(err, unix.ENODEV) {
		t.Errorf("%d, %v", fd, err)
	}
}
