//go:build vm

package test

import (
	"strings"
	"testing"

	"keelson/internal/qemu"
)

// A machine is never silent on its serial line, whatever the kernel command line says of consoles: a name that the kernel
// takes for another one beside a screen that nobody sees, a name without a device, and none.
func TestConsoleNames(t *testing.T) {
	t.Parallel()
	for _, words := range []string{"console=uart8250,io,0x3f8,115200n8 console=tty0", "console=ttyS9", ""} {
		t.Run(words, func(t *testing.T) {
			m := boot(t, setup{file: "minimal.yml", swap: map[string]string{"console=ttyS0": words}, Config: qemu.Config{MemoryMB: 256}})
			m.await(`init +root handed over`) // PID 1's
			m.await(`boot complete`)          // and the supervisor's
			if err := m.PressKeys(m.ctx, "ctrl", "alt", "delete"); err != nil {
				t.Fatal(err)
			}
			m.end(qemu.Reboot)
			m.await(`init .*rebooting`)
			for _, line := range m.Console.Lines(0) {
				if strings.Contains(line, "dropped") {
					t.Error(line)
				}
			}
		})
	}
}
