//go:build vm

package test

import (
	"crypto/sha256"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/cavaliergopher/cpio"

	"keelson/internal/qemu"
	"keelson/mkimage/imagetest"
	"keelson/mkimage/tree"
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
    command: ["sleep", "1000000"]` + mappedService

// linkedService is of an image where a file has two names (linkedImage), and has users of its own.
const linkedService = `
  - name: linked
    image: ./linked.tar
    command: ["/bin/sh", "-c", "/bin/busybox ls -ln /bin/* >/dev/stderr; exec /bin/busybox sleep 1000000"]
    userns: new
    uidMappings: [{containerID: 0, hostID: 200000, size: 65536}]
    gidMappings: [{containerID: 0, hostID: 200000, size: 65536}]
    annotations: {keelson.console: "true"}
`

// wildOneShot is of an image (wildImage) with a file that has two names, one that lets its user change owners, and
// one that is nearly all hole; the last only where a root holds it.
func wildOneShot(lastlog string) string {
	return `
  - name: wild
    image: ./wild.tar
    uid: 1000
    capabilities: [CAP_CHOWN]
    devices: [{path: all}]
    tmpfs: ["/tmp:mode=1777"]
    command:
      - /bin/sh
      - -c
      - |
        b=/bin/busybox; cd /tmp
        [ /bin/sh -ef $b ] && [ /jail/bin/sh -ef $b ] && $b echo "one file of $($b stat -c %h $b) names"
        [ -f /jail/bin/sh ] && [ ! -h /jail/bin/sh ] && $b echo the jail has a shell
        $b touch f; /caps/chown 5:5 f 2>/dev/null && $b echo changed the owner || $b echo owner kept
        ` + lastlog + `
`
}

// wildLog prints what the file with a hole is.
const wildLog = `$b echo "log $($b stat -c '%s bytes, %b blocks' /var/log/lastlog), $($b tail -c 5 /var/log/lastlog)"`

// withWild is smallImage with that one-shot.
func withWild(yaml, lastlog string) string {
	return strings.Replace(yaml, "\nservices:\n", wildOneShot(lastlog)+"services:\n", 1)
}

// wildImage makes wild.tar.
func wildImage(t *testing.T, dir string, lastlog bool) {
	t.Helper()
	busybox, err := os.ReadFile(filepath.Join(buildDir(t), "images/busybox/bin/busybox"))
	if err != nil {
		t.Fatal(err)
	}
	program := func(name string) imagetest.Entry {
		e := imagetest.File(name, string(busybox))
		e.Mode = 0o755
		return e
	}
	chown := program("caps/chown")
	chown.PAXRecords = map[string]string{tree.XattrPrefix + "security.capability": imagetest.Capability(0)}
	root := imagetest.Tar(t, program("bin/busybox"), imagetest.HardLink("bin/sh", "bin/busybox"), imagetest.HardLink("jail/bin/sh", "bin/busybox"), chown)
	from := filepath.Join(dir, "wild")
	if err := os.WriteFile(from+"-root.tar", root, 0o644); err != nil {
		t.Fatal(err)
	}
	files := []string{from + "-root.tar"}
	if lastlog {
		log := filepath.Join(from, "var/log/lastlog")
		if err := os.MkdirAll(filepath.Dir(log), 0o755); err != nil {
			t.Fatal(err)
		}
		f, err := os.Create(log)
		if err != nil {
			t.Fatal(err)
		}
		defer f.Close()
		if _, err := f.WriteAt([]byte("entry"), wildLogSize-5); err != nil {
			t.Fatal(err)
		}
		tar := from + "-log.tar"
		hostTool(t, "tar", "tar", "-S", "-C", from, "--owner=0", "--group=0", "-cf", tar, "var")
		hostTool(t, "tar", "tar", "-Af", files[0], tar)
	}
	if output, err := mkimage(t, "import", "--output", from+".tar", "wild", files[0]); err != nil {
		t.Fatalf("mkimage: %v\n%s", err, output)
	}
}

const wildLogSize = 5<<30 + 5

// wild is what the one-shot prints.
func wild(m *vm, capable bool) {
	m.t.Helper()
	m.await(`wild .*\| one file of 3 names`)
	m.await(`wild .*\| the jail has a shell`)
	owner := "owner kept"
	if capable {
		owner = "changed the owner"
		m.await(fmt.Sprintf(`wild .*\| log %d bytes, \d{1,2} blocks, entry`, wildLogSize))
	}
	m.await(`wild .*\| ` + owner)
}

// The image as a squashfs on a disk. The kernel has squashfs as a module, so an initramfs of another kind comes
// first, as distributions have one: it loads the module, mounts the disk and starts the /init of that root.
func TestSquashfsRoot(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	wildImage(t, dir, true)
	prefix := buildTwice(t, dir, "kernel+squashfs", withWild(smallImage, wildLog), "small-squashfs.img")
	m := start(t, qemu.Config{
		Kernel: prefix + "-kernel", Cmdline: cmdlineOf(t, prefix), Initrd: foreignInitrd(t, dir, "squashfs", "/dev/vda", "virtio_pci", "virtio_blk", "squashfs"),
		Drives: []string{prefix + "-squashfs.img"},
	})
	wild(m, true)
	diskRoot(m)
}

// The image as an ext4 file system on a disk that the kernel finds by itself, without an initramfs. Nobody writes
// to it, so the image stays what was built. The kernel's overlay has an index, as some have it by default, which only
// a root on a disk can have.
func TestExt4Root(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	linkedImage(t, dir)
	wildImage(t, dir, true)
	yaml := strings.Replace(withWild(smallImage, wildLog), "quiet", "quiet root=/dev/nvme0n1 overlay.index=on", 1) + linkedService
	prefix := buildTwice(t, dir, "kernel+ext4", yaml, "small-ext4.img")
	image := prefix + "-ext4.img"
	hostTool(t, "e2fsprogs", "e2fsck", "-fn", image)
	was := sum(t, image)
	// Without init=, as LinuxKit's own tools boot a disk: the kernel then starts /sbin/init.
	cmdline := strings.Replace(cmdlineOf(t, prefix), " init=/init", "", 1)
	if strings.Contains(cmdline, "init=") || cmdline == cmdlineOf(t, prefix) {
		t.Errorf("the command line is %q", cmdline)
	}
	m := start(t, qemu.Config{Kernel: prefix + "-kernel", Cmdline: cmdline, Args: nvme(image)})
	linkedRoot(m)
	wild(m, true)
	diskRoot(m)
	if sum(t, image) != was {
		t.Error("the machine wrote to its root")
	}
}

// A root laid out by hand on a CD. The kernel has ISO 9660 and the drive as modules, so that an initramfs of
// another kind comes first here too.
func TestISORoot(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	root, iso := filepath.Join(dir, "root"), filepath.Join(dir, "root.iso")
	layByHand(t, root)
	hostTool(t, "xorriso", "xorriso", "-as", "mkisofs", "-quiet", "-R", "-uid", "0", "-gid", "0", "-o", iso, root)
	m := start(t, qemu.Config{
		Kernel: filepath.Join(buildDir(t), "images/kernel/kernel"), Cmdline: "console=ttyS0 quiet",
		Initrd: foreignInitrd(t, dir, "iso9660", "/dev/sr0", "ata_piix", "sr_mod", "isofs"),
		Args:   cdrom(iso),
	})
	byHand(m)
	diskRoot(m)
}

// buildTwice builds the image in a format, and once more, and returns the prefix of what it wrote. The named files
// must be the same both times.
func buildTwice(t *testing.T, dir, format, yaml string, same ...string) (prefix string) {
	t.Helper()
	source := filepath.Join(dir, "small.yml")
	if err := os.WriteFile(source, []byte(yaml), 0o644); err != nil {
		t.Fatal(err)
	}
	var sums [2]string
	for i := range sums {
		if output, err := mkimage(t, "build", "-o", dir, "--format", format, source); err != nil {
			t.Fatalf("mkimage: %v\n%s", err, output)
		}
		for _, name := range same {
			sums[i] += sum(t, filepath.Join(dir, name))
		}
	}
	if sums[0] != sums[1] {
		t.Errorf("the same image gave another %s", format)
	}
	return filepath.Join(dir, "small")
}

// linkedImage makes linked.tar, an image whose one file has two names.
func linkedImage(t *testing.T, dir string) {
	t.Helper()
	bin := filepath.Join(dir, "linked", "bin")
	data, err := os.ReadFile(filepath.Join(buildDir(t), "images/busybox/bin/busybox"))
	if err == nil {
		err = os.MkdirAll(bin, 0o755)
	}
	if err == nil {
		err = os.WriteFile(filepath.Join(bin, "busybox"), data, 0o755)
	}
	if err == nil {
		err = os.Link(filepath.Join(bin, "busybox"), filepath.Join(bin, "sh"))
	}
	if err != nil {
		t.Fatal(err)
	}
	root, image := filepath.Join(dir, "linked-root.tar"), filepath.Join(dir, "linked.tar")
	hostTool(t, "tar", "tar", "-C", filepath.Dir(bin), "--owner=0", "--group=0", "-cf", root, ".")
	if output, err := mkimage(t, "import", "--output", image, "linked", root); err != nil {
		t.Fatalf("mkimage: %v\n%s", err, output)
	}
}

func sum(t *testing.T, path string) string {
	t.Helper()
	data, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return fmt.Sprintf("%x", sha256.Sum256(data))
}

func cmdlineOf(t *testing.T, prefix string) string {
	t.Helper()
	line, err := os.ReadFile(prefix + "-cmdline")
	if err != nil {
		t.Fatal(err)
	}
	return string(line)
}

// hostTool runs a program of the machine that tests, which must like what it sees.
func hostTool(t *testing.T, debianPackage string, argv ...string) {
	t.Helper()
	command := exec.Command(argv[0], argv[1:]...)
	// Debian's tools for disks are where only root looks.
	if path := filepath.Join("/usr/sbin", argv[0]); command.Err != nil {
		command = exec.Command(path, argv[1:]...)
	}
	if out, err := command.CombinedOutput(); err != nil {
		t.Fatalf("%s (of Debian's package %s): %v\n%s", argv[0], debianPackage, err, out)
	}
}

// nvme and cdrom are QEMU's arguments for disks of these kinds.
func nvme(file string) []string {
	return []string{"-drive", "if=none,id=root,format=raw,file=" + file, "-device", "nvme,drive=root,serial=1"}
}

func cdrom(file string) []string {
	return []string{"-drive", "if=none,id=cd,format=raw,media=cdrom,readonly=on,file=" + file, "-device", "ide-cd,drive=cd"}
}

// diskRoot is what every root on a disk must do.
func diskRoot(m *vm) {
	m.t.Helper()
	m.await(`init .*root is a disk, \d+ mounts`)
	m.await(`once .*\| the one-shot wrote`)
	m.await(`reads .*running`)
	m.await(mappedSays)
	m.await(`boot complete`)
	m.lacks("handed over")
	m.lacks("ERROR")
	if err := m.PressPower(m.ctx); err != nil {
		m.t.Fatal(err)
	}
	m.end(qemu.PowerOff)
	m.lacks("are left")
}

// linkedRoot is what a container with users of its own must see of a file with two names.
func linkedRoot(m *vm) {
	m.t.Helper()
	for _, name := range []string{"busybox", "sh"} {
		m.await(`linked .*\| -rwxr-xr-x +\d 0 +0 .*/bin/` + name)
	}
}

// foreignInitrd makes an initramfs of busybox that loads the modules named, mounts a device as the root and starts
// the /init of it.
func foreignInitrd(t *testing.T, dir, fstype, device string, names ...string) string {
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
until [ -b %[2]s ]; do /bin/busybox usleep 10000; done
/bin/busybox mount -o ro -t %[1]s %[2]s /new
/bin/busybox umount /dev
# /proc stays mounted in the new root, as some leave it.
/bin/busybox mount -o move /proc /new/proc
exec /bin/busybox switch_root /new /init
`, fstype, device)},
	}
	var order []string
	for _, path := range withNeeds(t, modules, names) {
		data, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		name := filepath.Base(path)
		order = append(order, name)
		files = append(files, file{"lib/modules/" + name, cpio.TypeReg | 0o644, string(data)})
	}
	files = append(files, text("lib/modules/order", strings.Join(order, "\n")+"\n"))
	path := filepath.Join(dir, "foreign.img")
	if err := os.WriteFile(path, nil, 0o644); err != nil {
		t.Fatal(err)
	}
	appendFiles(t, path, files)
	return path
}

