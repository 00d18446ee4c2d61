//go:build vm

package test

import (
	"testing"

	"keelson/internal/qemu"
)

// deadImage mounts a disk that does not answer, in each way there is.
const deadImage = `
kernel:
  image: keelson/kernel-watchdog
  cmdline: "console=ttyS0 quiet"
init:
  - keelson/init
onboot:
  - name: declared
    image: keelson/busybox
    command: ["true"]
    mounts: [{type: ext4, source: /dev/vda, destination: /mnt}]
    annotations: {keelson.timeout: 5s, keelson.on-failure: "retry:5"}
  - name: prepared
    image: keelson/busybox
    command: ["true"]
    runtime: {mounts: [{type: ext4, source: /dev/vda, destination: /mnt}]}
    annotations: {keelson.timeout: 5s}
  - name: good
    image: keelson/busybox
    command: ["echo", "this one runs"]
services:
  - name: good
    image: keelson/busybox
    command: ["sleep", "1000000"]
`

// A disk that does not answer: its driver hangs in its initialisation, and so does whatever mounts it. The boot goes on
// without it, and the watchdog is there from the beginning.
func TestDeadDisk(t *testing.T) {
	t.Parallel()
	m := boot(t, setup{yaml: deadImage, agent: true, Config: qemu.Config{Watchdog: true, MemoryMB: 384, Args: []string{
		// One byte a second: the first read is answered, and no other.
		"-drive", "if=none,id=dead,format=raw,throttling.bps-total=1,file=" + disk(t, 8<<20), "-device", "virtio-blk-pci,drive=dead,logical_block_size=4096,physical_block_size=4096", // which the BIOS leaves alone
	}}})
	m.await(`boot complete`)
	m.inOrder(
		`watchdog .*i6300ESB timer armed`,
		`modules .*warning: load module virtio_blk: after 30s its initialisation does not end: the hardware may not answer`,
		`declared .*ERROR: onboot 1 of 3: not done after 5s \(keelson\.timeout\), it was still being started`,
		`prepared .*ERROR: onboot 2 of 3: not done after 5s \(keelson\.timeout\), it was still being started`,
		`good .*\| this one runs`,
		`good .*running`,
		`boot complete`,
	)
	m.lacks("not fed")
	if got, err := m.ExecIn(m.ctx, 1, "/usr/bin/service", "status"); err != nil || got.Exit != 0 {
		t.Errorf("service status: %+v, %v", got, err)
	}
}
