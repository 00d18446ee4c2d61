//go:build vm

package test

import (
	"encoding/binary"
	"os"
	"testing"

	"keelson/internal/qemu"
)

// leftoversImage has at its end what belongs to no service, and a file system on a mapping on a loop device on a disk.
const leftoversImage = `
kernel:
  image: keelson/kernel
  cmdline: "console=ttyS0 quiet"
init:
  - keelson/init
  # A shell for the script.
  - keelson/busybox
onboot:
  - name: disk
    image: keelson/guestagent
    capabilities: [all]
    pid: host
    devices: [{path: all, type: a}]
    binds: ["/dev:/dev:rbind,rslave", "/lib/modules:/lib/modules", "/var:/var:rshared,rbind"]
    rootfsPropagation: shared
    command:
      - sh
      - -ec
      - |
        modprobe -a dm-mod loop
        mkdir -p /var/lib/disk /var/lib/inner
        mount -t ext4 /dev/vda /var/lib/disk
        if [ -e /var/lib/disk/inner ]; then
          echo "the process of no service had $(cat /var/lib/disk/heard)"
        else
          dd if=/dev/zero of=/var/lib/disk/inner bs=1M count=8 2>/dev/null
        fi
        [ -e /dev/loop0 ] || mknod /dev/loop0 b 7 0
        losetup /dev/loop0 /var/lib/disk/inner
        [ -e /var/lib/disk/heard ] || mke2fs /dev/loop0 >/dev/null
        guestagent linear /dev/loop0 mapped
        until [ -e /dev/dm-0 ]; do sleep 0.1; done
        mount -t ext4 /dev/dm-0 /var/lib/inner
        dmesg | grep -E 'EXT4-fs.*(recover|unchecked|errors)' || echo "both were unmounted cleanly"
        echo x >>/var/lib/inner/boots
        echo "boot number $(wc -l </var/lib/inner/boots)"

services:
  - name: quiet
    image: keelson/busybox
    command: ["sleep", "1000000"]

files:
  - path: etc/init.d/030-leftover
    mode: "0755"
    contents: |
      #!/bin/sh
      # One that needs a moment to end, and one that never hears of it.
      (trap 'sleep 1; echo "its time to end" >/var/lib/disk/heard; exit 0' TERM; echo ready >/run/leftover; while :; do sleep 0.2; done) >/dev/null 2>&1 &
      (trap '' TERM; exec sleep 7654321) >/dev/null 2>&1 &
`

// What belongs to no service hears SIGTERM and has time to end, what ignores that is not waited for, and a disk that is
// held by a loop device that is held by a mapping is unmounted: a second boot finds both file systems clean.
func TestLeftovers(t *testing.T) {
	t.Parallel()
	drive := disk(t, 32<<20)
	hostTool(t, "e2fsprogs", "mke2fs", "-q", "-t", "ext4", drive)
	for _, want := range []string{"boot number 1", "boot number 2"} {
		m := boot(t, setup{yaml: leftoversImage, agent: true, Config: qemu.Config{Drives: []string{drive}, MemoryMB: 384}})
		m.booted()
		m.await(`disk +\| ` + want)
		m.await(`disk +\| both were unmounted cleanly`)
		m.program(0, "sleep", "7654321")
		m.until("the script's process is ready", func() bool {
			_, err := m.Stat(m.ctx, "/run/leftover")
			return err == nil
		})
		if want == "boot number 2" {
			m.await(`disk +\| the process of no service had its time to end`)
			break
		}
		if _, err := m.Exec(m.ctx, "poweroff"); err != nil {
			t.Log(err) // the machine may be gone before the answer
		}
		m.end(qemu.PowerOff)
		m.inOrder(`init .*SIGTERM to what belongs to no service: \d+ \(030-leftover\)$`, `init .*unmounted [1-9]\d* file systems, powering off`)
		for _, bad := range []string{"are left", "still there", "unmount /var"} {
			m.lacks(bad)
		}
		if hasToRecover(t, drive) {
			t.Error("the journal of the disk is not empty")
		}
	}
}

// hasToRecover says whether the journal of an ext4 file system has to be replayed: EXT4_FEATURE_INCOMPAT_RECOVER.
func hasToRecover(t *testing.T, path string) bool {
	t.Helper()
	data, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return binary.LittleEndian.Uint32(data[1024+96:])&4 != 0
}
