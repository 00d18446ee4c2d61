//go:build vm

package test

import (
	"io"
	"os"
	"path/filepath"
	"testing"

	"keelson/internal/qemu"
	vms "keelson/mkimage/vm"
)

// The image as a disk and as a CD that a PC's EFI firmware boots, each looked at by tools that others wrote.
func TestEFI(t *testing.T) {
	t.Parallel()
	firmware, err := vms.FindFirmware()
	if err != nil {
		t.Fatal(err)
	}
	t.Run("disk", func(t *testing.T) {
		t.Parallel()
		dir := t.TempDir()
		prefix := buildTwice(t, dir, "raw-efi,qcow2-efi,vhd,vmdk", smallImage, "small-efi.img", "small-efi.qcow2", "small.vhd", "small.vmdk")
		image := prefix + "-efi.img"
		hostTool(t, "fdisk", "sfdisk", "-V", image)
		checkESP(t, image, 1<<20)
		// The same disk in other formats, of which one boots.
		for file, format := range map[string]string{"-efi.qcow2": "qcow2", ".vhd": "vpc", ".vmdk": "vmdk"} {
			hostTool(t, "qemu-utils", "qemu-img", "compare", "-F", "raw", "-f", format, prefix+file, image)
		}
		hostTool(t, "qemu-utils", "qemu-img", "check", prefix+"-efi.qcow2")
		hostTool(t, "qemu-utils", "qemu-img", "check", prefix+".vmdk")
		efiBoots(t, firmware, qemu.Config{Drives: []string{prefix + "-efi.qcow2"}})
	})
	t.Run("CD", func(t *testing.T) {
		t.Parallel()
		dir := t.TempDir()
		wildImage(t, dir, false)
		image := buildTwice(t, dir, "iso-efi", withWild(smallImage, ""), "small-efi.iso") + "-efi.iso"
		hostTool(t, "xorriso", "xorriso", "-abort_on", "WARNING", "-return_with", "WARNING", "32", "-indev", image,
			"-boot_image", "any", "keep", "-lsl", "/ESP.IMG", "--")
		// It is a disk too.
		hostTool(t, "fdisk", "sfdisk", "-V", image)
		checkESP(t, image, 64<<10)
		efiBoots(t, firmware, qemu.Config{Args: cdrom(image)}, func(m *vm) { wild(m, false) })
	})
}

// checkESP has the tool for FAT look at the partition that begins so many bytes into an image.
func checkESP(t *testing.T, image string, start int64) {
	t.Helper()
	from, err := os.Open(image)
	if err != nil {
		t.Fatal(err)
	}
	defer from.Close()
	to, err := os.Create(filepath.Join(t.TempDir(), "esp"))
	if err != nil {
		t.Fatal(err)
	}
	defer to.Close()
	if _, err := from.Seek(start, io.SeekStart); err != nil {
		t.Fatal(err)
	}
	if _, err := io.Copy(to, from); err != nil {
		t.Fatal(err)
	}
	hostTool(t, "dosfstools", "fsck.fat", "-n", to.Name())
}

func efiBoots(t *testing.T, firmware string, config qemu.Config, more ...func(m *vm)) {
	t.Helper()
	config.Args = append(config.Args, "-drive", "if=pflash,format=raw,unit=0,readonly=on,file="+firmware)
	m := start(t, config)
	m.await(`init .*root handed over`)
	m.await(`once .*\| the one-shot wrote`)
	for _, look := range more {
		look(m)
	}
	m.await(`boot complete`)
	m.lacks("ERROR")
	if err := m.PressPower(m.ctx); err != nil {
		t.Fatal(err)
	}
	m.end(qemu.PowerOff)
}