// withNeeds finds modules below a folder, each behind those that it needs.
func withNeeds(t *testing.T, root string, names []string) (paths []string) {
	t.Helper()
	found, err := filepath.Glob(filepath.Join(root, "lib/modules/*/modules.dep"))
	if err != nil || len(found) != 1 {
		t.Fatalf("modules.dep: %v, %v", found, err)
	}
	dep, err := os.ReadFile(found[0])
	if err != nil {
		t.Fatal(err)
	}
	lines := map[string][]string{} // a module, and then the nearest first
	for line := range strings.Lines(string(dep)) {
		path, needs, _ := strings.Cut(strings.TrimSpace(line), ":")
		lines[strings.TrimSuffix(filepath.Base(path), ".ko")] = append([]string{path}, strings.Fields(needs)...)
	}
	for _, name := range names {
		line := lines[name]
		if line == nil {
			t.Fatalf("the kernel image has no module %s", name)
		}
		for _, path := range slices.Backward(line) {
			if path = filepath.Join(filepath.Dir(found[0]), path); !slices.Contains(paths, path) {
				paths = append(paths, path)
			}
		}
	}
	return paths
}

// A root laid out by hand, by none of our tools, with LinuxKit's files, on an ext4 disk that the kernel mounts
// itself: there is no initramfs at all. Every file is written here as LinuxKit's builder would.
func TestRootByHand(t *testing.T) {
	t.Parallel()
	root := filepath.Join(t.TempDir(), "root")
	layByHand(t, root)
	drive := disk(t, 256<<20)
	hostTool(t, "e2fsprogs", "mke2fs", "-q", "-t", "ext4", "-d", root, drive)
	m := start(t, qemu.Config{
		Kernel:  filepath.Join(buildDir(t), "images/kernel/kernel"),
		Cmdline: "console=ttyS0 quiet root=/dev/nvme0n1 rootfstype=ext4 ro rootwait init=/init",
		Args:    nvme(drive),
	})
	byHand(m)
	diskRoot(m)
	if !cleanly(t, drive) {
		t.Error("the root was not left clean")
	}
}

// byHand is what is only in a root that was laid out by hand.
func byHand(m *vm) {
	m.t.Helper()
	m.await(`volumes .*letters`)
	m.await(`shares .*\| the same image`)
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
	const mapped = "containers/services/mapped"
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
	empty(mapped+"/tmp", mapped+"/rootfs")
	const users = `[{"hostID":200000,"containerID":0,"size":65536}]`
	write(mapped+"/config.json", strings.Replace(config(false, "", `"sh","-c","touch /etc/shadow; ls -ln /etc/shadow >/dev/stderr; exec sleep 1000000"`),
		`"linux":{"resources":{},"namespaces":[`, `"annotations":{"keelson.console":"true"},"linux":{"resources":{},"uidMappings":`+users+`,"gidMappings":`+users+`,"namespaces":[{"type":"user"},`, 1))
	write(mapped+"/runtime.json", overlay(mapped, first+"/lower"))
	empty("containers/volumes/letters/lower", "containers/volumes/letters/tmp", "containers/volumes/letters/merged")
}
