//go:build vm

package test

import (
	"bytes"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/cavaliergopher/cpio"

	"keelson/internal/qemu"
)

// smallImage is for the roots that are not an initramfs.
const smallImage = `
kernel:
  image: keelson/kernel
  cmdline: "console=ttyS0 quiet"
init: [keelson/init]
onboot:
  - name: once
    image: keelson/busybox
    command: ["sh", "-c", "touch /written && echo the one-shot wrote"]
services:
  - name: reads
    image: keelson/busybox
    readonly: true
    command: ["sleep", "1000000"]
`

// The image as a squashfs on a disk. The kernel has squashfs as a module, so an initramfs of another kind comes
// first, as distributions have one: it loads the module, mounts the disk and starts the /init of that root.
func TestSquashfsRoot(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	source := filepath.Join(dir, "small.yml")
	if err := os.WriteFile(source, []byte(smallImage), 0o644); err != nil {
		t.Fatal(err)
	}
	var images [2][]byte
	for i := range images {
		if output, err := mkimage(t, "build", "-o", dir, "--format", "squashfs", source); err != nil {
			t.Fatalf("mkimage: %v\n%s", err, output)
		}
		var err error
		if images[i], err = os.ReadFile(filepath.Join(dir, "small-squashfs.img")); err != nil {
			t.Fatal(err)
		}
	}
	if !bytes.Equal(images[0], images[1]) {
		t.Error("the same image gave another squashfs")
	}
	cmdline, err := os.ReadFile(filepath.Join(dir, "small-cmdline"))
	if err != nil {
		t.Fatal(err)
	}
	m := start(t, qemu.Config{
		Kernel: filepath.Join(dir, "small-kernel"), Cmdline: string(cmdline), Initrd: foreignInitrd(t, dir, "squashfs"),
		Drives: []string{filepath.Join(dir, "small-squashfs.img")},
	})
	diskRoot(m)
}

// diskRoot is what every root on a disk must do.
func diskRoot(m *vm) {
	m.t.Helper()
	m.await(`init .*root is a disk, \d+ mounts`)
	m.await(`once .*\| the one-shot wrote`)
	m.await(`reads .*running`)
	m.await(`boot complete`)
	m.lacks("handed over")
	m.lacks("ERROR")
	if err := m.PressPower(m.ctx); err != nil {
		m.t.Fatal(err)
	}
	m.end(qemu.PowerOff)
	m.lacks("are left")
}

// foreignInitrd makes an initramfs of busybox that mounts the first virtio disk as the root.
func foreignInitrd(t *testing.T, dir, fstype string) string {
	t.Helper()
	build := buildDir(t)
	busybox, err := os.ReadFile(filepath.Join(build, "images/busybox/bin/busybox"))
	if err != nil {
		t.Fatal(err)
	}
	modules := filepath.Join(dir, "modules")
	if err := os.MkdirAll(modules, 0o755); err != nil {
		t.Fatal(err)
	}
	if out, err := exec.Command("tar", "-C", modules, "-xf", filepath.Join(build, "images/kernel/kernel.tar")).CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	files := []file{
		folder("bin"), folder("dev"), folder("proc"), folder("sys"), folder("new"), folder("lib"), folder("lib/modules"),
		{"dev/console", cpio.FileMode(0o020600), ""},
		{"bin/busybox", cpio.TypeReg | 0o755, string(busybox)},
		{"init", cpio.TypeReg | 0o755, fmt.Sprintf(`#!/bin/busybox sh
/bin/busybox mount -t proc proc /proc
/bin/busybox mount -t devtmpfs dev /dev
for m in $(/bin/busybox cat /lib/modules/order); do /bin/busybox insmod /lib/modules/$m; done
until [ -b /dev/vda ]; do /bin/busybox usleep 10000; done
/bin/busybox mount -o ro -t %s /dev/vda /new
/bin/busybox umount /dev
# /proc stays mounted in the new root, as some leave it.
/bin/busybox mount -o move /proc /new/proc
exec /bin/busybox switch_root /new /init
`, fstype)},
	}
	var order []string
	add := func(name string) {
		var path string
		_ = filepath.Walk(modules, func(p string, _ os.FileInfo, _ error) error {
			if filepath.Base(p) == name+".ko" {
				path = p
			}
			return nil
		})
		if path == "" {
			t.Fatalf("the kernel image has no module %s", name)
		}
		data, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		order = append(order, name+".ko")
		files = append(files, file{"lib/modules/" + name + ".ko", cpio.TypeReg | 0o644, string(data)})
	}
	for _, name := range []string{"virtio", "virtio_ring", "virtio_pci_legacy_dev", "virtio_pci_modern_dev", "virtio_pci", "virtio_blk", fstype} {
		add(name)
	}
	files = append(files, text("lib/modules/order", strings.Join(order, "\n")+"\n"))
	path := filepath.Join(dir, "foreign.img")
	if err := os.WriteFile(path, nil, 0o644); err != nil {
		t.Fatal(err)
	}
	appendFiles(t, path, files)
	return path
}

