//go:build vm

package test

import (
	"testing"

	"keelson/internal/qemu"
)

const lateYAML = `
kernel: {image: keelson/kernel, cmdline: "console=ttyS0 quiet keelson.modules=boot"}
init: [keelson/init]
onboot:
  # What a container may look for is there when the first one runs; the power button may come later.
  - name: look
    image: keelson/busybox
    command: ["sh", "-c", "cd /sys; ls -d class/net/eth0 block/vda class/misc/hw_random; [ -e module/button ] || echo no button yet"]
services:
  - name: web
    image: keelson/busybox
    command: ["httpd", "-f", "-p", "8080"]
    annotations: {keelson.ready: "tcp:8080"}
`

// Drivers of what a container may miss are loaded before the first one, the others beside
// the services: before the boot is complete, and before the loading is locked.
func TestLateModules(t *testing.T) {
	t.Parallel()
	m := boot(t, setup{yaml: lateYAML, Config: qemu.Config{
		Drives: []string{disk(t, 8<<20)}, Ports: []int{}, MemoryMB: 512, Args: []string{"-device", "virtio-rng-pci"},
	}})
	m.await(`modules .*locked: no module can be loaded`)
	m.inOrder(
		`modules .*virtio_rng .*virtio_net`,
		`look .*\| class/net/eth0`,
		`modules .*button`,
		`keelson .*boot complete`,
		`modules .*locked: no module can be loaded`,
	)
	m.once(`look .*\| block/vda`)
	m.once(`look .*\| class/misc/hw_random`)
	m.once(`look .*\| no button yet`)
	m.once(`modules .*\bevdev\b`)
	m.lacks("WARN")
	if err := m.PressPower(m.ctx); err != nil {
		t.Fatal(err)
	}
	m.end(qemu.PowerOff)
}