// A root laid out by hand, by none of our tools, with LinuxKit's files, on an ext4 disk that the kernel mounts
// itself: there is no initramfs at all. Every file is written here as LinuxKit's builder would.
func TestRootByHand(t *testing.T) {
	t.Parallel()
	root := filepath.Join(t.TempDir(), "root")
	layByHand(t, root)
	drive := disk(t, 256<<20)
	out, err := exec.Command("/usr/sbin/mke2fs", "-q", "-t", "ext4", "-d", root, drive).CombinedOutput()
	if err != nil {
		t.Fatalf("mke2fs (Debian's package is e2fsprogs): %v\n%s", err, out)
	}
	m := start(t, qemu.Config{
		Kernel:  filepath.Join(buildDir(t), "images/kernel/kernel"),
		Cmdline: "console=ttyS0 quiet root=/dev/nvme0n1 rootfstype=ext4 ro rootwait init=/init",
		Args:    []string{"-drive", "if=none,id=root,format=raw,file=" + drive, "-device", "nvme,drive=root,serial=1"},
	})
	m.await(`volumes .*letters`)
	m.await(`shares .*\| the same image`)
	diskRoot(m)
	if !cleanly(t, drive) {
		t.Error("the root was not left clean")
	}
}

// layByHand writes the files of linuxkit build's output for an image with a volume, two one-shots that share an
// image, and a read-only service.
func layByHand(t *testing.T, root string) {
	t.Helper()
	build := buildDir(t)
	copyTree := func(from, to string) {
		if err := os.MkdirAll(to, 0o755); err != nil {
			t.Fatal(err)
		}
		if out, err := exec.Command("cp", "-a", from+"/.", to).CombinedOutput(); err != nil {
			t.Fatalf("%v\n%s", err, out)
		}
	}
	copyTree(filepath.Join(build, "images/init"), root)
	if out, err := exec.Command("tar", "-C", root, "-xf", filepath.Join(build, "images/kernel/kernel.tar")).CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	write := func(path, text string) {
		if err := os.MkdirAll(filepath.Dir(filepath.Join(root, path)), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(root, path), []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	empty := func(paths ...string) {
		for _, path := range paths {
			if err := os.MkdirAll(filepath.Join(root, path), 0o755); err != nil {
				t.Fatal(err)
			}
		}
	}
	config := func(readonly bool, more, args string) string {
		return fmt.Sprintf(`{"ociVersion":"1.0.2-dev","process":{"user":{"uid":0,"gid":0},"args":[%s],"env":["PATH=/usr/bin:/bin"],"cwd":"/","capabilities":{}},
"root":{"path":"rootfs","readonly":%v},"mounts":[%s
{"destination":"/dev","type":"tmpfs","source":"tmpfs","options":["nosuid","strictatime","mode=755","size=65536k"]},
{"destination":"/dev/pts","type":"devpts","source":"devpts","options":["nosuid","noexec","newinstance","ptmxmode=0666","mode=0620"]},
{"destination":"/proc","type":"proc","source":"proc","options":["nosuid","nodev","noexec","relatime"]},
{"destination":"/sys","type":"sysfs","source":"sysfs","options":["nosuid","noexec","nodev"]},
{"destination":"/sys/fs/cgroup","type":"cgroup","source":"cgroup","options":["nosuid","noexec","nodev","relatime","ro"]}],
"linux":{"resources":{},"namespaces":[{"type":"pid"},{"type":"mount"}]}}`, args, readonly, more)
	}
	overlay := func(own, lower string) string {
		return fmt.Sprintf(`{"cgroups":[],"mounts":[
{"destination":"/%[1]s/tmp","type":"tmpfs","source":"tmpfs"},
{"destination":"/%[1]s/tmp","type":"","source":"","options":["remount","private"]},
{"destination":"/%[1]s/rootfs","type":"overlay","source":"overlay","options":["lowerdir=/%[2]s,upperdir=/%[1]s/tmp/upper,workdir=/%[1]s/tmp/work"]}],
"mkdir":[],"interfaces":[],"bindNS":{},"namespace":""}`, own, lower)
	}
	const first, second, service = "containers/onboot/000-once", "containers/onboot/001-shares", "containers/services/reads"
	copyTree(filepath.Join(build, "images/busybox"), filepath.Join(root, first, "lower"))
	empty(first+"/tmp", first+"/rootfs", second+"/tmp", second+"/rootfs", service+"/rootfs")
	write(first+"/config.json", config(false, `{"destination":"/letters","type":"bind","source":"/containers/volumes/letters/merged","options":["rw","rbind","rshared"]},`,
		`"sh","-c","touch /written /letters/a && echo the one-shot wrote"`))
	write(first+"/runtime.json", overlay(first, first+"/lower"))
	write(second+"/config.json", config(false, "", `"sh","-c","[ ! -e /written ] && echo the same image"`))
	write(second+"/runtime.json", overlay(second, first+"/lower"))
	copyTree(filepath.Join(build, "images/busybox"), filepath.Join(root, service, "rootfs"))
	write(service+"/config.json", config(true, "", `"sleep","1000000"`))
	write(service+"/runtime.json", fmt.Sprintf(`{"mounts":[{"destination":"/%[1]s/rootfs","type":"bind","source":"/%[1]s/rootfs","options":["bind"]}]}`, service))
	empty("containers/volumes/letters/lower", "containers/volumes/letters/tmp", "containers/volumes/letters/merged")
}

// The image as one EFI program, started by the firmware of a virtual PC.
func TestEFI(t *testing.T) {
	t.Parallel()
	const firmware = "/usr/share/OVMF/OVMF_CODE.fd"
	dir := t.TempDir()
	source := filepath.Join(dir, "small.yml")
	if err := os.WriteFile(source, []byte(smallImage), 0o644); err != nil {
		t.Fatal(err)
	}
	if output, err := mkimage(t, "build", "-o", dir, "--format", "efi", source); err != nil {
		t.Fatalf("mkimage: %v\n%s", err, output)
	}
	boot := filepath.Join(dir, "esp/EFI/BOOT")
	if err := os.MkdirAll(boot, 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.Rename(filepath.Join(dir, "small.efi"), filepath.Join(boot, "BOOTX64.EFI")); err != nil {
		t.Fatal(err)
	}
	m := start(t, qemu.Config{Args: []string{
		"-drive", "if=pflash,format=raw,unit=0,readonly=on,file=" + firmware,
		"-drive", "if=none,id=esp,format=raw,file=fat:rw:" + filepath.Join(dir, "esp"), "-device", "virtio-blk-pci,drive=esp",
	}})
	m.await(`init .*root handed over`)
	m.await(`once .*\| the one-shot wrote`)
	m.await(`boot complete`)
	m.lacks("ERROR")
	if err := m.PressPower(m.ctx); err != nil {
		t.Fatal(err)
	}
	m.end(qemu.PowerOff)
}
